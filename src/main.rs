//! The program: parses the settings, then runs the daemon, the agent or a command.

use std::io::Write;
use std::process::ExitCode;

use rollcalld::auth::{Identity, Token};
use rollcalld::client::readiness;
use rollcalld::settings::{self, Command, OperatorCommand, Shell};
use rollcalld::store::{self, StoreUrl};
use rollcalld::{agent, daemon, http, operator};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let command = match settings::from_process() {
        Ok(command) => command,
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
        let done = match command {
            Command::Serve(settings) => daemon::run(*settings).await.map_err(Into::into),
            Command::Migrate(settings) => migrate(&settings.store).await,
            Command::Token(settings) => print_new_token(&Identity {
                name: settings.name,
                role: settings.role,
                limit: settings.scope,
            }),
            Command::Healthcheck(settings) => {
                readiness::ask(settings.listen, settings.tls_cert.is_some()).await?;
                print_line("ready").map_err(Into::into)
            }
            Command::Agent(settings) => {
                let stop = stop_signal()?;
                return Ok(agent::run(*settings, stop).await?.into());
            }
            Command::Operator(command) => return run_operator_command(command).await,
            Command::Completions { shell } => print_completions(shell),
        };
        done.map(|()| ExitCode::SUCCESS)
    });
    outcome.unwrap_or_else(|error| {
        log::error!("{error}");
        ExitCode::FAILURE
    })
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

/// Resolves at SIGTERM and SIGINT.
fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

async fn run_operator_command(command: OperatorCommand) -> Result<ExitCode, Failure> {
    match operator::run(command).await {
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
