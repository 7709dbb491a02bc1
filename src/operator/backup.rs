//! `rollcalld export` and `import`: all scopes and instances as a file.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::Path;

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::{Duration, Instant};

use super::{CommandError, list, print_error, print_line};
use crate::client::{Client, ClientError};
use crate::clock::{Clock, SystemClock};
use crate::model::{
    Address, DisplayName, InstanceKey, Metadata, Note, ScopeKey, ScopeKind, Status, Ttl, Weight,
    parse_json,
};
use crate::settings::ImportSettings;

/// The number of requests in flight.
const REQUESTS: usize = 64;

/// The time between two lines about the progress of an import.
const PROGRESS: Duration = Duration::from_secs(2);

/// The contents of an export: what operators and instances gave. It has no defaults, and no
/// presence, IDs or times, which the registry assigns.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Export {
    groups: Vec<ScopeEntry>,
    services: Vec<ScopeEntry>,
    instances: Vec<InstanceEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScopeEntry {
    key: ScopeKey,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<DisplayName>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstanceEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<ScopeKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<ScopeKey>,
    address: Address,
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
struct Values {
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
    fn key(&self) -> Result<InstanceKey, ClientError> {
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
    fn without_defaults(mut self) -> Self {
        let address = self.address.as_str();
        self.name = self.name.filter(|name| name.as_str() != address);
        self.weight = self.weight.filter(|weight| *weight != Weight::default());
        self.metadata = self.metadata.filter(|all| *all != Metadata::default());
        self
    }

    /// Returns the body of its registration, a complete description.
    fn registration(&self) -> Value {
        json!({
            "name": self.name,
            "weight": self.weight,
            "metadata": self.metadata,
            "ttl_seconds": self.ttl_seconds,
        })
    }

    /// Returns the changes that give `known` the decisions of this entry. Without `replace`, a
    /// decision of the registry stays.
    fn decisions(&self, known: &Self, replace: bool) -> Map<String, Value> {
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
async fn instances(client: &Client) -> Result<Vec<InstanceEntry>, CommandError> {
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

fn read(path: Option<&Path>) -> Result<Export, CommandError> {
    let from = path.map_or_else(
        || "standard input".to_owned(),
        |path| path.display().to_string(),
    );
    let text = match path {
        Some(path) => std::fs::read_to_string(path),
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
    };
    let text = text.map_err(|error| error.to_string());
    text.and_then(|text| parse_json(&text))
        .map_err(|reason| CommandError::Import { from, reason })
}

/// What an import does with an instance.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Created,
    Changed,
    Unchanged,
}

/// Registers everything in an export. Existing scopes and instances are changed to match it,
/// except the decisions of operators, and nothing is removed, so it may be repeated.
pub(super) async fn import(client: &Client, settings: ImportSettings) -> Result<(), CommandError> {
    let export = read(settings.path.as_deref())?;
    let known = instances(client).await?.into_iter();
    let known = known.map(|entry| Ok((entry.key()?, entry)));
    let known: HashMap<InstanceKey, InstanceEntry> = known.collect::<Result<_, ClientError>>()?;
    let scopes = declare(client, &export, settings.dry_run).await?;
    let all = export.instances.len();
    let steps = stream::iter(export.instances)
        .map(async |entry| {
            let entry = entry.without_defaults();
            let step = restore(client, &entry, &known, &settings).await;
            (entry, step)
        })
        .buffer_unordered(REQUESTS);
    let mut steps = std::pin::pin!(steps);
    let (mut code, mut failures, mut counts) = (None, 0, [0_usize; 3]);
    let (mut done, mut said) = (0, Instant::now());
    while let Some((entry, step)) = steps.next().await {
        match step {
            Ok(step) => counts[step as usize] += 1,
            Err(error) => {
                let scope = entry.service.or(entry.group);
                let scope = scope.map(|key| key.to_string()).unwrap_or_default();
                print_error(&format!("{scope} {}: {error}", entry.address))?;
                failures += 1;
                code.get_or_insert(CommandError::from(error).exit_code());
            }
        }
        done += 1;
        if said.elapsed() > PROGRESS {
            print_error(&format!("{done} of {all} instances"))?;
            said = Instant::now();
        }
    }
    let [created, changed, unchanged] = counts;
    let verb = if settings.dry_run {
        "would import"
    } else {
        "imported"
    };
    print_line(&format!(
        "{verb} {scopes} groups and services, {} instances: {created} new, {changed} changed, {unchanged} unchanged",
        all - failures
    ))?;
    match code {
        None => Ok(()),
        Some(code) => Err(CommandError::Partly {
            failed: failures,
            all,
            code,
        }),
    }
}

/// Declares the scopes, and returns their number. A service with instances and without a name is
/// declared by its first instance, as it was.
async fn declare(client: &Client, export: &Export, dry_run: bool) -> Result<usize, CommandError> {
    let of_services = export.instances.iter();
    let with_instances: HashSet<_> = of_services
        .filter_map(|entry| entry.service.as_ref())
        .collect();
    let mut count = 0;
    for (kind, entries) in [
        (ScopeKind::Group, &export.groups),
        (ScopeKind::Service, &export.services),
    ] {
        for ScopeEntry { key, name } in entries {
            count += 1;
            let comes_along =
                kind == ScopeKind::Service && name.is_none() && with_instances.contains(key);
            if !dry_run && !comes_along {
                let path = format!("/v1/{}/{key}", kind.plural());
                let body = json!({ "name": name });
                client.send(Method::PUT, &path, Some(&body)).await?;
            }
        }
    }
    Ok(count)
}

async fn restore(
    client: &Client,
    entry: &InstanceEntry,
    known: &HashMap<InstanceKey, InstanceEntry>,
    settings: &ImportSettings,
) -> Result<Step, ClientError> {
    let key = entry.key()?;
    let path = format!("/v1/{key}");
    let before = known.get(&key);
    let registers = before.is_none_or(|known| known.registration() != entry.registration());
    if registers && !settings.dry_run {
        let body = entry.registration();
        client.send(Method::PUT, &path, Some(&body)).await?;
    }
    // As a registration leaves it.
    let registered = before.cloned().unwrap_or_else(|| InstanceEntry {
        status: match key.scope.kind {
            ScopeKind::Group => Status::Disabled,
            ScopeKind::Service => Status::Enabled,
        },
        held_by: None,
        reason: None,
        held_until: None,
        overrides: Values::default(),
        ..entry.clone()
    });
    let change = entry.decisions(&registered, settings.replace_decisions);
    if !change.is_empty() && !settings.dry_run {
        let change = Value::Object(change.clone());
        client.send(Method::PATCH, &path, Some(&change)).await?;
    }
    Ok(match before {
        None => Step::Created,
        Some(_) if registers || !change.is_empty() => Step::Changed,
        Some(_) => Step::Unchanged,
    })
}
