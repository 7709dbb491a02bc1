//! The settings: flags and `ROLLCALL_*` variables, as clap parses them.
//!
//! Every setting has a default. An invalid one is named and stops the start
//! with exit code 2, and no message shows a password.

mod access;
mod agent;
mod client;
mod facades;
mod operator;
mod serve;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Args, CommandFactory, Error, FromArgMatches, Parser, Subcommand, ValueEnum};
pub(crate) use clap_complete::Shell;

pub(crate) use self::agent::{AgentSettings, CheckSettings, CheckTarget};
pub(crate) use self::client::ClientSettings;
pub(crate) use self::operator::{
    Format, HistorySettings, ImportSettings, Instances, OperatorCommand, WatchSettings,
};
pub(crate) use self::serve::StoreSettings;
pub use self::serve::{CoreSettings, ServeSettings};
use crate::auth::{Role, ScopePattern, Token, parse_name};

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
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeSettings,
}

/// What the process does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon; this is the default
    Serve(Box<ServeSettings>),
    /// Migrate the schema of the registry store, and exit
    Migrate(StoreSettings),
    /// Generate a token, and print it once with its line for --tokens-file
    Token(TokenSettings),
    /// Ask a daemon on this machine whether it is ready; exit with 0 if it is, otherwise with 1
    Healthcheck(HealthcheckSettings),
    /// Register an instance, send its heartbeats, and deregister it at the end; optionally run and
    /// watch a command
    Agent(Box<AgentSettings>),
    /// A command for operators
    #[command(flatten)]
    Operator(OperatorCommand),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// The form of a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The log of a daemon or an agent.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogSettings {
    /// The form of the log on standard error: text, or json with one object per line
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

/// The identity of a new token.
#[derive(Debug, Clone, Args)]
pub(crate) struct TokenSettings {
    /// The role of the token: read, agent or admin
    #[arg(long)]
    pub(crate) role: Role,

    /// The name of the token in the log and in held_by: letters, digits, '.', '_' and '-'
    #[arg(long, value_parser = parse_name)]
    pub(crate) name: String,

    /// The scopes to which the token is limited: services/KEY or groups/KEY, where KEY may end in *
    #[arg(long)]
    pub(crate) scope: Option<ScopePattern>,

    /// Append the line of the token to this file, which is created if there is none
    #[arg(long, value_name = "FILE")]
    pub(crate) append: Option<PathBuf>,

    /// Print the token alone
    #[arg(long, requires = "append")]
    pub(crate) quiet: bool,
}

/// The daemon that a health check asks.
#[derive(Debug, Clone, Args)]
pub(crate) struct HealthcheckSettings {
    /// The address and port of the daemon
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:18080")]
    pub(crate) listen: SocketAddr,

    /// The certificate of the daemon, if it serves HTTPS
    #[arg(long, value_name = "PATH")]
    pub(crate) tls_cert: Option<PathBuf>,
}

/// Parses arguments, the first of which is the name of the program, and the variables that have
/// no flag.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    variables: &[(OsString, OsString)],
) -> Result<Command, Error> {
    let mut command = command_line();
    let matches = command.try_get_matches_from_mut(arguments)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let called = cli.command.unwrap_or(Command::Serve(Box::new(cli.serve)));
    let result =
        refuse_unknown_variables(&command, variables).and_then(|()| called.validated(variables));
    // The usage that the error shows is that of the command that was called.
    let usage_of = match matches.subcommand_name() {
        Some(name) => command.find_subcommand_mut(name),
        None => Some(&mut command),
    };
    match (result, usage_of) {
        (Err(error), Some(called)) => Err(error.format(called)),
        (result, _) => result,
    }
}

/// Returns the command line. The settings of daemons and of the registry that a command uses can
/// also be variables: `ROLLCALL_LISTEN` is that of `--listen`.
fn command_line() -> clap::Command {
    with_variables(Cli::command(), |_| true).mut_subcommands(|command| {
        let is_daemon = matches!(command.get_name(), "serve" | "migrate" | "healthcheck");
        with_variables(command, |flag| {
            is_daemon || flag == "log-format" || client::FLAGS.contains(&flag)
        })
    })
}

/// Gives those flags for which `has_one` returns true their variables.
fn with_variables(command: clap::Command, has_one: impl Fn(&str) -> bool) -> clap::Command {
    command.mut_args(|flag| match flag.get_long() {
        Some(name) if has_one(name) => {
            let variable = format!("ROLLCALL_{}", name.replace('-', "_").to_uppercase());
            flag.env(variable)
        }
        _ => flag,
    })
}

impl ServeSettings {
    /// Parses the arguments of a daemon, without the name of the program.
    pub fn from_arguments<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let arguments = ["rollcalld", "serve"].into_iter().chain(arguments);
        match parse(arguments.map(OsString::from), &[])? {
            Command::Serve(settings) => Ok(*settings),
            _ => Err(Error::raw(ErrorKind::InvalidSubcommand, "not a daemon")),
        }
    }
}

impl Command {
    /// Reads what is not in the arguments, and checks what concerns several settings.
    fn validated(mut self, variables: &[(OsString, OsString)]) -> Result<Self, Error> {
        match &mut self {
            Self::Serve(settings) => settings.validate(variables)?,
            Self::Agent(settings) => settings.validate(variables)?,
            Self::Operator(command) => command.client().read_token(variables)?,
            Self::Migrate(_) | Self::Token(_) | Self::Healthcheck(_) | Self::Completions { .. } => {
            }
        }
        Ok(self)
    }
}

