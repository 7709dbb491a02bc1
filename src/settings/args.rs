//! The flags and variables, as clap parses them.

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

/// A registry daemon: gateways and services register and send heartbeats, and clients ask which
/// instances are online.
#[derive(Parser)]
#[command(
    name = "rollcalld",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Tokens are also read from the variables ROLLCALL_ADMIN_TOKEN, ROLLCALL_AGENT_TOKEN and \
        ROLLCALL_READ_TOKEN. They have no flags, because other users can see a process's flags.\n\n\
        SIGHUP reads tokens and certificates again. SIGTERM stops the daemon in order, a second one at once.\n\n\
        Exit codes of commands: 0 success, 1 failure, 2 wrong usage, 3 no such scope or instance, \
        4 the token is missing or does not permit it, 5 no replica answers.\n\n\
        The log is written to stderr; RUST_LOG sets its level, for example RUST_LOG=debug."
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) serve: ServeArgs,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Run the daemon; this is the default
    Serve(Box<ServeArgs>),
    /// Migrate the schema of the registry store, and exit
    Migrate(StoreArgs),
    /// Generate a token, and print it once with its line for --tokens-file
    Token(TokenArgs),
    /// Ask a daemon on this machine whether it is ready; exit with 0 if it is, otherwise with 1
    Healthcheck(HealthcheckArgs),
    /// Register an instance, send its heartbeats, and deregister it at the end; optionally run and
    /// watch a command
    Agent(Box<AgentArgs>),
    /// List the services
    Services(OutputArgs),
    /// List the groups of gateways
    Groups(OutputArgs),
    /// List the instances of a service or group
    Instances(InstancesArgs),
    /// Print events until it is stopped
    Watch(WatchArgs),
    /// Hold instances: they receive no traffic until an operator enables them
    Hold(HoldArgs),
    /// Enable instances that are held or disabled
    Enable(ChosenArgs),
    /// Deregister instances
    Deregister(ChosenArgs),
    /// Show the state of the registry
    Overview(OutputArgs),
    /// Print all scopes and instances, as JSON for import
    Export(BackupArgs),
    /// Register the scopes and instances of an export
    Import(ImportArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
}

#[derive(Args)]
pub(super) struct StoreArgs {
    /// The registry store: sqlite:PATH, or postgres://USER@HOST/DATABASE with
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
    /// The address and port of the HTTP server; port 0 picks a free port and prints it
    #[arg(
        long,
        value_name = "IP:PORT",
        env = "ROLLCALL_LISTEN",
        default_value = "127.0.0.1:18080"
    )]
    pub(super) listen: SocketAddr,

    #[command(flatten)]
    pub(super) store: StoreArgs,

    /// The lease store: memory: for a single replica, or redis://HOST, rediss://HOST,
    /// redis+sentinel://HOST/MASTER or redis+cluster://HOST for several. Roll calls are published
    /// there too
    #[arg(
        long,
        value_name = "URL",
        env = "ROLLCALL_LEASES",
        hide_env_values = true,
        default_value = "memory:"
    )]
    pub(super) leases: String,

    /// The time to live of leases of instances that register without ttl_seconds: whole seconds
    /// from 5s to 1h, longer than --roll-call-interval
    #[arg(
        long,
        value_name = "DURATION",
        env = "ROLLCALL_LEASE_TTL",
        default_value = "30s",
        value_parser = lease_ttl
    )]
    pub(super) lease_ttl: Ttl,

    /// The time between roll calls, from 1s to 1h, on the clock's multiples of it
    #[arg(
        long,
        value_name = "DURATION",
        env = "ROLLCALL_ROLL_CALL_INTERVAL",
        default_value = "15s",
        value_parser = roll_call_interval
    )]
    pub(super) roll_call_interval: Duration,

    /// The Redis channel of roll calls
    #[arg(
        long,
        value_name = "CHANNEL",
        env = "ROLLCALL_ROLL_CALL_CHANNEL",
        default_value = "heartBeat",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub(super) roll_call_channel: String,

    /// The text of a roll call
    #[arg(
        long,
        value_name = "TEXT",
        env = "ROLLCALL_ROLL_CALL_MESSAGE",
        default_value = "来自网关中心的心跳请求"
    )]
    pub(super) roll_call_message: String,

    /// Begin protection mode when more than this share of the online instances would be marked
    /// offline within one --lease-ttl: from 0 to 1; 1 disables it
    #[arg(
        long,
        value_name = "SHARE",
        env = "ROLLCALL_PROTECTION_THRESHOLD",
        default_value = "0.5",
        value_parser = share
    )]
    pub(super) protection_threshold: f64,

    /// The number of online instances below which protection mode does not begin
    #[arg(
        long,
        value_name = "COUNT",
        env = "ROLLCALL_PROTECTION_MIN_INSTANCES",
        default_value = "10"
    )]
    pub(super) protection_min_instances: usize,

    /// The longest duration of protection mode
    #[arg(
        long,
        value_name = "DURATION",
        env = "ROLLCALL_PROTECTION_MAX_DURATION",
        default_value = "10m",
        value_parser = humantime::parse_duration
    )]
    pub(super) protection_max_duration: Duration,

    /// Remove instances that have been offline for this long, unless they are held; 0s disables it
    #[arg(
        long,
        value_name = "DURATION",
        env = "ROLLCALL_REMOVE_OFFLINE_AFTER",
        default_value = "72h",
        value_parser = humantime::parse_duration
    )]
    pub(super) remove_offline_after: Duration,

    /// Publish the original gateway center's refresh message on the channel service-launched when
    /// the available instances of a service change, at most twice a second
    #[arg(
        long,
        value_name = "BOOL",
        env = "ROLLCALL_PUBLISH_SERVICE_CHANGES",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub(super) publish_service_changes: bool,

    /// The threads of the HTTP server, from 1 to 256 [default: one per core]
    #[arg(
        long,
        value_name = "COUNT",
        env = "ROLLCALL_WORKERS",
        value_parser = clap::value_parser!(u16).range(1..=256)
    )]
    pub(super) workers: Option<u16>,

    /// The time that the start waits for the registry store and the lease store
    #[arg(
        long,
        value_name = "DURATION",
        env = "ROLLCALL_START_TIMEOUT",
        default_value = "60s",
        value_parser = humantime::parse_duration
    )]
    pub(super) start_timeout: Duration,

    /// The time during which requests are still served after SIGTERM while /readyz answers 503, so
    /// that load balancers choose other replicas. SIGINT stops without it
    #[arg(
        long,
        value_name = "DURATION",
        env = "ROLLCALL_SHUTDOWN_DELAY",
        default_value = "2s",
        value_parser = humantime::parse_duration
    )]
    pub(super) shutdown_delay: Duration,

    /// The time after which the daemon exits in any case; longer than --shutdown-delay
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

