//! `rollcalld export`: all scopes and instances as a file.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{CommandError, list, print_line};
use crate::client::{Client, ClientError, Fields, RegistrationEntry};
use crate::clock::{Clock, SystemClock};
use crate::model::{
    Address, DisplayName, InstanceKey, Metadata, Note, ScopeKey, ScopeKind, Status, Ttl, Weight,
};

/// The contents of an export: what operators and instances gave. It has no defaults, and no
/// presence, IDs or times, which the registry assigns.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Export {
    pub(super) groups: Vec<ScopeEntry>,
    pub(super) services: Vec<ScopeEntry>,
    pub(super) instances: Vec<InstanceEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScopeEntry {
    pub(super) key: ScopeKey,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<DisplayName>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InstanceEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<ScopeKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service: Option<ScopeKey>,
    pub(super) address: Address,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<DisplayName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<Weight>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<Ttl>,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_by: Option<DisplayName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Note>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_until: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Values::is_empty")]
    overrides: Values,
}

/// Values that an operator may override.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Values {
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<Weight>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
}

impl Values {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl InstanceEntry {
    pub(super) fn key(&self) -> Result<InstanceKey, ClientError> {
        let scope = match (&self.group, &self.service) {
            (Some(key), None) => ScopeKind::Group.with(key.clone()),
            (None, Some(key)) => ScopeKind::Service.with(key.clone()),
            _ => {
                let reason = "must contain either service or group".to_owned();
                return Err(ClientError::Settings(reason));
            }
        };
        let address = self.address.clone();
        Ok(InstanceKey { scope, address })
    }

    /// Removes what is the default in any registry.
    pub(super) fn without_defaults(mut self) -> Self {
        let address = self.address.as_str();
        self.name = self.name.filter(|name| name.as_str() != address);
        self.weight = self.weight.filter(|weight| *weight != Weight::default());
        self.metadata = self.metadata.filter(|all| *all != Metadata::default());
        self
    }

    /// Returns its registration, if `key` is its key.
    pub(super) fn registration<'a>(&'a self, key: &'a InstanceKey) -> RegistrationEntry<'a> {
        let fields = Fields {
            name: self.name.as_ref(),
            weight: self.weight,
            metadata: self.metadata.as_ref(),
            ttl: self.ttl_seconds,
        };
        RegistrationEntry::of(key, fields)
    }

    /// Returns whether its registration is the same as that of another entry for its instance.
    pub(super) fn is_registered_as(&self, known: &Self) -> bool {
        self.name == known.name
            && self.weight == known.weight
            && self.metadata == known.metadata
            && self.ttl_seconds == known.ttl_seconds
    }

    /// Returns the entry of the instance as its registration alone leaves it.
    pub(super) fn undecided(&self) -> Self {
        Self {
            status: if self.group.is_some() {
                Status::Disabled
            } else {
                Status::Enabled
            },
            held_by: None,
            reason: None,
            held_until: None,
            overrides: Values::default(),
            ..self.clone()
        }
    }

    /// Returns the changes that give `known` the decisions of this entry. Without `replace`, a
    /// decision of the registry stays.
    pub(super) fn decisions(&self, known: &Self, replace: bool) -> Map<String, Value> {
        let mut change = Map::new();
        let is_approved = known.group.is_some() && known.status == Status::Enabled;
        let is_decided = known.status == Status::Held || is_approved;
        let hold = |entry: &Self| {
            (
                entry.held_by.clone(),
                entry.reason.clone(),
                entry.held_until,
            )
        };
        let same_hold = hold(self) == hold(known);
        let has_ended = self
            .held_until
            .is_some_and(|until| until <= SystemClock.now());
        // A hold that has ended is none any more.
        if (self.status != known.status || !same_hold) && (replace || !is_decided) && !has_ended {
            change.insert("status".to_owned(), json!(self.status));
            if self.status == Status::Held {
                change.insert("reason".to_owned(), json!(self.reason));
                change.insert("held_by".to_owned(), json!(self.held_by));
                let until = self.held_until.map(|until| json!(until));
                change.extend(until.map(|until| ("held_until".to_owned(), until)));
            }
        }
        let (ours, theirs) = (&self.overrides, &known.overrides);
        if ours.weight != theirs.weight && (replace || theirs.weight.is_none()) {
            change.insert("weight".to_owned(), json!(ours.weight));
        }
        if ours.metadata != theirs.metadata && (replace || theirs.metadata.is_none()) {
            change.insert("metadata".to_owned(), json!(ours.metadata));
        }
        change
    }
}

/// The parts of an answer that are used.
#[derive(Deserialize)]
struct ScopeLists {
    #[serde(default)]
    groups: Vec<ListedScope>,
    #[serde(default)]
    services: Vec<ListedScope>,
}

#[derive(Deserialize)]
struct ListedScope {
    key: ScopeKey,
    name: DisplayName,
}

impl From<ListedScope> for ScopeEntry {
    fn from(ListedScope { key, name }: ListedScope) -> Self {
        let is_given = name.as_str() != key.as_str();
        Self {
            key,
            name: is_given.then_some(name),
        }
    }
}

/// An instance as the registry lists it.
#[derive(Deserialize)]
struct ListedInstance {
    group: Option<ScopeKey>,
    service: Option<ScopeKey>,
    address: Address,
    name: DisplayName,
    weight: Weight,
    metadata: Metadata,
    ttl_seconds: Ttl,
    status: Status,
    held_by: Option<DisplayName>,
    reason: Option<Note>,
    held_until: Option<DateTime<Utc>>,
    #[serde(default)]
    overrides: Values,
    #[serde(default)]
    registered: Values,
}

impl ListedInstance {
    fn into_entry(self, default_ttl: Ttl) -> InstanceEntry {
        let entry = InstanceEntry {
            group: self.group,
            service: self.service,
            address: self.address,
            name: Some(self.name),
            weight: self.registered.weight.or(Some(self.weight)),
            metadata: self.registered.metadata.or(Some(self.metadata)),
            ttl_seconds: Some(self.ttl_seconds).filter(|ttl| *ttl != default_ttl),
            status: self.status,
            held_by: self.held_by,
            reason: self.reason,
            held_until: self.held_until,
            overrides: self.overrides,
        };
        entry.without_defaults()
    }
}

/// Reads all instances of the registry.
pub(super) async fn instances(client: &Client) -> Result<Vec<InstanceEntry>, CommandError> {
    #[derive(Deserialize)]
    struct Overview {
        lease_ttl_seconds: Ttl,
    }
    let Overview {
        lease_ttl_seconds: default_ttl,
    } = client.get("/v1/overview").await?;
    let mut list = list::read(client, None, &[]).await?;
    let listed: Vec<ListedInstance> = client.read(list["instances"].take())?;
    let entries = listed.into_iter();
    Ok(entries
        .map(|listed| listed.into_entry(default_ttl))
        .collect())
}

/// Prints all scopes and instances as JSON.
pub(super) async fn export(client: &Client) -> Result<(), CommandError> {
    let ScopeLists { groups, .. } = client.get("/v1/groups").await?;
    let ScopeLists { services, .. } = client.get("/v1/services").await?;
    let export = Export {
        groups: groups.into_iter().map(ScopeEntry::from).collect(),
        services: services.into_iter().map(ScopeEntry::from).collect(),
        instances: instances(client).await?,
    };
    let text = serde_json::to_string_pretty(&export).map_err(std::io::Error::other)?;
    Ok(print_line(&text)?)
}
