//! Instances: registered processes, known by scope and address.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::metadata::{Metadata, stored};
use super::{
    Address, DisplayName, Epoch, Hold, Invalid, Overrides, Registrant, Registration, Scope,
    ScopeKind, shown,
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

    /// Returns the TTL that is nearest to a number of seconds.
    pub(crate) fn nearest(seconds: u64) -> Self {
        let seconds = u16::try_from(seconds).unwrap_or(Self::MAX_SECS);
        Self(seconds.clamp(Self::MIN_SECS, Self::MAX_SECS))
    }

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
    #[serde(rename = "metadata", with = "stored")]
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
    /// The row of an instance that was unknown until this registration. The SQL files insert the same.
    pub(crate) fn first_registered(
        id: InstanceId,
        registration: &Registration,
        at: DateTime<Utc>,
    ) -> Self {
        let name = registration.name.given();
        let metadata = registration.metadata.given();
        Self {
            id,
            key: registration.key.clone(),
            name: name.cloned().map(Box::new),
            given_weight: registration.weight.given().copied(),
            given_metadata: metadata.cloned().unwrap_or_default(),
            ttl: registration.ttl.given().copied(),
            status: registration.first_status(),
            hold: None,
            overrides: None,
            registered_by: registration.by.clone(),
            presence: Presence::default(),
            registered_at: at,
            updated_at: at,
            revision: 1,
        }
    }

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
        let (hold, hold_before) = (self.hold.as_deref(), before.hold.as_deref());
        let fields = [
            ("name", self.name == before.name),
            ("weight", self.weight() == before.weight()),
            ("metadata", self.metadata() == before.metadata()),
            ("ttl_seconds", self.ttl == before.ttl),
            ("status", self.status == before.status),
            (
                "reason",
                hold.map(|it| &it.reason) == hold_before.map(|it| &it.reason),
            ),
            (
                "held_by",
                hold.map(|it| &it.by) == hold_before.map(|it| &it.by),
            ),
            (
                "held_until",
                hold.and_then(|it| it.until) == hold_before.and_then(|it| it.until),
            ),
            ("overrides", self.overrides == before.overrides),
        ];
        let changed = fields.into_iter().filter(|(_, is_same)| !is_same);
        changed.map(|(name, _)| name.to_owned()).collect()
    }

    /// Returns when it last changed or went online or offline.
    pub(crate) fn changed_at(&self) -> DateTime<Utc> {
        self.presence
            .changed_at
            .map_or(self.updated_at, |at| at.max(self.updated_at))
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
        for (seconds, nearest) in [(0, 5), (5, 5), (90, 90), (3601, 3600), (u64::MAX, 3600)] {
            assert_eq!(Ttl::nearest(seconds).as_secs(), nearest);
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
