//! The flags and variables, as clap takes them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::agent_args::AgentArgs;
use super::command_args::{
    BackupArgs, ChosenArgs, CompletionsArgs, HoldArgs, ImportArgs, InstancesArgs, OutputArgs,
    WatchArgs,
};
use crate::auth::{Role, ScopePattern, parse_name};
use crate::model::Ttl;

/// A registry daemon: gateways and services register, the roll is called every 15
/// seconds, and whoever answers is present.
#[derive(Parser)]
#[command(
    name = "rollcalld",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Tokens are also taken from the variables ROLLCALL_ADMIN_TOKEN, ROLLCALL_AGENT_TOKEN and \
        ROLLCALL_READ_TOKEN, which have no flags, because others can see a process's flags.\n\n\
        SIGHUP reads tokens and certificates again. SIGTERM ends in order, a second one at once.\n\n\
        Commands end with 0, or 1 where they failed, 2 if they were used wrongly, 3 where there is no such thing, \
        4 where the token is missing or may not, 5 where nobody answers.\n\n\
        The log goes to stderr; RUST_LOG sets its level, such as RUST_LOG=debug."
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) serve: ServeArgs,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Runs the daemon; the same as no command
    Serve(Box<ServeArgs>),
    /// Brings the schema of the store up to date, and ends
    Migrate(StoreArgs),
    /// Makes a token and prints it, once, with its line for --tokens-file
    Token(TokenArgs),
    /// Asks a daemon on this machine whether it is ready: ends with 0, or with 1 if it is not
    Healthcheck(HealthcheckArgs),
    /// Registers what runs here, beats for it, and deregisters it at the end; runs and watches a
    /// command if there is one
    Agent(Box<AgentArgs>),
    /// Lists the services of a registry
    Services(OutputArgs),
    /// Lists the groups of gateways of a registry
    Groups(OutputArgs),
    /// Lists the instances of a service or group
    Instances(InstancesArgs),
    /// Tells what happens in a registry, until it is stopped
    Watch(WatchArgs),
    /// Holds instances: they are sent nothing until somebody enables them
    Hold(HoldArgs),
    /// Enables instances that were held or disabled
    Enable(ChosenArgs),
    /// Deregisters instances
    Deregister(ChosenArgs),
    /// Shows how a registry stands
    Overview(OutputArgs),
    /// Prints everything that is registered, as JSON for import
    Export(BackupArgs),
    /// Registers what was exported
    Import(ImportArgs),
    /// Prints completions for a shell
    Completions(CompletionsArgs),
}

#[derive(Args)]
pub(super) struct StoreArgs {
    /// Where registrations are kept: sqlite:PATH, or postgres://USER@HOST/DATABASE with
    /// sslmode=disable|prefer|require|verify-full and sslrootcert=PATH
    #[arg(
        long,
        value_name = "URL",
        env = "ROLLCALL_STORE",
        hide_env_values = true,
        default_value = "sqlite:rollcall.db"
    )]
    pub(super) store: String,
}

