//! The flags and variables of the agent and of the commands that speak to a registry.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Error, ValueEnum};
use serde::Deserialize;
use url::Url;

use super::{invalid_value, read_token};
use crate::agent::AgentConfig;
use crate::client;
use crate::command::{Action, CommandConfig, Instances};
use crate::model::{
    Address, DisplayName, InstanceKey, Metadata, Note, Registration, Scope, ScopeKey, ScopeKind,
    Ttl, Weight,
};

/// The token in the clear, which has no flag.
pub(super) const TOKEN_VARIABLE: &str = "ROLLCALL_TOKEN";

/// Which registry, and as whom.
#[derive(Args)]
#[command(next_help_heading = "Registry")]
pub(super) struct ClientArgs {
    /// A daemon of the registry; several replicas as several flags, or with commas between
    #[arg(
        long,
        value_name = "URL",
        env = "ROLLCALL_SERVER",
        default_value = "http://127.0.0.1:18080",
        value_delimiter = ',',
        value_parser = http_url
    )]
    server: Vec<Url>,

    /// A file with the token to show; ROLLCALL_TOKEN may hold the token itself
    #[arg(long, value_name = "PATH", env = "ROLLCALL_TOKEN_FILE")]
    token_file: Option<PathBuf>,

    /// The authorities to trust instead of the system's, PEM
    #[arg(long, value_name = "PATH", env = "ROLLCALL_CA_FILE")]
    ca_file: Option<PathBuf>,
}

impl ClientArgs {
    fn settings(self, variables: &[(OsString, OsString)]) -> Result<client::Settings, Error> {
        let variable = variables.iter().find(|(name, _)| name == TOKEN_VARIABLE);
        let token = match (variable, self.token_file) {
            (Some((_, token)), None) => Some(read_token(
                TOKEN_VARIABLE,
                token.to_str().unwrap_or_default(),
            )?),
            (None, Some(path)) => {
                let text = read("token-file <PATH>", &path)?;
                Some(read_token("--token-file:", text.trim())?)
            }
            (None, None) => None,
            (Some(_), Some(_)) => {
                let reason = format!("{TOKEN_VARIABLE} is given too: give one");
                return Err(invalid_value("token-file <PATH>", reason));
            }
        };
        Ok(client::Settings {
            servers: self.server,
            token,
            ca_file: self.ca_file,
        })
    }

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

#[derive(Args)]
pub(super) struct AgentArgs {
    #[command(flatten)]
    client: ClientArgs,

    /// The service of what runs here
    #[arg(
        long,
        value_name = "KEY",
        conflicts_with = "group",
        requires = "address"
    )]
    service: Option<ScopeKey>,

    /// Its group, if it is a gateway
    #[arg(long, value_name = "KEY", requires = "address")]
    group: Option<ScopeKey>,

    /// Where others reach it
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<Address>,

    /// What people call it
    #[arg(long, value_parser = display_name)]
    name: Option<DisplayName>,

    /// Its share of the traffic, from 0 to 65535
    #[arg(long, value_parser = weight)]
    weight: Option<Weight>,

    /// Something to know about it; may come several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,

    /// How long it lives without a heartbeat, from 5 to 3600 seconds
    #[arg(long, value_name = "SECONDS", value_parser = ttl)]
    ttl: Option<Ttl>,

    /// A file with all of that for several, a JSON list of
    /// {"service" or "group", "address", "name"?, "weight"?, "metadata"?, "ttl_seconds"?}
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present_any = ["service", "group"],
        conflicts_with_all = ["service", "group", "address", "name", "weight", "metadata", "ttl"]
    )]
    file: Option<PathBuf>,

    /// Beat only while this answers with a status of 200 to 299, within 2 seconds
    #[arg(long, value_name = "URL", value_parser = http_url)]
    check: Option<Url>,

    /// Do not listen for roll calls, which keeps a connection open: beat at your own moments
    #[arg(long)]
    no_roll_calls: bool,

    /// How long the command may take to end after SIGTERM before it is killed
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    stop_timeout: Duration,

    /// A command to run and to watch: the agent deregisters when it ends, and ends with its
    /// exit code
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// An entry of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    service: Option<ScopeKey>,
    group: Option<ScopeKey>,
    address: Address,
    name: Option<DisplayName>,
    weight: Option<Weight>,
    metadata: Option<Metadata>,
    ttl_seconds: Option<Ttl>,
}

