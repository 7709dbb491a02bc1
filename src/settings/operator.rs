//! The commands for operators.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::ClientSettings;
use crate::model::{Address, DisplayName, Note, Scope, ScopeKey, ScopeKind};

/// A command for operators.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum OperatorCommand {
    /// List the services
    Services(OutputSettings),
    /// List the groups of gateways
    Groups(OutputSettings),
    /// List instances: those of a service or group, or of all scopes
    Instances {
        /// The scope: services/KEY, groups/KEY, or KEY for a service; all scopes if omitted
        #[arg(value_parser = scope)]
        scope: Option<Scope>,

        /// List only instances that accept traffic
        #[arg(long)]
        available: bool,

        /// A condition on the instances: metadata.KEY=VALUE, status=STATUS, online=true,
        /// available=false, address=HOST or q=TEXT; may be repeated
        #[arg(long = "where", value_name = "CONDITION", value_parser = condition)]
        conditions: Vec<(String, String)>,

        /// The registry, and the form of the output
        #[command(flatten)]
        output: OutputSettings,
    },
    /// Show everything about an instance
    Show {
        /// The scope: services/KEY, groups/KEY, or KEY for a service
        #[arg(value_parser = scope)]
        scope: Scope,

        /// The address of the instance
        #[arg(value_name = "HOST:PORT")]
        address: Address,

        /// The registry, and the form of the output
        #[command(flatten)]
        output: OutputSettings,
    },
    /// Print events until it is stopped, or run a command whenever a list changes
    Watch(WatchSettings),
    /// Print what happened, the latest last: events, or the actions of operators
    History(HistorySettings),
    /// Hold instances: they receive no traffic until an operator enables them
    Hold {
        /// The reason, for other operators
        #[arg(long, value_parser = note)]
        reason: Option<Note>,

        /// Who holds them; the name of the token by default
        #[arg(long, value_parser = display_name)]
        by: Option<DisplayName>,

        /// How long; then they are enabled. By default until an operator enables them
        #[arg(long = "for", value_name = "DURATION")]
        duration: Option<humantime::Duration>,

        /// The instances
        #[command(flatten)]
        instances: Instances,
    },
    /// Enable instances that are held or disabled
    Enable(Instances),
    /// Disable instances: they receive no traffic until an operator enables them, or until a
    /// service instance registers again
    Disable(Instances),
    /// Deregister instances, with all decisions about them
    Deregister(Instances),
    /// Declare a service or group, or give it a name
    Declare {
        /// The scope: services/KEY, groups/KEY, or KEY for a service
        #[arg(value_parser = scope)]
        scope: Scope,

        /// A name for people
        #[arg(long, value_parser = display_name)]
        name: Option<DisplayName>,

        /// The registry
        #[command(flatten)]
        client: ClientSettings,
    },
    /// Remove a service or group without instances
    Remove {
        /// The scope: services/KEY, groups/KEY, or KEY for a service
        #[arg(value_parser = scope)]
        scope: Scope,

        /// The registry
        #[command(flatten)]
        client: ClientSettings,
    },
    /// End protection mode: instances without a lease are marked offline
    Release(ClientSettings),
    /// Show the state of the registry
    Overview(OutputSettings),
    /// Print all scopes and instances, as JSON for import
    Export(ClientSettings),
    /// Register the scopes and instances of an export
    Import(ImportSettings),
}

/// The settings of `watch`.
#[derive(Debug, Clone, Args)]
pub(crate) struct WatchSettings {
    /// The scope: services/KEY, groups/KEY, or KEY for a service; all scopes if omitted
    #[arg(value_parser = scope)]
    pub(crate) scope: Option<Scope>,

    /// Run this command at the start and whenever the list of the scope has changed, with the list
    /// as JSON on its standard input. Changes while it runs are one further run
    #[arg(long, value_name = "COMMAND", requires = "scope")]
    pub(crate) exec: Option<String>,

    /// Give the command only the available instances
    #[arg(long, requires = "exec")]
    pub(crate) available: bool,

    #[command(flatten)]
    pub(crate) output: OutputSettings,
}

/// The settings of `history`.
#[derive(Debug, Clone, Args)]
pub(crate) struct HistorySettings {
    /// The scope: services/KEY, groups/KEY, or KEY for a service; all scopes if omitted
    #[arg(value_parser = scope)]
    pub(crate) scope: Option<Scope>,

