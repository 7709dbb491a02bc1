//! The command that an agent runs and watches.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::process;
use std::time::Duration;

use rustix::process::{Pid, Signal as SignalToSend, WaitOptions, WaitStatus, kill_process, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

/// The exit codes for a command that could not be started, as in shells.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// A variable that the command does not inherit: the token is the agent's.
const TOKEN: &str = "ROLLCALL_TOKEN";

/// A running command, or none.
pub(super) struct Command {
    child: Option<Pid>,
    /// The exit code, once it has ended.
    code: Option<u8>,
    children: Signal,
}

impl Command {
    /// Starts the command with the agent's input, output and environment; an empty list is no
    /// command. Returns the exit code if it cannot be started.
    pub(super) fn start(command: &[OsString]) -> Result<Self, u8> {
        // Before the start, so that no end is missed.
        let children = signal(SignalKind::child()).map_err(|error| {
            log::error!("cannot watch the command: {error}");
            NOT_RUN
        })?;
        let mut started = Self {
            child: None,
            code: None,
            children,
        };
        if let Some((program, arguments)) = command.split_first() {
            let child = process::Command::new(program)
                .args(arguments)
                .env_remove(TOKEN)
                .spawn();
            let child = child.map_err(|error| {
                log::error!("cannot run {}: {error}", program.display());
                match error.kind() {
                    ErrorKind::NotFound => NOT_FOUND,
                    _ => NOT_RUN,
                }
            })?;
            started.child = Pid::from_raw(child.id().cast_signed());
        }
        Ok(started)
    }

    /// Returns whether there is a command.
    pub(super) fn is_some(&self) -> bool {
        self.child.is_some()
    }

    /// Waits until the command ends, and returns its exit code. Without a command, waits for ever.
    /// Reaps every process that ends: as PID 1 the agent becomes the parent of those that the
    /// command leaves behind.
    pub(super) async fn ended(&mut self) -> u8 {
        loop {
            if let Some(code) = self.code {
                return code;
            }
            match wait(WaitOptions::NOHANG) {
                Ok(Some((child, status))) if Some(child) == self.child => {
                    self.code = Some(code(status));
                }
                Ok(Some(_)) => {}
                // None has ended, or there is none.
                Ok(None) | Err(_) => {
                    self.children.recv().await;
                }
            }
        }
    }

    /// Sends SIGTERM, kills the command after `limit`, and returns its exit code, or 0 without a
    /// command.
    pub(super) async fn stop(mut self, limit: Duration) -> u8 {
        let Some(child) = self.child else { return 0 };
        self.send(child, SignalToSend::TERM);
        match timeout(limit, self.ended()).await {
            Ok(code) => code,
            Err(_) => {
                log::warn!("the command did not end within {limit:?} (--stop-timeout): killed");
                self.send(child, SignalToSend::KILL);
                self.ended().await
            }
        }
    }

    fn send(&self, child: Pid, signal: SignalToSend) {
        // The ID of a process that was not reaped is not used again.
        if self.code.is_none() {
            let _ = kill_process(child, signal);
        }
    }
}

/// Returns the exit code, or 128 plus the number of the signal that ended it, as in shells.
fn code(status: WaitStatus) -> u8 {
    let signal = status.terminating_signal().map(|signal| 128 + signal);
    let code = status.exit_status().or(signal).unwrap_or(1);
    u8::try_from(code & 0xff).unwrap_or(1)
}