/// Writes the completions of a shell.
pub(crate) fn write_completions(shell: Shell, out: &mut dyn io::Write) {
    clap_complete::generate(shell, &mut command_line(), "rollcalld", out);
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
        .chain(access::TOKEN_VARIABLES.map(|(name, _)| name))
        .chain([client::TOKEN_VARIABLE])
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
            return Err(Error::raw(
                ErrorKind::UnknownArgument,
                format!("unknown variable {name}; known are {known}"),
            ));
        }
    }
    Ok(())
}

/// Parses a value that may contain a password, which clap's own message would show.
#[derive(Clone)]
struct Hidden<T>(PhantomData<fn() -> T>);

impl<T> Default for Hidden<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T> TypedValueParser for Hidden<T>
where
    T: FromStr<Err: Display> + Clone + Send + Sync + 'static,
{
    type Value = T;

    fn parse_ref(
        &self,
        command: &clap::Command,
        flag: Option<&Arg>,
        value: &OsStr,
    ) -> Result<T, Error> {
        let flag = flag.map(ToString::to_string).unwrap_or_default();
        let parsed = value.to_string_lossy().parse();
        parsed.map_err(|error: T::Err| {
            invalid_value(&flag, &error.to_string()).format(&mut command.clone())
        })
    }
}

/// Formats the error as clap does for values that it parses itself.
fn invalid_value(flag: &str, reason: &str) -> Error {
    let message = format!("invalid value for '{flag}': {reason}");
    Error::raw(ErrorKind::ValueValidation, message)
}

/// Parses a token. The error names its source and does not show it.
fn read_token(from: &str, text: &str) -> Result<Token, Error> {
    text.parse().map_err(|reason: String| {
        Error::raw(ErrorKind::ValueValidation, format!("{from} {reason}"))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn serve(arguments: &[&str]) -> Result<ServeSettings, String> {
        serve_with(arguments, &[])
    }

    fn serve_with(arguments: &[&str], variables: &[(&str, &str)]) -> Result<ServeSettings, String> {
        let arguments = ["rollcalld"].iter().chain(arguments).map(OsString::from);
        let variables = variables
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        match parse(arguments, &Vec::from_iter(variables)) {
            Ok(Command::Serve(config)) => Ok(*config),
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
        assert_eq!(config.store.store.to_string(), "sqlite:rollcall.db");
        assert_eq!(config.leases.to_string(), "memory:");
        let core = config.core();
        assert_eq!(core.limits.ttl.as_secs(), 30);
        assert_eq!((core.limits.ratio, core.limits.min), (0.5, 10));
        assert_eq!(core.limits.max, Duration::from_secs(600));
        assert_eq!(
            core.remove_offline_after,
            Some(Duration::from_secs(72 * 3600))
        );
        let announcement = core.announcement.unwrap();
        assert_eq!(announcement.channel, "service-launched");
        assert_eq!(announcement.message, "来自网关中心的刷新本地缓存请求");
        assert_eq!(core.roll_call.channel, "heartBeat");
        assert_eq!(core.roll_call.message, "来自网关中心的心跳请求");
        assert_eq!(core.roll_call.interval, Duration::from_secs(15));
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
            (
                config.core().remove_offline_after,
                config.core().announcement
            ),
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

    use crate::auth::AnonymousRole;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn other_machines_are_served_without_tokens_only_on_request() {
        let error = serve(&["--listen", "0.0.0.0:18080"]).unwrap_err();
        assert!(error.contains("without tokens every client"), "{error}");
        assert!(error.contains("--anonymous-role admin"), "{error}");
        for loopback in ["127.0.0.2:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(serve(&["--listen", loopback]).is_ok(), "{loopback}");
        }
        let open = ["--listen", "[::]:1", "--anonymous-role", "admin"];
        assert!(serve(&open).unwrap().access.tokens.is_empty());
        let admin = [("ROLLCALL_ADMIN_TOKEN", TOKEN)];
        let config = serve_with(&open[..2], &admin).unwrap();
        assert_eq!(config.access.tokens.given.len(), 1);
        assert_eq!(config.access.anonymous_role(), AnonymousRole::None);
        let both = serve_with(&open, &admin).unwrap();
        let role = AnonymousRole::Role(Role::Admin);
        assert_eq!(both.access.anonymous_role(), role);
        let error = serve(&["--anonymous-role", "none"]).unwrap_err();
        assert!(error.contains("must not be none without tokens"), "{error}");
    }

    #[test]
    fn a_trusted_proxy_is_a_network_or_an_address() {
        let given = [
            "--trusted-proxy",
            "10.0.0.0/8,::1",
            "--trusted-proxy",
            "192.0.2.7",
        ];
        let access = serve(&given).unwrap().access;
        let shown: Vec<_> = access
            .trusted_proxy
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(shown, ["10.0.0.0/8", "::1/128", "192.0.2.7/32"]);
        let error = serve(&["--trusted-proxy", "proxy"]).unwrap_err();
        assert!(error.contains("must be a network such as"), "{error}");
    }

    #[test]
    fn a_token_has_32_characters_and_one_source_and_is_never_shown() {
        for variable in access::TOKEN_VARIABLES.map(|(name, _)| name) {
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
        assert!(serve(&both).unwrap().access.tls().is_some());
    }

    #[test]
    fn heartbeats_have_more_permits_than_any_other_class() {
        let limits = serve(&["--max-in-flight", "400"]).unwrap().limits();
        assert_eq!(
            (limits.heartbeats, limits.reads, limits.writes),
            (400, 100, 100)
        );
    }
}
