//! Checks a server for settings that endanger leases.

use std::collections::BTreeSet;

use redis::aio::MultiplexedConnection;

use super::address::Address;
use super::connection::field;
use super::error::{is_forbidden, reason};

/// The findings about the settings of the servers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    warnings: BTreeSet<String>,
    unknown: BTreeSet<String>,
    evicts: bool,
}

impl Settings {
    /// Adds the findings about one server.
    pub(super) async fn add(&mut self, address: &Address, connection: &mut MultiplexedConnection) {
        for section in ["memory", "persistence"] {
            let mut info = redis::cmd("INFO");
            info.arg(section);
            match info.query_async::<String>(connection).await {
                Ok(info) => self.read(address, &info),
                Err(error) if is_forbidden(&error) => {
                    self.unknown.insert(format!(
                        "the settings of Redis at {address} cannot be checked because the ACL \
                         forbids INFO: grant +info, or make sure that maxmemory-policy is \
                         noeviction"
                    ));
                }
                Err(error) => log::debug!("INFO {section} at {address}: {}", reason(&error)),
            }
        }
    }

    fn read(&mut self, address: &Address, info: &str) {
        let policy = field(info, "maxmemory_policy").unwrap_or("noeviction");
        let limited = field(info, "maxmemory").is_some_and(|limit| limit != "0");
        if policy != "noeviction" {
            let effect = if limited {
                "evicts leases when its memory is full, so running instances are marked offline"
            } else {
                "would evict leases if maxmemory were set"
            };
            self.evicts |= limited;
            self.warnings.insert(format!(
                "Redis at {address} {effect}: its maxmemory-policy is {policy}; set it to noeviction"
            ));
        }
        for (status_field, setting) in [
            (
                "rdb_last_bgsave_status",
                "save to \"\" or stop-writes-on-bgsave-error",
            ),
            ("aof_last_write_status", "appendonly"),
        ] {
            if field(info, status_field).is_some_and(|status| status != "ok") {
                self.warnings.insert(format!(
                    "Redis at {address} cannot save ({status_field} is not ok), so it may \
                     reject heartbeats: give it disk space, or set {setting} to no"
                ));
            }
        }
    }

    /// Logs the findings that are not in `before`.
    pub(super) fn log_new(&self, before: &Self) {
        for warning in self.warnings.difference(&before.warnings) {
            log::warn!("{warning}");
        }
        for unknown in self.unknown.difference(&before.unknown) {
            log::info!("{unknown}");
        }
    }

    /// Returns whether a server may evict leases.
    pub(super) fn evicts(&self) -> bool {
        self.evicts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eviction_policy_causes_a_warning_and_evicts_only_with_a_memory_limit() {
        let read = |info: &str| {
            let mut settings = Settings::default();
            settings.read(&Address::Tcp("h".into(), 1), info);
            (settings.warnings.len(), settings.evicts)
        };
        assert_eq!(
            read("maxmemory:5\r\nmaxmemory_policy:noeviction\r\n"),
            (0, false)
        );
        assert_eq!(
            read("maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n"),
            (1, false)
        );
        assert_eq!(
            read("maxmemory:5\r\nmaxmemory_policy:volatile-ttl\r\n"),
            (1, true)
        );
        assert_eq!(
            read("rdb_last_bgsave_status:err\r\naof_last_write_status:ok\r\n"),
            (1, false)
        );
    }
}