impl Entry {
    fn into_registration(self) -> Result<Registration, String> {
        let scope = match (self.service, self.group) {
            (Some(key), None) => ScopeKind::Service.with(key),
            (None, Some(key)) => ScopeKind::Group.with(key),
            _ => return Err("must have either service or group".to_owned()),
        };
        Ok(Registration {
            key: InstanceKey {
                scope,
                address: self.address,
            },
            name: self.name,
            weight: self.weight,
            metadata: self.metadata,
            ttl: self.ttl_seconds,
        })
    }
}

impl AgentArgs {
    pub(super) fn into_config(
        self,
        variables: &[(OsString, OsString)],
    ) -> Result<AgentConfig, Error> {
        let instances = match (&self.file, self.address) {
            (Some(path), _) => read_instances(path)?,
            (None, None) => {
                let reason = "must be given with --service or --group".to_owned();
                return Err(invalid_value("address <HOST:PORT>", reason));
            }
            (None, Some(address)) => {
                let given = !self.metadata.is_empty();
                let metadata = Metadata::try_from(BTreeMap::from_iter(self.metadata))
                    .map_err(|error| invalid_value("metadata <KEY=VALUE>", error.to_string()))?;
                let entry = Entry {
                    service: self.service,
                    group: self.group,
                    address,
                    name: self.name,
                    weight: self.weight,
                    metadata: given.then_some(metadata),
                    ttl_seconds: self.ttl,
                };
                let one = entry.into_registration();
                vec![one.map_err(|reason| invalid_value("service <KEY>", reason))?]
            }
        };
        Ok(AgentConfig {
            client: self.client.settings(variables)?,
            instances,
            check: self.check,
            roll_calls: !self.no_roll_calls,
            command: self.command,
            stop_timeout: self.stop_timeout,
        })
    }
}

fn read_instances(path: &Path) -> Result<Vec<Registration>, Error> {
    let flag = "file <PATH>";
    let text = read(flag, path)?;
    let refused = |reason: String| invalid_value(flag, format!("{}: {reason}", path.display()));
    let entries: Vec<Entry> =
        serde_json::from_str(&text).map_err(|error| refused(error.to_string()))?;
    if entries.is_empty() {
        return Err(refused("holds no instance".to_owned()));
    }
    let entries = entries.into_iter().enumerate();
    let registrations = entries.map(|(index, entry)| {
        let registration = entry.into_registration();
        registration.map_err(|reason| refused(format!("entry {}: {reason}", index + 1)))
    });
    registrations.collect()
}

fn read(flag: &str, path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path)
        .map_err(|error| invalid_value(flag, format!("{}: {error}", path.display())))
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

fn http_url(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error| format!("{error}"))?;
    match (url.scheme(), url.username(), url.password()) {
        ("http" | "https", "", None) => Ok(url),
        ("http" | "https", ..) => Err("must have no user and no password: give a token".to_owned()),
        _ => Err("must be http://HOST:PORT or https://HOST:PORT".to_owned()),
    }
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

fn weight(text: &str) -> Result<Weight, String> {
    let number: i64 = text.parse().map_err(|_| "must be a whole number")?;
    Weight::try_from(number).map_err(|error| error.to_string())
}

fn ttl(text: &str) -> Result<Ttl, String> {
    let seconds: i64 = text.parse().map_err(|_| "must be a whole number")?;
    Ttl::try_from(seconds).map_err(|error| error.to_string())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
