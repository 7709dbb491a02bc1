//! Actions of operators, as they are kept for audits.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::{
    Address, Instance, InstanceChange, InstanceKey, Invalid, Note, Registrant, Scope, ScopeKind,
    StatusChange, rfc3339_millis, shown,
};

/// What an operator did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionKind {
    /// Held instances.
    Hold,
    /// Enabled instances.
    Enable,
    /// Disabled instances.
    Disable,
    /// Changed the weight or the metadata of instances.
    Override,
    /// Deregistered an instance.
    Deregister,
    /// Declared or renamed a scope.
    Declare,
    /// Removed a scope.
    Remove,
    /// Released protection mode.
    Release,
}

impl ActionKind {
    const ALL: [Self; 8] = [
        Self::Hold,
        Self::Enable,
        Self::Disable,
        Self::Override,
        Self::Deregister,
        Self::Declare,
        Self::Remove,
        Self::Release,
    ];

    /// Returns the name in the database and in JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Override => "override",
            Self::Deregister => "deregister",
            Self::Declare => "declare",
            Self::Remove => "remove",
            Self::Release => "release",
        }
    }

    /// Returns what a change of an instance is.
    fn of(change: &InstanceChange) -> Self {
        match change.status {
            Some(StatusChange::Hold(_)) => Self::Hold,
            Some(StatusChange::Enable) => Self::Enable,
            Some(StatusChange::Disable) => Self::Disable,
            None => Self::Override,
        }
    }
}

impl FromStr for ActionKind {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str).join(", ");
            Invalid::new(format!("must be one of {names}, unlike {}", shown(text)))
        })
    }
}

/// What an action concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// One instance.
    Instance(InstanceKey),
    /// One scope, or instances of it.
    Scope(Scope),
    /// Several scopes, or the registry as a whole.
    Registry,
}

impl Subject {
    /// Returns the scope, if it is one.
    pub fn scope(&self) -> Option<&Scope> {
        match self {
            Self::Instance(key) => Some(&key.scope),
            Self::Scope(scope) => Some(scope),
            Self::Registry => None,
        }
    }

    /// Returns the instance, if it is one.
    pub fn instance(&self) -> Option<&InstanceKey> {
        match self {
            Self::Instance(key) => Some(key),
            Self::Scope(_) | Self::Registry => None,
        }
    }
}

/// As it is logged.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance(key) => key.fmt(f),
            Self::Scope(scope) => scope.fmt(f),
            Self::Registry => f.write_str("the registry"),
        }
    }
}

/// An action of an operator.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    /// The operator: the name of the token, and the address of the client.
    pub by: Registrant,
    /// What was done.
    pub kind: ActionKind,
    /// What it concerns.
    pub subject: Subject,
    /// The changed fields of the instance before the action; empty if it is not about one.
    pub before: Map<String, Value>,
    /// The same after the action; of an action on many instances, the change.
    pub after: Map<String, Value>,
    /// The reason, if one was given.
    pub reason: Option<Note>,
    /// The number of instances that it changed.
    pub count: u64,
}

impl Action {
    /// An action on one subject.
    pub(crate) fn new(by: &Registrant, kind: ActionKind, subject: Subject) -> Self {
        Self {
            by: by.clone(),
            kind,
            count: u64::from(subject.instance().is_some()),
            subject,
            before: Map::new(),
            after: Map::new(),
            reason: None,
        }
    }

    /// The release of protection mode, which marked this many instances offline.
    pub(crate) fn of_release(by: &Registrant, released: usize) -> Self {
        Self {
            count: released.try_into().unwrap_or(u64::MAX),
            ..Self::new(by, ActionKind::Release, Subject::Registry)
        }
    }

    /// The change of one instance.
    pub(crate) fn of_change(
        by: &Registrant,
        change: &InstanceChange,
        before: Option<&Instance>,
        after: &Instance,
    ) -> Self {
        let (mut old, mut new) = (before.map(decisions).unwrap_or_default(), decisions(after));
        let is_same: Vec<String> = new
            .keys()
            .filter(|key| old.get(*key) == new.get(*key))
            .cloned()
            .collect();
        for key in is_same {
            old.remove(&key);
            new.remove(&key);
        }
        Self {
            before: old,
            after: new,
            reason: reason(change),
            ..Self::new(
                by,
                ActionKind::of(change),
                Subject::Instance(after.key.clone()),
            )
        }
    }

    /// The change of many instances.
    pub(crate) fn of_changes(
        by: &Registrant,
        change: &InstanceChange,
        subject: Subject,
        count: usize,
    ) -> Self {
        let mut after = Map::new();
        if let Some(status) = &change.status {
            after.insert("status".into(), json!(status.status()));
            if let Some(hold) = status.hold() {
                after.insert("held_by".into(), json!(hold.by));
                after.insert("held_until".into(), json!(hold.until.map(rfc3339_millis)));
            }
        }
        if !change.weight.is_omitted() {
            after.insert("weight".into(), json!(change.weight));
        }
        if !change.metadata.is_omitted() {
            after.insert("metadata".into(), json!(change.metadata));
        }
        Self {
            after,
            reason: reason(change),
            count: count.try_into().unwrap_or(u64::MAX),
            ..Self::new(by, ActionKind::of(change), subject)
        }
    }
}

fn reason(change: &InstanceChange) -> Option<Note> {
    change.status.as_ref()?.hold()?.reason.clone()
}

/// Returns the fields of an instance that an operator can change.
fn decisions(instance: &Instance) -> Map<String, Value> {
    let hold = instance.hold.as_deref();
    let until = hold.and_then(|hold| hold.until).map(rfc3339_millis);
    let fields = [
        ("status", json!(instance.status)),
        ("held_by", json!(hold.map(|hold| &hold.by))),
        ("held_until", json!(until)),
        ("weight", json!(instance.weight())),
        ("metadata", json!(instance.metadata())),
    ];
    fields
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
}

/// Which actions are selected: those that meet every condition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ActionSelection {
    /// The scope that they concern.
    pub scope: Option<Scope>,
    /// The address of the instance that they concern.
    pub address: Option<Address>,
    /// The name of the operator's token.
    pub token: Option<String>,
    /// What was done.
    pub kind: Option<ActionKind>,
    /// They were recorded at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// They were recorded before this time.
    pub until: Option<DateTime<Utc>>,
    /// They concern one of these scopes: the kind, and a key or, if the last part says so, the
    /// beginning of keys.
    pub within: Option<(ScopeKind, String, bool)>,
}

/// An action as the registry store has it.
#[derive(Debug, Clone, PartialEq)]
pub struct ActionRecord {
    /// Assigned by the registry store; a later action has a greater one.
    pub id: i64,
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// The action.
    pub action: Action,
}
