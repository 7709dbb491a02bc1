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
pub(crate) struct Lifecycle {
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
    /// Starts to serve requests: the backends answered.
    pub(crate) fn start(&self) {
        self.advance(Phase::Serving);
    }

    /// Lets `/readyz` answer 503, so that load balancers choose another replica. Requests are
    /// still served.
    pub(crate) fn start_draining(&self) {
        self.advance(Phase::Draining);
    }

    /// Ends streams and long polls.
    pub(crate) fn stop(&self) {
        self.advance(Phase::Stopping);
        self.stopping.cancel();
    }

    /// Returns whether the daemon serves requests, or served them before it began to stop.
    pub(crate) fn has_started(&self) -> bool {
        self.has_reached(Phase::Serving)
    }

    /// Returns whether the daemon is draining or stopping.
    pub(crate) fn is_draining(&self) -> bool {
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
