//! How a daemon is told what to do: flags and `ROLLCALL_*` variables.
//!
//! Called by `main`. Every setting has a default, a bad one names itself and stops
//! the start with exit code 2, and no message shows a password.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Error, FromArgMatches, Parser, Subcommand};

use crate::actor::{Announcement, RollCall};
use crate::error::UrlError;
use crate::lease::LeaseUrl;
use crate::model::Ttl;
use crate::protection::Limits;
use crate::store::StoreUrl;

/// Where gateways of the original gateway center hear that they should refresh.
const ANNOUNCE_CHANNEL: &str = "service-launched";
/// What they hear.
const ANNOUNCE_MESSAGE: &str = "来自网关中心的刷新本地缓存请求";

/// What the process is to do.
#[derive(Debug)]
pub enum Invocation {
    /// Run the daemon.
    Serve(Box<Config>),
    /// Bring the schema up to date, and end.
    Migrate(StoreUrl),
}

/// The settings of a daemon.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where registrations are kept.
    pub store: StoreUrl,
    /// Where leases are kept, and what the bus is on.
    pub leases: LeaseUrl,
    /// What is published, where, and how often.
    pub roll_call: RollCall,
    /// When too many would go offline at once, and for how long they are held.
    pub protection: Limits,
    /// After how long offline an instance is removed; `None` is never.
    pub forget_after: Option<Duration>,
    /// What is published when a service has other available instances; `None` is nothing.
    pub announcement: Option<Announcement>,
    /// HTTP worker threads.
    pub workers: usize,
    /// How long to wait for the stores at the start.
    pub start_timeout: Duration,
}

/// A registry daemon: gateways and services register, the roll is called every 15
/// seconds, and whoever answers is present.
#[derive(Parser)]
#[command(
    name = "rollcalld",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "The log goes to stderr; RUST_LOG sets its level, such as RUST_LOG=debug."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the daemon; the same as no command
    Serve(ServeArgs),
    /// Brings the schema of the store up to date, and ends
    Migrate(StoreArgs),
}

#[derive(Args)]
struct StoreArgs {
    /// Where registrations are kept: sqlite:PATH, or postgres://USER@HOST/DATABASE with
    /// sslmode=disable|prefer|require|verify-full and sslrootcert=PATH
    #[arg(
        long,
        value_name = "URL",
        env = "ROLLCALL_STORE",
        hide_env_values = true,
        default_value = "sqlite:rollcall.db"
    )]
    store: String,
}

#[derive(Args)]
struct ServeArgs {
    /// Where to listen for HTTP; port 0 picks a free port and prints it
    #[arg(
        long,
        value_name = "IP:PORT",
        env = "ROLLCALL_LISTEN",
        default_value = "127.0.0.1:18080"
    )]
    listen: SocketAddr,

    #[command(flatten)]
    store: StoreArgs,

    /// Where leases are kept: memory: for a daemon that runs alone, or redis://HOST or
    /// rediss://HOST for several. Roll calls are published there too
    #[arg(
        long,
        value_name = "URL",
        env = "ROLLCALL_LEASES",
        hide_env_values = true,
        default_value = "memory:"
    )]
    leases: String,

    /// How long an instance lives without a heartbeat, unless it registers with a
    /// ttl_seconds of its own: whole seconds from 5s to 1h, longer than --roll-interval
    #[arg(
        long,
        value_name = "DURATION",
        env = "ROLLCALL_LEASE_TTL",
        default_value = "30s",
        value_parser = lease_ttl
    )]
    lease_ttl: Ttl,

    /// How often the roll is called, from 1s to 1h, on the clock's multiples of it
    #[arg(
        long,
        value_name = "DURATION",
        env = "ROLLCALL_ROLL_INTERVAL",
        default_value = "15s",
        value_parser = roll_interval
    )]
    roll_interval: Duration,

    /// The channel on which the roll is called
    #[arg(
        long,
        value_name = "CHANNEL",
        env = "ROLLCALL_ROLL_CHANNEL",
        default_value = "heartBeat",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    roll_channel: String,

    /// The message that calls the roll
    #[arg(
        long,
        value_name = "TEXT",
        env = "ROLLCALL_ROLL_MESSAGE",
        default_value = "来自网关中心的心跳请求"
    )]
    roll_message: String,

    /// Hold instances instead of recording them as offline when more than this share of
    /// those online would go within one --lease-ttl: from 0 to 1, and 1 is never
    #[arg(
        long,
        value_name = "SHARE",
        env = "ROLLCALL_PROTECT_RATIO",
        default_value = "0.5",
        value_parser = share
    )]
    protect_ratio: f64,

    /// But only where at least this many are online
    #[arg(
        long,
        value_name = "COUNT",
        env = "ROLLCALL_PROTECT_MIN",
        default_value = "10"
    )]
    protect_min: usize,

    /// And for no longer than this
    #[arg(
        long,
        value_name = "DURATION",
        env = "ROLLCALL_PROTECT_MAX",
        default_value = "10m",
        value_parser = humantime::parse_duration
    )]
    protect_max: Duration,

    /// Remove an instance that has been offline for this long, unless it is held; 0s is never
    #[arg(
        long,
        value_name = "DURATION",
        env = "ROLLCALL_FORGET_AFTER",
        default_value = "72h",
        value_parser = humantime::parse_duration
    )]
    forget_after: Duration,

    /// Publish the original's message to refresh, on the channel service-launched, when the
    /// available instances of a service have changed, at most twice a second
    #[arg(
        long,
        value_name = "BOOL",
        env = "ROLLCALL_ANNOUNCE_SERVICES",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    announce_services: bool,

    /// HTTP worker threads, from 1 to 256 [default: one per core]
    #[arg(
        long,
        value_name = "COUNT",
        env = "ROLLCALL_WORKERS",
        value_parser = clap::value_parser!(u16).range(1..=256)
    )]
    workers: Option<u16>,

    /// How long to wait at the start until the store and the leases can be reached
    #[arg(
        long,
        value_name = "DURATION",
        env = "ROLLCALL_START_TIMEOUT",
        default_value = "60s",
        value_parser = humantime::parse_duration
    )]
    start_timeout: Duration,
}

