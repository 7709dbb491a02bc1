//! The commands for operators.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ClientSettings;
use crate::model::{Address, InstanceKey, Note, Scope, ScopeKey, ScopeKind};

/// A command for operators.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum OperatorCommand {
    /// List the services
    Services(OutputSettings),
    /// List the groups of gateways
    Groups(OutputSettings),
    /// List the instances of a service or group
    Instances {
        /// The scope: services/KEY, groups/KEY, or KEY for a service
        #[arg(value_parser = scope)]
        scope: Scope,

        /// List only instances that accept traffic
        #[arg(long)]
        available: bool,

        /// The registry, and the form of the output
        #[command(flatten)]
        output: OutputSettings,
    },
    /// Print events until it is stopped
    Watch {
        /// The scope: services/KEY, groups/KEY, or KEY for a service; all scopes if omitted
        #[arg(value_parser = scope)]
        scope: Option<Scope>,

        /// The registry, and the form of the output
        #[command(flatten)]
        output: OutputSettings,
    },
    /// Hold instances: they receive no traffic until an operator enables them
    Hold {
        /// The reason, for other operators
        #[arg(long, value_parser = note)]
        reason: Option<Note>,

        /// The instances
        #[command(flatten)]
        instances: Instances,
    },
    /// Enable instances that are held or disabled
    Enable(Instances),
    /// Deregister instances
    Deregister(Instances),
    /// Show the state of the registry
    Overview(OutputSettings),
    /// Print all scopes and instances, as JSON for import
    Export(ClientSettings),
    /// Register the scopes and instances of an export
    Import {
        /// The file of an export; standard input if omitted
        path: Option<PathBuf>,

        /// The registry
        #[command(flatten)]
        client: ClientSettings,
    },
}

impl OperatorCommand {
    /// Returns the registry and the token.
    pub(crate) fn client(&mut self) -> &mut ClientSettings {
        match self {
            Self::Services(output) | Self::Groups(output) | Self::Overview(output) => {
                &mut output.client
            }
            Self::Instances { output, .. } | Self::Watch { output, .. } => &mut output.client,
            Self::Hold { instances, .. }
            | Self::Enable(instances)
            | Self::Deregister(instances) => &mut instances.client,
            Self::Export(client) | Self::Import { client, .. } => client,
        }
    }
}

/// The output of a command.
#[derive(Debug, Clone, Args)]
pub(crate) struct OutputSettings {
    #[command(flatten)]
    pub(crate) client: ClientSettings,

    /// Print the JSON of the registry instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// Instances of one scope.
#[derive(Debug, Clone, Args)]
pub(crate) struct Instances {
    /// The scope: services/KEY, groups/KEY, or KEY for a service
    #[arg(value_parser = scope)]
    scope: Scope,

    /// The addresses of the instances
    #[arg(required = true, value_name = "HOST:PORT")]
    addresses: Vec<Address>,

    #[command(flatten)]
    client: ClientSettings,
}

impl Instances {
    /// Returns the keys of the instances.
    pub(crate) fn keys(self) -> impl Iterator<Item = InstanceKey> {
        let Self {
            scope, addresses, ..
        } = self;
        addresses.into_iter().map(move |address| InstanceKey {
            scope: scope.clone(),
            address,
        })
    }
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
