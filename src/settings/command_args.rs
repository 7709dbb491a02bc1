//! The flags of the commands for operators.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Error, ValueEnum};

use super::client_args::ClientArgs;
use crate::model::{Address, Note, Scope, ScopeKey, ScopeKind};
use crate::operator::{Action, CommandConfig, Instances};

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

/// The output of a command.
#[derive(Args)]
pub(super) struct OutputArgs {
    #[command(flatten)]
    client: ClientArgs,

    /// Print the JSON of the registry instead of a table
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
    /// The scope: services/KEY, groups/KEY, or KEY for a service
    #[arg(value_parser = scope)]
    pub(super) scope: Scope,

    /// List only instances that accept traffic
    #[arg(long)]
    pub(super) available: bool,

    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Args)]
pub(super) struct WatchArgs {
    /// The scope: services/KEY, groups/KEY, or KEY for a service; all scopes if omitted
    #[arg(value_parser = scope)]
    pub(super) scope: Option<Scope>,

    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Args)]
pub(super) struct ChosenArgs {
    /// The scope: services/KEY, groups/KEY, or KEY for a service
    #[arg(value_parser = scope)]
    scope: Scope,

    /// The addresses of the instances
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
    /// The reason, for other operators
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
    /// The file of an export; standard input if omitted
    pub(super) path: Option<PathBuf>,

    #[command(flatten)]
    pub(super) backup: BackupArgs,
}

#[derive(Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    pub(super) shell: Shell,
}

/// A shell with completions.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Shell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// fish.
    Fish,
}

/// A bare key is that of a service, the most frequent case.
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
