//! The agent: registers instances, sends their heartbeats, and deregisters them at the end.
//!
//! Called by `program` for `rollcalld agent`. It knows only the daemon's API and stores nothing on
//! disk: after any outage it registers again.

mod command;
mod presence;
mod roll_call;

use std::future::Future;
use std::sync::Arc;

use tokio::sync::Notify;

use self::command::Command;
use self::presence::Presence;
use crate::client::{Client, ClientError};
use crate::settings::AgentSettings;

/// Runs until `stop` resolves or the command ends, and then deregisters the instances. Returns
/// the exit code of the command, or 0.
pub(crate) async fn run(
    settings: AgentSettings,
    stop: impl Future<Output = ()>,
) -> Result<u8, ClientError> {
    let client = Arc::new(Client::new(&settings.client)?);
    let called = Arc::new(Notify::new());
    let presence = Presence::new(Arc::clone(&client), settings.instances, settings.check)?;
    let mut command = match Command::start(&settings.command) {
        Ok(command) => command,
        Err(code) => return Ok(code),
    };
    let listen = async {
        if let (true, Some(scope)) = (!settings.no_roll_calls, presence.scope()) {
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
        None => command.stop(*settings.stop_timeout).await,
    })
}
