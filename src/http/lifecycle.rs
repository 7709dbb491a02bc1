//! The lifecycle of the daemon: starting, serving, draining, stopping.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Phase {
    Starting,
    Serving,
    Draining,
    Stopping,
}

/// The phase of the daemon, shared by all workers. It only moves forward.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    phase: Arc<AtomicU8>,
    stopping: CancellationToken,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            phase: Arc::new(AtomicU8::new(Phase::Starting as u8)),
            stopping: CancellationToken::new(),
        }
    }
}

impl Lifecycle {
    /// The backends were reached: requests are served from now on.
    pub fn start(&self) {
        self.advance(Phase::Serving);
    }

    /// `/readyz` answers 503 from now on, so that load balancers choose another replica.
    /// Requests are still served.
    pub fn start_draining(&self) {
        self.advance(Phase::Draining);
    }

    /// Streams and long polls end.
    pub fn stop(&self) {
        self.advance(Phase::Stopping);
        self.stopping.cancel();
    }

    /// Returns whether requests are served, or were served until the daemon began to stop.
    pub(super) fn has_started(&self) -> bool {
        self.has_reached(Phase::Serving)
    }

    /// Returns whether the daemon is about to stop.
    pub(super) fn is_draining(&self) -> bool {
        self.has_reached(Phase::Draining)
    }

    /// Waits until the daemon stops.
    pub(super) async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    fn advance(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    fn has_reached(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Acquire) >= phase as u8
    }
}
