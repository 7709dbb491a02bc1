//! What happened: the events that the registry remembers, or the actions of operators.

use serde_json::Value;

use super::table::Table;
use super::{CommandError, print_line, time};
use crate::client::Client;
use crate::settings::HistorySettings;

/// Prints what happened, the latest last.
pub(super) async fn run(client: &Client, settings: &HistorySettings) -> Result<(), CommandError> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if let Some(scope) = &settings.scope {
        query.append_pair(scope.kind.as_str(), scope.key.as_str());
    }
    if let Some(address) = &settings.address {
        query.append_pair("address", address.as_str());
    }
    if let Some(by) = &settings.by {
        query.append_pair("by", by);
    }
    query.append_pair("since", &settings.since);
    query.append_pair("limit", &settings.limit.to_string());
    let (route, list) = match settings.actions {
        true => ("actions", "actions"),
        false => ("history", "events"),
    };
    let answer: Value = client
        .get(&format!("/v1/{route}?{}", query.finish()))
        .await?;
    if settings.json {
        return Ok(print_line(&answer.to_string())?);
    }
    let mut table = Table::new(["TIME", "WHAT", "SCOPE", "ADDRESS", "BY", "DETAILS"]);
    let entries = answer[list]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    for entry in entries.iter().rev() {
        table.row(row(entry));
    }
    table.print()?;
    if answer.get("next_cursor").is_some() {
        let more = format!("there is more: --limit {} was reached", settings.limit);
        super::print_error(&more)?;
    }
    Ok(())
}

fn row(entry: &Value) -> [String; 6] {
    let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let scope = match (entry["service"].as_str(), entry["group"].as_str()) {
        (Some(key), _) => format!("services/{key}"),
        (None, Some(key)) => format!("groups/{key}"),
        (None, None) => String::new(),
    };
    let what = entry["event"].as_str().or(entry["action"].as_str());
    [
        time::local(&text("at")),
        what.unwrap_or_default().to_owned(),
        scope,
        text("address"),
        entry["by"]["token"].as_str().unwrap_or_default().to_owned(),
        details(entry),
    ]
}

/// Returns what changed, how many instances it concerned, and the reason.
fn details(entry: &Value) -> String {
    let mut parts = Vec::new();
    let changed = entry["changed"].as_array().into_iter().flatten();
    let changed: Vec<&str> = changed.filter_map(Value::as_str).collect();
    if changed.contains(&"status") {
        parts.push(entry["status"].as_str().unwrap_or_default().to_owned());
    } else if !changed.is_empty() {
        parts.push(changed.join(", "));
    }
    for (name, after) in entry["after"].as_object().into_iter().flatten() {
        let shown = |value: &Value| match value {
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        match entry["before"].get(name) {
            Some(before) => parts.push(format!("{name} {} -> {}", shown(before), shown(after))),
            None => parts.push(format!("{name} {}", shown(after))),
        }
    }
    match entry["instances"].as_u64() {
        Some(count) if count > 1 => parts.push(format!("{count} instances")),
        _ => {}
    }
    if let Some(reason) = entry["reason"].as_str() {
        parts.push(format!("({reason})"));
    }
    parts.join(", ")
}
