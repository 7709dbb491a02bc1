//! Selections of instances, for lists, discovery and changes of many instances.

use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::{Address, Instance, Invalid, Scope, ScopeKey, ScopeKind, Status, from_text, shown};

/// Which instances are selected: those that meet every condition. Without a condition, all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// The services, together with the groups; without any of them, all scopes.
    pub services: Vec<ScopeKey>,
    /// The groups.
    pub groups: Vec<ScopeKey>,
    /// A part of the scope, the address, the name or the metadata, in any case.
    pub text: Option<SearchText>,
    /// The status.
    pub status: Option<Status>,
    /// Whether they are online.
    pub online: Option<bool>,
    /// Whether they are available.
    pub available: Option<bool>,
    /// Metadata entries that they have, as names and texts.
    pub metadata: Vec<(String, String)>,
    /// Their address or host.
    pub address: Option<AddressPattern>,
}

impl Selection {
    /// Returns whether it has no condition.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether it names scopes.
    pub(crate) fn names_scopes(&self) -> bool {
        !self.services.is_empty() || !self.groups.is_empty()
    }

    /// Returns whether instances of a scope may be selected.
    pub(crate) fn selects_scope(&self, scope: &Scope) -> bool {
        let named = match scope.kind {
            ScopeKind::Service => &self.services,
            ScopeKind::Group => &self.groups,
        };
        !self.names_scopes() || named.contains(&scope.key)
    }

    /// Returns whether an instance is selected.
    pub fn selects(&self, instance: &Instance) -> bool {
        let has = |(name, text): &(String, String)| {
            let mut entries = instance.metadata().iter();
            entries.any(|entry| entry == (name.as_str(), text.as_str()))
        };
        self.selects_scope(&instance.key.scope)
            && self.status.is_none_or(|status| status == instance.status)
            && self
                .online
                .is_none_or(|online| online == instance.presence.online)
            && self
                .available
                .is_none_or(|available| available == instance.available())
            && self.metadata.iter().all(has)
            && self
                .address
                .as_ref()
                .is_none_or(|address| address.matches(&instance.key.address))
            && self.text.as_ref().is_none_or(|text| text.is_in(instance))
    }
}

/// A text to search for, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchText(String);

impl SearchText {
    fn is_in(&self, instance: &Instance) -> bool {
        let has = |text: &str| text.to_lowercase().contains(&self.0);
        let metadata = || instance.metadata().iter();
        has(&instance.key.scope.to_string())
            || has(instance.key.address.as_str())
            || has(instance.display_name())
            || metadata().any(|(name, text)| has(name) || has(text))
    }
}

impl From<&str> for SearchText {
    fn from(text: &str) -> Self {
        Self(text.to_lowercase())
    }
}

/// An address, or a host with any port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressPattern {
    /// One address.
    Address(Address),
    /// All addresses of a host, in its normal form without brackets.
    Host(String),
}

impl AddressPattern {
    /// Returns whether an address is meant.
    pub(crate) fn matches(&self, address: &Address) -> bool {
        match self {
            Self::Address(one) => one == address,
            Self::Host(host) => host == address.host(),
        }
    }
}

impl FromStr for AddressPattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let host = match text.parse::<Ipv6Addr>() {
            Ok(ip) => format!("[{ip}]"),
            Err(_) => text.to_owned(),
        };
        // A host is valid if it is an address together with a port.
        match Address::from_str(&format!("{host}:1")) {
            Ok(address) => Ok(Self::Host(address.host().to_owned())),
            Err(_) => Err(Invalid::new(format!(
                "must be host:port or a host, unlike {}",
                shown(text)
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for AddressPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_an_address_or_a_host() {
        let address = |text: &str| text.parse::<Address>().unwrap();
        for (pattern, matched, not) in [
            ("10.0.0.5", "10.0.0.5:80", "10.0.0.6:80"),
            ("10.0.0.5:80", "10.0.0.5:80", "10.0.0.5:81"),
            ("HOST.eu", "host.eu:1", "ost.eu:1"),
            ("2001:DB8:0::1", "[2001:db8::1]:80", "[2001:db8::2]:80"),
            ("[2001:db8::1]", "[2001:db8::1]:80", "[2001:db8::2]:80"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80", "[2001:db8::1]:81"),
        ] {
            let parsed: AddressPattern = pattern.parse().unwrap();
            assert!(parsed.matches(&address(matched)), "{pattern}");
            assert!(!parsed.matches(&address(not)), "{pattern}");
        }
        for bad in [
            "",
            "a b",
            "10.0.0.5:",
            "10.0.0.256",
            "a:0",
            "http://a",
            "[::1",
            "*",
        ] {
            assert!(bad.parse::<AddressPattern>().is_err(), "{bad}");
        }
    }
}