#[derive(Args)]
pub(super) struct ServeArgs {
    /// Where to listen for HTTP; port 0 picks a free port and prints it
    #[arg(
        long,
        value_name = "IP:PORT",
        env = "ROLLCALL_LISTEN",
        default_value = "127.0.0.1:18080"
    )]
    pub(super) listen: SocketAddr,

    #[command(flatten)]
    pub(super) store: StoreArgs,

    /// Where leases are kept: memory: for a daemon that runs alone, or redis://HOST or
    /// rediss://HOST for several. Roll calls are published there too
    #[arg(
        long,
        value_name = "URL",
        env = "ROLLCALL_LEASES",
        hide_env_values = true,
        default_value = "memory:"
    )]
    pub(super) leases: String,

    /// How long an instance lives without a heartbeat, unless it registers with a
    /// ttl_seconds of its own: whole seconds from 5s to 1h, longer than --roll-call-interval
    #[arg(
        long,
        value_name = "DURATION",
        env = "ROLLCALL_LEASE_TTL",
        default_value = "30s",
        value_parser = lease_ttl
    )]
    pub(super) lease_ttl: Ttl,

    /// How often the roll is called, from 1s to 1h, on the clock's multiples of it
    #[arg(
        long,
        value_name = "DURATION",
        env = "ROLLCALL_ROLL_CALL_INTERVAL",
        default_value = "15s",
        value_parser = roll_call_interval
    )]
    pub(super) roll_call_interval: Duration,

    /// The channel on which the roll is called
    #[arg(
        long,
        value_name = "CHANNEL",
        env = "ROLLCALL_ROLL_CALL_CHANNEL",
        default_value = "heartBeat",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub(super) roll_call_channel: String,

    /// The message that calls the roll
    #[arg(
        long,
        value_name = "TEXT",
        env = "ROLLCALL_ROLL_CALL_MESSAGE",
        default_value = "来自网关中心的心跳请求"
    )]
    pub(super) roll_call_message: String,

    /// Hold instances instead of recording them as offline when more than this share of
    /// those online would go within one --lease-ttl: from 0 to 1, and 1 is never
    #[arg(
        long,
        value_name = "SHARE",
        env = "ROLLCALL_PROTECTION_THRESHOLD",
        default_value = "0.5",
        value_parser = share
    )]
    pub(super) protection_threshold: f64,

    /// But only where at least this many are online
    #[arg(
        long,
        value_name = "COUNT",
        env = "ROLLCALL_PROTECTION_MIN_INSTANCES",
        default_value = "10"
    )]
    pub(super) protection_min_instances: usize,

    /// And for no longer than this
    #[arg(
        long,
        value_name = "DURATION",
        env = "ROLLCALL_PROTECTION_MAX_DURATION",
        default_value = "10m",
        value_parser = humantime::parse_duration
    )]
    pub(super) protection_max_duration: Duration,

    /// Remove an instance that has been offline for this long, unless it is held; 0s is never
    #[arg(
        long,
        value_name = "DURATION",
        env = "ROLLCALL_REMOVE_OFFLINE_AFTER",
        default_value = "72h",
        value_parser = humantime::parse_duration
    )]
    pub(super) remove_offline_after: Duration,

    /// Publish the original's message to refresh, on the channel service-launched, when the
    /// available instances of a service have changed, at most twice a second
    #[arg(
        long,
        value_name = "BOOL",
        env = "ROLLCALL_PUBLISH_SERVICE_CHANGES",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub(super) publish_service_changes: bool,

    /// HTTP worker threads, from 1 to 256 [default: one per core]
    #[arg(
        long,
        value_name = "COUNT",
        env = "ROLLCALL_WORKERS",
        value_parser = clap::value_parser!(u16).range(1..=256)
    )]
    pub(super) workers: Option<u16>,

    /// How long to wait at the start until the store and the leases can be reached
    #[arg(
        long,
        value_name = "DURATION",
        env = "ROLLCALL_START_TIMEOUT",
        default_value = "60s",
        value_parser = humantime::parse_duration
    )]
    pub(super) start_timeout: Duration,

    /// How long to go on taking requests after SIGTERM, while /readyz says 503, so that load
    /// balancers look elsewhere. SIGINT does not wait
    #[arg(
        long,
        value_name = "DURATION",
        env = "ROLLCALL_SHUTDOWN_DELAY",
        default_value = "2s",
        value_parser = humantime::parse_duration
    )]
    pub(super) shutdown_delay: Duration,

    /// After how long the daemon ends, whatever is still under way; longer than
    /// --shutdown-delay
    #[arg(
        long,
        value_name = "DURATION",
        env = "ROLLCALL_SHUTDOWN_TIMEOUT",
        default_value = "20s",
        value_parser = humantime::parse_duration
    )]
    pub(super) shutdown_timeout: Duration,

    #[command(flatten)]
    pub(super) access: AccessArgs,

    #[command(flatten)]
    pub(super) limits: LimitArgs,
}

/// Who may come in.
#[derive(Args)]
#[command(next_help_heading = "Access")]
pub(super) struct AccessArgs {
    /// A file with a line for each token: ROLE NAME SHA256, and a SCOPE if it is limited.
    /// `rollcalld token` makes tokens and their lines
    #[arg(long, value_name = "PATH", env = "ROLLCALL_TOKENS_FILE")]
    pub(super) tokens_file: Option<PathBuf>,

    /// A file with a token of the role admin: may do everything
    #[arg(long, value_name = "PATH", env = "ROLLCALL_ADMIN_TOKEN_FILE")]
    pub(super) admin_token_file: Option<PathBuf>,

