//! Lists of scopes and instances.

use serde::Deserialize;
use serde_json::{Value, json};
use url::form_urlencoded::Serializer;

use super::table::Table;
use super::time::{ago, local};
use super::{CommandError, print_error, print_line};
use crate::client::{Client, ClientError};
use crate::model::{Address, InstanceKey, Scope, ScopeKey, ScopeKind};
use crate::settings::Format;

/// The number of instances in one page.
const PAGE: &str = "10000";

/// How similar a key must be to be suggested, from 0 to 1.
const SIMILAR: f64 = 0.8;

#[derive(Deserialize)]
struct ScopeRow {
    key: String,
    name: String,
    instances: usize,
    online: usize,
    available: usize,
}

/// Prints the scopes of a kind.
pub(super) async fn scopes(
    client: &Client,
    kind: ScopeKind,
    format: Option<Format>,
) -> Result<(), CommandError> {
    let list: Value = client.get(&format!("/v1/{}", kind.plural())).await?;
    if format == Some(Format::Json) {
        return Ok(print_line(&list.to_string())?);
    }
    let rows: Vec<ScopeRow> = client.read(list[kind.plural()].clone())?;
    if format == Some(Format::Name) {
        for row in rows {
            print_line(&row.key)?;
        }
        return Ok(());
    }
    let mut table = Table::new(["KEY", "AVAILABLE", "ONLINE", "REGISTERED", "NAME"]);
    for row in rows {
        table.row([
            row.key,
            row.available.to_string(),
            row.online.to_string(),
            row.instances.to_string(),
            row.name,
        ]);
    }
    table.print()
}

/// An instance as it is listed.
#[derive(Deserialize)]
struct InstanceRow {
    service: Option<ScopeKey>,
    group: Option<ScopeKey>,
    address: Address,
    name: String,
    weight: u16,
    #[serde(default)]
    overrides: Value,
    metadata: Value,
    ttl_seconds: u16,
    status: String,
    held_by: Option<String>,
    reason: Option<String>,
    online: bool,
    available: bool,
    #[serde(default)]
    suspect: bool,
    online_changed_at: Option<String>,
    #[serde(default)]
    registered_by: Value,
}

impl InstanceRow {
    fn presence(&self) -> &'static str {
        match (self.suspect, self.available, self.online) {
            (true, ..) => "suspect",
            (_, true, _) => "available",
            (_, _, true) => "online",
            _ => "offline",
        }
    }

    fn key(&self) -> Option<InstanceKey> {
        let service = self.service.clone();
        let service = service.map(|key| ScopeKind::Service.with(key));
        let group = || self.group.clone().map(|key| ScopeKind::Group.with(key));
        Some(InstanceKey {
            scope: service.or_else(group)?,
            address: self.address.clone(),
        })
    }

    fn scope(&self) -> String {
        let key = self.key();
        key.map_or_else(String::new, |key| key.scope.to_string())
    }

    /// Returns the weight, marked if an operator has set it.
    fn weight(&self) -> String {
        let mark = if self.overrides["weight"].is_null() {
            ""
        } else {
            "*"
        };
        format!("{}{mark}", self.weight)
    }

    /// Returns the name for people, if there is one.
    fn name(&self) -> String {
        if self.name == self.address.as_str() {
            String::new()
        } else {
            self.name.clone()
        }
    }
}

/// Reads the instances of a scope or of all, which meet conditions.
pub(super) async fn read(
    client: &Client,
    scope: Option<&Scope>,
    conditions: &[(String, String)],
) -> Result<Value, CommandError> {
    let mut query = Serializer::new(String::new());
    query.extend_pairs(conditions);
    let query = query.finish();
    if let Some(scope) = scope {
        let list = client.get(&format!("/v1/{scope}/instances?{query}")).await;
        let list: Value = with_suggestion(client, scope, list).await?;
        if list["instances"] == json!([]) {
            // The list of an unknown service is empty.
            let known = client.get::<Value>(&format!("/v1/{scope}")).await;
            with_suggestion(client, scope, known).await?;
        }
        return Ok(list);
    }
    let (mut all, mut cursor, mut is_stale) = (Vec::new(), String::new(), false);
    loop {
        let path = format!("/v1/instances?limit={PAGE}&{query}{cursor}");
        let mut page: Value = client.get(path.trim_end_matches('&')).await?;
        if let Value::Array(instances) = page["instances"].take() {
            all.extend(instances);
        }
        is_stale |= page["stale"] == json!(true);
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(json!({ "stale": is_stale, "instances": all })),
        }
    }
}

