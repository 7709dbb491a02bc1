//! The settings: flags and `ROLLCALL_*` variables.
//!
//! Called by `main`. Every setting has a default. An invalid one is named and stops the start
//! with exit code 2, and no message shows a password.

mod agent_args;
mod args;
mod client_args;
mod command_args;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Error, FromArgMatches};
use clap_complete::generate;

use self::args::{AccessArgs, Cli, Command, LimitArgs, ServeArgs, StoreArgs};
use self::client_args::TOKEN_VARIABLE;
pub use self::command_args::Shell;
use crate::actor::{RefreshNotice, RollCall};
use crate::admission;
use crate::agent::AgentConfig;
use crate::auth::{Identity, Role, Token, TokenSources};
use crate::backend::UrlError;
use crate::lease::LeaseUrl;
use crate::liveness;
use crate::model::ScopeKind;
use crate::operator::{Action, CommandConfig};
use crate::store::StoreUrl;
use crate::tls::TlsFiles;

/// Variables that contain a token. They have no flags, because other users can see a process's
/// flags.
const TOKEN_VARIABLES: [(&str, Role); 3] = [
    ("ROLLCALL_ADMIN_TOKEN", Role::Admin),
    ("ROLLCALL_AGENT_TOKEN", Role::Agent),
    ("ROLLCALL_READ_TOKEN", Role::Read),
];

/// The channel on which gateways of the original gateway center listen.
const ANNOUNCE_CHANNEL: &str = "service-launched";
/// The message that makes them refresh their caches.
const ANNOUNCE_MESSAGE: &str = "来自网关中心的刷新本地缓存请求";

/// What the process does.
#[derive(Debug)]
pub enum Invocation {
    /// Run the daemon.
    Serve(Box<Config>),
    /// Migrate the schema.
    Migrate(StoreUrl),
    /// Generate a token for this identity.
    Token(Identity),
    /// Ask a daemon whether it is ready.
    Healthcheck {
        /// The `--listen` of that daemon; an unspecified address is reached on loopback.
        listen: SocketAddr,
        /// Whether it serves HTTPS.
        tls: bool,
    },
    /// Run the agent.
    Agent(Box<AgentConfig>),
    /// Run a command for operators.
    Command(Box<CommandConfig>),
    /// Print completions.
    Completions(Shell),
}

/// The settings of a daemon.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address of the HTTP server; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The registry store.
    pub store: StoreUrl,
    /// The lease store, which also has the event log.
    pub leases: LeaseUrl,
    /// The roll call.
    pub roll_call: RollCall,
    /// The limits of protection mode.
    pub protection: liveness::Limits,
    /// The time offline after which an instance is removed; `None` disables it.
    pub remove_offline_after: Option<Duration>,
    /// The message for the original's gateways; `None` disables it.
    pub announcement: Option<RefreshNotice>,
    /// The threads of the HTTP server.
    pub workers: usize,
    /// The time that the start waits for the stores.
    pub start_timeout: Duration,
    /// The time during which requests are served after SIGTERM.
    pub shutdown_delay: Duration,
    /// The time after which the daemon exits in any case.
    pub shutdown_timeout: Duration,
    /// The tokens; without any, clients are not authenticated.
    pub tokens: TokenSources,
    /// The certificate for HTTPS; `None` is HTTP.
    pub tls: Option<TlsFiles>,
    /// The limits of requests in flight.
    pub limits: admission::Limits,
    /// The limit of connections.
    pub max_connections: usize,
}

impl Config {
    /// Returns the time for requests in flight at the stop: most of the remaining time, leaving
    /// some for the writes that they began.
    pub fn drain_http(&self) -> Duration {
        (self.shutdown_timeout - self.shutdown_delay) * 3 / 4
    }
}

