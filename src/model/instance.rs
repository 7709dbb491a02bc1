//! Instances: registered processes, known by scope and address.

use std::collections::BTreeMap;
use std::fmt;
use std::iter;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    Address, DisplayName, Epoch, Hold, Invalid, Overrides, Registrant, Scope, ScopeKind, shown,
};

/// The scope and the address of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceKey {
    /// The group or service.
    pub scope: Scope,
    /// The address at which it listens.
    pub address: Address,
}

/// `services/orders/instances/10.0.0.5:8080`: as in paths.
impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/instances/{}", self.scope, self.address)
    }
}

/// The ID of an instance: 64 bits, assigned by the registry store, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceId(pub i64);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An operator's decision about an instance. A heartbeat never changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Accepts traffic while it is online.
    Enabled,
    /// Accepts no traffic. The next registration of a service instance enables it; a gateway needs
    /// an operator.
    Disabled,
    /// Taken out of traffic by an operator; only an operator ends it.
    Held,
}

impl Status {
    /// Returns the name in the database and in JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::Held => "held",
        }
    }
}

impl FromStr for Status {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "enabled" => Ok(Self::Enabled),
            "disabled" => Ok(Self::Disabled),
            "held" => Ok(Self::Held),
            _ => Err(Invalid::new(format!(
                "must be 'enabled', 'disabled' or 'held', unlike {}",
                shown(text)
            ))),
        }
    }
}

/// The share of traffic of an instance relative to its peers, 0 to 65535 (the range of a weight
/// in a DNS SRV record, RFC 2782). 1 by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Weight(u16);

impl Weight {
    /// The greatest weight.
    pub(crate) const MAX: u16 = u16::MAX;

    /// Returns the weight as a number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

impl TryFrom<i64> for Weight {
    type Error = Invalid;

    fn try_from(number: i64) -> Result<Self, Invalid> {
        u16::try_from(number).map(Self).map_err(|_| {
            Invalid::new(format!(
                "must be a whole number from 0 to {}, not {number}",
                u16::MAX
            ))
        })
    }
}

impl From<Weight> for i64 {
    fn from(weight: Weight) -> Self {
        weight.0.into()
    }
}

/// The TTL of a lease, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Ttl(u16);

impl Ttl {
    /// The shortest TTL, in seconds.
    pub(crate) const MIN_SECS: u16 = 5;
    /// The longest TTL, in seconds.
    pub(crate) const MAX_SECS: u16 = 3600;

    /// Returns the seconds.
    pub fn as_secs(self) -> u16 {
        self.0
    }

    /// Returns the duration.
    pub fn as_duration(self) -> Duration {
        Duration::from_secs(self.0.into())
    }
}

impl TryFrom<i64> for Ttl {
    type Error = Invalid;

    fn try_from(seconds: i64) -> Result<Self, Invalid> {
        match u16::try_from(seconds) {
            Ok(seconds @ Self::MIN_SECS..=Self::MAX_SECS) => Ok(Self(seconds)),
            _ => Err(Invalid::new(format!(
                "must be from {} to {} whole seconds, not {seconds}",
                Self::MIN_SECS,
                Self::MAX_SECS
            ))),
        }
    }
}

impl From<Ttl> for i64 {
    fn from(ttl: Ttl) -> Self {
        ttl.0.into()
    }
}

/// The metadata of an instance: names and texts, at most 64 entries and 8 KiB as JSON. No name
/// is empty, and nothing contains NUL, which PostgreSQL cannot store.
///
/// Every instance has one, so it is one text: names and texts in turn, sorted by the bytes of
/// the names, separated by NUL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata(Box<str>);

impl Metadata {
    /// The most entries.
    pub(crate) const MAX_ENTRIES: usize = 64;
    /// The largest size as compact JSON, in bytes.
    pub(crate) const MAX_BYTES: usize = 8 * 1024;

