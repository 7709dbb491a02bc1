//! The ends of actors and background loops, which are reported: one that panics is dropped
//! silently.

use std::convert::Infallible;

use actix::ArbiterHandle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Reports the end of its actor. This is one of the actor's fields, so its drop reports the
/// end.
#[derive(Clone)]
pub struct Lifeline {
    actor: &'static str,
    ends: mpsc::UnboundedSender<&'static str>,
}

impl Lifeline {
    /// Sends the name of the actor to `ends` when the actor is dropped.
    pub fn new(actor: &'static str, ends: mpsc::UnboundedSender<&'static str>) -> Self {
        Self { actor, ends }
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        // While the daemon stops there is no receiver, and ends are expected.
        let _ = self.ends.send(self.actor);
    }
}

/// Runs background loops on one thread until they are cancelled.
#[derive(Clone)]
pub(crate) struct Spawner {
    thread: ArbiterHandle,
    cancelled: CancellationToken,
    ends: mpsc::UnboundedSender<&'static str>,
}

impl Spawner {
    /// Runs loops on `thread` until `cancelled`. Another end is reported to `ends`.
    pub(crate) fn new(
        thread: ArbiterHandle,
        cancelled: CancellationToken,
        ends: mpsc::UnboundedSender<&'static str>,
    ) -> Self {
        Self {
            thread,
            cancelled,
            ends,
        }
    }

    /// Runs a loop, under the name that its end is reported with.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        job: impl Future<Output = Infallible> + Send + 'static,
    ) {
        let lifeline = Lifeline::new(name, self.ends.clone());
        let cancelled = self.cancelled.clone();
        self.thread.spawn(async move {
            cancelled.run_until_cancelled(job).await;
            drop(lifeline);
        });
    }
}
