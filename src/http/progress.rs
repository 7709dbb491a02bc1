//! How far the daemon is: starting, serving, stopping.

use std::sync::Arc;

use tokio::sync::watch;

/// A step of the daemon's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Starting,
    Serving,
    Leaving,
    Stopping,
}

/// Shared by all workers; only ever goes forward.
#[derive(Debug, Clone)]
pub struct Progress(Arc<watch::Sender<Step>>);

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Step::Starting)))
    }
}

impl Progress {
    /// The stores were reached: from now on requests are served.
    pub fn start(&self) {
        self.0.send_replace(Step::Serving);
    }

    /// From now on `/readyz` says 503, so that others go elsewhere; requests are still served.
    pub fn leave(&self) {
        self.0.send_replace(Step::Leaving);
    }

    /// From now on streams end and nobody waits for a change.
    pub fn stop(&self) {
        self.0.send_replace(Step::Stopping);
    }

    /// Whether requests are served, or were until now.
    pub(super) fn has_started(&self) -> bool {
        *self.0.borrow() >= Step::Serving
    }

    /// Whether the daemon is about to end.
    pub(super) fn is_leaving(&self) -> bool {
        *self.0.borrow() >= Step::Leaving
    }

    /// Waits for the end.
    pub(super) async fn stopping(&self) {
        let mut step = self.0.subscribe();
        // The sender lives as long as this.
        let _ = step.wait_for(|step| *step == Step::Stopping).await;
    }
}
