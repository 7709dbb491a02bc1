//! The Follower: keeps the Directory the same as the registry store.
//!
//! It loads it at the start, then applies what other daemons tell in the log of events,
//! and reads the store again when something may have been missed. Runs on an arbiter of
//! its own, so that nothing large holds up an actor.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{ExpiryHandler, Lifeline};
use crate::bus::{BusError, EventBus, LogEntry, ReadOutcome};
use crate::clock::Clock;
use crate::directory::{Directory, Drift, Stale};
use crate::feed::EventBroadcast;
use crate::metrics::Gauge;
use crate::model::{Event, EventId, EventKind, Instance};
use crate::store::{RegistryReader, StoreError};

/// How long one read of the log waits for events.
const WAIT: Duration = Duration::from_secs(1);

/// Between attempts while the bus or the store is away.
const AGAIN: Duration = Duration::from_millis(250);

/// How often the Directory is compared with the store.
const COMPARE: Duration = Duration::from_secs(15);

/// Between a difference and the look that confirms it: an event may be on its way.
const CONFIRM: Duration = Duration::from_secs(1);

/// Where changes never pause long enough to compare, everything is read this often.
const READ_ANYHOW: Duration = Duration::from_secs(600);

/// Follows the log of events.
pub struct Follower {
    /// What is kept the same.
    pub directory: Arc<Directory>,
    /// What it is kept the same as.
    pub reader: Arc<dyn RegistryReader>,
    /// Where other daemons tell what they changed.
    pub bus: Arc<dyn EventBus>,
    /// Where those who subscribed here are told.
    pub feed: Arc<EventBroadcast>,
    /// Is told how many went offline and of protection.
    pub expiry: ExpiryHandler,
    /// The time of a transition that was missed.
    pub clock: Arc<dyn Clock>,
    /// Ends the process if this ends.
    pub _lifeline: Lifeline,
}

