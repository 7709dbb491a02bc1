//! The settings of a daemon.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZero;
use std::ops::RangeBounds;
use std::thread;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::error::ErrorKind;
use clap::{Args, Error};

use super::access::AccessSettings;
use super::facades::FacadeSettings;
use super::{Hidden, LogSettings, invalid_value};
use crate::actor::{RefreshNotice, RollCall};
use crate::admission;
use crate::auth::AnonymousRole;
use crate::lease::LeaseUrl;
use crate::liveness;
use crate::model::Ttl;
use crate::store::StoreUrl;

/// The channel on which gateways of the original gateway center listen.
const ANNOUNCE_CHANNEL: &str = "service-launched";
/// The message that makes them refresh their caches.
const ANNOUNCE_MESSAGE: &str = "来自网关中心的刷新本地缓存请求";

/// The registry store.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreSettings {
    /// The registry store: sqlite:PATH, or postgres://USER@HOST/DATABASE with
    /// sslmode=disable|prefer|require|verify-full and sslrootcert=PATH
    #[arg(
        long,
        value_name = "URL",
        hide_env_values = true,
        default_value = "sqlite:rollcall.db",
        value_parser = Hidden::<StoreUrl>::default()
    )]
    pub(crate) store: StoreUrl,
}

/// The settings of a daemon.
#[derive(Debug, Clone, Args)]
pub struct ServeSettings {
    /// The address and port of the HTTP server; port 0 picks a free port and prints it
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:18080")]
    pub(crate) listen: SocketAddr,

    #[command(flatten)]
    pub(crate) log: LogSettings,

    #[command(flatten)]
    pub(crate) store: StoreSettings,

    /// The lease store: memory: for a single replica, or redis://HOST, rediss://HOST,
    /// redis+sentinel://HOST/MASTER or redis+cluster://HOST for several. Roll calls are published
    /// there too
    #[arg(
        long,
        value_name = "URL",
        hide_env_values = true,
        default_value = "memory:",
        value_parser = Hidden::<LeaseUrl>::default()
    )]
    pub(crate) leases: LeaseUrl,

    /// The time to live of leases of instances that register without ttl_seconds: whole seconds
    /// from 5s to 1h, longer than --roll-call-interval
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30s",
        value_parser = lease_ttl
    )]
    lease_ttl: Ttl,

    /// The time between roll calls, from 1s to 1h, on the clock's multiples of it
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "15s",
        value_parser = roll_call_interval
    )]
    roll_call_interval: Duration,

    /// The Redis channel of roll calls
    #[arg(
        long,
        value_name = "CHANNEL",
        default_value = "heartBeat",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    roll_call_channel: String,

    /// The text of a roll call
    #[arg(long, value_name = "TEXT", default_value = "来自网关中心的心跳请求")]
    roll_call_message: String,

    /// Begin protection mode when more than this share of the online instances would be marked
    /// offline within one --lease-ttl: from 0 to 1; 1 disables it
    #[arg(
        long,
        value_name = "SHARE",
        default_value = "0.5",
        value_parser = share
    )]
    protection_threshold: f64,

    /// The number of online instances below which protection mode does not begin
    #[arg(long, value_name = "COUNT", default_value = "10")]
    protection_min_instances: usize,

    /// The longest duration of protection mode
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    protection_max_duration: humantime::Duration,

    /// Remove instances that have been offline for this long, unless they are held; 0s disables it
    #[arg(long, value_name = "DURATION", default_value = "72h")]
    remove_offline_after: humantime::Duration,

    /// The number of events that the event log keeps, from 20000 to 500000: for subscribers that
    /// reconnect, and for the history
    #[arg(
        long,
        value_name = "COUNT",
        default_value = "20000",
        value_parser = count(20_000..=500_000)
    )]
    pub(crate) event_log_length: usize,

    /// How long the actions of operators are kept; 0s keeps them for ever
    #[arg(long, value_name = "DURATION", default_value = "90d")]
    keep_audit: humantime::Duration,

    /// Publish the original gateway center's refresh message on the channel service-launched when
    /// the available instances of a service change, at most twice a second
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    publish_service_changes: bool,

    /// The threads of the HTTP server, from 1 to 256 [default: one per core]
    #[arg(
        long,
        value_name = "COUNT",
        value_parser = clap::value_parser!(u16).range(1..=256)
    )]
    workers: Option<u16>,

    /// The time that the start waits for the registry store and the lease store
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub(crate) start_timeout: humantime::Duration,

    /// The time during which requests are still served after SIGTERM while /readyz answers 503, so
    /// that load balancers choose other replicas. SIGINT stops without it
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub(crate) shutdown_delay: humantime::Duration,

    /// The time after which the daemon exits in any case; longer than --shutdown-delay
    #[arg(long, value_name = "DURATION", default_value = "20s")]
    pub(crate) shutdown_timeout: humantime::Duration,

    #[command(flatten)]
    pub(crate) access: AccessSettings,

    #[command(flatten)]
    pub(crate) facades: FacadeSettings,

    #[command(flatten)]
    limits: LimitSettings,
}