    /// Iterates over the entries, sorted by the bytes of the names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut texts = self.0.split('\0');
        // No name is empty, so an empty name ends the entries.
        iter::from_fn(move || Some((texts.next()?, texts.next()?)))
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// Reads a map without duplicate names.
impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = BTreeMap<String, String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((name, text)) = map.next_entry::<String, String>()? {
                    if entries.contains_key(&name) {
                        let twice = format!("must not have the entry {} twice", shown(&name));
                        return Err(A::Error::custom(twice));
                    }
                    entries.insert(name, text);
                }
                Ok(entries)
            }
        }

        let entries = deserializer.deserialize_map(Entries)?;
        entries.try_into().map_err(D::Error::custom)
    }
}

impl TryFrom<BTreeMap<String, String>> for Metadata {
    type Error = Invalid;

    fn try_from(entries: BTreeMap<String, String>) -> Result<Self, Invalid> {
        if entries.len() > Self::MAX_ENTRIES {
            return Err(Invalid::new(format!(
                "must have at most {} entries, not {}",
                Self::MAX_ENTRIES,
                entries.len()
            )));
        }
        if entries.keys().any(String::is_empty) {
            return Err(Invalid::new("must not have an entry with an empty name"));
        }
        if entries
            .iter()
            .any(|(k, v)| k.contains('\0') || v.contains('\0'))
        {
            return Err(Invalid::new("must not hold the character U+0000"));
        }
        let bytes = serde_json::to_string(&entries)
            .map_err(|error| Invalid::new(error.to_string()))?
            .len();
        if bytes > Self::MAX_BYTES {
            return Err(Invalid::new(format!(
                "must have at most {} bytes as JSON, not {bytes}",
                Self::MAX_BYTES
            )));
        }
        let texts: Vec<String> = entries
            .into_iter()
            .flat_map(|(name, text)| [name, text])
            .collect();
        Ok(Self(texts.join("\0").into()))
    }
}

/// The recorded state of the lease of an instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Whether the instance is online.
    pub online: bool,
    /// The epoch of the last recorded lease; `None` if there was none.
    pub epoch: Option<Epoch>,
    /// When `online` last changed; `None` if it never did.
    pub changed_at: Option<DateTime<Utc>>,
}

/// An instance as the registry store has it. A field that was never given is `None`, and is
/// shown with its default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Assigned by the registry store.
    pub id: InstanceId,
    /// Scope and address.
    pub key: InstanceKey,
    /// The name for people; `None` shows the address.
    pub name: Option<Box<DisplayName>>,
    /// See [`Instance::registered_weight`].
    pub given_weight: Option<Weight>,
    /// See [`Instance::metadata`].
    #[serde(rename = "metadata")]
    pub given_metadata: Metadata,
    /// The instance's own TTL, instead of `--lease-ttl`.
    pub ttl: Option<Ttl>,
    /// The operator's decision.
    pub status: Status,
    /// Present exactly while the status is [`Status::Held`].
    pub hold: Option<Box<Hold>>,
    /// The operator's values, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Box<Overrides>>,
    /// Who sent the last registration that changed it; `None` for one of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_by: Option<Registrant>,
    /// The recorded state of its lease.
    pub presence: Presence,
    /// When it first registered.
    pub registered_at: DateTime<Utc>,
    /// When a registration or an operator last changed it.
    pub updated_at: DateTime<Utc>,
    /// 1 for a new row, plus one with each change: of two versions of a row the greater revision is
    /// the later one.
    pub revision: i64,
}

impl Instance {
    /// Returns the name for people, or the address if none was given.
    pub fn display_name(&self) -> &str {
        self.name
            .as_ref()
            .map_or(self.key.address.as_str(), |name| name.as_str())
    }

    /// Returns the registered weight, or the default of 1.
    pub fn registered_weight(&self) -> Weight {
        self.given_weight.unwrap_or_default()
    }

