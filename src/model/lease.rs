//! Lease keys and epochs.
//!
//! The text of a lease key is the Redis key of the original gateway center,
//! `heartbeat:server:{service key}:{address}`, so that gateways which read those
//! keys keep working; gateways have `heartbeat:group:{group key}:{address}`.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use super::{Address, InstanceKey, Invalid, ScopeKey, ScopeKind};

const SERVICE_PREFIX: &str = "heartbeat:server:";
const GROUP_PREFIX: &str = "heartbeat:group:";

/// The text is not a lease key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseKeyError {
    /// The prefix is unknown, or a part is missing.
    #[error("not of the form heartbeat:server:KEY:ADDRESS or heartbeat:group:KEY:ADDRESS")]
    Form,
    /// The key of the scope or the address is invalid.
    #[error("{0}")]
    Part(#[from] Invalid),
}

impl InstanceKey {
    /// The prefix of all lease keys.
    pub const LEASE_KEY_PREFIX: &str = "heartbeat:";

    /// Returns the lease key of the instance, which is its key in Redis.
    pub fn lease_key(&self) -> String {
        let mut text = String::new();
        self.write_lease_key(&mut text);
        text
    }

    /// Appends the lease key to `text`.
    pub fn write_lease_key(&self, text: &mut String) {
        let prefix = match self.scope.kind {
            ScopeKind::Service => SERVICE_PREFIX,
            ScopeKind::Group => GROUP_PREFIX,
        };
        text.extend([prefix, self.scope.key.as_str(), ":", self.address.as_str()]);
    }

    /// Returns the parts of a lease key without checking them, for look-ups without copies.
    pub fn lease_key_parts(text: &str) -> Option<(ScopeKind, &str, &str)> {
        let (kind, rest) = if let Some(rest) = text.strip_prefix(SERVICE_PREFIX) {
            (ScopeKind::Service, rest)
        } else {
            (ScopeKind::Group, text.strip_prefix(GROUP_PREFIX)?)
        };
        let (key, address) = rest.split_once(':')?;
        Some((kind, key, address))
    }

    /// Parses a lease key. The key of a scope has no colon, so the first one after the prefix ends
    /// it, and two instances never have the same lease key.
    pub fn from_lease_key(text: &str) -> Result<Self, LeaseKeyError> {
        let (kind, key, address) = Self::lease_key_parts(text).ok_or(LeaseKeyError::Form)?;
        Ok(Self {
            scope: kind.with(key.parse::<ScopeKey>()?),
            address: address.parse::<Address>()?,
        })
    }
}

/// Orders the successive leases of one instance: the start of a lease in Unix milliseconds of
/// the lease store's clock, or one more than the previous epoch if that is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch(pub i64);

impl Epoch {
    /// Parses the `startTime` of a lease; returns `None` if it is not RFC 3339.
    pub fn parse(start_time: &str) -> Option<Self> {
        DateTime::parse_from_rfc3339(start_time)
            .ok()
            .map(|time| Self(time.timestamp_millis()))
    }

    /// Returns the epoch under which a lease that began at this one is recorded after a lease with
    /// the epoch `known`. It is greater than `known`, whatever the lease store's clock says.
    pub fn after(self, known: Option<Self>) -> Self {
        known.map_or(self, |known| self.max(Self(known.0.saturating_add(1))))
    }

    /// Returns the time, clamped to the range of times.
    pub fn at(self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.0).unwrap_or_default()
    }
}

