//! Measures how fast the daemon is: each case against what limits it, in turn and in one run,
//! so that a noisy machine does not matter. The ratio is what counts.
//!
//! `cargo bench` runs all cases, `cargo bench -- heartbeat` those whose names contain the word.
//! Servers are private and listen on loopback; generator, daemon, Redis and PostgreSQL share
//! the cores.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement ends by a panic where it cannot go on, and prints what it found"
)]

mod baselines;
mod cases;
mod comparison;
mod facades;
mod load;
mod million;
mod overload;
mod requests;
mod servers;
#[expect(
    dead_code,
    unused_macros,
    unused_imports,
    reason = "the tests use all of it"
)]
#[path = "../../tests/it/support/mod.rs"]
mod support;
mod watchers;

use tokio::task::LocalSet;

/// The daemon's allocator, so that the baselines use the same one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--serve") {
        return baselines::serve(&arguments[1..]);
    }
    // Cargo passes `--bench`; other arguments name cases.
    let wanted: Vec<String> = arguments
        .into_iter()
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, cases::run(&wanted));
}
