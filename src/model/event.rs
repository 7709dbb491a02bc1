//! Events: the changes that are published, in order.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Instance, Registrant, Scope, ScopeRecord};

/// The position of an event: the epoch of the event log and the sequence in it. After the log
/// is lost, another epoch begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// When the log began, in Unix milliseconds; 0 for a log without events.
    pub epoch: u64,
    /// 1 for the first event, then without gaps; 0 is before the first event.
    pub sequence: u64,
}

impl EventId {
    /// Returns whether `next` directly follows this event.
    pub fn precedes(self, next: Self) -> bool {
        self.sequence.checked_add(1) == Some(next.sequence)
            && (next.epoch == self.epoch || self.is_empty())
    }

    /// Returns whether it is the position in a log without events.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// `1763805600000-17`: as in `Last-Event-ID`, and as the ID in a Redis Stream.
impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.sequence)
    }
}

/// The text is not the ID of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be the id of an event, such as 1763805600000-17")]
pub struct EventIdError;

impl FromStr for EventId {
    type Err = EventIdError;

    fn from_str(text: &str) -> Result<Self, EventIdError> {
        let (epoch, sequence) = text.split_once('-').ok_or(EventIdError)?;
        Ok(Self {
            epoch: epoch.parse().map_err(|_| EventIdError)?,
            sequence: sequence.parse().map_err(|_| EventIdError)?,
        })
    }
}

/// A change, and when it happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// The change.
    #[serde(flatten)]
    pub kind: EventKind,
    /// Who requested the change; `None` if the daemon made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Registrant>,
    /// The fields that an `instance.changed` changed, as the API names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
}

impl Event {
    /// An event that no request caused.
    pub fn new(at: DateTime<Utc>, kind: EventKind) -> Self {
        Self {
            at,
            kind,
            by: None,
            changed: Vec::new(),
        }
    }
}

/// Why protection mode began or ended: as a sentence, and for programs that say it in their own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectionReason {
    /// The sentence, in English.
    pub reason: String,
    /// `None` in an event of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<ProtectionCause>,
}

/// The cause of the beginning or the end of protection mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum ProtectionCause {
    /// It began, because too many instances would go offline.
    MassLoss {
        /// The number of online instances that would go offline.
        missing: u64,
        /// The number of online instances.
        online: u64,
        /// The time within which they would.
        within_seconds: u16,
    },
    /// It ended, because it has lasted for the maximum duration.
    MaxDuration,
    /// It ended, because all heartbeats have returned.
    HeartbeatsReturned,
    /// It ended, because few instances are suspect.
    FewSuspects {
        /// The number of suspects.
        suspects: u64,
        /// The number of online instances.
        online: u64,
    },
    /// It ended, because an operator released it.
    Released,
}

/// A change. It contains the instance or scope after the change, or its last state if it was
/// removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "subject")]
pub enum EventKind {
    /// A new instance registered.
    #[serde(rename = "instance.registered")]
    InstanceRegistered(Instance),
    /// An instance has a lease again.
    #[serde(rename = "instance.online")]
    InstanceWentOnline(Instance),
    /// The lease of an instance ended.
    #[serde(rename = "instance.offline")]
    InstanceWentOffline(Instance),
    /// A registration or an operator changed an instance.
    #[serde(rename = "instance.changed")]
    InstanceChanged(Instance),
    /// An instance was removed.
    #[serde(rename = "instance.deregistered")]
    InstanceDeregistered(Instance),
    /// A new lease began before the end of the previous one was recorded. Not published to
    /// subscribers; replicas need the epoch.
    #[serde(rename = "instance.lease_restarted")]
    LeaseRestarted(Instance),
    /// A scope was declared or renamed.
    #[serde(rename = "scope.declared")]
    ScopeDeclared(ScopeRecord),
    /// A scope was removed.
    #[serde(rename = "scope.removed")]
    ScopeRemoved(ScopeRecord),
    /// The roll call: every instance should send a heartbeat.
    #[serde(rename = "roll.call")]
    RollCalled,
    /// Protection mode began: too many leases ended at once.
    #[serde(rename = "protection.entered")]
    ProtectionEntered(ProtectionReason),
    /// Protection mode ended.
    #[serde(rename = "protection.left")]
    ProtectionLeft(ProtectionReason),
    /// Events were lost before they reached the log: the lists must be read again.
    #[serde(rename = "resync")]
    EventsLost,
}

