//! An event as it is remembered and shown.

use chrono::{DateTime, Utc};

use crate::event_log::LogEntry;
use crate::model::{
    Event, EventId, EventKind, Instance, InstanceId, InstanceKey, Note, ProtectionCause,
    Registrant, Scope, Status, Weight,
};

/// An event, without what only replicas need.
#[derive(Debug, Clone)]
pub(crate) struct HistoryEntry {
    /// Its position in the event log.
    pub(crate) id: EventId,
    /// When it was recorded.
    pub(crate) at: DateTime<Utc>,
    /// Its name, such as `instance.online`.
    pub(crate) name: &'static str,
    /// What it is about.
    pub(crate) subject: Subject,
    /// The reason of a hold, or of protection mode.
    pub(crate) reason: Option<Box<str>>,
    /// The cause of the beginning or the end of protection mode.
    pub(crate) cause: Option<ProtectionCause>,
    /// The fields that an `instance.changed` changed.
    pub(crate) changed: Box<[String]>,
    /// Who requested the change.
    pub(crate) by: Option<Registrant>,
}

/// What an event is about.
#[derive(Debug, Clone)]
pub(crate) enum Subject {
    /// The registry as a whole.
    Registry,
    /// A scope and its name.
    Scope(Scope, Option<Box<str>>),
    /// An instance, as it was after the event.
    Instance(InstanceState),
}

/// The state of an instance after an event.
#[derive(Debug, Clone)]
pub(crate) struct InstanceState {
    pub(crate) key: InstanceKey,
    pub(crate) id: InstanceId,
    pub(crate) weight: Weight,
    pub(crate) status: Status,
    pub(crate) online: bool,
}

impl HistoryEntry {
    /// The entry of the history; `None` for an event that is only for replicas, and for a roll call,
    /// because these would soon be the whole history of a quiet registry.
    pub(crate) fn of(LogEntry { id, event }: &LogEntry) -> Option<Self> {
        match event.kind {
            EventKind::RollCalled => None,
            _ => Self::of_event(*id, event),
        }
    }

    /// Returns any event as it is shown; `None` for one that is only for replicas.
    pub(crate) fn of_event(id: EventId, event: &Event) -> Option<Self> {
        let Event {
            at,
            kind,
            by,
            changed,
        } = event;
        let subject = match kind {
            EventKind::LeaseRestarted(_) => return None,
            EventKind::ScopeDeclared(record) => {
                Subject::Scope(record.scope.clone(), Some(record.display_name().into()))
            }
            EventKind::ScopeRemoved(record) => Subject::Scope(record.scope.clone(), None),
            kind => match kind.instance() {
                Some(instance) => Subject::Instance(InstanceState::of(kind, instance)),
                None => Subject::Registry,
            },
        };
        let reason = match kind {
            EventKind::ProtectionEntered(why) | EventKind::ProtectionLeft(why) => {
                Some(why.reason.as_str())
            }
            EventKind::InstanceChanged(instance) => hold_reason(instance),
            _ => None,
        };
        Some(Self {
            id,
            at: *at,
            name: kind.name(),
            subject,
            reason: reason.map(Box::from),
            cause: match kind {
                EventKind::ProtectionEntered(why) | EventKind::ProtectionLeft(why) => {
                    why.cause.clone()
                }
                _ => None,
            },
            changed: changed.clone().into(),
            by: by.clone(),
        })
    }

    /// Returns the scope that the event is about.
    pub(crate) fn scope(&self) -> Option<&Scope> {
        match &self.subject {
            Subject::Registry => None,
            Subject::Scope(scope, _) => Some(scope),
            Subject::Instance(state) => Some(&state.key.scope),
        }
    }

    /// Returns the instance that the event is about.
    pub(crate) fn instance(&self) -> Option<&InstanceState> {
        match &self.subject {
            Subject::Instance(state) => Some(state),
            Subject::Registry | Subject::Scope(..) => None,
        }
    }

    /// For a transition, returns the instance and whether it is online.
    pub(super) fn transition(&self) -> Option<(&InstanceKey, bool)> {
        let state = self.instance()?;
        let is = |online| self.name == EventKind::transition_name(online);
        (is(true) || is(false)).then_some((&state.key, state.online))
    }

    /// Replaces the key of its instance by an equal one that is in memory already.
    pub(crate) fn share(&mut self, known: &InstanceKey) {
        if let Subject::Instance(state) = &mut self.subject {
            state.key = known.clone();
        }
    }
}

impl InstanceState {
    /// A transition itself determines whether the instance is online.
    fn of(kind: &EventKind, instance: &Instance) -> Self {
        let online = match kind.transition() {
            Some((_, online)) => online,
            None => instance.presence.online && !matches!(kind, EventKind::InstanceDeregistered(_)),
        };
        Self {
            key: instance.key.clone(),
            id: instance.id,
            weight: instance.weight(),
            status: instance.status,
            online,
        }
    }

    /// Returns whether it accepted traffic.
    pub(crate) fn available(&self) -> bool {
        self.online && self.status == Status::Enabled
    }
}

fn hold_reason(instance: &Instance) -> Option<&str> {
    instance.hold.as_ref()?.reason.as_ref().map(Note::as_str)
}
