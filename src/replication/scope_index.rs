//! A number for each scope that grows with its events, for clients that wait for the next change by
//! a number.
//!
//! The number is the position of the last event of the scope in the event log: the epoch of the log
//! plus the sequence. So it is equal on all replicas, greater after a log was lost, and below 2^53.
//! A scope without a recent event has that of an older event of the log, which moves on with the
//! log in large steps: then its clients are woken without a change.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::{Instant, timeout, timeout_at};

use crate::backend::BackendError;
use crate::event_log::{EventLog, ReadOutcome};
use crate::model::{Event, EventId, EventKind, Scope, ScopeKind};

/// The number of events after which the index of scopes without events moves on. The log keeps more
/// than twice as many.
const STEP: u64 = 5000;

/// The longest wait for an index that is greater than any: another replica may be ahead, or the log
/// may have been lost.
const AHEAD: Duration = Duration::from_secs(1);

/// The longest wait for the events of other replicas.
const CATCH_UP: Duration = Duration::from_millis(300);

/// The index of each scope.
pub(crate) struct ScopeIndexes {
    log: Arc<dyn EventLog>,
    state: Mutex<State>,
    /// Wakes calls that wait for any event.
    moved: Notify,
    /// The last position of the log that was asked for, and when.
    asked: AsyncMutex<(Instant, EventId)>,
}

#[derive(Default)]
struct State {
    head: EventId,
    /// No index is less than this sequence: older events were not read.
    least: u64,
    /// The sequence of the last event of a scope, unless it is less than that of all others.
    last: HashMap<Scope, u64>,
    /// The sequence of the last event of any service.
    any_service: u64,
    /// Wakes calls that wait for an event of a scope, or of any service.
    waiting: HashMap<Option<Scope>, Arc<Notify>>,
    /// The number of entries at which those without a call are removed.
    waiting_limit: usize,
}

/// Returns the sequence that scopes without a later event have.
fn floor(head: u64) -> u64 {
    (head / STEP).saturating_sub(1) * STEP
}

impl State {
    fn index(&self, scope: Option<&Scope>) -> u64 {
        let last = match scope {
            Some(scope) => self.last.get(scope).copied().unwrap_or_default(),
            None => self.any_service,
        };
        let sequence = last.max(self.least).max(floor(self.head.sequence));
        // An index of 0 would mean that there is none.
        (self.head.epoch + sequence).max(1)
    }

    /// Takes an event, and returns the waiters to wake.
    fn take(&mut self, id: EventId, event: &Event) -> Vec<Arc<Notify>> {
        if id.epoch != self.head.epoch {
            self.last.clear();
            (self.least, self.any_service) = (0, 0);
        }
        let moved = floor(id.sequence) > floor(self.head.sequence);
        self.head = id;
        // The lists do not change.
        let is_silent = matches!(event.kind, EventKind::LeaseRestarted(_));
        let mut woken = Vec::new();
        if event.kind == EventKind::EventsLost {
            woken.extend(self.lose(id.sequence));
        }
        if let Some(scope) = event.kind.scope().filter(|_| !is_silent) {
            self.last.insert(scope.clone(), id.sequence);
            woken.extend(self.waiting.remove(&Some(scope.clone())));
            if scope.kind == ScopeKind::Service {
                self.any_service = id.sequence;
                woken.extend(self.waiting.remove(&None));
            }
        }
        if moved {
            let floor = floor(id.sequence);
            self.last.retain(|_, last| *last > floor);
            woken.extend(self.waiting.drain().map(|(_, waiting)| waiting));
        }
        woken
    }

    /// Notes that every scope may have changed until an event.
    fn lose(&mut self, sequence: u64) -> Vec<Arc<Notify>> {
        self.least = self.least.max(sequence);
        self.waiting.drain().map(|(_, waiting)| waiting).collect()
    }
}

