//! The agent: registers what runs here, answers for it while it lives, and takes it off the
//! list at the end.
//!
//! Called by `main` for `rollcalld agent`. It knows the daemon by its API alone, and keeps
//! nothing on disk: after any outage it registers again.

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

/// What an agent is to do.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The registry.
    pub client: client::Settings,
    /// For whom it answers; at least one.
    pub instances: Vec<Registration>,
    /// It answers only while this is found healthy.
    pub check: Option<Url>,
    /// Whether to listen for roll calls, which takes a stream of the daemon's.
    pub roll_calls: bool,
    /// What to run and watch: a program and its arguments.
    pub command: Vec<OsString>,
    /// How long the command may take to end before it is killed.
    pub stop_timeout: Duration,
}

/// Answers for the instances until it is told to stop, or until the command ends, and then
/// deregisters them. Returns the exit code: the command's, where there is one.
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
    // Each of the first two goes on for ever.
    let ended = tokio::select! {
        () = async { tokio::join!(presence.keep(&called), listen); } => None,
        code = command.ended() => Some(code),
        () = stop => None,
    };
    // Before the command is asked to end, so that nobody new is sent there.
    presence.end().await;
    Ok(match ended {
        Some(code) => code,
        None => command.stop(config.stop_timeout).await,
    })
}
