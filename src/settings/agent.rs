//! The flags of the agent, and its file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Error};
use serde::Deserialize;
use url::Url;

use super::client::{ClientSettings, http_url};
use super::{LogSettings, invalid_value};
use crate::model::{
    Address, DisplayName, InstanceKey, Metadata, Registration, ScopeKey, ScopeKind, Ttl, Weight,
    parse_json,
};

/// The flag of the file, as messages name it.
const FILE: &str = "--file <PATH>";

/// The settings of an agent.
#[derive(Debug, Clone, Args)]
pub(crate) struct AgentSettings {
    #[command(flatten)]
    pub(crate) client: ClientSettings,

    #[command(flatten)]
    pub(crate) log: LogSettings,

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

    /// The address at which clients reach the instance; auto:PORT is the local address from which
    /// the registry is reached
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
        conflicts_with_all = ["service", "group", "address", "name", "weight", "metadata", "ttl"]
    )]
    file: Option<PathBuf>,

    /// Send heartbeats only while this URL answers with a status of 200 to 299, or while
    /// tcp://HOST:PORT accepts connections. The instance is registered when the check passes first
    #[arg(long, value_name = "URL", value_parser = check_target)]
    check: Option<CheckTarget>,

    /// The time between two health checks
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "5s",
        requires = "check"
    )]
    check_interval: humantime::Duration,

    /// The time limit of a health check
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "2s",
        requires = "check"
    )]
    check_timeout: humantime::Duration,

    /// The number of health checks that must fail one after the other before the lease of the
    /// instance is ended
    #[arg(
        long,
        value_name = "NUMBER",
        default_value = "3",
        value_parser = clap::value_parser!(u32).range(1..),
        requires = "check"
    )]
    check_failures: u32,

    /// The longest time until an instance with a command and without a health check is registered.
    /// It is registered earlier when its port accepts connections
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub(crate) start_delay: humantime::Duration,

    /// Do not listen for roll calls, which keeps a connection open; send heartbeats at the moments
    /// that the registry names
    #[arg(long)]
    pub(crate) no_roll_calls: bool,

    /// Deregister the instance at the end instead of leaving, so that also the decisions of operators
    /// about it end
    #[arg(long)]
    pub(crate) deregister: bool,

    /// The time between leaving and SIGTERM to the command, in which clients stop using it. A second
    /// signal skips the rest of it
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub(crate) drain_delay: humantime::Duration,

    /// The time that the command gets to exit after SIGTERM before it is killed
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub(crate) stop_timeout: humantime::Duration,

    /// The command to run: the instance leaves when it exits, and the agent exits with its exit code
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,

    /// The instances, at least one.
    #[arg(skip)]
    pub(crate) instances: Vec<Registration>,
}

/// What a health check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CheckTarget {
    /// A URL.
    Http(Url),
    /// A port.
    Tcp(Address),
}

/// The settings of a health check.
pub(crate) struct CheckSettings {
    pub(crate) target: CheckTarget,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    /// The number of failures one after the other that count.
    pub(crate) failures: u32,
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
        if self.address.is_unspecified() {
            return Err(format!(
                "{} is no address that clients can reach; auto:{} uses that of this machine",
                self.address,
                self.address.port()
            ));
        }
        Ok(Registration {
            name: self.name.into(),
            weight: self.weight.into(),
            metadata: self.metadata.into(),
            ttl: self.ttl_seconds.into(),
            ..Registration::of(InstanceKey {
                scope,
                address: self.address,
            })
        })
    }
}

impl AgentSettings {
    /// Reads the token and the instances.
    pub(super) fn validate(&mut self, variables: &[(OsString, OsString)]) -> Result<(), Error> {
        self.client.read_token(variables)?;
        let from_file = self.read_instances();
        let from_file = from_file.map_err(|reason| invalid_value(FILE, &reason))?;
        self.instances = match (from_file, &self.address) {
            (Some(instances), _) => instances,
            (None, Some(address)) => vec![self.instance(address.clone())?],
            (None, None) => {
                let reason = "the agent needs an instance: give --service KEY or --group KEY with --address HOST:PORT, or --file PATH";
                return Err(Error::raw(ErrorKind::MissingRequiredArgument, reason));
            }
        };
        Ok(())
    }

    /// Reads the instances of the file, if there is one.
    pub(crate) fn read_instances(&self) -> Result<Option<Vec<Registration>>, String> {
        self.file.as_deref().map(read_instances).transpose()
    }

    /// Returns the health check, if there is one.
    pub(crate) fn check(&self) -> Option<CheckSettings> {
        Some(CheckSettings {
            target: self.check.clone()?,
            interval: *self.check_interval,
            timeout: *self.check_timeout,
            failures: self.check_failures,
        })
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
        registration.map_err(|reason| invalid_value("--address <HOST:PORT>", &reason))
    }
}

fn read_instances(path: &Path) -> Result<Vec<Registration>, String> {
    let refused = |reason: String| format!("{}: {reason}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
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

fn check_target(text: &str) -> Result<CheckTarget, String> {
    match text.strip_prefix("tcp://") {
        Some(address) => {
            let address = address.parse().map_err(|error| format!("{error}"))?;
            Ok(CheckTarget::Tcp(address))
        }
        None => http_url(text)
            .map(CheckTarget::Http)
            .map_err(|reason| format!("{reason}, or tcp://HOST:PORT")),
    }
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
