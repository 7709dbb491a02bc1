//! The program: parses the settings, then runs the daemon, the agent or a command.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use rollcalld::agent::{self, AgentConfig};
use rollcalld::auth::{Identity, Token};
use rollcalld::client::readiness;
use rollcalld::clock::SystemClock;
use rollcalld::daemon::Daemon;
use rollcalld::http;
use rollcalld::operator::{self, CommandConfig};
use rollcalld::settings::{self, Config, Invocation, Shell};
use rollcalld::store::{self, StoreUrl};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let invocation = match settings::from_process() {
        Ok(invocation) => invocation,
        Err(error) => error.exit(),
    };
    // The pool logs each connection that a restart of PostgreSQL ended.
    let filter = "warn,deadpool.postgres=error,rollcalld=info";
    let filter = env_logger::Env::default().default_filter_or(filter);
    let logger = env_logger::Builder::from_env(filter)
        .format_timestamp_millis()
        .build();
    let level = logger.filter();
    if http::log_to(Box::new(logger), level).is_err() {
        return ExitCode::FAILURE;
    }
    let outcome = actix::System::new().block_on(async {
        let done = match invocation {
            Invocation::Serve(config) => serve(*config).await,
            Invocation::Migrate(url) => migrate(&url).await,
            Invocation::Token(identity) => print_new_token(&identity),
            Invocation::Healthcheck { listen, tls } => run_healthcheck(listen, tls).await,
            Invocation::Agent(config) => return run_agent(*config).await,
            Invocation::Command(config) => return run_operator_command(*config).await,
            Invocation::Completions(shell) => print_completions(shell),
        };
        done.map(|()| ExitCode::SUCCESS)
    });
    outcome.unwrap_or_else(|error| {
        log::error!("{error}");
        ExitCode::FAILURE
    })
}

async fn serve(config: Config) -> Result<(), Failure> {
    let (mut terminate, mut interrupt, mut hangup) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    );
    let backends = format!("store {}, leases {}", config.store, config.leases);
    let (anonymous, delay) = (config.tokens.is_empty(), config.shutdown_delay);
    let scheme = if config.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let daemon = Daemon::build(config, Arc::new(SystemClock))?;
    let listening = format!("listening on {scheme}://{}", daemon.address());
    print_line(&listening)?;
    log::info!(
        "rollcalld {} {listening}, {backends}",
        env!("CARGO_PKG_VERSION")
    );
    if anonymous {
        log::warn!(
            "no tokens are configured: every client that can reach {} may do everything",
            daemon.address()
        );
    }
    let reloader = daemon.reloader();
    actix::spawn(async move {
        while hangup.recv().await.is_some() {
            reloader.reload();
        }
    });
    let shutdown = async move {
        let delay = tokio::select! {
            _ = terminate.recv() => delay,
            _ = interrupt.recv() => Duration::ZERO,
        };
        notify(&[NotifyState::Stopping]);
        actix::spawn(end_at_the_next(terminate, interrupt));
        delay
    };
    let ready = || notify(&[NotifyState::Ready]);
    Ok(daemon.run_until_stopped(ready, shutdown).await?)
}

/// A supervisor may signal a process and then its group: that is one request.
const ONE_REQUEST: Duration = Duration::from_millis(200);

/// A second request to stop ends the process at once.
async fn end_at_the_next(mut terminate: Signal, mut interrupt: Signal) {
    sleep(ONE_REQUEST).await;
    let _ = (
        terminate.recv().now_or_never(),
        interrupt.recv().now_or_never(),
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    log::warn!("received a second stop signal: exiting at once");
    std::process::exit(1);
}

/// Notifies systemd, if it started this process.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!("cannot notify systemd: {error}");
    }
}

async fn migrate(url: &StoreUrl) -> Result<(), Failure> {
    let mut store = store::open(url)?;
    let applied = store.writer.migrate().await?;
    for migration in &applied {
        print_line(&format!("applied {migration}"))?;
    }
    if applied.is_empty() {
        print_line(&format!("the schema of {url} is up to date"))?;
    }
    Ok(())
}

fn print_new_token(identity: &Identity) -> Result<(), Failure> {
    let token = Token::generate()?;
    print_line(&format!("token (shown only once):     {}", token.reveal()))?;
    print_line(&format!(
        "line for --tokens-file:    {}",
        token.line(identity)
    ))?;
    Ok(())
}

async fn run_healthcheck(listen: SocketAddr, tls: bool) -> Result<(), Failure> {
    readiness::ask(listen, tls).await?;
    Ok(print_line("ready")?)
}

async fn run_agent(config: AgentConfig) -> Result<ExitCode, Failure> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(agent::run(config, stop).await?.into())
}

async fn run_operator_command(config: CommandConfig) -> Result<ExitCode, Failure> {
    match operator::run(config).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.is_broken_pipe() => Ok(ExitCode::SUCCESS),
        Err(error) => {
            writeln!(std::io::stderr(), "rollcalld: {error}")?;
            Ok(error.exit_code().into())
        }
    }
}

fn print_completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    settings::write_completions(shell, &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}

/// Prints a line to standard output, for scripts. Everything for people goes to the log.
fn print_line(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