/// Why the Directory could not be loaded. Trying again may help.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// The log of events could not be read.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The registry store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Follower {
    /// Reads everything, and returns the event from which to follow.
    pub async fn load(&self) -> Result<EventId, LoadError> {
        // In this order: what is told while the store is read may be known already, and is
        // not missed.
        let head = self.bus.head().await?;
        self.directory.reload().await?;
        self.arm_deadlines();
        self.feed.lose(head);
        let backends = &self.expiry.metrics.backends;
        backends.store.set(1);
        backends.bus.reads(true);
        Ok(head)
    }

    /// Follows for ever.
    pub async fn follow(self, head: EventId) -> Infallible {
        let mut comparison = Comparison::new(Instant::now());
        let mut last = head;
        let metrics = Arc::clone(&self.expiry.metrics);
        let backends = &metrics.backends;
        loop {
            match self.bus.read(last, WAIT).await {
                Ok(ReadOutcome::Events(events)) => {
                    self.directory.set_stale(Stale::Events, false);
                    backends.bus.reads(true);
                    if let Some(event) = events.last() {
                        last = event.id;
                    }
                    if self.apply_events(events).await {
                        self.reload(last).await;
                    }
                }
                Ok(ReadOutcome::Lost) => last = self.catch_up().await,
                Err(error) => {
                    log::debug!("cannot follow the events: {error}");
                    self.directory.set_stale(Stale::Events, true);
                    backends.bus.reads(false);
                    sleep(AGAIN).await;
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

    /// Applies events and passes them on; whether some were lost before they were told.
    async fn apply_events(&self, events: Vec<LogEntry>) -> bool {
        self.directory
            .apply(events.iter().map(|logged| &logged.event.kind));
        let (mut lost, now) = (false, self.clock.now());
        for logged in events {
            let Event { at, kind } = &logged.event;
            let lag = (now - *at).as_seconds_f64();
            self.expiry.metrics.event(kind.name(), lag);
            match kind {
                EventKind::InstanceWentOffline(_) => self.expiry.protection.went_offline(1),
                EventKind::ProtectionEntered { reason } => {
                    self.expiry.protection.entered_elsewhere(*at, reason);
                }
                EventKind::ProtectionLeft { reason } if self.expiry.protection.leave(reason) => {
                    self.expiry.release_suspects().await;
                }
                EventKind::EventsLost => lost = true,
                _ => {}
            }
            self.feed.publish(logged);
        }
        lost
    }

    /// Begins anew where the log was cut or lost.
    async fn catch_up(&self) -> EventId {
        self.directory.set_stale(Stale::Events, true);
        loop {
            match self.bus.head().await {
                Ok(head) => {
                    self.reload(head).await;
                    self.directory.set_stale(Stale::Events, false);
                    return head;
                }
                Err(error) => log::debug!("cannot follow the events: {error}"),
            }
            sleep(AGAIN).await;
        }
    }

    /// Reads the store again and then tells subscribers that events until `head` were lost.
    async fn reload(&self, head: EventId) {
        loop {
            match self.directory.reload().await {
                Ok(_) => break,
                Err(error) => log::debug!("cannot read the registry again: {error}"),
            }
            sleep(AGAIN).await;
        }
        log::info!("events were lost; the registry was read again");
        self.feed.lose(head);
    }

    /// Tells the transitions that nobody has told. What else was missed cannot be told as
    /// it happened.
    async fn publish_drift(&self, differences: Drift, head: EventId) {
        log::info!(
            "the registry was read again: {} transitions and {} other changes were missed",
            differences.transitions.len(),
            differences.others
        );
        let at = self.clock.now();
        if differences.restored {
            log::warn!(
                "the registry store went back to an earlier state: it was restored from a backup, or failed over to a standby that lacked the last commits"
            );
        }
        // The revisions of transitions may repeat after an earlier state, and all replicas
        // must read the store again.
        let lost = differences.restored.then_some(Event {
            at,
            kind: EventKind::EventsLost,
        });
        let transition = |instance: Instance| Event {
            at: instance.presence.changed_at.unwrap_or(at),
            kind: match instance.presence.online {
                true => EventKind::InstanceWentOnline(instance),
                false => EventKind::InstanceWentOffline(instance),
            },
        };
        let transitions = differences.transitions.into_iter().map(transition);
        let missed = lost.into_iter().chain(transitions).collect();
        self.expiry.append(missed).await;
        if differences.others > 0 {
            self.feed.lose(head);
        }
    }

    /// Has everybody who is listed as online looked at in a time to live: whoever renewed
    /// their leases before may not be there any more.
    fn arm_deadlines(&self) {
        let now = Instant::now();
        let default = self.expiry.protection.limits().ttl;
        for listed in self.directory.online() {
            if let Some(slot) = listed.slot() {
                let ttl = listed.instance.ttl.unwrap_or(default);
                let deadlines = self.directory.deadlines();
                deadlines.arm(slot, now + ttl.as_duration());
            }
        }
    }
}

/// Finds out now and then whether the Directory differs from the store.
struct Comparison {
    due: Instant,
    differed: bool,
    equal_at: Instant,
}

impl Comparison {
    fn new(now: Instant) -> Self {
        Self {
            due: now + COMPARE,
            differed: false,
            equal_at: now,
        }
    }

    fn is_due(&self) -> bool {
        Instant::now() >= self.due
    }

    /// Compares; what was different, where that is sure and was taken over.
    async fn compare(
        &mut self,
        directory: &Directory,
        reader: &dyn RegistryReader,
        up: &Gauge,
    ) -> Option<Drift> {
        let before = directory.digest();
        let stored = reader.digest().await;
        let quiet = directory.digest() == before;
        // A store that can be read may not take a write.
        let answers = stored.is_ok() && reader.ping().await.is_ok();
        up.set(answers.into());
        let now = Instant::now();
        self.due = now + COMPARE;
        let Ok(stored) = stored else { return None };
        if stored == before {
            self.equal_at = now;
        }
        let differs = stored != before && quiet;
        let sure = differs && std::mem::replace(&mut self.differed, differs);
        if !sure && now.duration_since(self.equal_at) < READ_ANYHOW {
            if differs {
                self.due = now + CONFIRM;
            } else {
                self.differed = false;
            }
            return None;
        }
        self.differed = false;
        let differences = directory.reload().await.ok()?;
        self.equal_at = now;
        (differences != Drift::default()).then_some(differences)
    }
}
