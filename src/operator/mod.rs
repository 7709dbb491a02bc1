//! The commands for operators.
//!
//! Called by `program`. They know only the daemon's API. Results are written to standard output,
//! errors to standard error.

mod backup;
mod table;
mod watch;

use std::io::{self, Write};

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use self::table::Table;
use crate::client::{Client, ClientError};
use crate::model::{Scope, ScopeKind};
use crate::settings::{Instances, OperatorCommand};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The registry failed or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Input or output failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The import is not an export.
    #[error("{from}: {reason}")]
    Import {
        /// The name of the file.
        from: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Some of the actions failed; each was reported.
    #[error("{failed} of {all} failed")]
    Partly {
        /// The number of failures.
        failed: usize,
        /// The number of actions.
        all: usize,
        /// The exit code of the first failure.
        code: u8,
    },
}

impl CommandError {
    /// Returns the exit code: 3 if there is no such scope or instance, 4 if the token is missing or
    /// does not permit it, 5 if no replica answers or it cannot serve the request now, otherwise 1.
    /// (2 is wrong usage.)
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Client(ClientError::Unreachable { .. }) => 5,
            Self::Client(ClientError::Refused { status, .. }) => match *status {
                StatusCode::NOT_FOUND => 3,
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => 4,
                status if status.is_server_error() => 5,
                _ => 1,
            },
            Self::Partly { code, .. } => *code,
            _ => 1,
        }
    }

    /// Returns whether the reader of the output, such as `head`, has closed it.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Runs the command.
pub(crate) async fn run(mut command: OperatorCommand) -> Result<(), CommandError> {
    let client = Client::new(command.client())?;
    match command {
        OperatorCommand::Services(output) => scopes(&client, ScopeKind::Service, output.json).await,
        OperatorCommand::Groups(output) => scopes(&client, ScopeKind::Group, output.json).await,
        OperatorCommand::Instances {
            scope,
            available,
            output,
        } => instances(&client, &scope, available, output.json).await,
        OperatorCommand::Watch { scope, output } => {
            watch::run(&client, scope.as_ref(), output.json).await
        }
        OperatorCommand::Hold { reason, instances } => {
            let mut change = json!({ "status": "held" });
            if let Some(reason) = reason {
                change["reason"] = json!(reason);
            }
            each(&client, instances, Method::PATCH, Some(&change), "held").await
        }
        OperatorCommand::Enable(instances) => {
            let change = json!({ "status": "enabled" });
            each(&client, instances, Method::PATCH, Some(&change), "enabled").await
        }
        OperatorCommand::Deregister(instances) => {
            each(&client, instances, Method::DELETE, None, "deregistered").await
        }
        OperatorCommand::Overview(output) => overview(&client, output.json).await,
        OperatorCommand::Export(_) => backup::export(&client).await,
        OperatorCommand::Import { path, .. } => backup::import(&client, path.as_deref()).await,
    }
}

/// Prints a line to standard output.
fn print_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Prints a line to standard error.
fn print_error(line: &str) -> io::Result<()> {
    writeln!(io::stderr().lock(), "{line}")
}

#[derive(Deserialize)]
struct ScopeRow {
    key: String,
    name: String,
    instances: usize,
    online: usize,
    available: usize,
}

async fn scopes(client: &Client, kind: ScopeKind, json: bool) -> Result<(), CommandError> {
    let path = format!("/v1/{}", kind.plural());
    let list: Value = client.get(&path).await?;
    if json {
        return Ok(print_line(&list.to_string())?);
    }
    let rows: Vec<ScopeRow> = client.read(list[kind.plural()].clone())?;
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
    Ok(print_line(&table.to_string())?)
}

#[derive(Deserialize)]
struct InstanceRow {
    address: String,
    name: String,
    weight: u16,
    status: String,
    held_by: Option<String>,
    reason: Option<String>,
    online: bool,
    available: bool,
    #[serde(default)]
    suspect: bool,
    online_changed_at: Option<String>,
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
}

async fn instances(
    client: &Client,
    scope: &Scope,
    available: bool,
    json: bool,
) -> Result<(), CommandError> {
    let list: Value = client
        .get(&format!("/v1/{scope}/instances?available={available}"))
        .await?;
    if json {
        return Ok(print_line(&list.to_string())?);
    }
    if list["stale"] == json!(true) {
        print_error(
            "this list may be out of date: the registry cannot reach its lease store or event log",
        )?;
    }
    let rows: Vec<InstanceRow> = client.read(list["instances"].clone())?;
    let mut table = Table::new([
        "ADDRESS", "PRESENCE", "STATUS", "WEIGHT", "SINCE", "NAME", "HELD BY", "REASON",
    ]);
    for row in rows {
        table.row([
            row.address.clone(),
            row.presence().to_owned(),
            row.status,
            row.weight.to_string(),
            row.online_changed_at.unwrap_or_default(),
            // The name for people, if there is one.
            Some(row.name)
                .filter(|name| *name != row.address)
                .unwrap_or_default(),
            row.held_by.unwrap_or_default(),
            row.reason.unwrap_or_default(),
        ]);
    }
    Ok(print_line(&table.to_string())?)
}

/// Sends the same request for each instance, and continues after a failure.
async fn each(
    client: &Client,
    instances: Instances,
    method: Method,
    change: Option<&Value>,
    done: &str,
) -> Result<(), CommandError> {
    let (mut all, mut failures) = (0, Vec::new());
    for key in instances.keys() {
        all += 1;
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

async fn overview(client: &Client, json: bool) -> Result<(), CommandError> {
    let overview: Value = client.get("/v1/overview").await?;
    if json {
        return Ok(print_line(&overview.to_string())?);
    }
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    };
    let mut counts = Table::new(["", "SCOPES", "REGISTERED", "ONLINE", "AVAILABLE", "SUSPECT"]);
    for kind in ["services", "groups"] {
        let of = &overview[kind];
        let [scopes, instances, online, available, suspect] =
            ["scopes", "instances", "online", "available", "suspect"].map(|name| text(&of[name]));
        counts.row([
            kind.to_owned(),
            scopes,
            instances,
            online,
            available,
            suspect,
        ]);
    }
    print_line(&counts.to_string())?;
    let mut facts = Table::new(["", ""]);
    let protection = &overview["protection"];
    for (name, value) in [
        ("version", &overview["version"]),
        ("auth disabled", &overview["auth_disabled"]),
        ("stale", &overview["stale"]),
        ("store answers", &overview["backends"]["store"]),
        ("leases answer", &overview["backends"]["leases"]),
        ("event log answers", &overview["backends"]["event_log"]),
        (
            "last roll call here",
            &overview["roll_call"]["last_sent_at"],
        ),
        ("protection", &protection["active"]),
        ("because", &protection["reason"]),
        ("streams", &overview["events"]["subscribers"]),
    ] {
        facts.row([name.to_owned(), text(value)]);
    }
    Ok(print_line(&facts.to_string())?)
}
