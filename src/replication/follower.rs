//! The Follower: keeps the Directory equal to the registry store.
//!
//! It loads the Directory at the start, then applies the changes of other replicas from the
//! event log, and reads the store again when events may have been missed. It runs on an arbiter
//! of its own, so that large reads delay no actor.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use tokio::time::{Instant, sleep};

use super::comparison::{Compared, Comparison, compare};
use super::{EventBroadcast, ScopeIndexes};
use crate::actor::{Mailbox, RegistryActor};
use crate::backend::BackendError;
use crate::clock::Clock;
use crate::directory::{Directory, Drift, Stale};
use crate::event_log::{EventLog, LogEntry, ReadOutcome};
use crate::history::{History, HistoryEntry};
use crate::liveness::{ExpiryHandler, Protection};
use crate::metrics::Metrics;
use crate::model::{Event, EventId, EventKind, Instance};
use crate::store::{RegistryReader, StoreError};

/// How long one read of the event log waits for events.
const WAIT: Duration = Duration::from_secs(1);

/// The time between retries while the event log or the store is unavailable.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// The shortest time between attempts to make up for lost events, and how much longer it is than an
/// attempt took.
const AGAIN: Duration = Duration::from_secs(1);
const TIMES: u32 = 10;

/// The time for which changes may go on without a pause before the store is read again after a loss.
const PATIENCE: Duration = Duration::from_secs(30);

/// Follows the event log.
pub(crate) struct Follower {
    /// The read model that it updates.
    pub(crate) directory: Arc<Directory>,
    /// The registry store.
    pub(crate) reader: Arc<dyn RegistryReader>,
    /// The event log.
    pub(crate) log: Arc<dyn EventLog>,
    /// The indexes of the scopes, which follow the log.
    pub(crate) indexes: Arc<ScopeIndexes>,
    /// Remembers the events.
    pub(crate) history: Arc<History>,
    /// Where the events are published to the subscribers of this replica.
    pub(crate) feed: Arc<EventBroadcast>,
    /// Is informed of offline transitions and of protection mode.
    pub(crate) protection: Arc<Protection>,
    /// Marks the suspects offline when another replica ends protection mode.
    pub(crate) expiry: Arc<ExpiryHandler>,
    /// Appends the transitions that were missed.
    pub(crate) registry: Mailbox<RegistryActor>,
    /// The time of these transitions.
    pub(crate) clock: Arc<dyn Clock>,
    /// Counts events, and whether the registry store and the event log can be read.
    pub(crate) metrics: Arc<Metrics>,
}

/// Events that were lost, and whose changes the Directory may lack.
struct Loss {
    since: Instant,
    /// When it is tried to make up for them.
    due: Instant,
    /// Whether the log was cut or replaced; otherwise an event says that others were lost.
    was_cut: bool,
}

impl Loss {
    fn new(was_cut: bool) -> Self {
        Self {
            since: Instant::now(),
            due: Instant::now(),
            was_cut,
        }
    }

    fn is_due(&self) -> bool {
        Instant::now() >= self.due
    }
}