impl ScopeIndexes {
    /// The indexes of the scopes of a log, once they are loaded.
    pub(crate) fn new(log: Arc<dyn EventLog>) -> Self {
        Self {
            log,
            state: Mutex::default(),
            moved: Notify::new(),
            asked: AsyncMutex::new((Instant::now(), EventId::default())),
        }
    }

    /// Reads the events before `head` that an index may depend on.
    pub(super) async fn load(&self, head: EventId) -> Result<(), BackendError> {
        let first = EventId {
            epoch: head.epoch,
            sequence: floor(head.sequence),
        };
        let (mut state, mut at) = (State::default(), first);
        while at.sequence < head.sequence {
            match self.log.read(at, Duration::ZERO).await? {
                ReadOutcome::Events(events) if !events.is_empty() => {
                    for entry in &events {
                        state.take(entry.id, &entry.event);
                        at = entry.id;
                    }
                }
                ReadOutcome::Events(_) | ReadOutcome::Lost => break,
            }
        }
        if at.sequence < head.sequence || at.epoch != head.epoch {
            // Some are missing: every scope may have changed until now.
            state = State {
                head,
                least: head.sequence,
                ..State::default()
            };
        }
        if state.head.sequence < head.sequence {
            state.head = head;
        }
        let mut known = self.state.lock();
        let waiting = std::mem::take(&mut known.waiting);
        // The Follower takes the events after `head`.
        *known = state;
        drop(known);
        waiting
            .into_values()
            .for_each(|waiting| waiting.notify_waiters());
        Ok(())
    }

    /// Takes an event of the log, after it was applied to the Directory.
    pub(super) fn take(&self, id: EventId, event: &Event) {
        let woken = self.state.lock().take(id, event);
        woken
            .into_iter()
            .for_each(|waiting| waiting.notify_waiters());
        self.moved.notify_waiters();
    }

    /// Waits briefly until the Directory has the events that any replica has appended until now.
    ///
    /// Calls that come while the log is asked share the next answer.
    pub(crate) async fn catch_up(&self) {
        let arrived = Instant::now();
        let head = {
            let mut asked = self.asked.lock().await;
            if asked.0 <= arrived {
                let begin = Instant::now();
                let head = timeout(CATCH_UP, self.log.head()).await;
                // Without an answer, the waiting calls do not ask one after the other.
                let known = asked.1;
                *asked = (begin, head.map_or(known, |head| head.unwrap_or(known)));
            }
            asked.1
        };
        let _ = timeout(CATCH_UP, self.reached(head)).await;
    }

    /// Waits until the event with this ID was applied to the Directory.
    async fn reached(&self, id: EventId) {
        loop {
            let mut moved = pin!(self.moved.notified());
            moved.as_mut().enable();
            let head = self.state.lock().head;
            if head.epoch != id.epoch || head.sequence >= id.sequence {
                return;
            }
            moved.await;
        }
    }

    /// Notes that every scope may have changed until an event, after the Directory was read again.
    pub(super) fn lost(&self, until: EventId) {
        let woken = self.state.lock().lose(until.sequence);
        woken
            .into_iter()
            .for_each(|waiting| waiting.notify_waiters());
    }

    /// Returns the index of a scope, or of all services. A list that is read from the Directory afterwards has all
    /// events until then.
    pub(crate) fn index(&self, scope: Option<&Scope>) -> u64 {
        self.state.lock().index(scope)
    }