    /// The address of an instance
    #[arg(value_name = "HOST:PORT")]
    pub(crate) address: Option<Address>,

    /// Print the actions of operators instead of events
    #[arg(long)]
    pub(crate) actions: bool,

    /// Only what the token of this name requested
    #[arg(long, value_name = "TOKEN")]
    pub(crate) by: Option<String>,

    /// Only what happened within this duration, or since this time (RFC 3339)
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub(crate) since: String,

    /// The most entries, from 1 to 1000
    #[arg(
        long,
        value_name = "COUNT",
        default_value = "100",
        value_parser = clap::value_parser!(u16).range(1..=1000)
    )]
    pub(crate) limit: u16,

    /// Print the JSON of the registry instead of a table
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) client: ClientSettings,
}

/// The settings of an import.
#[derive(Debug, Clone, Args)]
pub(crate) struct ImportSettings {
    /// The file of an export; standard input if omitted
    pub(crate) path: Option<PathBuf>,

    /// Print what would be imported, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Replace the decisions of operators in the registry (holds, approvals of gateways, overrides)
    /// by those of the export; by default they stay
    #[arg(long)]
    pub(crate) replace_decisions: bool,

    #[command(flatten)]
    pub(crate) client: ClientSettings,
}

impl OperatorCommand {
    /// Returns the registry and the token.
    pub(crate) fn client(&mut self) -> &mut ClientSettings {
        match self {
            Self::Services(output) | Self::Groups(output) | Self::Overview(output) => {
                &mut output.client
            }
            Self::Instances { output, .. } | Self::Show { output, .. } => &mut output.client,
            Self::Watch(settings) => &mut settings.output.client,
            Self::History(settings) => &mut settings.client,
            Self::Hold { instances, .. }
            | Self::Enable(instances)
            | Self::Disable(instances)
            | Self::Deregister(instances) => &mut instances.client,
            Self::Declare { client, .. } | Self::Remove { client, .. } => client,
            Self::Release(client) | Self::Export(client) => client,
            Self::Import(settings) => &mut settings.client,
        }
    }
}

/// The form of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table with more columns.
    Wide,
    /// The names alone, one per line.
    Name,
    /// The JSON of the registry.
    Json,
}

/// The output of a command.
#[derive(Debug, Clone, Args)]
pub(crate) struct OutputSettings {
    #[command(flatten)]
    pub(crate) client: ClientSettings,

    /// The form of the output, instead of a table: wide, name or json
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "json")]
    output: Option<Format>,

    /// Print the JSON of the registry instead of a table: the same as --output json
    #[arg(long)]
    json: bool,
}

impl OutputSettings {
    /// Returns the form; `None` is a table.
    pub(crate) fn format(&self) -> Option<Format> {
        self.output.or(self.json.then_some(Format::Json))
    }
}

/// Instances of one scope, or selected ones.
#[derive(Debug, Clone, Args)]
pub(crate) struct Instances {
    /// The scope: services/KEY, groups/KEY, or KEY for a service; all scopes if omitted
    #[arg(value_parser = scope, required_unless_present = "conditions")]
    pub(crate) scope: Option<Scope>,

    /// The addresses of the instances
    #[arg(
        value_name = "HOST:PORT",
        required_unless_present = "conditions",
        conflicts_with = "conditions"
    )]
    pub(crate) addresses: Vec<Address>,

    /// Instead of addresses, a condition on the instances: metadata.KEY=VALUE, status=STATUS,
    /// online=true, available=false, address=HOST or q=TEXT; may be repeated
    #[arg(long = "where", value_name = "CONDITION", value_parser = condition)]
    pub(crate) conditions: Vec<(String, String)>,

    /// Print which instances would be changed and what stays available, and change nothing
    #[arg(long, requires = "conditions")]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    client: ClientSettings,
}

fn condition(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("must be NAME=VALUE, such as metadata.zone=a")?;
    Ok((name.to_owned(), value.to_owned()))
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

fn display_name(text: &str) -> Result<DisplayName, String> {
    text.to_owned()
        .try_into()
        .map_err(|error| format!("{error}"))
}

fn note(text: &str) -> Result<Note, String> {
    text.to_owned()
        .try_into()
        .map_err(|error| format!("{error}"))
}