/// Returns the keys of the instances of a scope or of all, which meet conditions.
pub(super) async fn keys(
    client: &Client,
    scope: Option<&Scope>,
    conditions: &[(String, String)],
) -> Result<Vec<InstanceKey>, CommandError> {
    let mut list = read(client, scope, conditions).await?;
    let rows: Vec<InstanceRow> = client.read(list["instances"].take())?;
    Ok(rows.iter().filter_map(InstanceRow::key).collect())
}

/// Prints instances.
pub(super) async fn instances(
    client: &Client,
    scope: Option<&Scope>,
    conditions: &[(String, String)],
    format: Option<Format>,
) -> Result<(), CommandError> {
    let mut list = read(client, scope, conditions).await?;
    if format == Some(Format::Json) {
        return Ok(print_line(&list.to_string())?);
    }
    if list["stale"] == json!(true) {
        print_error(
            "this list may be out of date: the registry cannot reach its lease store or event log",
        )?;
    }
    let rows: Vec<InstanceRow> = client.read(list["instances"].take())?;
    if format == Some(Format::Name) {
        for row in rows {
            match scope {
                Some(_) => print_line(row.address.as_str())?,
                None => print_line(&format!("{} {}", row.scope(), row.address))?,
            }
        }
        return Ok(());
    }
    let is_wide = format == Some(Format::Wide);
    let mut table = Table::new([
        "SCOPE",
        "ADDRESS",
        "PRESENCE",
        "STATUS",
        "WEIGHT",
        "SINCE",
        "NAME",
        "HELD BY",
        "REASON",
        "TTL",
        "METADATA",
        "REGISTERED BY",
    ]);
    if scope.is_some() {
        table.hide(0);
    }
    if !is_wide {
        table.hide(9);
        table.hide(10);
        table.hide(11);
    }
    for row in rows {
        let since = row.online_changed_at.as_deref().unwrap_or_default();
        table.row([
            row.scope(),
            row.address.to_string(),
            row.presence().to_owned(),
            row.status.clone(),
            row.weight(),
            if is_wide { local(since) } else { ago(since) },
            row.name(),
            row.held_by.clone().unwrap_or_default(),
            row.reason.clone().unwrap_or_default(),
            format!("{}s", row.ttl_seconds),
            entries(&row.metadata),
            registrant(&row.registered_by),
        ]);
    }
    table.print()
}

fn entries(metadata: &Value) -> String {
    let entries = metadata.as_object().into_iter().flatten();
    let entries = entries.map(|(name, text)| format!("{name}={}", text.as_str().unwrap_or("")));
    entries.collect::<Vec<_>>().join(" ")
}

fn registrant(by: &Value) -> String {
    match (by["token"].as_str(), by["peer"].as_str()) {
        (Some(token), Some(peer)) => format!("{token} from {peer}"),
        _ => String::new(),
    }
}

/// Prints everything about an instance.
pub(super) async fn show(
    client: &Client,
    key: InstanceKey,
    format: Option<Format>,
) -> Result<(), CommandError> {
    let instance: Value = client.get(&format!("/v1/{key}")).await?;
    match format {
        Some(Format::Json) => return Ok(print_line(&instance.to_string())?),
        Some(Format::Name) => return Ok(print_line(&key.to_string())?),
        Some(Format::Wide) | None => {}
    }
    let mut table = Table::new(["", ""]);
    for (name, value) in instance.as_object().into_iter().flatten() {
        let text = match value {
            Value::String(text) if name.ends_with("_at") => {
                format!("{} ({} ago)", local(text), ago(text))
            }
            Value::String(text) => text.clone(),
            Value::Object(_) if name == "metadata" => entries(value),
            Value::Object(_) if name == "registered_by" => registrant(value),
            other => other.to_string(),
        };
        table.row([name.replace('_', " "), text]);
    }
    table.print()
}

/// Adds the most similar key to the error about an unknown scope.
pub(super) async fn with_suggestion<T>(
    client: &Client,
    scope: &Scope,
    outcome: Result<T, ClientError>,
) -> Result<T, CommandError> {
    let error = match outcome {
        Err(error) if error.is_not_found() => error,
        outcome => return Ok(outcome?),
    };
    let Ok(list) = client
        .get::<Value>(&format!("/v1/{}", scope.kind.plural()))
        .await
    else {
        return Err(error.into());
    };
    let known = list[scope.kind.plural()].as_array().into_iter().flatten();
    let keys = known.filter_map(|scope| scope["key"].as_str());
    let wanted = scope.key.as_str();
    let rated = keys.map(|key| (strsim::jaro_winkler(key, wanted), key));
    let near = rated
        .filter(|(similarity, key)| *similarity >= SIMILAR && *key != wanted)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    Err(CommandError::UnknownScope {
        scope: scope.clone(),
        near: near.map(|(_, key)| key.to_owned()),
    })
}
