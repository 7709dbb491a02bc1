//! The command that an agent runs and watches.

use std::ffi::OsString;
use std::future::pending;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{self, Child};
use tokio::time::timeout;

/// The exit codes for a command that could not be started, as in shells.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// A variable that the command does not inherit: the token is the agent's.
const TOKEN: &str = "ROLLCALL_TOKEN";

/// A running command, or none.
pub(super) struct Command(Option<Child>);

impl Command {
    /// Starts the command with the agent's input, output and environment; an empty list is no
    /// command. Returns the exit code if it cannot be started.
    pub(super) fn start(command: &[OsString]) -> Result<Self, u8> {
        let Some((program, arguments)) = command.split_first() else {
            return Ok(Self(None));
        };
        let child = process::Command::new(program)
            .args(arguments)
            .env_remove(TOKEN)
            .spawn();
        child.map(|child| Self(Some(child))).map_err(|error| {
            log::error!("cannot run {}: {error}", program.display());
            match error.kind() {
                ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_RUN,
            }
        })
    }

    /// Waits until the command ends, and returns its exit code. Without a command, waits for ever.
    pub(super) async fn ended(&mut self) -> u8 {
        match &mut self.0 {
            Some(child) => code(child.wait().await),
            None => pending().await,
        }
    }

    /// Sends SIGTERM, kills the command after `limit`, and returns its exit code, or 0 without a
    /// command.
    pub(super) async fn stop(self, limit: Duration) -> u8 {
        let Some(mut child) = self.0 else { return 0 };
        let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(id) = id {
            // It may have ended at this moment.
            let _ = kill_process(id, Signal::TERM);
        }
        match timeout(limit, child.wait()).await {
            Ok(ended) => code(ended),
            Err(_) => {
                log::warn!("the command did not end within {limit:?} (--stop-timeout): killed");
                let _ = child.start_kill();
                code(child.wait().await)
            }
        }
    }
}

/// Returns the exit code, or 128 plus the number of the signal that ended it, as in shells.
fn code(ended: std::io::Result<ExitStatus>) -> u8 {
    let Ok(status) = ended else { return NOT_RUN };
    let signal = status.signal().map(|signal| 128 + signal);
    let code = status.code().or(signal).unwrap_or(1);
    u8::try_from(code & 0xff).unwrap_or(1)
}
