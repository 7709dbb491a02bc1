//! The signals of the process, and the notifications for systemd.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::{Daemon, DaemonError};
use crate::auth::{AnonymousRole, Role};
use crate::clock::SystemClock;
use crate::settings::ServeSettings;

/// A supervisor may signal a process and then its group: that is one request.
const ONE_REQUEST: Duration = Duration::from_millis(200);

/// Runs a daemon until a signal stops it: SIGTERM with the delay for load balancers, SIGINT
/// without. SIGHUP reads tokens and certificates again.
pub(crate) async fn run(settings: ServeSettings) -> Result<(), DaemonError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let delay = *settings.shutdown_delay;
    let daemon = Daemon::build(settings, Arc::new(SystemClock))?;
    announce(&daemon)?;
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
    daemon.run_until_stopped(ready, shutdown).await
}

/// Prints the address for scripts, and logs what is served.
fn announce(daemon: &Daemon) -> io::Result<()> {
    let (settings, address) = (&daemon.settings, daemon.address());
    let scheme = match settings.access.tls() {
        Some(_) => "https",
        None => "http",
    };
    let listening = format!("listening on {scheme}://{address}");
    let mut out = io::stdout().lock();
    writeln!(out, "{listening}")?;
    out.flush()?;
    log::info!(
        "rollcalld {} {listening}, store {}, leases {}",
        env!("CARGO_PKG_VERSION"),
        settings.store.store,
        settings.leases
    );
    match settings.access.anonymous_role() {
        AnonymousRole::None => {}
        AnonymousRole::Role(Role::Admin) => log::warn!(
            "no token is required: every client that can reach {address} may do everything"
        ),
        AnonymousRole::Role(role) => {
            log::info!("clients without a token have the role {role}");
        }
    }
    Ok(())
}

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