/// Parses the arguments and variables of the process. The caller prints the error and exits
/// with [`Error::exit`]: with 2, or with 0 for `--help` and `--version`.
pub fn from_process() -> Result<Invocation, Error> {
    parse(std::env::args_os(), std::env::vars_os().collect())
}

fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    variables: Vec<(OsString, OsString)>,
) -> Result<Invocation, Error> {
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let result = refuse_unknown_variables(&command, &variables)
        .and_then(|()| into_invocation(cli, &variables));
    // The usage that the error shows is that of the command that was called.
    let called = match matches.subcommand_name() {
        Some(name) => command.find_subcommand_mut(name),
        None => Some(&mut command),
    };
    match (result, called) {
        (Err(error), Some(called)) => Err(error.format(called)),
        (result, _) => result,
    }
}

fn into_invocation(cli: Cli, variables: &[(OsString, OsString)]) -> Result<Invocation, Error> {
    let serve = |serve: ServeArgs| {
        let config = serve.into_config(variables)?;
        Ok(Invocation::Serve(Box::new(config)))
    };
    match cli.command {
        None => serve(cli.serve),
        Some(Command::Serve(args)) => serve(*args),
        Some(Command::Migrate(args)) => Ok(Invocation::Migrate(args.url()?)),
        Some(Command::Token(args)) => Ok(Invocation::Token(Identity {
            name: args.name,
            role: args.role,
            limit: args.scope,
        })),
        Some(Command::Healthcheck(args)) => Ok(Invocation::Healthcheck {
            listen: args.listen,
            tls: args.tls_cert.is_some(),
        }),
        Some(Command::Agent(args)) => {
            let config = args.into_config(variables)?;
            Ok(Invocation::Agent(Box::new(config)))
        }
        Some(Command::Completions(args)) => Ok(Invocation::Completions(args.shell)),
        Some(Command::Services(args)) => {
            command_for(args.with(Action::Scopes(ScopeKind::Service), variables))
        }
        Some(Command::Groups(args)) => {
            command_for(args.with(Action::Scopes(ScopeKind::Group), variables))
        }
        Some(Command::Instances(args)) => {
            let (scope, available) = (args.scope, args.available);
            let action = Action::Instances { scope, available };
            command_for(args.output.with(action, variables))
        }
        Some(Command::Watch(args)) => {
            command_for(args.output.with(Action::Watch(args.scope), variables))
        }
        Some(Command::Hold(args)) => {
            let hold = |instances| Action::Hold(instances, args.reason);
            command_for(args.chosen.with(hold, variables))
        }
        Some(Command::Enable(args)) => command_for(args.with(Action::Enable, variables)),
        Some(Command::Deregister(args)) => command_for(args.with(Action::Deregister, variables)),
        Some(Command::Overview(args)) => command_for(args.with(Action::Overview, variables)),
        Some(Command::Export(args)) => command_for(args.with(Action::Export, variables)),
        Some(Command::Import(args)) => {
            command_for(args.backup.with(Action::Import(args.path), variables))
        }
    }
}

fn command_for(config: Result<CommandConfig, Error>) -> Result<Invocation, Error> {
    config.map(|config| Invocation::Command(Box::new(config)))
}

/// Writes the completions of a shell.
pub fn write_completions(shell: Shell, out: &mut dyn io::Write) {
    let mut command = Cli::command();
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    generate(shell, &mut command, "rollcalld", out);
}

/// A misspelt variable must not silently keep its default.
fn refuse_unknown_variables(
    command: &clap::Command,
    variables: &[(OsString, OsString)],
) -> Result<(), Error> {
    // Those of every command: a machine may have one environment for all of them.
    let known: BTreeSet<&str> = std::iter::once(command)
        .chain(command.get_subcommands())
        .flat_map(clap::Command::get_arguments)
        .filter_map(|argument| argument.get_env()?.to_str())
        .chain(TOKEN_VARIABLES.map(|(name, _)| name))
        .chain([TOKEN_VARIABLE])
        .collect();
    for (name, _) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with("ROLLCALL_")) else {
            continue;
        };
        // Kubernetes adds these to every container beside a Service of that name.
        let of_kubernetes =
            name.contains("_SERVICE_") || name.ends_with("_PORT") || name.contains("_PORT_");
        if !known.contains(name) && !of_kubernetes {
            let known = Vec::from_iter(known).join(", ");
            return Err(invalid(
                ErrorKind::UnknownArgument,
                format!("unknown variable {name}; known are {known}"),
            ));
        }
    }
    Ok(())
}