    /// Returns the weight: the operator's, otherwise the registered one.
    pub fn weight(&self) -> Weight {
        let overrides = self.overrides.as_ref();
        let weight = overrides.and_then(|overrides| overrides.weight);
        weight.unwrap_or_else(|| self.registered_weight())
    }

    /// Returns the metadata: the operator's, otherwise those that the instance registered.
    pub fn metadata(&self) -> &Metadata {
        let overrides = self.overrides.as_ref();
        let metadata = overrides.and_then(|overrides| overrides.metadata.as_ref());
        metadata.unwrap_or(&self.given_metadata)
    }

    /// Returns whether an operator's decision is attached to it: it is held, it is an approved
    /// gateway, or it has overrides. The SQL files have the same condition.
    pub fn is_decided(&self) -> bool {
        let is_gateway = self.key.scope.kind == ScopeKind::Group;
        self.status == Status::Held
            || (is_gateway && self.status == Status::Enabled)
            || self.overrides.is_some()
    }

    /// Returns the fields, as the API names them, in which an operator or a registration has made it
    /// another than `before`.
    pub(crate) fn changed_fields(&self, before: &Self) -> Vec<String> {
        let fields = [
            ("name", self.name == before.name),
            ("weight", self.weight() == before.weight()),
            ("metadata", self.metadata() == before.metadata()),
            ("ttl_seconds", self.ttl == before.ttl),
            ("status", self.status == before.status),
            ("reason", self.hold == before.hold),
            ("overrides", self.overrides == before.overrides),
        ];
        let changed = fields.into_iter().filter(|(_, is_same)| !is_same);
        changed.map(|(name, _)| name.to_owned()).collect()
    }

    /// Returns whether it accepts traffic: enabled, and recorded as online.
    pub(crate) fn available(&self) -> bool {
        self.is_available_with(self.status)
    }

    /// Returns whether it would accept traffic with this status.
    pub(crate) fn is_available_with(&self, status: Status) -> bool {
        self.presence.online && status == Status::Enabled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(count: usize, value: &str) -> BTreeMap<String, String> {
        (0..count)
            .map(|i| (format!("k{i}"), value.to_owned()))
            .collect()
    }

    #[test]
    fn a_weight_is_from_0_to_65535() {
        assert_eq!(Weight::try_from(0).unwrap().get(), 0);
        assert_eq!(Weight::try_from(65_535).unwrap().get(), 65_535);
        for bad in [-1, 65_536, i64::MIN, i64::MAX] {
            assert!(Weight::try_from(bad).is_err(), "{bad}");
        }
        assert_eq!(Weight::default().get(), 1);
    }

    #[test]
    fn a_ttl_is_from_5_to_3600_seconds() {
        assert_eq!(
            Ttl::try_from(5).unwrap().as_duration(),
            Duration::from_secs(5)
        );
        assert_eq!(Ttl::try_from(3600).unwrap().as_secs(), 3600);
        for bad in [-5, 0, 4, 3601, 65_541] {
            assert!(Ttl::try_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn metadata_has_at_most_64_entries_and_8_kib() {
        assert!(Metadata::try_from(entries(64, "v")).is_ok());
        assert!(Metadata::try_from(entries(65, "v")).is_err());
        // {"k0":"…"} has 9 bytes around the value.
        assert!(Metadata::try_from(entries(1, &"x".repeat(8192 - 9))).is_ok());
        assert!(Metadata::try_from(entries(1, &"x".repeat(8192 - 8))).is_err());
    }

    #[test]
    fn metadata_holds_neither_empty_names_nor_nul() {
        for (name, value) in [("", "v"), ("a\0", "v"), ("a", "\0")] {
            let entries = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            assert!(Metadata::try_from(entries).is_err(), "{name:?}: {value:?}");
        }
    }

    #[test]
    fn every_status_reads_back_from_its_word() {
        for status in [Status::Enabled, Status::Disabled, Status::Held] {
            assert_eq!(status.as_str().parse::<Status>().unwrap(), status);
        }
        assert!("Held".parse::<Status>().is_err());
    }
}
