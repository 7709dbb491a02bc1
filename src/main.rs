//! The command: reads the settings, then serves or migrates.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use rollcalld::clock::SystemClock;
use rollcalld::config::{self, Config, Invocation};
use rollcalld::daemon::Daemon;
use rollcalld::store::{self, StoreUrl};
use tokio::signal::unix::{SignalKind, signal};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let invocation = match config::from_process() {
        Ok(invocation) => invocation,
        Err(error) => error.exit(),
    };
    let filter = env_logger::Env::default().default_filter_or("warn,rollcalld=info");
    env_logger::Builder::from_env(filter)
        .format_timestamp_millis()
        .init();
    let outcome = actix::System::new().block_on(async {
        match invocation {
            Invocation::Serve(config) => serve(*config).await,
            Invocation::Migrate(url) => migrate(&url).await,
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config) -> Result<(), Failure> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let backends = format!("store {}, leases {}", config.store, config.leases);
    let daemon = Daemon::build(config, Arc::new(SystemClock))?;
    let listening = format!("listening on http://{}", daemon.address());
    say(&listening)?;
    log::info!(
        "rollcalld {} {listening}, {backends}",
        env!("CARGO_PKG_VERSION")
    );
    let shutdown = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(daemon.run_until_stopped(shutdown).await?)
}

async fn migrate(url: &StoreUrl) -> Result<(), Failure> {
    let mut store = store::open(url)?;
    let applied = store.writer.migrate().await?;
    for migration in &applied {
        say(&format!("applied {migration}"))?;
    }
    if applied.is_empty() {
        say(&format!("{url} is up to date"))?;
    }
    Ok(())
}

/// A line for scripts, on standard output. Everything else is for people, in the log.
fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