fn invalid(kind: ErrorKind, message: String) -> Error {
    Error::raw(kind, message)
}

/// clap's own message would show the value, and with it a password.
fn url<T: FromStr<Err = UrlError>>(flag: &str, text: &str) -> Result<T, Error> {
    text.parse()
        .map_err(|error: UrlError| invalid_value(&format!("{flag} <URL>"), error.to_string()))
}

/// Formats the error as clap does for values that it parses itself.
fn invalid_value(flag: &str, reason: String) -> Error {
    let message = format!("invalid value for '--{flag}': {reason}");
    invalid(ErrorKind::ValueValidation, message)
}

/// Parses a token. The error names its source and does not show it.
fn read_token(from: &str, text: &str) -> Result<Token, Error> {
    text.parse()
        .map_err(|reason: String| invalid(ErrorKind::ValueValidation, format!("{from} {reason}")))
}

impl StoreArgs {
    fn url(&self) -> Result<StoreUrl, Error> {
        url("store", &self.store)
    }
}

impl AccessArgs {
    /// Returns the sources of tokens: per role at most one besides those of the list.
    fn tokens(&self, variables: &[(OsString, OsString)]) -> Result<TokenSources, Error> {
        let mut sources = TokenSources {
            list: self.tokens_file.clone(),
            ..TokenSources::default()
        };
        let files = [
            &self.admin_token_file,
            &self.agent_token_file,
            &self.read_token_file,
        ];
        for ((name, role), file) in TOKEN_VARIABLES.into_iter().zip(files) {
            let variable = variables.iter().find(|(variable, _)| variable == name);
            match (variable, file) {
                (Some(_), Some(_)) => {
                    let message = format!("{name} and {name}_FILE are both set: set only one");
                    return Err(invalid(ErrorKind::ArgumentConflict, message));
                }
                (Some((_, token)), None) => {
                    let token = read_token(name, token.to_str().unwrap_or_default())?;
                    sources.given.push((role, token));
                }
                (None, Some(file)) => sources.files.push((role, file.clone())),
                (None, None) => {}
            }
        }
        Ok(sources)
    }

    fn tls(&self) -> Option<TlsFiles> {
        Some(TlsFiles {
            certificate: self.tls_cert.clone()?,
            key: self.tls_key.clone()?,
            client_ca: self.tls_client_ca.clone(),
        })
    }
}

/// Every client that reaches the daemon could change the registry, so this must be requested.
fn refuse_unasked_openness(
    listen: SocketAddr,
    tokens: &TokenSources,
    allowed: bool,
) -> Result<(), Error> {
    match (tokens.is_empty(), allowed) {
        (true, false) if !listen.ip().to_canonical().is_loopback() => Err(invalid(
            ErrorKind::ValueValidation,
            format!(
                "--listen {listen} is reachable from other machines, and without tokens every client could change the registry: generate tokens with `rollcalld token` and pass them by --tokens-file or ROLLCALL_ADMIN_TOKEN, or add --allow-anonymous"
            ),
        )),
        (false, true) => Err(invalid(
            ErrorKind::ArgumentConflict,
            "--allow-anonymous cannot be combined with tokens: remove the flag or the tokens"
                .to_owned(),
        )),
        _ => Ok(()),
    }
}