impl EventKind {
    /// The names that subscribers see, without that of the roll call.
    pub(crate) const NAMES: [&str; 10] = [
        "instance.registered",
        "instance.online",
        "instance.offline",
        "instance.changed",
        "instance.deregistered",
        "scope.declared",
        "scope.removed",
        "protection.entered",
        "protection.left",
        "resync",
    ];

    /// Returns the name that subscribers see.
    pub fn name(&self) -> &'static str {
        match self {
            Self::InstanceRegistered(_) => "instance.registered",
            Self::InstanceWentOnline(_) => Self::transition_name(true),
            Self::InstanceWentOffline(_) => Self::transition_name(false),
            Self::InstanceChanged(_) => "instance.changed",
            Self::InstanceDeregistered(_) => "instance.deregistered",
            Self::LeaseRestarted(_) => "instance.lease_restarted",
            Self::ScopeDeclared(_) => "scope.declared",
            Self::ScopeRemoved(_) => "scope.removed",
            Self::RollCalled => "roll.call",
            Self::ProtectionEntered(_) => "protection.entered",
            Self::ProtectionLeft(_) => "protection.left",
            Self::EventsLost => "resync",
        }
    }

    /// Returns the name of a transition.
    pub(crate) fn transition_name(online: bool) -> &'static str {
        if online {
            "instance.online"
        } else {
            "instance.offline"
        }
    }

    /// Returns the instance that the event is about, if any.
    pub fn instance(&self) -> Option<&Instance> {
        match self {
            Self::InstanceRegistered(instance)
            | Self::InstanceWentOnline(instance)
            | Self::InstanceWentOffline(instance)
            | Self::InstanceChanged(instance)
            | Self::InstanceDeregistered(instance)
            | Self::LeaseRestarted(instance) => Some(instance),
            _ => None,
        }
    }

    /// Returns the scope that the event is about, if any.
    pub(crate) fn scope(&self) -> Option<&Scope> {
        match self {
            Self::ScopeDeclared(record) | Self::ScopeRemoved(record) => Some(&record.scope),
            _ => self.instance().map(|instance| &instance.key.scope),
        }
    }

    /// For a transition, returns the instance and whether it is online.
    pub fn transition(&self) -> Option<(&Instance, bool)> {
        match self {
            Self::InstanceWentOnline(instance) => Some((instance, true)),
            Self::InstanceWentOffline(instance) => Some((instance, false)),
            _ => None,
        }
    }

    /// For a transition, returns the opposite one of the same instance.
    pub(crate) fn opposite(&self) -> Option<Self> {
        match self {
            Self::InstanceWentOnline(instance) => Some(Self::InstanceWentOffline(instance.clone())),
            Self::InstanceWentOffline(instance) => Some(Self::InstanceWentOnline(instance.clone())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_id_reads_back_from_its_text() {
        let id = EventId {
            epoch: 1_763_805_600_000,
            sequence: 17,
        };
        assert_eq!(id.to_string(), "1763805600000-17");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "a-1",
            "1-2-3",
            "1--2",
            "99999999999999999999-1",
        ] {
            assert_eq!(bad.parse::<EventId>(), Err(EventIdError), "{bad:?}");
        }
    }

    #[test]
    fn an_event_follows_another_without_a_gap_in_the_same_log() {
        let id = |epoch, sequence| EventId { epoch, sequence };
        assert!(id(5, 1).precedes(id(5, 2)));
        assert!(EventId::default().precedes(id(5, 1)));
        assert!(!id(5, 1).precedes(id(5, 3)));
        assert!(!id(5, 1).precedes(id(6, 2)));
        assert!(!EventId::default().precedes(id(5, 2)));
        assert!(!id(5, u64::MAX).precedes(id(5, 0)));
    }

    #[test]
    fn an_event_is_named_as_it_is_written() {
        let at = DateTime::from_timestamp_millis(0).unwrap();
        for kind in [
            EventKind::RollCalled,
            EventKind::EventsLost,
            EventKind::ProtectionEntered(ProtectionReason {
                reason: "r".into(),
                cause: Some(ProtectionCause::MassLoss {
                    missing: 3,
                    online: 4,
                    within_seconds: 30,
                }),
            }),
            EventKind::ProtectionLeft(ProtectionReason {
                reason: "r".into(),
                cause: None,
            }),
        ] {
            let event = Event::new(at, kind);
            let json = serde_json::to_value(&event).unwrap();
            assert_eq!(json["type"], event.kind.name());
            assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event);
        }
    }
}
