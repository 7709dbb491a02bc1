//! The flags of the agent, and its file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Error};
use serde::Deserialize;
use url::Url;

use super::client::{ClientSettings, http_url, read};
use super::invalid_value;
use crate::model::{
    Address, DisplayName, InstanceKey, Metadata, Registration, ScopeKey, ScopeKind, Ttl, Weight,
    parse_json,
};

/// The settings of an agent.
#[derive(Debug, Clone, Args)]
pub(crate) struct AgentSettings {
    #[command(flatten)]
    pub(crate) client: ClientSettings,

    /// The key of the service of the instance
    #[arg(
        long,
        value_name = "KEY",
        conflicts_with = "group",
        requires = "address"
    )]
    service: Option<ScopeKey>,

    /// The key of the group of the instance, if it is a gateway
    #[arg(long, value_name = "KEY", requires = "address")]
    group: Option<ScopeKey>,

    /// The address at which clients reach the instance
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<Address>,

    /// A name for people
    #[arg(long, value_parser = display_name)]
    name: Option<DisplayName>,

    /// The share of traffic, from 0 to 65535
    #[arg(long, value_parser = weight)]
    weight: Option<Weight>,

    /// A metadata entry; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,

    /// The time to live of the lease without a heartbeat, from 5 to 3600 seconds
    #[arg(long, value_name = "SECONDS", value_parser = ttl)]
    ttl: Option<Ttl>,

    /// A file that describes several instances: a JSON list of {"service" or "group", "address",
    /// "name"?, "weight"?, "metadata"?, "ttl_seconds"?}
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present_any = ["service", "group"],
        conflicts_with_all = ["service", "group", "address", "name", "weight", "metadata", "ttl"]
    )]
    file: Option<PathBuf>,

    /// Send heartbeats only while this URL answers with a status of 200 to 299 within 2 seconds
    #[arg(long, value_name = "URL", value_parser = http_url)]
    pub(crate) check: Option<Url>,

    /// Do not listen for roll calls, which keeps a connection open; send heartbeats at the moments
    /// that the registry names
    #[arg(long)]
    pub(crate) no_roll_calls: bool,

    /// The time that the command gets to exit after SIGTERM before it is killed
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub(crate) stop_timeout: humantime::Duration,

    /// The command to run: the agent deregisters the instance when it exits, and exits with its
    /// exit code
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,

    /// The instances, at least one.
    #[arg(skip)]
    pub(crate) instances: Vec<Registration>,
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
            _ => return Err("must contain either service or group".to_owned()),
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

impl AgentSettings {
    /// Reads the token and the instances.
    pub(super) fn validate(&mut self, variables: &[(OsString, OsString)]) -> Result<(), Error> {
        self.client.read_token(variables)?;
        self.instances = match (&self.file, &self.address) {
            (Some(path), _) => read_instances(path)?,
            (None, Some(address)) => vec![self.instance(address.clone())?],
            (None, None) => {
                let reason = "must be given with --service or --group";
                return Err(invalid_value("--address <HOST:PORT>", reason));
            }
        };
        Ok(())
    }

    /// Returns the instance that the flags describe.
    fn instance(&self, address: Address) -> Result<Registration, Error> {
        let metadata = Metadata::try_from(BTreeMap::from_iter(self.metadata.iter().cloned()))
            .map_err(|error| invalid_value("--metadata <KEY=VALUE>", &error.to_string()))?;
        let entry = Entry {
            service: self.service.clone(),
            group: self.group.clone(),
            address,
            name: self.name.clone(),
            weight: self.weight,
            metadata: (!self.metadata.is_empty()).then_some(metadata),
            ttl_seconds: self.ttl,
        };
        let registration = entry.into_registration();
        registration.map_err(|reason| invalid_value("--service <KEY>", &reason))
    }
}

fn read_instances(path: &Path) -> Result<Vec<Registration>, Error> {
    let flag = "--file <PATH>";
    let text = read(flag, path)?;
    let refused = |reason: String| invalid_value(flag, &format!("{}: {reason}", path.display()));
    let entries: Vec<Entry> = parse_json(&text).map_err(refused)?;
    if entries.is_empty() {
        return Err(refused("contains no instance".to_owned()));
    }
    let entries = entries.into_iter().enumerate();
    let registrations = entries.map(|(index, entry)| {
        let registration = entry.into_registration();
        registration.map_err(|reason| refused(format!("entry {}: {reason}", index + 1)))
    });
    registrations.collect()
}

fn display_name(text: &str) -> Result<DisplayName, String> {
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