    /// A file with a token of the role agent: registers, beats, deregisters, reads
    #[arg(long, value_name = "PATH", env = "ROLLCALL_AGENT_TOKEN_FILE")]
    pub(super) agent_token_file: Option<PathBuf>,

    /// A file with a token of the role read
    #[arg(long, value_name = "PATH", env = "ROLLCALL_READ_TOKEN_FILE")]
    pub(super) read_token_file: Option<PathBuf>,

    /// Serve everybody who can reach --listen, without tokens
    #[arg(long, env = "ROLLCALL_ALLOW_ANONYMOUS")]
    pub(super) allow_anonymous: bool,

    /// The certificate chain with which to serve HTTPS, PEM
    #[arg(
        long,
        value_name = "PATH",
        env = "ROLLCALL_TLS_CERT",
        requires = "tls_key"
    )]
    pub(super) tls_cert: Option<PathBuf>,

    /// Its private key, PEM
    #[arg(
        long,
        value_name = "PATH",
        env = "ROLLCALL_TLS_KEY",
        requires = "tls_cert"
    )]
    pub(super) tls_key: Option<PathBuf>,

    /// Whose certificates clients must have, PEM; probes need none
    #[arg(
        long,
        value_name = "PATH",
        env = "ROLLCALL_TLS_CLIENT_CA",
        requires = "tls_cert"
    )]
    pub(super) tls_client_ca: Option<PathBuf>,
}

/// How much there may be of what.
#[derive(Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArgs {
    /// How many heartbeats may be under way at once, and four times as many leases in batches;
    /// a quarter as many reads, and writes.
    /// More are answered 503. From 64 to 1000000
    #[arg(
        long,
        value_name = "COUNT",
        env = "ROLLCALL_MAX_IN_FLIGHT",
        default_value = "8192",
        value_parser = clap::value_parser!(u32).range(64..=1_000_000)
    )]
    pub(super) max_in_flight: u32,

    /// How many streams of events there may be
    #[arg(
        long,
        value_name = "COUNT",
        env = "ROLLCALL_MAX_STREAMS",
        default_value = "4096",
        value_parser = clap::value_parser!(u32).range(..=1_000_000)
    )]
    pub(super) max_streams: u32,

    /// And how many of one client: of one token at one address
    #[arg(
        long,
        value_name = "COUNT",
        env = "ROLLCALL_MAX_STREAMS_PER_CLIENT",
        default_value = "1024",
        value_parser = clap::value_parser!(u32).range(..=1_000_000)
    )]
    pub(super) max_streams_per_client: u32,

    /// How many requests may wait for a change (`?wait=`)
    #[arg(
        long,
        value_name = "COUNT",
        env = "ROLLCALL_MAX_LONG_POLLS",
        default_value = "16384",
        value_parser = clap::value_parser!(u32).range(..=1_000_000)
    )]
    pub(super) max_long_polls: u32,

    /// How many connections there may be; more are not accepted. Fewer where the system
    /// allows the process fewer open files. From 64 to 1000000
    #[arg(
        long,
        value_name = "COUNT",
        env = "ROLLCALL_MAX_CONNECTIONS",
        default_value = "32768",
        value_parser = clap::value_parser!(u32).range(64..=1_000_000)
    )]
    pub(super) max_connections: u32,
}

#[derive(Args)]
pub(super) struct TokenArgs {
    /// What it may do: read, agent or admin
    #[arg(long)]
    pub(super) role: Role,

    /// What it is called in the log and in held_by: letters, digits, '.', '_' and '-'
    #[arg(long, value_parser = parse_name)]
    pub(super) name: String,

    /// Which scopes it is limited to: services/KEY or groups/KEY, where KEY may end in *
    #[arg(long)]
    pub(super) scope: Option<ScopePattern>,
}

#[derive(Args)]
pub(super) struct HealthcheckArgs {
    /// Where the daemon listens
    #[arg(
        long,
        value_name = "IP:PORT",
        env = "ROLLCALL_LISTEN",
        default_value = "127.0.0.1:18080"
    )]
    pub(super) listen: SocketAddr,

    /// Its certificate, if it has one: then it is asked by HTTPS
    #[arg(long, value_name = "PATH", env = "ROLLCALL_TLS_CERT")]
    pub(super) tls_cert: Option<PathBuf>,
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