fn lease_ttl(text: &str) -> Result<Ttl, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration.subsec_nanos() != 0 {
        return Err("must be whole seconds".to_owned());
    }
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Ttl::try_from(seconds).map_err(|error| error.to_string())
}

fn roll_interval(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&duration) {
        true => Ok(duration),
        false => Err("must be from 1s to 1h".to_owned()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("must be a number from 0 to 1".to_owned()),
    }
}

/// Reads the process's arguments and environment. The error is printed and ends the
/// process as [`Error::exit`] says: with 2, or 0 for `--help` and `--version`.
pub fn from_process() -> Result<Invocation, Error> {
    parse(
        std::env::args_os(),
        std::env::vars_os().map(|(name, _)| name),
    )
}

fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    variables: impl Iterator<Item = OsString>,
) -> Result<Invocation, Error> {
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    let cli = Cli::from_arg_matches(&matches)?;
    refuse_unknown_variables(variables)?;
    match cli.command {
        None => Ok(Invocation::Serve(Box::new(cli.serve.into_config()?))),
        Some(Command::Serve(serve)) => Ok(Invocation::Serve(Box::new(serve.into_config()?))),
        Some(Command::Migrate(args)) => Ok(Invocation::Migrate(args.url()?)),
    }
}

/// A misspelt variable must not be a setting that silently keeps its default.
fn refuse_unknown_variables(variables: impl Iterator<Item = OsString>) -> Result<(), Error> {
    let command = Cli::command();
    let known: Vec<&str> = command
        .get_arguments()
        .filter_map(|argument| argument.get_env()?.to_str())
        .collect();
    for name in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with("ROLLCALL_")) else {
            continue;
        };
        // Kubernetes adds these to every container beside a Service of that name.
        let of_kubernetes =
            name.contains("_SERVICE_") || name.ends_with("_PORT") || name.contains("_PORT_");
        if !known.contains(&name) && !of_kubernetes {
            return Err(Cli::command().error(
                ErrorKind::UnknownArgument,
                format!("unknown variable {name}; known are {}", known.join(", ")),
            ));
        }
    }
    Ok(())
}

/// clap's own message would show the value, and so a password.
fn url<T: FromStr<Err = UrlError>>(flag: &str, text: &str) -> Result<T, Error> {
    text.parse().map_err(|error| {
        Cli::command().error(
            ErrorKind::ValueValidation,
            format!("invalid value for '--{flag} <URL>': {error}"),
        )
    })
}

impl StoreArgs {
    fn url(&self) -> Result<StoreUrl, Error> {
        url("store", &self.store)
    }
}

