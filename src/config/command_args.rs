//! The flags of what operators ask of a registry.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Error, ValueEnum};

use super::client_args::ClientArgs;
use crate::command::{Action, CommandConfig, Instances};
use crate::model::{Address, Note, Scope, ScopeKey, ScopeKind};

impl ClientArgs {
    fn command(
        self,
        action: Action,
        json: bool,
        variables: &[(OsString, OsString)],
    ) -> Result<CommandConfig, Error> {
        Ok(CommandConfig {
            client: self.settings(variables)?,
            json,
            action,
        })
    }
}

/// How a command answers.
#[derive(Args)]
pub(super) struct OutputArgs {
    #[command(flatten)]
    client: ClientArgs,

    /// Print the registry's own JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl OutputArgs {
    pub(super) fn with(
        self,
        action: Action,
        variables: &[(OsString, OsString)],
    ) -> Result<CommandConfig, Error> {
        self.client.command(action, self.json, variables)
    }
}

#[derive(Args)]
pub(super) struct InstancesArgs {
    /// A service by its key, or services/KEY or groups/KEY
    #[arg(value_parser = scope)]
    pub(super) scope: Scope,

    /// Only those that may be sent traffic
    #[arg(long)]
    pub(super) available: bool,

    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Args)]
pub(super) struct WatchArgs {
    /// Only this service, by its key, or services/KEY or groups/KEY
    #[arg(value_parser = scope)]
    pub(super) scope: Option<Scope>,

    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Args)]
pub(super) struct ChosenArgs {
    /// A service by its key, or services/KEY or groups/KEY
    #[arg(value_parser = scope)]
    scope: Scope,

    /// Which of its instances
    #[arg(required = true, value_name = "HOST:PORT")]
    addresses: Vec<Address>,

    #[command(flatten)]
    client: ClientArgs,
}

impl ChosenArgs {
    pub(super) fn with(
        self,
        action: impl FnOnce(Instances) -> Action,
        variables: &[(OsString, OsString)],
    ) -> Result<CommandConfig, Error> {
        let instances = Instances {
            scope: self.scope,
            addresses: self.addresses,
        };
        self.client.command(action(instances), false, variables)
    }
}

#[derive(Args)]
pub(super) struct HoldArgs {
    /// Why, for whoever looks at it later
    #[arg(long, value_parser = note)]
    pub(super) reason: Option<Note>,

    #[command(flatten)]
    pub(super) chosen: ChosenArgs,
}

#[derive(Args)]
pub(super) struct BackupArgs {
    #[command(flatten)]
    client: ClientArgs,
}

impl BackupArgs {
    pub(super) fn with(
        self,
        action: Action,
        variables: &[(OsString, OsString)],
    ) -> Result<CommandConfig, Error> {
        self.client.command(action, true, variables)
    }
}

#[derive(Args)]
pub(super) struct ImportArgs {
    /// What was exported; standard input if it is left out
    pub(super) path: Option<PathBuf>,

    #[command(flatten)]
    pub(super) backup: BackupArgs,
}

#[derive(Args)]
pub(super) struct CompletionsArgs {
    /// Of which shell
    pub(super) shell: Shell,
}

/// A shell whose completions can be made.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Shell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// fish.
    Fish,
}

/// A bare key is a service's: they are asked for most.
fn scope(text: &str) -> Result<Scope, String> {
    let (kind, key) = match text.split_once('/') {
        None => (ScopeKind::Service, text),
        Some(("services", key)) => (ScopeKind::Service, key),
        Some(("groups", key)) => (ScopeKind::Group, key),
        Some(_) => return Err("must be KEY, services/KEY or groups/KEY".to_owned()),
    };
    let key: ScopeKey = key.parse().map_err(|error| format!("{error}"))?;
    Ok(kind.with(key))
}

fn note(text: &str) -> Result<Note, String> {
    text.to_owned()
        .try_into()
        .map_err(|error| format!("{error}"))
}
