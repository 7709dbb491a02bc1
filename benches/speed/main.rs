//! Measures how fast the daemon is: each case against what limits it, in turn and in one run,
//! so that a noisy machine does not matter. The ratio is what counts.
//!
//! `cargo bench` runs all cases, `cargo bench -- heartbeat` those whose names contain the word, and
//! `cargo bench -- --help` lists them. Servers are private and listen on loopback; generator, daemon, Redis and PostgreSQL share
//! the cores.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement ends by a panic where it cannot go on, and prints what it found"
)]

mod baselines;
mod bulk;
mod cases;
mod comparison;
mod facades;
mod fleet;
mod load;
mod million;
mod overload;
mod peers;
mod renewal;
mod requests;
mod scale_out;
mod servers;
mod start;
#[expect(
    dead_code,
    unused_macros,
    unused_imports,
    reason = "the tests use all of it"
)]
#[path = "../../tests/it/support/mod.rs"]
mod support;
mod watchers;

use std::path::PathBuf;

use clap::Parser;
use tokio::task::LocalSet;
use url::Url;

use self::support::daemon::BINARY;

/// Measures the daemon against what limits it.
#[derive(Parser)]
#[command(name = "cargo bench --", after_help = cases::list())]
struct Options {
    /// Parts of the names of the cases to run; all cases by default
    cases: Vec<String>,
    /// A running server that speaks Nacos v1, for the case `peers`, such as http://127.0.0.1:8848
    #[arg(long, value_name = "URL")]
    nacos: Option<Url>,
    /// Another build of the daemon, which the cases of single and batch heartbeats, registrations,
    /// lists and a million instances run in turn with this one
    #[arg(long, value_name = "PROGRAM")]
    before: Option<PathBuf>,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// Returns the names and programs of the builds to measure, this one first.
    fn builds(&self) -> Vec<(&'static str, &str)> {
        let mut builds = vec![("rollcalld", BINARY)];
        if let Some(before) = &self.before {
            builds.push(("before", before.to_str().unwrap()));
        }
        builds
    }
}

/// The daemon's allocator, so that the baselines use the same one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--serve") {
        return baselines::serve(&arguments[1..]);
    }
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, cases::run(options));
}
