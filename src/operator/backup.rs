//! `rollcalld export` and `import`: all scopes and instances as a file.

use std::io::Read;
use std::path::Path;

use futures_util::{StreamExt, stream};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{CommandError, print_error, print_line};
use crate::client::{Client, ClientError};
use crate::model::{
    Address, DisplayName, Metadata, Note, ScopeKey, ScopeKind, Status, Ttl, Weight, parse_json,
};

/// The number of requests in flight.
const REQUESTS: usize = 16;

/// The contents of an export: what operators and instances gave. It has no presence, IDs or
/// times, which the registry assigns.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Export {
    groups: Vec<ScopeEntry>,
    services: Vec<ScopeEntry>,
    instances: Vec<InstanceEntry>,
}

#[derive(Serialize, Deserialize)]
struct ScopeEntry {
    key: ScopeKey,
    name: DisplayName,
}

#[derive(Serialize, Deserialize)]
struct InstanceEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<ScopeKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<ScopeKey>,
    address: Address,
    name: DisplayName,
    weight: Weight,
    metadata: Metadata,
    ttl_seconds: Ttl,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Note>,
}

/// The part of an answer that is used.
#[derive(Deserialize)]
struct ScopeLists {
    #[serde(default)]
    groups: Vec<ScopeEntry>,
    #[serde(default)]
    services: Vec<ScopeEntry>,
}

#[derive(Deserialize)]
struct InstanceList {
    instances: Vec<InstanceEntry>,
}

/// Prints all scopes and instances as JSON.
pub(super) async fn export(client: &Client) -> Result<(), CommandError> {
    let ScopeLists { groups, .. } = client.get("/v1/groups").await?;
    let ScopeLists { services, .. } = client.get("/v1/services").await?;
    let of = |kind: ScopeKind, entries: &[ScopeEntry]| {
        let scopes = entries.iter().map(|entry| kind.with(entry.key.clone()));
        scopes.collect::<Vec<_>>()
    };
    let mut scopes = of(ScopeKind::Group, &groups);
    scopes.extend(of(ScopeKind::Service, &services));
    let lists = stream::iter(scopes)
        .map(|scope| async move {
            let path = format!("/v1/{scope}/instances");
            match client.get::<InstanceList>(&path).await {
                Ok(list) => Ok(list.instances),
                // Removed at this moment.
                Err(error) if error.is_not_found() => Ok(Vec::new()),
                Err(error) => Err(error),
            }
        })
        .buffered(REQUESTS);
    let lists: Vec<Result<Vec<InstanceEntry>, ClientError>> = lists.collect().await;
    let mut instances = Vec::new();
    for list in lists {
        instances.extend(list?);
    }
    let export = Export {
        groups,
        services,
        instances,
    };
    let text = serde_json::to_string_pretty(&export).map_err(std::io::Error::other)?;
    Ok(print_line(&text)?)
}

/// Registers everything in an export. Existing scopes and instances are changed to match it,
/// and nothing is removed, so it may be repeated.
pub(super) async fn import(client: &Client, path: Option<&Path>) -> Result<(), CommandError> {
    let from = path.map_or_else(
        || "standard input".to_owned(),
        |path| path.display().to_string(),
    );
    let failed = |reason: String| CommandError::Import {
        from: from.clone(),
        reason,
    };
    let text = match path {
        Some(path) => std::fs::read_to_string(path),
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
    };
    let text = text.map_err(|error| failed(error.to_string()))?;
    let export: Export = parse_json(&text).map_err(failed)?;
    for (kind, entries) in [
        (ScopeKind::Group, &export.groups),
        (ScopeKind::Service, &export.services),
    ] {
        for ScopeEntry { key, name } in entries {
            let path = format!("/v1/{}/{key}", kind.plural());
            let body = json!({ "name": name });
            client.send(Method::PUT, &path, Some(&body)).await?;
        }
    }
    let all = export.instances.len();
    let outcomes = stream::iter(&export.instances)
        .map(|entry| async move { (entry, restore(client, entry).await) })
        .buffer_unordered(REQUESTS);
    let outcomes: Vec<_> = outcomes.collect().await;
    let mut code = None;
    let mut failures = 0;
    for (entry, outcome) in outcomes {
        if let Err(error) = outcome {
            print_error(&format!("{}: {error}", entry.address))?;
            failures += 1;
            code.get_or_insert(CommandError::from(error).exit_code());
        }
    }
    let scopes = export.groups.len() + export.services.len();
    print_line(&format!(
        "imported {scopes} groups and services, {} instances",
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

async fn restore(client: &Client, entry: &InstanceEntry) -> Result<(), ClientError> {
    let scope = match (&entry.group, &entry.service) {
        (Some(key), None) => ScopeKind::Group.with(key.clone()),
        (None, Some(key)) => ScopeKind::Service.with(key.clone()),
        _ => {
            let reason = "must contain either service or group".to_owned();
            return Err(ClientError::Settings(reason));
        }
    };
    let path = format!("/v1/{scope}/instances/{}", entry.address);
    let body = json!({
        "name": entry.name,
        "weight": entry.weight,
        "metadata": entry.metadata,
        "ttl_seconds": entry.ttl_seconds,
    });
    let registered = client.send(Method::PUT, &path, Some(&body)).await?;
    let same = registered["status"] == json!(entry.status)
        && registered["reason"]
            == entry
                .reason
                .as_ref()
                .map_or(Value::Null, |reason| json!(reason));
    if !same {
        let mut change = json!({ "status": entry.status });
        if let (Status::Held, Some(reason)) = (entry.status, &entry.reason) {
            change["reason"] = json!(reason);
        }
        client.send(Method::PATCH, &path, Some(&change)).await?;
    }
    Ok(())
}
