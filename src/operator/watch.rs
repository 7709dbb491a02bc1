//! `rollcalld watch`: prints events, one per line.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::table::printable;
use super::{CommandError, print_error, print_line};
use crate::client::{Client, ServerEvent};
use crate::model::Scope;

/// The time before a stream that ended is opened again.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Prints events until it is stopped. Reconnects after a stream ends, and resumes after the
/// last event. If the first connection fails, returns the error.
pub(super) async fn run(
    client: &Client,
    scope: Option<&Scope>,
    json: bool,
) -> Result<(), CommandError> {
    let query = scope.map_or_else(String::new, |scope| {
        format!("?{}={}", scope.kind.as_str(), scope.key)
    });
    let mut last_id = String::new();
    let mut stream = client.events(&query, None).await?;
    loop {
        let why = loop {
            match stream.next().await {
                Ok(Some(event)) => {
                    if !event.id.is_empty() {
                        last_id.clone_from(&event.id);
                    }
                    if !event.name.is_empty() {
                        print_line(&line(&event, json))?;
                    }
                }
                Ok(None) => break "it ended".to_owned(),
                Err(why) => break why,
            }
        };
        print_error(&format!("the stream ended ({why}); reconnecting"))?;
        let last = (!last_id.is_empty()).then_some(last_id.as_str());
        stream = loop {
            sleep(RETRY_DELAY).await;
            match client.events(&query, last).await {
                Ok(stream) => break stream,
                Err(error) => print_error(&error.to_string())?,
            }
        };
    }
}

fn line(event: &ServerEvent, json: bool) -> String {
    let data: Map<String, Value> = serde_json::from_str(&event.data).unwrap_or_default();
    if json {
        let mut all = Map::new();
        all.insert("event".to_owned(), json!(event.name));
        all.insert("event_id".to_owned(), json!(event.id));
        all.extend(data);
        return Value::Object(all).to_string();
    }
    let text = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default();
    let scope = match (text("service"), text("group")) {
        ("", "") => String::new(),
        (key, "") => format!("services/{key}"),
        (_, key) => format!("groups/{key}"),
    };
    let words = [
        text("at"),
        &event.name,
        &scope,
        text("address"),
        text("name"),
        text("reason"),
    ];
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    printable(&words.join("  "))
}
