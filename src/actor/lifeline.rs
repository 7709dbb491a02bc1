//! The ends of actors and background loops, which are reported: one that panics is dropped
//! silently.

use std::convert::Infallible;

use actix::ArbiterHandle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Reports the end of its owner, an actor or a loop: it is dropped with it.
#[derive(Clone)]
pub struct Lifeline {
    owner: &'static str,
    ends: mpsc::UnboundedSender<&'static str>,
}

impl Lifeline {
    /// Sends the name of the owner to `ends` when it is dropped.
    pub fn new(owner: &'static str, ends: mpsc::UnboundedSender<&'static str>) -> Self {
        Self { owner, ends }
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        // While the daemon stops there is no receiver, and ends are expected.
        let _ = self.ends.send(self.owner);
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

#[cfg(test)]
mod tests {
    use std::future::pending;

    use actix::Arbiter;

    use super::*;

    #[actix::test]
    async fn a_loop_that_panics_is_reported_and_one_that_is_cancelled_ends() {
        let (ends, mut ended) = mpsc::unbounded_channel();
        let cancelled = CancellationToken::new();
        let spawner = Spawner::new(Arbiter::current(), cancelled.clone(), ends);
        spawner.spawn("endless loop", pending());
        spawner.spawn("broken loop", async { panic!("as this test wants it") });
        assert_eq!(ended.recv().await, Some("broken loop"));
        assert!(ended.try_recv().is_err());
        cancelled.cancel();
        assert_eq!(ended.recv().await, Some("endless loop"));
    }
}
