//! How far the daemon is: starting, serving, stopping.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

/// A step of the daemon's life.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Step {
    Starting,
    Serving,
    Leaving,
    Stopping,
}

/// Shared by all workers; only ever goes forward.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Steps>);

#[derive(Debug)]
struct Steps {
    step: AtomicU8,
    taken: Notify,
}

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(Steps {
            step: AtomicU8::new(Step::Starting as u8),
            taken: Notify::new(),
        }))
    }
}

impl Progress {
    /// The stores were reached: from now on requests are served.
    pub fn start(&self) {
        self.take(Step::Serving);
    }

    /// From now on `/readyz` says 503, so that others go elsewhere; requests are still served.
    pub fn leave(&self) {
        self.take(Step::Leaving);
    }

    /// From now on streams end and nobody waits for a change.
    pub fn stop(&self) {
        self.take(Step::Stopping);
    }

    /// Whether requests are served, or were until now.
    pub(super) fn has_started(&self) -> bool {
        self.is_at(Step::Serving)
    }

    /// Whether the daemon is about to end.
    pub(super) fn is_leaving(&self) -> bool {
        self.is_at(Step::Leaving)
    }

    /// Waits for the end.
    pub(super) async fn stopping(&self) {
        loop {
            let taken = self.0.taken.notified();
            if self.is_at(Step::Stopping) {
                return;
            }
            taken.await;
        }
    }

    fn take(&self, step: Step) {
        self.0.step.fetch_max(step as u8, Ordering::AcqRel);
        self.0.taken.notify_waiters();
    }

    fn is_at(&self, step: Step) -> bool {
        self.0.step.load(Ordering::Acquire) >= step as u8
    }
}
