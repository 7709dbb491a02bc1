//! `rollcalld watch`: prints events, one per line, or runs a command at changes.

use std::io::{self, Write};
use std::process::{self, ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::table::printable;
use super::time::local;
use super::{CommandError, print_error, print_line};
use crate::client::{Client, ServerEvent};
use crate::model::Scope;
use crate::settings::{Format, WatchSettings};

/// The longest wait for a change in one request.
const WAIT: &str = "30s";

/// The time before a stream that ended is opened again.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Prints events, or runs a command at changes, until it is stopped.
pub(super) async fn run(client: &Client, settings: WatchSettings) -> Result<(), CommandError> {
    match (&settings.exec, &settings.scope) {
        (Some(command), Some(scope)) => {
            exec_at_changes(client, scope, settings.available, command).await
        }
        _ => {
            let is_json = settings.output.format() == Some(Format::Json);
            events(client, settings.scope.as_ref(), is_json).await
        }
    }
}

/// Runs a command with the list of a scope at the start and after each change. A change while it
/// runs is seen after its end, so runs neither overlap nor pile up.
async fn exec_at_changes(
    client: &Client,
    scope: &Scope,
    available: bool,
    command: &str,
) -> Result<(), CommandError> {
    let filter = if available { "available=true&" } else { "" };
    let path = format!("/v1/{scope}/instances?{filter}wait={WAIT}");
    let mut etag = None;
    loop {
        let changed = match client.get_if_changed(&path, etag.as_deref()).await {
            Ok(changed) => changed,
            // The first answer shows whether the scope and the token are right.
            Err(error) if etag.is_none() => return Err(error.into()),
            Err(error) => {
                print_error(&format!("{error}; retrying"))?;
                sleep(RETRY_DELAY).await;
                continue;
            }
        };
        if let Some((list, new)) = changed {
            exec(command, list).await?;
            etag = Some(new);
        }
    }
}

/// Runs a command by the shell, with a text on its standard input. Its failure is reported, and is
/// no reason to stop: the next change may be better.
async fn exec(command: &str, input: Bytes) -> Result<(), CommandError> {
    let command = command.to_owned();
    let run = move || -> io::Result<ExitStatus> {
        let mut child = process::Command::new("sh")
            .args(["-c", &command])
            .stdin(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // The command may not read it.
            let _ = stdin.write_all(&input);
        }
        child.wait()
    };
    let status = spawn_blocking(run).await;
    let status = status.map_err(|error| CommandError::Exec(error.to_string()))??;
    if !status.success() {
        print_error(&format!("the command failed: {status}"))?;
    }
    Ok(())
}

/// Prints events until it is stopped. Reconnects after a stream ends, and resumes after the
/// last event. If the first connection fails, returns the error.
async fn events(client: &Client, scope: Option<&Scope>, json: bool) -> Result<(), CommandError> {
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
    let list = |name: &str| {
        let items = data.get(name).and_then(Value::as_array);
        let items = items.into_iter().flatten().filter_map(Value::as_str);
        items.collect::<Vec<_>>().join(", ")
    };
    let changed = list("changed");
    let by = data.get("by").map_or_else(String::new, |by| {
        let text = |name: &str| by[name].as_str().unwrap_or_default();
        format!("by {} from {}", text("token"), text("peer"))
    });
    let status = match changed.contains("status") {
        true => text("status"),
        false => "",
    };
    let at = local(text("at"));
    let words = [
        &at,
        &event.name,
        &scope,
        text("address"),
        text("name"),
        &changed,
        status,
        &by,
        text("reason"),
    ];
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    printable(&words.join("  "))
}
