//! The Redis key of a lease: that of the original gateway center,
//! `heartbeat:server:{service key}:{address}`, so that gateways which read those keys keep
//! working; gateways have `heartbeat:group:{group key}:{address}`.
//!
//! The lease of an instance that is not enabled is hidden: the original's gateways send traffic
//! to every address under their keys. Its key has the other one as its hash tag, so both are in
//! the same slot of a cluster. The scripts know this form.

use chrono::DateTime;

use crate::model::{Address, Epoch, InstanceKey, Invalid, ScopeKey, ScopeKind};

/// The prefix of all lease keys.
pub(super) const PREFIX: &str = "heartbeat:";
const SERVICE_PREFIX: &str = "heartbeat:server:";
const GROUP_PREFIX: &str = "heartbeat:group:";

/// What is before and after the visible key in that of a hidden lease.
const HIDDEN: (&str, &str) = ("rollcall:hidden:{", "}");

/// The text is not a lease key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LeaseKeyError {
    /// The prefix is unknown, or a part is missing.
    #[error("not of the form heartbeat:server:KEY:ADDRESS or heartbeat:group:KEY:ADDRESS")]
    Form,
    /// The key of the scope or the address is invalid.
    #[error("{0}")]
    Part(#[from] Invalid),
}

/// Returns the lease key of an instance.
pub(super) fn lease_key(instance: &InstanceKey) -> String {
    let mut text = String::new();
    write_lease_key(instance, false, &mut text);
    text
}

/// Appends the key that the lease of an instance has while it is visible or hidden.
pub(super) fn write_lease_key(instance: &InstanceKey, is_hidden: bool, text: &mut String) {
    let prefix = match instance.scope.kind {
        ScopeKind::Service => SERVICE_PREFIX,
        ScopeKind::Group => GROUP_PREFIX,
    };
    let (key, address) = (instance.scope.key.as_str(), instance.address.as_str());
    if is_hidden {
        text.extend([HIDDEN.0, prefix, key, ":", address, HIDDEN.1]);
    } else {
        text.extend([prefix, key, ":", address]);
    }
}

/// Returns the key of the lease of an instance while it is hidden.
pub(super) fn hidden_key(instance: &InstanceKey) -> String {
    hide(&lease_key(instance))
}

/// Returns the key of a lease while it is hidden, from its visible one.
pub(super) fn hide(visible: &str) -> String {
    format!("{}{visible}{}", HIDDEN.0, HIDDEN.1)
}

/// Parses a lease key, visible or hidden. The key of a scope has no colon, so the first one after
/// the prefix ends it, and two instances never have the same lease key.
pub(super) fn parse_lease_key(text: &str) -> Result<InstanceKey, LeaseKeyError> {
    let hidden = text.strip_prefix(HIDDEN.0);
    let text = hidden
        .and_then(|text| text.strip_suffix(HIDDEN.1))
        .unwrap_or(text);
    let (kind, rest) = if let Some(rest) = text.strip_prefix(SERVICE_PREFIX) {
        (ScopeKind::Service, rest)
    } else {
        let rest = text.strip_prefix(GROUP_PREFIX);
        (ScopeKind::Group, rest.ok_or(LeaseKeyError::Form)?)
    };
    let (key, address) = rest.split_once(':').ok_or(LeaseKeyError::Form)?;
    Ok(InstanceKey {
        scope: kind.with(key.parse::<ScopeKey>()?),
        address: address.parse::<Address>()?,
    })
}

/// Parses the `startTime` of a lease; returns `None` if it is not RFC 3339.
pub(super) fn parse_start_time(start_time: &str) -> Option<Epoch> {
    let time = DateTime::parse_from_rfc3339(start_time).ok()?;
    Some(Epoch(time.timestamp_millis()))
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
            prop_assert_eq!(parse_lease_key(&lease_key(&instance)).unwrap(), instance);
        }

        #[test]
        fn two_instances_never_share_a_lease_key(a in instance_key(), b in instance_key()) {
            prop_assert_eq!(a == b, lease_key(&a) == lease_key(&b));
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
            prop_assert!(parse_lease_key(&text).is_err(), "{text:?}");
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
            prop_assert!(parse_lease_key(&text).is_err(), "{text:?}");
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
            let read = parse_lease_key(&text).unwrap();
            prop_assert_eq!(read.scope.key.as_str(), key);
            prop_assert_eq!(&read.address, &instance.address);
            prop_assert_eq!(parse_lease_key(&lease_key(&read)).unwrap(), read);
        }
    }

    #[test]
    fn lease_keys_are_those_of_the_original_gateway_center() {
        let instance = |kind: ScopeKind, address: &str| InstanceKey {
            scope: kind.with("orders".parse().unwrap()),
            address: address.parse().unwrap(),
        };
        assert_eq!(
            lease_key(&instance(ScopeKind::Service, "10.0.0.5:8080")),
            "heartbeat:server:orders:10.0.0.5:8080"
        );
        assert_eq!(
            lease_key(&instance(ScopeKind::Group, "[::1]:80")),
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
            assert!(parse_lease_key(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_epoch_is_read_from_a_start_time_with_milliseconds() {
        assert_eq!(
            parse_start_time("1970-01-01T00:00:01.234Z"),
            Some(Epoch(1234))
        );
        assert_eq!(
            parse_start_time("2026-11-22T10:00:00.000"),
            None,
            "no offset, no instant"
        );
        assert_eq!(parse_start_time(""), None);
    }
}
