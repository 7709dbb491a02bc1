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

use super::comparison::Comparison;
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
        let mut last = head;
        let backends = &self.metrics.backends;
        loop {
            match self.log.read(last, WAIT).await {
                Ok(ReadOutcome::Events(events)) => {
                    self.directory.set_stale(Stale::Events, false);
                    backends.event_log.reads(true);
                    if let Some(event) = events.last() {
                        last = event.id;
                    }
                    if let Some(lost) = self.apply_events(events).await {
                        self.reload(last).await;
                        self.indexes.lost(lost);
                    }
                }
                Ok(ReadOutcome::Lost) => last = self.catch_up().await,
                Err(error) => {
                    log::debug!("cannot read the event log, retrying: {error}");
                    self.directory.set_stale(Stale::Events, true);
                    backends.event_log.reads(false);
                    sleep(RETRY_DELAY).await;
                }
            }
            if comparison.is_due()
                && let Some(differences) = comparison
                    .compare(&self.directory, &*self.reader, &backends.store)
                    .await
            {
                self.publish_drift(differences, last).await;
            }
        }
    }

    /// Applies events and publishes them. Returns the last event that says that others were lost.
    async fn apply_events(&self, events: Vec<LogEntry>) -> Option<EventId> {
        self.directory
            .apply(events.iter().map(|logged| &logged.event.kind));
        let (mut lost, now) = (None, self.clock.now());
        for logged in events {
            if logged.event.kind != EventKind::EventsLost {
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
                EventKind::EventsLost => lost = Some(logged.id),
                _ => {}
            }
            if let Some(mut entry) = HistoryEntry::of(&logged) {
                let known = entry.instance().and_then(|it| self.directory.find(&it.key));
                if let Some(known) = known {
                    entry.share(&known.instance.key);
                }
                self.history.add(entry);
            }
            self.feed.publish(logged);
        }
        lost
    }

    /// Continues at the end of the log after it was cut or replaced.
    async fn catch_up(&self) -> EventId {
        self.directory.set_stale(Stale::Events, true);
        loop {
            match self.log.head().await {
                Ok(head) => {
                    self.reload(head).await;
                    // An index must not be ahead of the Directory.
                    if let Err(error) = self.indexes.load(head).await {
                        log::debug!("cannot read the event log: {error}");
                        self.indexes.lost(head);
                    }
                    self.directory.set_stale(Stale::Events, false);
                    self.history.read_log(&*self.log, head).await;
                    return head;
                }
                Err(error) => log::debug!("cannot read the event log, retrying: {error}"),
            }
            sleep(RETRY_DELAY).await;
        }
    }

    /// Reads the store again, and then notifies subscribers that events until `head` were lost.
    async fn reload(&self, head: EventId) {
        loop {
            match self.directory.reload().await {
                Ok(_) => break,
                Err(error) => log::debug!("cannot read the registry store, retrying: {error}"),
            }
            sleep(RETRY_DELAY).await;
        }
        log::info!("events were lost, so the registry store was read again");
        self.feed.lose(head);
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
