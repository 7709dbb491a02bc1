//! The commands of the program: the daemon, the agent, the commands for operators, and small
//! ones.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::agent;
use crate::auth::{Identity, Token};
use crate::client::readiness;
use crate::daemon;
use crate::operator;
use crate::settings::{self, Command, LogFormat, OperatorCommand, Shell, TokenSettings};
use crate::store::{self, StoreUrl};

type Failure = Box<dyn Error>;

/// A command with its settings.
pub struct Program(Command);

impl Program {
    /// Parses the arguments and variables of the process. The caller prints the error and exits
    /// with [`clap::Error::exit`]: with 2, or with 0 for `--help` and `--version`.
    pub fn from_process() -> Result<Self, clap::Error> {
        let variables = Vec::from_iter(std::env::vars_os());
        settings::parse(std::env::args_os(), &variables).map(Self)
    }

    /// Returns the form of its log.
    pub fn log_format(&self) -> LogFormat {
        match &self.0 {
            Command::Serve(settings) => settings.log.log_format,
            Command::Agent(settings) => settings.log.log_format,
            _ => LogFormat::Text,
        }
    }

    /// Runs the command within an actix system, and returns the exit code of the process.
    pub async fn run(self) -> Result<ExitCode, Failure> {
        match self.0 {
            Command::Serve(settings) => daemon::run(*settings).await?,
            Command::Migrate(settings) => migrate(&settings.store).await?,
            Command::Token(settings) => print_new_token(settings)?,
            Command::Healthcheck(settings) => {
                readiness::ask(settings.listen, settings.tls_cert.is_some()).await?;
                print_line("ready")?;
            }
            Command::Agent(settings) => {
                let code = agent::run(*settings, agent::Signals::new()?).await?;
                return Ok(code.into());
            }
            Command::Operator(command) => return operate(command).await,
            Command::Completions { shell } => print_completions(shell)?,
        }
        Ok(ExitCode::SUCCESS)
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

fn print_new_token(settings: TokenSettings) -> Result<(), Failure> {
    let token = Token::generate()?;
    let line = token.line(&Identity {
        name: settings.name,
        role: settings.role,
        limit: settings.scope,
    });
    // First the file: a token without its line is worth nothing.
    if let Some(file) = &settings.append {
        append(file, &line).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    if settings.quiet {
        print_line(token.reveal())?;
        return Ok(());
    }
    print_line(&format!("token (shown only once):     {}", token.reveal()))?;
    if settings.append.is_none() {
        print_line(&format!("line for --tokens-file:    {line}"))?;
    }
    Ok(())
}

/// Appends a line to a file, whose last line may lack its end.
fn append(file: &Path, line: &str) -> io::Result<()> {
    let mut file = File::options()
        .create(true)
        .read(true)
        .append(true)
        .open(file)?;
    let mut known = String::new();
    file.read_to_string(&mut known)?;
    let end = if known.is_empty() || known.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    file.write_all(format!("{end}{line}\n").as_bytes())
}

/// Runs a command for operators. Its errors are for the one who called it, not for the log.
async fn operate(command: OperatorCommand) -> Result<ExitCode, Failure> {
    match operator::run(command).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.is_broken_pipe() => Ok(ExitCode::SUCCESS),
        Err(error) => {
            writeln!(io::stderr(), "rollcalld: {error}")?;
            Ok(error.exit_code().into())
        }
    }
}

fn print_completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    settings::write_completions(shell, &mut script);
    Ok(io::stdout().write_all(&script)?)
}

/// Prints a line to standard output, for scripts. Everything for people goes to the log.
fn print_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