impl LimitArgs {
    fn limits(&self) -> admission::Limits {
        let count = |setting: u32| usize::try_from(setting).unwrap_or(usize::MAX);
        admission::Limits {
            heartbeats: count(self.max_in_flight),
            reads: count(self.max_in_flight) / 4,
            writes: count(self.max_in_flight) / 4,
            waits: count(self.max_long_polls),
            streams: count(self.max_streams),
            streams_per_client: count(self.max_streams_per_client),
        }
    }
}

impl ServeArgs {
    fn into_config(self, variables: &[(OsString, OsString)]) -> Result<Config, Error> {
        let tokens = self.access.tokens(variables)?;
        refuse_unasked_openness(self.listen, &tokens, self.access.allow_anonymous)?;
        if self.shutdown_timeout <= self.shutdown_delay {
            return Err(invalid(
                ErrorKind::ValueValidation,
                format!(
                    "invalid value for '--shutdown-timeout <DURATION>': must be longer than --shutdown-delay, which is {:?}",
                    self.shutdown_delay
                ),
            ));
        }
        if self.lease_ttl.as_duration() <= self.roll_call_interval {
            return Err(invalid(
                ErrorKind::ValueValidation,
                format!(
                    "invalid value for '--lease-ttl <DURATION>': must be longer than --roll-call-interval, which is {:?}, so that an instance that answers every roll call does not expire",
                    self.roll_call_interval
                ),
            ));
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Config {
            listen: self.listen,
            store: self.store.url()?,
            leases: url("leases", &self.leases)?,
            protection: liveness::Limits {
                ratio: self.protection_threshold,
                min: self.protection_min_instances,
                max: self.protection_max_duration,
                ttl: self.lease_ttl,
            },
            remove_offline_after: (!self.remove_offline_after.is_zero())
                .then_some(self.remove_offline_after),
            announcement: self.publish_service_changes.then(|| RefreshNotice {
                channel: ANNOUNCE_CHANNEL.to_owned(),
                message: ANNOUNCE_MESSAGE.to_owned(),
            }),
            roll_call: RollCall {
                channel: self.roll_call_channel,
                message: self.roll_call_message,
                interval: self.roll_call_interval,
            },
            workers: self.workers.map_or(cores, usize::from),
            start_timeout: self.start_timeout,
            shutdown_delay: self.shutdown_delay,
            shutdown_timeout: self.shutdown_timeout,
            tokens,
            tls: self.access.tls(),
            limits: self.limits.limits(),
            max_connections: usize::try_from(self.limits.max_connections).unwrap_or(usize::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(arguments: &[&str]) -> Result<Config, String> {
        serve_with(arguments, &[])
    }

    fn serve_with(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Config, String> {
        let arguments = ["rollcalld"].iter().chain(arguments).map(OsString::from);
        let variables = variables
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        match parse(arguments, variables.collect()) {
            Ok(Invocation::Serve(config)) => Ok(*config),
            Ok(other) => Err(format!("{other:?}")),
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
        assert_eq!(
            config.remove_offline_after,
            Some(Duration::from_secs(72 * 3600))
        );
        let announcement = config.announcement.unwrap();
        assert_eq!(announcement.channel, "service-launched");
        assert_eq!(announcement.message, "来自网关中心的刷新本地缓存请求");
        assert_eq!(config.roll_call.channel, "heartBeat");
        assert_eq!(config.roll_call.message, "来自网关中心的心跳请求");
        assert_eq!(config.roll_call.interval, Duration::from_secs(15));
        assert_eq!(serve(&["serve"]).unwrap().listen, config.listen);
    }

    #[test]
    fn removal_and_service_changes_can_be_disabled() {
        let config = serve(&[
            "--remove-offline-after",
            "0s",
            "--publish-service-changes",
            "false",
        ])
        .unwrap();
        assert_eq!(
            (config.remove_offline_after, config.announcement),
            (None, None)
        );
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
                "must be longer than --roll-call-interval, which is 15s",
            ),
            (
                ["--roll-call-interval", "0s"],
                "'--roll-call-interval <DURATION>': must be from 1s to 1h",
            ),
            (
                ["--roll-call-channel", ""],
                "'--roll-call-channel <CHANNEL>'",
            ),
            (
                ["--protection-threshold", "1.5"],
                "'--protection-threshold <SHARE>': must be a number from 0 to 1",
            ),
            (
                ["--protection-min-instances", "few"],
                "'--protection-min-instances <COUNT>'",
            ),
            (
                ["--protection-max-duration", "600"],
                "'--protection-max-duration <DURATION>'",
            ),
            (
                ["--remove-offline-after", "72"],
                "'--remove-offline-after <DURATION>'",
            ),
            (
                ["--publish-service-changes", "2"],
                "'--publish-service-changes <BOOL>'",
            ),
            (["--workers", "0"], "'--workers <COUNT>'"),
            (["--start-timeout", "soon"], "'--start-timeout <DURATION>'"),
            (
                ["--shutdown-timeout", "2s"],
                "'--shutdown-timeout <DURATION>': must be longer than --shutdown-delay, which is 2s",
            ),
            (["--max-in-flight", "1"], "'--max-in-flight <COUNT>'"),
            (["--max-connections", "1"], "'--max-connections <COUNT>'"),
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
        let with = |name: &str| serve_with(&[], &[(name, "30s")]);
        let error = with("ROLLCALL_LEASE_TLL").unwrap_err();
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

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn other_machines_are_served_without_tokens_only_on_request() {
        let error = serve(&["--listen", "0.0.0.0:18080"]).unwrap_err();
        assert!(error.contains("without tokens every client"), "{error}");
        assert!(error.contains("--allow-anonymous"), "{error}");
        for loopback in ["127.0.0.2:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(serve(&["--listen", loopback]).is_ok(), "{loopback}");
        }
        let open = ["--listen", "[::]:1", "--allow-anonymous"];
        assert!(serve(&open).unwrap().tokens.is_empty());
        let admin = [("ROLLCALL_ADMIN_TOKEN", TOKEN)];
        let config = serve_with(&open[..2], &admin).unwrap();
        assert_eq!(config.tokens.given.len(), 1);
        let error = serve_with(&open, &admin).unwrap_err();
        assert!(error.contains("cannot be combined with tokens"), "{error}");
    }

    #[test]
    fn a_token_has_32_characters_and_one_source_and_is_never_shown() {
        for variable in TOKEN_VARIABLES.map(|(name, _)| name) {
            let error = serve_with(&[], &[(variable, "s3cret")]).unwrap_err();
            let says = format!("{variable} is shorter than 32 characters");
            assert!(
                error.contains(&says) && !error.contains("s3cret"),
                "{error}"
            );
        }
        let file = ["--admin-token-file", "/run/token"];
        let error = serve_with(&file, &[("ROLLCALL_ADMIN_TOKEN", TOKEN)]).unwrap_err();
        assert!(error.contains("are both set"), "{error}");
        let config = serve_with(&[], &[("ROLLCALL_READ_TOKEN", TOKEN)]).unwrap();
        assert!(!format!("{config:?}").contains(TOKEN));
    }

    #[test]
    fn a_certificate_goes_with_its_key() {
        for alone in ["--tls-cert", "--tls-key", "--tls-client-ca"] {
            assert!(serve(&[alone, "x.pem"]).is_err(), "{alone}");
        }
        let both = ["--tls-cert", "x.pem", "--tls-key", "k.pem"];
        assert!(serve(&both).unwrap().tls.is_some());
    }

    #[test]
    fn heartbeats_have_more_permits_than_any_other_class() {
        let limits = serve(&["--max-in-flight", "400"]).unwrap().limits;
        assert_eq!(
            (limits.heartbeats, limits.reads, limits.writes),
            (400, 100, 100)
        );
    }
}