impl ServeArgs {
    fn into_config(self) -> Result<Config, Error> {
        if self.lease_ttl.as_duration() <= self.roll_interval {
            return Err(Cli::command().error(
                ErrorKind::ValueValidation,
                format!(
                    "invalid value for '--lease-ttl <DURATION>': must be longer than --roll-interval, which is {:?}: whoever answers the roll call must not expire before the next",
                    self.roll_interval
                ),
            ));
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Config {
            listen: self.listen,
            store: self.store.url()?,
            leases: url("leases", &self.leases)?,
            protection: Limits {
                ratio: self.protect_ratio,
                min: self.protect_min,
                max: self.protect_max,
                ttl: self.lease_ttl,
            },
            forget_after: (!self.forget_after.is_zero()).then_some(self.forget_after),
            announcement: self.announce_services.then(|| Announcement {
                channel: ANNOUNCE_CHANNEL.to_owned(),
                message: ANNOUNCE_MESSAGE.to_owned(),
            }),
            roll_call: RollCall {
                channel: self.roll_channel,
                message: self.roll_message,
                interval: self.roll_interval,
            },
            workers: self.workers.map_or(cores, usize::from),
            start_timeout: self.start_timeout,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(arguments: &[&str]) -> Result<Config, String> {
        let arguments = ["rollcalld"].iter().chain(arguments).map(OsString::from);
        match parse(arguments, std::iter::empty()) {
            Ok(Invocation::Serve(config)) => Ok(*config),
            Ok(Invocation::Migrate(_)) => Err("migrate".to_owned()),
            Err(error) => {
                assert_eq!(error.exit_code(), 2);
                Err(error.to_string())
            }
        }
    }

    #[test]
    fn without_arguments_it_serves_on_loopback_with_nothing_installed() {
        let config = serve(&[]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:18080");
        assert_eq!(config.store.to_string(), "sqlite:rollcall.db");
        assert_eq!(config.leases.to_string(), "memory:");
        assert_eq!(config.protection.ttl.as_secs(), 30);
        assert_eq!((config.protection.ratio, config.protection.min), (0.5, 10));
        assert_eq!(config.protection.max, Duration::from_secs(600));
        assert_eq!(config.forget_after, Some(Duration::from_secs(72 * 3600)));
        let announcement = config.announcement.unwrap();
        assert_eq!(announcement.channel, "service-launched");
        assert_eq!(announcement.message, "来自网关中心的刷新本地缓存请求");
        assert_eq!(config.roll_call.channel, "heartBeat");
        assert_eq!(config.roll_call.message, "来自网关中心的心跳请求");
        assert_eq!(config.roll_call.interval, Duration::from_secs(15));
        assert_eq!(serve(&["serve"]).unwrap().listen, config.listen);
    }

    #[test]
    fn instances_are_kept_for_ever_and_nothing_is_announced_if_told_so() {
        let config = serve(&["--forget-after", "0s", "--announce-services", "false"]).unwrap();
        assert_eq!((config.forget_after, config.announcement), (None, None));
    }

    #[test]
    fn a_bad_value_names_its_flag() {
        for (arguments, says) in [
            (["--listen", "8080"], "'--listen <IP:PORT>'"),
            (
                ["--store", "mysql://h"],
                "'--store <URL>': must be sqlite:PATH",
            ),
            (["--leases", "h:6379"], "'--leases <URL>': must be memory:"),
            (
                ["--lease-ttl", "4s"],
                "'--lease-ttl <DURATION>': must be from 5 to 3600",
            ),
            (["--lease-ttl", "30"], "'--lease-ttl <DURATION>'"),
            (
                ["--lease-ttl", "5500ms"],
                "'--lease-ttl <DURATION>': must be whole seconds",
            ),
            (
                ["--lease-ttl", "15s"],
                "must be longer than --roll-interval, which is 15s",
            ),
            (
                ["--roll-interval", "0s"],
                "'--roll-interval <DURATION>': must be from 1s to 1h",
            ),
            (["--roll-channel", ""], "'--roll-channel <CHANNEL>'"),
            (
                ["--protect-ratio", "1.5"],
                "'--protect-ratio <SHARE>': must be a number from 0 to 1",
            ),
            (["--protect-min", "few"], "'--protect-min <COUNT>'"),
            (["--protect-max", "600"], "'--protect-max <DURATION>'"),
            (["--forget-after", "72"], "'--forget-after <DURATION>'"),
            (["--announce-services", "2"], "'--announce-services <BOOL>'"),
            (["--workers", "0"], "'--workers <COUNT>'"),
            (["--start-timeout", "soon"], "'--start-timeout <DURATION>'"),
            (["--bogus", "1"], "'--bogus'"),
        ] {
            let error = serve(&arguments).unwrap_err();
            assert!(error.contains(says), "{arguments:?} says {error}");
        }
    }

    #[test]
    fn a_bad_url_is_refused_without_showing_its_password() {
        for arguments in [
            ["--store", "postgres://u:s3cret@h:port/db"],
            ["--store", "mysql://u:s3cret@h/db"],
            ["--leases", "redis://u:s3cret@h/notadb"],
        ] {
            let error = serve(&arguments).unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn a_misspelt_variable_stops_the_start_and_kubernetes_own_do_not() {
        let with = |name: &str| {
            parse(
                [OsString::from("rollcalld")],
                [OsString::from(name)].into_iter(),
            )
        };
        let error = with("ROLLCALL_LEASE_TLL").unwrap_err().to_string();
        assert!(
            error.contains("unknown variable ROLLCALL_LEASE_TLL"),
            "{error}"
        );
        for fine in [
            "ROLLCALL_LEASE_TTL",
            "ROLLCALL_PORT",
            "ROLLCALL_SERVICE_HOST",
            "ROLLCALL_PORT_18080_TCP",
            "PATH",
        ] {
            assert!(with(fine).is_ok(), "{fine}");
        }
    }
}
