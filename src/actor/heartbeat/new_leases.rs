//! New leases on their way to the registry store.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::mem;
use std::rc::Rc;
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
const MAX_RECORD: usize = 1_000;

/// The most leases that wait to be recorded. More are dropped: the store is unavailable or much
/// too slow, and the next heartbeats report them again.
const MAX_WAITING: usize = 250_000;

/// The number of leases that wait to be recorded from which heartbeats do not wait for the record
/// of theirs. When a whole fleet begins at once, leases that waited for the registry store would
/// expire in the meantime, begin again, and wait again.
const MANY: usize = 4_000;

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

/// Records new leases, and revokes those of instances that are no longer registered.
pub(super) struct NewLeases {
    queue: mpsc::UnboundedSender<Waiting>,
    permits: Arc<Semaphore>,
    recording: Recording,
}

/// The instances whose leases wait to be recorded: their next heartbeats do not report them again.
type Recording = Rc<RefCell<HashSet<InstanceKey>>>;

/// The leases of one request that wait to be recorded.
struct Waiting {
    /// Those whose instances must be registered.
    unconfirmed: Vec<LeaseStart>,
    confirmed: Vec<LeaseStart>,
    _permits: OwnedSemaphorePermit,
    /// Receives the instances that are not registered.
    recorded: oneshot::Sender<Result<Vec<InstanceKey>, BackendError>>,
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
        let recording = Recording::default();
        let recorder = Recorder {
            recording: Rc::clone(&recording),
            leases,
            directory,
            registry,
            _lifeline: lifeline,
        };
        actix::spawn(recorder.run(waiting));
        Self {
            queue,
            permits: Arc::new(Semaphore::new(MAX_WAITING)),
            recording,
        }
    }

    /// Records the leases of a request, and returns its outcomes. Waits for the record at most
    /// [`RECORDED`]: a report that is still in flight when its heartbeat is answered could be taken
    /// for one of a later registration of the same address.
    pub(super) async fn record(
        &self,
        leases: LeaseStarts,
        mut outcomes: Vec<HeartbeatOutcome>,
    ) -> Result<Vec<HeartbeatOutcome>, BackendError> {
        let LeaseStarts {
            unconfirmed,
            mut confirmed,
        } = leases;
        let is_prompt = self.permits.available_permits() + MANY >= MAX_WAITING;
        if !is_prompt {
            let recording = self.recording.borrow();
            confirmed.retain(|start| !recording.contains(&start.key));
        }
        if unconfirmed.is_empty() && confirmed.is_empty() {
            return Ok(outcomes);
        }
        let count = u32::try_from(unconfirmed.len() + confirmed.len()).unwrap_or(u32::MAX);
        let Ok(permits) = Arc::clone(&self.permits).try_acquire_many_owned(count) else {
            return Ok(outcomes);
        };
        let (indices, unconfirmed): (Vec<usize>, Vec<LeaseStart>) = unconfirmed.into_iter().unzip();
        let keys: Vec<InstanceKey> = unconfirmed.iter().map(|start| start.key.clone()).collect();
        let (recorded, answer) = oneshot::channel();
        let waiting = Waiting {
            unconfirmed,
            confirmed,
            _permits: permits,
            recorded,
        };
        let starts = waiting.unconfirmed.iter().chain(&waiting.confirmed);
        let keys_of_all = starts.map(|start| start.key.clone());
        self.recording.borrow_mut().extend(keys_of_all);
        if self.queue.send(waiting).is_err() || !is_prompt {
            return Ok(outcomes);
        }
        // After that time the heartbeat is answered without the record.
        if let Ok(Ok(unregistered)) = timeout(RECORDED, answer).await {
            let unregistered: HashSet<InstanceKey> = unregistered?.into_iter().collect();
            for (index, key) in indices.into_iter().zip(&keys) {
                if unregistered.contains(key) {
                    outcomes[index] = HeartbeatOutcome::Unknown;
                }
            }
        }
        Ok(outcomes)
    }
}

/// The task that records the leases that have arrived together.
struct Recorder {
    recording: Recording,
    leases: Arc<dyn LeaseStore>,
    directory: Arc<Directory>,
    registry: Mailbox<RegistryActor>,
    _lifeline: Lifeline,
}

impl Recorder {
    /// Records leases for ever.
    async fn run(self, mut queue: mpsc::UnboundedReceiver<Waiting>) {
        while let Some(first) = queue.recv().await {
            let mut waiting = vec![first];
            let mut count = waiting[0].count();
            while count < MAX_RECORD
                && let Ok(next) = queue.try_recv()
            {
                count += next.count();
                waiting.push(next);
            }
            // An instance may have two new leases: the later one counts.
            let mut latest: BTreeMap<InstanceKey, Epoch> = BTreeMap::new();
            let mut unconfirmed = HashSet::default();
            for request in &mut waiting {
                unconfirmed.extend(request.unconfirmed.iter().map(|start| start.key.clone()));
                let starts = mem::take(&mut request.unconfirmed);
                for LeaseStart { key, epoch } in
                    starts.into_iter().chain(mem::take(&mut request.confirmed))
                {
                    let known = latest.entry(key).or_insert(epoch);
                    *known = epoch.max(*known);
                }
            }
            let starts = latest.into_iter();
            let starts: Vec<_> = starts
                .map(|(key, epoch)| LeaseStart { key, epoch })
                .collect();
            for part in starts.chunks(MAX_RECORD) {
                self.record(part, &mut unconfirmed).await;
                let mut recording = self.recording.borrow_mut();
                for start in part {
                    recording.remove(&start.key);
                }
            }
            // Those that the store did not change: it has a later lease, or no such instance.
            let unregistered = self.revoke_unregistered(unconfirmed).await;
            for Waiting { recorded, .. } in waiting {
                // The heartbeat may have been answered without the record.
                let _ = recorded.send(unregistered.clone());
            }
        }
    }

    /// Records leases, and removes those that are recorded from `unconfirmed`. A lost report is
    /// repeated by the next heartbeat, or found by a reconcile.
    async fn record(&self, starts: &[LeaseStart], unconfirmed: &mut HashSet<InstanceKey>) {
        let message = RecordOnline::new(starts.to_vec(), &self.directory);
        match self.registry.write(message).await {
            Ok(changed) => {
                for changed in changed {
                    unconfirmed.remove(&changed.instance.key);
                }
            }
            Err(error) => log::debug!(
                "{} new leases could not be recorded, the next heartbeats retry: {error}",
                starts.len()
            ),
        }
    }

    /// Revokes the leases of instances that the registry store does not have, and returns these
    /// instances.
    async fn revoke_unregistered(
        &self,
        unconfirmed: HashSet<InstanceKey>,
    ) -> Result<Vec<InstanceKey>, BackendError> {
        let unconfirmed: Vec<InstanceKey> = unconfirmed.into_iter().collect();
        let unregistered = self.directory.vanished(&unconfirmed).await;
        if !unregistered.is_empty() {
            self.leases.revoke(&unregistered).await?;
        }
        Ok(unregistered)
    }
}

impl Waiting {
    fn count(&self) -> usize {
        self.unconfirmed.len() + self.confirmed.len()
    }
}
