//! Changes of instances: each by its address, or all that meet conditions.

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{CommandError, list, print_error, print_line};
use crate::client::Client;
use crate::model::{InstanceKey, Scope};
use crate::settings::Instances;

/// Changes instances.
pub(super) async fn change(
    client: &Client,
    instances: Instances,
    change: &Value,
    done: &str,
) -> Result<(), CommandError> {
    if instances.conditions.is_empty() {
        let keys = keys(instances);
        return each(client, keys, Method::PATCH, Some(change), done).await;
    }
    let body = json!({
        "selection": selection(instances.scope.as_ref(), &instances.conditions)?,
        "change": change,
        "dry_run": instances.dry_run,
    });
    let answer = client
        .send(Method::PATCH, "/v1/instances", Some(&body))
        .await?;
    report(client.read(answer)?, done)
}

/// The effect of a change of many instances.
#[derive(Deserialize)]
struct Effect {
    dry_run: bool,
    selected: usize,
    changed: usize,
    scopes: Vec<ScopeEffect>,
    failures: Vec<Failure>,
}

#[derive(Deserialize)]
struct ScopeEffect {
    service: Option<String>,
    group: Option<String>,
    selected: usize,
    available_before: usize,
    available_after: usize,
}

#[derive(Deserialize)]
struct Failure {
    instance: String,
    detail: String,
}

fn report(effect: Effect, done: &str) -> Result<(), CommandError> {
    for scope in &effect.scopes {
        let name = match (&scope.service, &scope.group) {
            (Some(key), _) => format!("services/{key}"),
            (None, key) => format!("groups/{}", key.as_deref().unwrap_or_default()),
        };
        print_line(&format!(
            "{name}: {} selected, {} available before, {} after",
            scope.selected, scope.available_before, scope.available_after
        ))?;
    }
    let (verb, count) = match effect.dry_run {
        true => ("would be ", effect.selected),
        false => ("", effect.changed),
    };
    print_line(&format!("{count} instances {verb}{done}"))?;
    for Failure { instance, detail } in &effect.failures {
        print_error(&format!("{instance}: {detail}"))?;
    }
    if effect.failures.is_empty() {
        Ok(())
    } else {
        Err(CommandError::Partly {
            failed: effect.failures.len(),
            all: effect.selected,
            code: 1,
        })
    }
}

/// Deregisters instances.
pub(super) async fn deregister(client: &Client, instances: Instances) -> Result<(), CommandError> {
    let keys = if instances.conditions.is_empty() {
        keys(instances)
    } else {
        let conditions = &instances.conditions;
        let keys = list::keys(client, instances.scope.as_ref(), conditions).await?;
        if instances.dry_run {
            for key in &keys {
                print_line(&key.to_string())?;
            }
            return Ok(print_line(&format!(
                "{} instances would be deregistered",
                keys.len()
            ))?);
        }
        keys
    };
    each(client, keys, Method::DELETE, None, "deregistered").await
}

fn keys(instances: Instances) -> Vec<InstanceKey> {
    let addresses = instances.addresses.into_iter();
    let key = |address| {
        let scope = instances.scope.clone()?;
        Some(InstanceKey { scope, address })
    };
    addresses.filter_map(key).collect()
}

/// Returns the selection of a bulk change. A condition that is given twice is an error, because the
/// change would concern others than those that meet both.
fn selection(
    scope: Option<&Scope>,
    conditions: &[(String, String)],
) -> Result<Value, CommandError> {
    let (mut selection, mut metadata) = (Map::new(), Map::new());
    if let Some(Scope { kind, key }) = scope {
        selection.insert(kind.as_str().to_owned(), json!([key]));
    }
    for (name, text) in conditions {
        let (of, key, value) = match name.split_once('.') {
            Some(("metadata", key)) => (&mut metadata, key, json!(text)),
            _ => (&mut selection, name.as_str(), value(name, text)?),
        };
        if of.insert(key.to_owned(), value).is_some() {
            let reason = format!("--where {name}= must not be given twice");
            return Err(CommandError::Usage(reason));
        }
    }
    if !metadata.is_empty() {
        selection.insert("metadata".to_owned(), Value::Object(metadata));
    }
    Ok(Value::Object(selection))
}

/// Returns the value of a condition as the registry takes it.
fn value(name: &str, text: &str) -> Result<Value, CommandError> {
    Ok(match name {
        "online" | "available" => {
            let truth = text.parse::<bool>().map_err(|_| {
                CommandError::Usage(format!("--where {name}= must be true or false"))
            })?;
            json!(truth)
        }
        // A condition names one scope, the selection lists them.
        "service" | "group" => json!([text]),
        _ => json!(text),
    })
}

/// Sends the same request for each instance, and continues after a failure.
async fn each(
    client: &Client,
    keys: Vec<InstanceKey>,
    method: Method,
    change: Option<&Value>,
    done: &str,
) -> Result<(), CommandError> {
    let (all, mut failures) = (keys.len(), Vec::new());
    for key in keys {
        let path = format!("/v1/{key}");
        match client.send(method.clone(), &path, change).await {
            Ok(_) => print_line(&format!("{done} {key}"))?,
            Err(error) => failures.push((key, CommandError::from(error))),
        }
    }
    if all == 1
        && let Some((_, error)) = failures.pop()
    {
        return Err(error);
    }
    for (key, error) in &failures {
        print_error(&format!("{key}: {error}"))?;
    }
    match failures.first() {
        None => Ok(()),
        Some((_, error)) => Err(CommandError::Partly {
            failed: failures.len(),
            all,
            code: error.exit_code(),
        }),
    }
}
