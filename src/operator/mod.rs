//! The commands for operators.
//!
//! Called by `program`. They know only the daemon's API. Results are written to standard output,
//! errors to standard error.

mod backup;
mod change;
mod history;
mod import;
mod list;
mod table;
mod time;
mod watch;

use std::io::{self, Write};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use self::table::Table;
use crate::client::{Client, ClientError};
use crate::model::{InstanceKey, Scope, ScopeKind};
use crate::settings::{Format, OperatorCommand};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The registry failed or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// There is no such scope.
    #[error("no {} {:?} is declared{}", .scope.kind.as_str(), .scope.key.as_str(), suggestion(.near.as_deref()))]
    UnknownScope {
        /// The scope.
        scope: Scope,
        /// A key that resembles it.
        near: Option<String>,
    },
    /// An argument that the parser of the command line accepts is wrong.
    #[error("{0}")]
    Usage(String),
    /// A command could not be run.
    #[error("{0}")]
    Exec(String),
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

fn suggestion(near: Option<&str>) -> String {
    near.map_or_else(String::new, |near| format!("; did you mean {near:?}?"))
}

impl CommandError {
    /// Returns the exit code: 2 for wrong usage, 3 if there is no such scope or instance, 4 if the
    /// token is missing or does not permit it, 5 if no replica answers or it cannot serve the
    /// request now, otherwise 1.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Client(ClientError::Unreachable { .. }) => 5,
            Self::Client(ClientError::Refused { status, .. }) => match *status {
                StatusCode::NOT_FOUND => 3,
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => 4,
                status if status.is_server_error() => 5,
                _ => 1,
            },
            Self::Usage(_) => 2,
            Self::UnknownScope { .. } => 3,
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
        OperatorCommand::Services(output) => {
            list::scopes(&client, ScopeKind::Service, output.format()).await
        }
        OperatorCommand::Groups(output) => {
            list::scopes(&client, ScopeKind::Group, output.format()).await
        }
        OperatorCommand::Instances {
            scope,
            available,
            mut conditions,
            output,
        } => {
            if available {
                conditions.push(("available".to_owned(), "true".to_owned()));
            }
            list::instances(&client, scope.as_ref(), &conditions, output.format()).await
        }
        OperatorCommand::Show {
            scope,
            address,
            output,
        } => list::show(&client, InstanceKey { scope, address }, output.format()).await,
        OperatorCommand::History(settings) => history::run(&client, &settings).await,
        OperatorCommand::Watch(settings) => watch::run(&client, settings).await,
        OperatorCommand::Hold {
            reason,
            by,
            duration,
            instances,
        } => {
            let mut change = json!({ "status": "held" });
            if let Some(reason) = reason {
                change["reason"] = json!(reason);
            }
            if let Some(by) = by {
                change["held_by"] = json!(by);
            }
            if let Some(duration) = duration {
                change["held_until"] = json!(time::after(*duration));
            }
            change::change(&client, instances, &change, "held").await
        }
        OperatorCommand::Enable(instances) => {
            let change = json!({ "status": "enabled" });
            change::change(&client, instances, &change, "enabled").await
        }
        OperatorCommand::Disable(instances) => {
            let change = json!({ "status": "disabled" });
            change::change(&client, instances, &change, "disabled").await
        }
        OperatorCommand::Deregister(instances) => change::deregister(&client, instances).await,
        OperatorCommand::Declare { scope, name, .. } => {
            let body = json!({ "name": name });
            client
                .send(Method::PUT, &format!("/v1/{scope}"), Some(&body))
                .await?;
            Ok(print_line(&format!("declared {scope}"))?)
        }
        OperatorCommand::Remove { scope, .. } => {
            let path = format!("/v1/{scope}");
            let removed = client.send(Method::DELETE, &path, None);
            list::with_suggestion(&client, &scope, removed.await).await?;
            Ok(print_line(&format!("removed {scope}"))?)
        }
        OperatorCommand::Release(_) => {
            let answer = client.send(Method::POST, "/v1/protection/release", None);
            let answer = answer.await?;
            Ok(print_line(&if answer["ended"] == json!(true) {
                format!(
                    "ended protection mode: {} instances were marked offline",
                    answer["released"]
                )
            } else {
                "protection mode was not active".to_owned()
            })?)
        }
        OperatorCommand::Overview(output) => {
            overview(&client, output.format() == Some(Format::Json)).await
        }
        OperatorCommand::Export(_) => backup::export(&client).await,
        OperatorCommand::Import(settings) => import::import(&client, settings).await,
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
    counts.print()?;
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
    facts.print()
}