/// Formats a time as RFC 3339 in UTC with milliseconds, the form of every time in a lease and
/// in JSON.
pub fn rfc3339_millis(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Instance keys of every accepted form, so that colons, dots and brackets occur at every
    /// border.
    fn instance_key() -> impl Strategy<Value = InstanceKey> {
        let kind = prop_oneof![Just(ScopeKind::Group), Just(ScopeKind::Service)];
        let key = "[A-Za-z0-9][A-Za-z0-9._-]{0,99}";
        let host = prop_oneof![
            "[a-z0-9_]{1,20}(\\.[a-z][a-z0-9_]{0,20}){0,2}x",
            any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
            any::<std::net::Ipv6Addr>().prop_map(|ip| format!("[{ip}]")),
        ];
        (kind, key, host, 1..=u16::MAX).prop_map(|(kind, key, host, port)| InstanceKey {
            scope: kind.with(key.parse().unwrap()),
            address: format!("{host}:{port}").parse().unwrap(),
        })
    }

    /// Inserts a character into the text.
    fn with_char(text: &str, at: prop::sample::Index, inserted: char) -> String {
        let (before, after) = text.split_at(at.index(text.len() + 1));
        format!("{before}{inserted}{after}")
    }

    proptest! {
        #[test]
        fn a_lease_key_reads_back_as_the_instance_it_was_made_of(instance in instance_key()) {
            prop_assert_eq!(InstanceKey::from_lease_key(&instance.lease_key()).unwrap(), instance);
        }

        #[test]
        fn two_instances_never_share_a_lease_key(a in instance_key(), b in instance_key()) {
            prop_assert_eq!(a == b, a.lease_key() == b.lease_key());
        }

        #[test]
        fn a_scope_key_with_a_forbidden_character_forges_no_lease_key(
            instance in instance_key(),
            forbidden in prop::sample::select(vec![':', '*', '?', '[', ']', '\\', '/', ' ', '\0', 'é']),
            at in any::<prop::sample::Index>(),
        ) {
            let key = with_char(instance.scope.key.as_str(), at, forbidden);
            prop_assert!(key.parse::<ScopeKey>().is_err(), "{key:?}");
            let text = format!("{SERVICE_PREFIX}{key}:{}", instance.address);
            prop_assert!(InstanceKey::from_lease_key(&text).is_err(), "{text:?}");
        }

        #[test]
        fn an_address_with_a_forbidden_character_forges_no_lease_key(
            instance in instance_key(),
            forbidden in prop::sample::select(vec!['*', '?', '\\', '/', '@', '%', ' ', '\0', 'é']),
            at in any::<prop::sample::Index>(),
        ) {
            let address = with_char(instance.address.as_str(), at, forbidden);
            prop_assert!(address.parse::<Address>().is_err(), "{address:?}");
            let text = format!("{SERVICE_PREFIX}{}:{address}", instance.scope.key.as_str());
            prop_assert!(InstanceKey::from_lease_key(&text).is_err(), "{text:?}");
        }

        #[test]
        fn a_lease_key_in_another_spelling_names_the_same_instance(
            instance in instance_key(),
            added in "[A-Za-z0-9]",
            at in any::<prop::sample::Index>(),
        ) {
            let key = with_char(instance.scope.key.as_str(), at, added.chars().next().unwrap());
            prop_assume!(key.len() <= ScopeKey::MAX_LEN);
            let text = format!("{SERVICE_PREFIX}{key}:{}", instance.address.as_str().to_uppercase());
            let read = InstanceKey::from_lease_key(&text).unwrap();
            prop_assert_eq!(read.scope.key.as_str(), key);
            prop_assert_eq!(&read.address, &instance.address);
            prop_assert_eq!(InstanceKey::from_lease_key(&read.lease_key()).unwrap(), read);
        }
    }

    #[test]
    fn lease_keys_are_those_of_the_original_gateway_center() {
        let instance = |kind: ScopeKind, address: &str| InstanceKey {
            scope: kind.with("orders".parse().unwrap()),
            address: address.parse().unwrap(),
        };
        assert_eq!(
            instance(ScopeKind::Service, "10.0.0.5:8080").lease_key(),
            "heartbeat:server:orders:10.0.0.5:8080"
        );
        assert_eq!(
            instance(ScopeKind::Group, "[::1]:80").lease_key(),
            "heartbeat:group:orders:[::1]:80"
        );
    }

    #[test]
    fn what_is_no_lease_key_is_refused() {
        for bad in [
            "",
            "heartbeat:",
            "heartbeat:server:orders",
            "heartbeat:server::10.0.0.5:80",
            "heartbeat:server:orders:10.0.0.5",
            "heartbeat:servers:orders:10.0.0.5:80",
            "Heartbeat:server:orders:10.0.0.5:80",
        ] {
            assert!(InstanceKey::from_lease_key(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_epoch_is_read_from_a_start_time_with_milliseconds() {
        assert_eq!(Epoch::parse("1970-01-01T00:00:01.234Z"), Some(Epoch(1234)));
        assert_eq!(
            Epoch::parse("2026-11-22T10:00:00.000"),
            None,
            "no offset, no instant"
        );
        assert_eq!(Epoch::parse(""), None);
    }
}