/// Authentication, authorization and TLS.
#[derive(Args)]
#[command(next_help_heading = "Access")]
pub(super) struct AccessArgs {
    /// A file with one line per token: ROLE NAME SHA256, and SCOPE for a limited one. `rollcalld
    /// token` generates tokens and their lines
    #[arg(long, value_name = "PATH", env = "ROLLCALL_TOKENS_FILE")]
    pub(super) tokens_file: Option<PathBuf>,

    /// A file with one token of the role admin, which may do everything
    #[arg(long, value_name = "PATH", env = "ROLLCALL_ADMIN_TOKEN_FILE")]
    pub(super) admin_token_file: Option<PathBuf>,

    /// A file with one token of the role agent, which may register, send heartbeats, deregister and
    /// read
    #[arg(long, value_name = "PATH", env = "ROLLCALL_AGENT_TOKEN_FILE")]
    pub(super) agent_token_file: Option<PathBuf>,

    /// A file with one token of the role read
    #[arg(long, value_name = "PATH", env = "ROLLCALL_READ_TOKEN_FILE")]
    pub(super) read_token_file: Option<PathBuf>,

    /// Serve every client that can reach --listen, without tokens
    #[arg(long, env = "ROLLCALL_ALLOW_ANONYMOUS")]
    pub(super) allow_anonymous: bool,

    /// The PEM file of the certificate chain for HTTPS
    #[arg(
        long,
        value_name = "PATH",
        env = "ROLLCALL_TLS_CERT",
        requires = "tls_key"
    )]
    pub(super) tls_cert: Option<PathBuf>,

    /// The PEM file of the private key for HTTPS
    #[arg(
        long,
        value_name = "PATH",
        env = "ROLLCALL_TLS_KEY",
        requires = "tls_cert"
    )]
    pub(super) tls_key: Option<PathBuf>,

    /// The PEM file of the authorities of client certificates, which are then required, except for
    /// probes
    #[arg(
        long,
        value_name = "PATH",
        env = "ROLLCALL_TLS_CLIENT_CA",
        requires = "tls_cert"
    )]
    pub(super) tls_client_ca: Option<PathBuf>,
}

/// The limits of requests in flight.
#[derive(Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArgs {
    /// The most heartbeats in flight, from 64 to 1000000. Four times as many leases in batches, a
    /// quarter as many reads, and as many writes. More are rejected with 503
    #[arg(
        long,
        value_name = "COUNT",
        env = "ROLLCALL_MAX_IN_FLIGHT",
        default_value = "8192",
        value_parser = clap::value_parser!(u32).range(64..=1_000_000)
    )]
    pub(super) max_in_flight: u32,

    /// The most event streams
    #[arg(
        long,
        value_name = "COUNT",
        env = "ROLLCALL_MAX_STREAMS",
        default_value = "4096",
        value_parser = clap::value_parser!(u32).range(..=1_000_000)
    )]
    pub(super) max_streams: u32,

    /// The most event streams of one client: of one token at one address
    #[arg(
        long,
        value_name = "COUNT",
        env = "ROLLCALL_MAX_STREAMS_PER_CLIENT",
        default_value = "1024",
        value_parser = clap::value_parser!(u32).range(..=1_000_000)
    )]
    pub(super) max_streams_per_client: u32,

    /// The most requests that wait for a change (`?wait=`)
    #[arg(
        long,
        value_name = "COUNT",
        env = "ROLLCALL_MAX_LONG_POLLS",
        default_value = "16384",
        value_parser = clap::value_parser!(u32).range(..=1_000_000)
    )]
    pub(super) max_long_polls: u32,

    /// The most connections, from 64 to 1000000; fewer if the system allows the process fewer open
    /// files
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
    /// The role of the token: read, agent or admin
    #[arg(long)]
    pub(super) role: Role,

    /// The name of the token in the log and in held_by: letters, digits, '.', '_' and '-'
    #[arg(long, value_parser = parse_name)]
    pub(super) name: String,

    /// The scopes to which the token is limited: services/KEY or groups/KEY, where KEY may end in *
    #[arg(long)]
    pub(super) scope: Option<ScopePattern>,
}

#[derive(Args)]
pub(super) struct HealthcheckArgs {
    /// The address and port of the daemon
    #[arg(
        long,
        value_name = "IP:PORT",
        env = "ROLLCALL_LISTEN",
        default_value = "127.0.0.1:18080"
    )]
    pub(super) listen: SocketAddr,

    /// The certificate of the daemon, if it serves HTTPS
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