/// Why the Directory could not be loaded. A retry may succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// The event log could not be read.
    #[error(transparent)]
    Log(#[from] BackendError),
    /// The registry store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Follower {
    /// Loads the Directory, and returns the event after which to follow.
    pub(crate) async fn load(&self) -> Result<EventId, LoadError> {
        // The head is read first: an event that is appended during the load may be in the loaded
        // rows, but is not missed.
        let head = self.log.head().await?;
        self.indexes.load(head).await?;
        self.directory.reload().await?;
        self.arm_deadlines();
        self.feed.lose(head);
        let backends = &self.metrics.backends;
        backends.store.set(1);
        backends.event_log.reads(true);
        Ok(head)
    }

    /// Follows the event log for ever, and reads what it kept from before.
    pub(crate) async fn follow(&self, head: EventId) -> Infallible {
        let ((), never) = join(
            self.history.read_log(&*self.log, head),
            self.follow_after(head),
        )
        .await;
        never
    }

    async fn follow_after(&self, head: EventId) -> Infallible {
        let mut comparison = Comparison::new(Instant::now());
        let (mut last, mut loss) = (head, None::<Loss>);
        let backends = &self.metrics.backends;
        loop {
            match self.log.read(last, WAIT).await {
                Ok(ReadOutcome::Events(events)) => {
                    self.directory.set_stale(Stale::Events, loss.is_some());
                    backends.event_log.reads(true);
                    if let Some(event) = events.last() {
                        last = event.id;
                    }
                    if self.apply_events(events, loss.as_ref()).await {
                        loss.get_or_insert_with(|| Loss::new(false));
                    }
                }
                Ok(ReadOutcome::Lost) => {
                    last = self.head().await;
                    loss.get_or_insert_with(|| Loss::new(true)).was_cut = true;
                }
                Err(error) => {
                    log::debug!("cannot read the event log, retrying: {error}");
                    self.directory.set_stale(Stale::Events, true);
                    backends.event_log.reads(false);
                    sleep(RETRY_DELAY).await;
                }
            }
            match &mut loss {
                Some(current) => {
                    let is_over = current.is_due() && self.make_up_for(current, last).await;
                    loss = loss.filter(|_| !is_over);
                }
                None if comparison.is_due() => {
                    let compared =
                        comparison.compare(&self.directory, &*self.reader, &backends.store);
                    if let Some(differences) = compared.await {
                        self.publish_drift(differences, last).await;
                    }
                }
                None => {}
            }
        }
    }

    /// Applies events and publishes them. During a loss, what is published is what the loss ends with.
    /// Returns whether an event says that others were lost.
    async fn apply_events(&self, events: Vec<LogEntry>, loss: Option<&Loss>) -> bool {
        self.directory
            .apply(events.iter().map(|logged| &logged.event.kind));
        let (mut some_lost, now) = (false, self.clock.now());
        for logged in events {
            let has_index = loss.is_none_or(|loss| !loss.was_cut);
            if has_index && logged.event.kind != EventKind::EventsLost {
                self.indexes.take(logged.id, &logged.event);
            }
            let Event { at, kind, .. } = &logged.event;
            let lag = (now - *at).as_seconds_f64();
            self.metrics.event(kind.name(), lag);
            match kind {
                EventKind::InstanceWentOffline(_) => self.protection.went_offline(1),
                EventKind::ProtectionEntered(why) => {
                    self.protection.entered_elsewhere(*at, why);
                }
                EventKind::ProtectionLeft(why) if self.protection.leave(why) => {
                    self.expiry.release_suspects().await;
                }
                EventKind::EventsLost => some_lost = true,
                _ => {}
            }
            if let Some(mut entry) = HistoryEntry::of(&logged) {
                let known = entry.instance().and_then(|it| self.directory.find(&it.key));
                if let Some(known) = known {
                    entry.share(&known.instance.key);
                }
                self.history.add(entry);
            }
            if loss.is_none() {
                self.feed.publish(logged);
            }
        }
        some_lost
    }

    /// Returns the end of the log, after it was cut or replaced.
    async fn head(&self) -> EventId {
        self.directory.set_stale(Stale::Events, true);
        loop {
            match self.log.head().await {
                Ok(head) => return head,
                Err(error) => log::debug!("cannot read the event log, retrying: {error}"),
            }
            sleep(RETRY_DELAY).await;
        }
    }

    /// Makes up for lost events, and returns whether that is done: the Directory has what they said, or
    /// has read the store again. `last` is the last event that was read.
    ///
    /// While a whole fleet begins at once, the log may be cut faster than this replica reads it,
    /// although the changes are its own. To read the store each time would slow down everything.
    async fn make_up_for(&self, loss: &mut Loss, last: EventId) -> bool {
        let begin = Instant::now();
        let compared = compare(&self.directory, &*self.reader).await;
        loss.due = Instant::now() + (begin.elapsed() * TIMES).max(AGAIN);
        let must_read = match compared {
            Ok(Compared::Equal) => false,
            Ok(Compared::Differs) => true,
            Ok(Compared::Unknown) if loss.since.elapsed() < PATIENCE => return false,
            Ok(Compared::Unknown) => true,
            Err(error) => {
                log::debug!("cannot read the registry store, retrying: {error}");
                return false;
            }
        };
        if must_read {
            if let Err(error) = self.directory.reload().await {
                log::debug!("cannot read the registry store, retrying: {error}");
                return false;
            }
            log::info!("events were lost, so the registry store was read again");
        }
        self.feed.lose(last);
        if loss.was_cut {
            // An index must not be ahead of the Directory.
            if let Err(error) = self.indexes.load(last).await {
                log::debug!("cannot read the event log: {error}");
                self.indexes.lost(last);
            }
            self.history.read_log(&*self.log, last).await;
        } else {
            self.indexes.lost(last);
        }
        self.directory.set_stale(Stale::Events, false);
        true
    }

    /// Appends the transitions that no replica has published. Other missed changes cannot be
    /// published as they happened.
    async fn publish_drift(&self, differences: Drift, head: EventId) {
        log::info!(
            "the directory differed from the registry store and was corrected: {} missed transitions, {} other changes",
            differences.transitions.len(),
            differences.others
        );
        let at = self.clock.now();
        if differences.restored {
            log::warn!(
                "the registry store went back to an earlier state: it was restored from a backup, or failed over to a standby that lacked the last commits"
            );
        }
        // After a restore, revisions may repeat, and all replicas must read the store again.
        let lost = differences
            .restored
            .then(|| Event::new(at, EventKind::EventsLost));
        let transition = |instance: Instance| {
            let at = instance.presence.changed_at.unwrap_or(at);
            let kind = if instance.presence.online {
                EventKind::InstanceWentOnline(instance)
            } else {
                EventKind::InstanceWentOffline(instance)
            };
            Event::new(at, kind)
        };
        let transitions = differences.transitions.into_iter().map(transition);
        let missed = lost.into_iter().chain(transitions).collect();
        self.registry.append_events(missed).await;
        if differences.others > 0 {
            self.feed.lose(head);
        }
    }

    /// Arms a deadline for every online instance: the replica that renewed its lease before may
    /// have ended.
    fn arm_deadlines(&self) {
        let now = Instant::now();
        let default = self.expiry.default_ttl();
        for listed in self.directory.online() {
            if let Some(slot) = listed.slot() {
                let ttl = listed.instance.ttl.unwrap_or(default);
                let deadlines = self.directory.deadlines();
                deadlines.arm(slot, now + ttl.as_duration());
            }
        }
    }
}
