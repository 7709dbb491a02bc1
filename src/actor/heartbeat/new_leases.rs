//! New leases on their way to the registry store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashSet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::HeartbeatOutcome;
use crate::actor::{Lifeline, Mailbox, RecordOnline, RegistryActor};
use crate::backend::BackendError;
use crate::directory::{Directory, HeartbeatInfo};
use crate::lease::{LeaseStore, Renewal, Renewed};
use crate::model::{Epoch, InstanceKey};
use crate::store::LeaseStart;

/// The most leases in one message to the RegistryActor.
const MAX_RECORD: usize = 500;

/// The most leases that wait to be recorded. More are dropped: the store is unavailable, and
/// the next heartbeats report them again.
const MAX_WAITING: usize = 20_000;

/// How long a heartbeat waits for the record of its new lease, so that a client that lists
/// instances after its heartbeat finds its own.
const RECORDED: Duration = Duration::from_millis(600);

/// The leases of one request that must be recorded.
#[derive(Default)]
pub(super) struct LeaseStarts {
    /// Leases that began with this renewal and whose instances must be registered, each with its
    /// index in the request.
    unconfirmed: Vec<(usize, LeaseStart)>,
    /// Leases of registered instances. Those that began before are of instances that are recorded
    /// as offline or with an earlier lease: the report was lost, the instance had a lease before
    /// it registered, or another lease store lost its lease. The renewal is proof of life,
    /// whatever the epochs are.
    confirmed: Vec<LeaseStart>,
}

impl LeaseStarts {
    pub(super) fn of(
        renewals: &[Renewal],
        renewed: &[Renewed],
        infos: &[HeartbeatInfo],
        must_be_registered: bool,
    ) -> Self {
        let mut starts = Self::default();
        for (index, ((renewal, renewed), info)) in
            renewals.iter().zip(renewed).zip(infos).enumerate()
        {
            let start = || LeaseStart {
                key: renewal.key.clone(),
                epoch: renewed.epoch.after(info.epoch),
            };
            let is_recorded = info.online && info.epoch >= Some(renewed.epoch);
            if renewed.created && must_be_registered {
                starts.unconfirmed.push((index, start()));
            } else if info.slot.is_some() && (renewed.created || !is_recorded) {
                starts.confirmed.push(start());
            }
        }
        starts
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unconfirmed.is_empty() && self.confirmed.is_empty()
    }
}

/// Confirms and records new leases.
pub(super) struct NewLeases {
    leases: Arc<dyn LeaseStore>,
    directory: Arc<Directory>,
    queue: mpsc::UnboundedSender<Waiting>,
    permits: Arc<Semaphore>,
}

/// Leases that wait to be recorded.
struct Waiting {
    leases: Vec<LeaseStart>,
    _permits: OwnedSemaphorePermit,
    recorded: oneshot::Sender<()>,
}

impl NewLeases {
    /// Starts to record leases by `registry`, on the current thread.
    pub(super) fn new(
        leases: Arc<dyn LeaseStore>,
        directory: Arc<Directory>,
        registry: Mailbox<RegistryActor>,
        lifeline: Lifeline,
    ) -> Self {
        let (queue, waiting) = mpsc::unbounded_channel();
        actix::spawn(record(waiting, registry, lifeline));
        Self {
            leases,
            directory,
            queue,
            permits: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }

    /// Revokes the leases of instances that are no longer registered, records the others, and
    /// returns the outcomes of the request.
    pub(super) async fn confirm(
        &self,
        leases: LeaseStarts,
        mut outcomes: Vec<HeartbeatOutcome>,
    ) -> Result<Vec<HeartbeatOutcome>, BackendError> {
        let LeaseStarts {
            unconfirmed,
            mut confirmed,
        } = leases;
        let created = unconfirmed.iter().map(|(_, start)| start.key.clone());
        let removed = self.directory.vanished(&created.collect::<Vec<_>>()).await;
        self.leases.revoke(&removed).await?;
        let removed: HashSet<InstanceKey> = removed.into_iter().collect();
        for (index, start) in unconfirmed {
            if removed.contains(&start.key) {
                outcomes[index] = HeartbeatOutcome::Unknown;
            } else {
                confirmed.push(start);
            }
        }
        self.record(confirmed).await;
        Ok(outcomes)
    }

    /// Records leases and waits for that, at most [`RECORDED`]: a report that is still in flight
    /// when its heartbeat is answered could be taken for one of a later registration of the same
    /// address.
    async fn record(&self, leases: Vec<LeaseStart>) {
        let permits = Arc::clone(&self.permits);
        let count = u32::try_from(leases.len()).unwrap_or(u32::MAX);
        if leases.is_empty() {
            return;
        }
        let Ok(permits) = permits.try_acquire_many_owned(count) else {
            return;
        };
        let (recorded, answer) = oneshot::channel();
        let waiting = Waiting {
            leases,
            _permits: permits,
            recorded,
        };
        if self.queue.send(waiting).is_ok() {
            // The heartbeat is answered without the record.
            let _ = timeout(RECORDED, answer).await;
        }
    }
}

/// Records leases, those that have arrived together. A lost report is repeated by the next
/// heartbeat, or found by a reconcile.
async fn record(
    mut queue: mpsc::UnboundedReceiver<Waiting>,
    registry: Mailbox<RegistryActor>,
    _lifeline: Lifeline,
) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, MAX_RECORD).await > 0 {
        // An instance may have two new leases: the later one counts.
        let mut latest: BTreeMap<InstanceKey, Epoch> = BTreeMap::new();
        for LeaseStart { key, epoch } in waiting.iter_mut().flat_map(|w| w.leases.drain(..)) {
            let known = latest.entry(key).or_insert(epoch);
            *known = epoch.max(*known);
        }
        let starts = latest
            .into_iter()
            .map(|(key, epoch)| LeaseStart { key, epoch });
        for part in starts.collect::<Vec<_>>().chunks(MAX_RECORD) {
            if let Err(error) = registry.write(RecordOnline(part.to_vec())).await {
                log::debug!(
                    "{} new leases could not be recorded, the next heartbeats retry: {error}",
                    part.len()
                );
            }
        }
        for Waiting { recorded, .. } in waiting.drain(..) {
            // The heartbeat may have been answered without the record.
            let _ = recorded.send(());
        }
    }
}
