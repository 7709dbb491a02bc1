//! The agent: registers instances, sends their heartbeats, and deregisters them at the end.
//!
//! Called by `main` for `rollcalld agent`. It knows only the daemon's API and stores nothing on
//! disk: after any outage it registers again.

mod command;
mod presence;
mod roll_call;

use std::ffi::OsString;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use url::Url;

use self::command::Command;
use self::presence::Presence;
use crate::client::{self, Client, ClientError};
use crate::model::Registration;

/// The settings of an agent.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The registry.
    pub client: client::Settings,
    /// The instances, at least one.
    pub instances: Vec<Registration>,
    /// The health check; without success the agent sends no heartbeats.
    pub check: Option<Url>,
    /// Whether to listen for roll calls on an event stream.
    pub roll_calls: bool,
    /// The command to run: a program and its arguments.
    pub command: Vec<OsString>,
    /// The time that the command gets to exit before it is killed.
    pub stop_timeout: Duration,
}

/// Runs until `stop` resolves or the command ends, and then deregisters the instances. Returns
/// the exit code of the command, or 0.
pub async fn run(config: AgentConfig, stop: impl Future<Output = ()>) -> Result<u8, ClientError> {
    let client = Arc::new(Client::new(&config.client)?);
    let called = Arc::new(Notify::new());
    let presence = Presence::new(Arc::clone(&client), config.instances, config.check)?;
    let mut command = match Command::start(&config.command) {
        Ok(command) => command,
        Err(code) => return Ok(code),
    };
    let listen = async {
        if let (true, Some(scope)) = (config.roll_calls, presence.scope()) {
            roll_call::listen(&client, scope, &called).await;
        }
    };
    // The first two never end.
    let ended = tokio::select! {
        () = async { tokio::join!(presence.keep(&called), listen); } => None,
        code = command.ended() => Some(code),
        () = stop => None,
    };
    // Before the command is stopped, so that clients stop using it.
    presence.end().await;
    Ok(match ended {
        Some(code) => code,
        None => command.stop(config.stop_timeout).await,
    })
}
