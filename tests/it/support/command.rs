//! The binary as a command: the agent, and the commands for operators.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::daemon::BINARY;
use super::process::{Process, spawn};

/// A running agent with the file that it logs to.
pub(crate) struct Agent {
    pub process: Process,
    log: PathBuf,
}

impl Agent {
    /// Starts it in a folder.
    pub(crate) fn start(folder: &Path, server: &str, arguments: &[&str]) -> Self {
        Self::start_with(folder, server, arguments, &[])
    }

    /// With variables.
    pub(crate) fn start_with(
        folder: &Path,
        server: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let log = folder.join("agent.log");
        let child = spawn(BINARY, None, |command| {
            command
                .args(["agent", "--server", server])
                .args(arguments)
                .envs(variables.iter().copied())
                .current_dir(folder)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(fs::File::create(&log).unwrap());
        });
        Self {
            process: Process::new(child),
            log,
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

/// Runs a command to its end, off the threads that serve the test.
pub(crate) async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(BINARY);
    command
        .args(arguments)
        .envs(variables.iter().copied())
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output());
    output.await.unwrap().unwrap()
}