    /// Waits until the index is greater than the known one, at most until `deadline`, and returns it.
    /// An index that is greater than that of the last event is waited for only briefly.
    pub(crate) async fn after(&self, scope: Option<&Scope>, known: u64, deadline: Instant) -> u64 {
        let mut deadline = deadline;
        loop {
            let waiting = {
                let mut state = self.state.lock();
                let index = state.index(scope);
                if index > known || Instant::now() >= deadline {
                    return index;
                }
                if known > state.head.epoch + state.head.sequence {
                    deadline = deadline.min(Instant::now() + AHEAD);
                }
                if state.waiting.len() >= state.waiting_limit {
                    // Calls that gave up left an entry.
                    state
                        .waiting
                        .retain(|_, waiting| Arc::strong_count(waiting) > 1);
                    state.waiting_limit = 2 * state.waiting.len() + 1000;
                }
                Arc::clone(state.waiting.entry(scope.cloned()).or_default())
            };
            let mut woken = pin!(waiting.notified());
            woken.as_mut().enable();
            // An event may have come before the subscription.
            let index = self.index(scope);
            if index > known {
                return index;
            }
            if timeout_at(deadline, woken).await.is_err() {
                return self.index(scope);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::clock::SystemClock;
    use crate::event_log;
    use crate::model::{ScopeId, ScopeRecord};

    fn indexes() -> ScopeIndexes {
        ScopeIndexes::new(event_log::open(None, Arc::new(SystemClock), 20_000))
    }

    fn service(key: &str) -> Scope {
        ScopeKind::Service.with(key.parse().unwrap())
    }

    fn id(sequence: u64) -> EventId {
        EventId {
            epoch: 1_763_805_600_000,
            sequence,
        }
    }

    fn declared(key: &str) -> Event {
        let at = DateTime::UNIX_EPOCH;
        let record = ScopeRecord {
            id: ScopeId(1),
            scope: service(key),
            name: None,
            created_at: at,
            revision: 1,
        };
        Event::new(at, EventKind::ScopeDeclared(record))
    }

    #[test]
    fn the_index_of_a_scope_is_the_position_of_its_last_event() {
        let indexes = indexes();
        indexes.take(id(1), &declared("orders"));
        indexes.take(id(2), &declared("users"));
        indexes.take(
            id(3),
            &Event::new(DateTime::UNIX_EPOCH, EventKind::RollCalled),
        );
        assert_eq!(indexes.index(Some(&service("orders"))), 1_763_805_600_001);
        assert_eq!(indexes.index(Some(&service("users"))), 1_763_805_600_002);
        assert_eq!(indexes.index(None), 1_763_805_600_002);
        assert_eq!(indexes.index(Some(&service("unknown"))), 1_763_805_600_000);
    }

    #[test]
    fn an_index_never_decreases_and_is_that_of_a_replica_that_read_less() {
        let (old, new) = (indexes(), indexes());
        old.take(id(1), &declared("orders"));
        let mut before = 0;
        for sequence in 2..=4 * STEP {
            let event = declared(if sequence % 1500 == 0 {
                "users"
            } else {
                "other"
            });
            old.take(id(sequence), &event);
            // The other one began later.
            if sequence > floor(2 * STEP + 1) {
                new.take(id(sequence), &event);
            }
            let index = old.index(Some(&service("orders")));
            assert!(index >= before);
            before = index;
            if sequence > 2 * STEP {
                for key in ["orders", "users", "other"] {
                    let scope = service(key);
                    assert_eq!(new.index(Some(&scope)), old.index(Some(&scope)), "{key}");
                }
            }
        }
        assert!(old.state.lock().last.len() <= 2, "old ones are forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_an_event_of_the_scope_only() {
        let indexes = Arc::new(indexes());
        indexes.take(id(1), &declared("orders"));
        let scope = service("orders");
        let known = indexes.index(Some(&scope));
        let deadline = Instant::now() + Duration::from_secs(30);
        let waiting = {
            let (indexes, scope) = (Arc::clone(&indexes), scope.clone());
            tokio::spawn(async move { indexes.after(Some(&scope), known, deadline).await })
        };
        tokio::task::yield_now().await;
        indexes.take(id(2), &declared("users"));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        indexes.take(id(3), &declared("orders"));
        assert_eq!(waiting.await.unwrap(), known + 2);
        // One that never was is answered soon.
        let begin = Instant::now();
        indexes.after(Some(&scope), known + 1000, deadline).await;
        assert_eq!(begin.elapsed(), AHEAD);
    }
}
