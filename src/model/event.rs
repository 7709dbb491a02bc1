//! Events: what happened, in the order in which everybody is told.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Instance, Scope, ScopeRecord};

/// Where an event stands in the log: the number of its log and its sequence in that log.
/// A log that was lost is followed by one with another number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct EventId {
    /// When the log began, in Unix milliseconds of whatever keeps it; 0 is the log
    /// that has not begun.
    pub epoch: u64,
    /// 1 for its first event, then without gaps; 0 is before the first.
    pub sequence: u64,
}

impl EventId {
    /// Whether `next` is the event after this one.
    pub fn precedes(self, next: Self) -> bool {
        self.sequence.checked_add(1) == Some(next.sequence)
            && (next.epoch == self.epoch || self.is_empty())
    }

    /// Whether it stands for a log in which nothing happened yet.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// `1763805600000-17`: as in `Last-Event-ID`, and as the id in a Redis Stream.
impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.sequence)
    }
}

/// Why a text is not the id of an event.
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

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// What it was.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened. An instance or a scope is shown as it was afterwards, or, where it is
/// gone, as it was last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "subject")]
pub enum EventKind {
    /// An instance registered that was not known before.
    #[serde(rename = "instance.registered")]
    InstanceRegistered(Instance),
    /// An instance's lease is alive that was not.
    #[serde(rename = "instance.online")]
    InstanceWentOnline(Instance),
    /// An instance's lease is over.
    #[serde(rename = "instance.offline")]
    InstanceWentOffline(Instance),
    /// A registration or an operator changed an instance.
    #[serde(rename = "instance.changed")]
    InstanceChanged(Instance),
    /// An instance was removed.
    #[serde(rename = "instance.deregistered")]
    InstanceDeregistered(Instance),
    /// A later life began before the end of the last one was recorded. Nobody is told;
    /// daemons must know its epoch.
    #[serde(rename = "instance.lives")]
    InstanceLives(Instance),
    /// A scope was declared, or has another name.
    #[serde(rename = "scope.declared")]
    ScopeDeclared(ScopeRecord),
    /// A scope was removed.
    #[serde(rename = "scope.removed")]
    ScopeRemoved(ScopeRecord),
    /// The roll was called: whoever is alive should answer with a heartbeat.
    #[serde(rename = "roll.call")]
    RollCalled,
    /// Too many went at once to be believed: nobody goes offline for now.
    #[serde(rename = "protection.entered")]
    ProtectionEntered {
        /// Why, for people.
        reason: String,
    },
    /// Protection is over.
    #[serde(rename = "protection.left")]
    ProtectionLeft {
        /// Why, for people.
        reason: String,
    },
    /// Events were lost before they reached the log: what is known must be read again.
    #[serde(rename = "resync")]
    EventsLost,
}

impl EventKind {
    /// The word for it, as subscribers see it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::InstanceRegistered(_) => "instance.registered",
            Self::InstanceWentOnline(_) => Self::transition_name(true),
            Self::InstanceWentOffline(_) => Self::transition_name(false),
            Self::InstanceChanged(_) => "instance.changed",
            Self::InstanceDeregistered(_) => "instance.deregistered",
            Self::InstanceLives(_) => "instance.lives",
            Self::ScopeDeclared(_) => "scope.declared",
            Self::ScopeRemoved(_) => "scope.removed",
            Self::RollCalled => "roll.call",
            Self::ProtectionEntered { .. } => "protection.entered",
            Self::ProtectionLeft { .. } => "protection.left",
            Self::EventsLost => "resync",
        }
    }

    /// The word for a transition.
    pub fn transition_name(online: bool) -> &'static str {
        match online {
            true => "instance.online",
            false => "instance.offline",
        }
    }

    /// The instance it is about, if it is about one.
    pub fn instance(&self) -> Option<&Instance> {
        match self {
            Self::InstanceRegistered(instance)
            | Self::InstanceWentOnline(instance)
            | Self::InstanceWentOffline(instance)
            | Self::InstanceChanged(instance)
            | Self::InstanceDeregistered(instance)
            | Self::InstanceLives(instance) => Some(instance),
            _ => None,
        }
    }

    /// The scope it is about, if it is about one or about an instance of one.
    pub fn scope(&self) -> Option<&Scope> {
        match self {
            Self::ScopeDeclared(record) | Self::ScopeRemoved(record) => Some(&record.scope),
            _ => self.instance().map(|instance| &instance.key.scope),
        }
    }

    /// Of a transition between online and offline: the instance, and whether it is online.
    pub fn transition(&self) -> Option<(&Instance, bool)> {
        match self {
            Self::InstanceWentOnline(instance) => Some((instance, true)),
            Self::InstanceWentOffline(instance) => Some((instance, false)),
            _ => None,
        }
    }

    /// Of a transition the other one, with the same instance.
    pub fn opposite(&self) -> Option<Self> {
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
            EventKind::ProtectionEntered { reason: "r".into() },
            EventKind::ProtectionLeft { reason: "r".into() },
        ] {
            let event = Event { at, kind };
            let json = serde_json::to_value(&event).unwrap();
            assert_eq!(json["type"], event.kind.name());
            assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event);
        }
    }
}