/// The limits of requests in flight.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
struct LimitSettings {
    /// The most heartbeats in flight, from 64 to 1000000. Four times as many leases in batches, a
    /// quarter as many reads, and as many writes. More are rejected with 503
    #[arg(
        long,
        value_name = "COUNT",
        default_value = "8192",
        value_parser = count(64..=1_000_000)
    )]
    max_in_flight: usize,

    /// The most event streams
    #[arg(
        long,
        value_name = "COUNT",
        default_value = "4096",
        value_parser = count(..=1_000_000)
    )]
    max_streams: usize,

    /// The most event streams of one client: of one token at one address
    #[arg(
        long,
        value_name = "COUNT",
        default_value = "1024",
        value_parser = count(..=1_000_000)
    )]
    max_streams_per_client: usize,

    /// The most requests that wait for a change (`?wait=`)
    #[arg(
        long,
        value_name = "COUNT",
        default_value = "16384",
        value_parser = count(..=1_000_000)
    )]
    max_long_polls: usize,

    /// The most connections, from 64 to 1000000; fewer if the system allows the process fewer open
    /// files
    #[arg(
        long,
        value_name = "COUNT",
        default_value = "32768",
        value_parser = count(64..=1_000_000)
    )]
    pub(crate) max_connections: usize,
}

/// The settings of the core: of everything but HTTP.
#[derive(Debug, Clone)]
pub struct CoreSettings {
    /// The limits of protection mode, and the default TTL.
    pub limits: liveness::Limits,
    /// The roll call.
    pub roll_call: RollCall,
    /// Published when the available instances of a service change.
    pub announcement: Option<RefreshNotice>,
    /// How long an instance is offline before it is removed; `None` for ever.
    pub remove_offline_after: Option<Duration>,
    /// The number of events that the event log and the history keep.
    pub event_log_length: usize,
    /// How long the actions of operators are kept; `None` for ever.
    pub keep_audit: Option<Duration>,
}

impl ServeSettings {
    /// Reads the tokens in variables, and checks what concerns several settings.
    pub(super) fn validate(&mut self, variables: &[(OsString, OsString)]) -> Result<(), Error> {
        self.access.read_tokens(variables)?;
        self.refuse_unasked_openness()?;
        if *self.shutdown_timeout <= *self.shutdown_delay {
            let delay = *self.shutdown_delay;
            let reason = format!("must be longer than --shutdown-delay, which is {delay:?}");
            return Err(invalid_value("--shutdown-timeout <DURATION>", &reason));
        }
        if self.lease_ttl.as_duration() <= self.roll_call_interval {
            let reason = format!(
                "must be longer than --roll-call-interval, which is {:?}, so that an instance that answers every roll call does not expire",
                self.roll_call_interval
            );
            return Err(invalid_value("--lease-ttl <DURATION>", &reason));
        }
        Ok(())
    }

    /// Every client that reaches the daemon could change the registry, so this must be requested.
    fn refuse_unasked_openness(&self) -> Result<(), Error> {
        let listen = self.listen;
        let is_local = listen.ip().to_canonical().is_loopback();
        match (self.access.tokens.is_empty(), self.access.anonymous_role) {
            (true, None) if !is_local => Err(Error::raw(
                ErrorKind::ValueValidation,
                format!(
                    "--listen {listen} is reachable from other machines, and without tokens every client could change the registry: generate tokens with `rollcalld token` and pass them by --tokens-file or ROLLCALL_ADMIN_TOKEN, or add --anonymous-role admin"
                ),
            )),
            (true, Some(AnonymousRole::None)) => Err(invalid_value(
                "--anonymous-role <ROLE>",
                "must not be none without tokens, because every request would be refused",
            )),
            _ => Ok(()),
        }
    }

    /// Returns the settings of the core.
    pub(crate) fn core(&self) -> CoreSettings {
        CoreSettings {
            limits: liveness::Limits {
                ratio: self.protection_threshold,
                min: self.protection_min_instances,
                max: *self.protection_max_duration,
                ttl: self.lease_ttl,
            },
            roll_call: RollCall {
                channel: self.roll_call_channel.clone(),
                message: self.roll_call_message.clone(),
                interval: self.roll_call_interval,
            },
            announcement: self.publish_service_changes.then(|| RefreshNotice {
                channel: ANNOUNCE_CHANNEL.to_owned(),
                message: ANNOUNCE_MESSAGE.to_owned(),
            }),
            remove_offline_after: Some(*self.remove_offline_after).filter(|after| !after.is_zero()),
            event_log_length: self.event_log_length,
            keep_audit: Some(*self.keep_audit).filter(|keep| !keep.is_zero()),
        }
    }

    /// Returns the number of threads of the HTTP server.
    pub(crate) fn workers(&self) -> usize {
        let cores = || thread::available_parallelism().map_or(1, NonZero::get);
        self.workers.map_or_else(cores, usize::from)
    }

    /// Returns the limits of requests in flight.
    pub(crate) fn limits(&self) -> admission::Limits {
        let limits = &self.limits;
        admission::Limits {
            heartbeats: limits.max_in_flight,
            reads: limits.max_in_flight / 4,
            writes: limits.max_in_flight / 4,
            waits: limits.max_long_polls,
            streams: limits.max_streams,
            streams_per_client: limits.max_streams_per_client,
        }
    }

    /// Returns the most connections.
    pub(crate) fn max_connections(&self) -> usize {
        self.limits.max_connections
    }

    /// Returns the time for requests in flight at the stop: most of the remaining time, leaving
    /// some for the writes that they began.
    pub(crate) fn drain_http(&self) -> Duration {
        (*self.shutdown_timeout - *self.shutdown_delay) * 3 / 4
    }
}

/// Parses a count within a range.
fn count(range: impl RangeBounds<u64>) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(range)
}

fn lease_ttl(text: &str) -> Result<Ttl, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration.subsec_nanos() != 0 {
        return Err("must be whole seconds".to_owned());
    }
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Ttl::try_from(seconds).map_err(|error| error.to_string())
}

fn roll_call_interval(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&duration) {
        Ok(duration)
    } else {
        Err("must be from 1s to 1h".to_owned())
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("must be a number from 0 to 1".to_owned()),
    }
}
