//! The event log in the memory of this process, for a single replica.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::{EventLog, LogEntry, READ_LIMIT, ReadOutcome, TRANSITION_MEMORY};
use crate::backend::BackendError;
use crate::clock::Clock;
use crate::model::{Event, EventId, EventKind, InstanceId};

pub(super) struct MemoryEventLog {
    /// The most events.
    length: usize,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    appended: Notify,
}

#[derive(Default)]
struct State {
    log: VecDeque<LogEntry>,
    /// The last transition of each instance that changed within [`TRANSITION_MEMORY`].
    transitions: HashMap<InstanceId, Transition>,
    /// The number of transitions at which expired ones are removed.
    sweep_at: usize,
}

struct Transition {
    revision: i64,
    online: bool,
    appended_at: Instant,
}

/// The smallest number of remembered transitions that starts a sweep.
const MIN_SWEEP: usize = 1024;

impl State {
    fn append(&mut self, event: &Event, epoch: u64, length: usize) {
        if event.kind == EventKind::EventsLost {
            // A restored registry store may assign the same revisions again.
            self.transitions.clear();
        }
        if let Some((instance, online)) = event.kind.transition() {
            let now = Instant::now();
            let is_remembered = |transition: &Transition| {
                now.duration_since(transition.appended_at) < TRANSITION_MEMORY
            };
            let previous = self
                .transitions
                .get(&instance.id)
                .filter(|previous| is_remembered(previous));
            if previous.is_some_and(|previous| previous.revision >= instance.revision) {
                return;
            }
            if previous.is_some_and(|previous| previous.online == online)
                && let Some(kind) = event.kind.opposite()
            {
                self.push(Event::new(event.at, kind), epoch, length);
            }
            let transition = Transition {
                revision: instance.revision,
                online,
                appended_at: now,
            };
            self.transitions.insert(instance.id, transition);
            if self.transitions.len() >= self.sweep_at.max(MIN_SWEEP) {
                self.transitions
                    .retain(|_, transition| is_remembered(transition));
                self.sweep_at = 2 * self.transitions.len();
            }
        }
        self.push(event.clone(), epoch, length);
    }

    fn push(&mut self, event: Event, epoch: u64, length: usize) {
        let last = self
            .log
            .back()
            .map_or(EventId { epoch, sequence: 0 }, |last| last.id);
        let id = EventId {
            sequence: last.sequence + 1,
            ..last
        };
        self.log.push_back(LogEntry { id, event });
        if self.log.len() > length {
            self.log.pop_front();
        }
    }

    fn head(&self) -> EventId {
        self.log.back().map(|last| last.id).unwrap_or_default()
    }

    fn read(&self, after: EventId) -> ReadOutcome {
        let head = self.head();
        if after == head {
            return ReadOutcome::Events(Vec::new());
        }
        let first = self.log.front().map(|first| first.id).unwrap_or_default();
        // `after` may be the event just before the oldest kept one: then no event is missing.
        let is_known =
            (after.epoch == head.epoch && after.sequence < head.sequence) || after.is_empty();
        let skip = after.sequence.saturating_add(1).checked_sub(first.sequence);
        match skip.and_then(|skip| usize::try_from(skip).ok()) {
            Some(skip) if is_known => {
                let events = self.log.iter().skip(skip).take(READ_LIMIT);
                ReadOutcome::Events(events.cloned().collect())
            }
            _ => ReadOutcome::Lost,
        }
    }
}

impl MemoryEventLog {
    pub(super) fn new(clock: Arc<dyn Clock>, length: usize) -> Self {
        Self {
            length,
            clock,
            state: Mutex::default(),
            appended: Notify::new(),
        }
    }
}

#[async_trait]
impl EventLog for MemoryEventLog {
    async fn append(&self, events: &[Event]) -> Result<(), BackendError> {
        // Only the first event of the log uses this epoch; later events continue it.
        let epoch = u64::try_from(self.clock.now().timestamp_millis()).unwrap_or(1);
        {
            let mut state = self.state.lock();
            for event in events {
                state.append(event, epoch, self.length);
            }
        }
        self.appended.notify_waiters();
        Ok(())
    }

    async fn read_before(&self, before: EventId) -> Result<Vec<LogEntry>, BackendError> {
        let state = self.state.lock();
        let latest = state.log.iter().rev();
        let earlier = latest.skip_while(|entry| entry.id >= before);
        Ok(earlier.take(READ_LIMIT).cloned().collect())
    }

    async fn head(&self) -> Result<EventId, BackendError> {
        Ok(self.state.lock().head())
    }

    async fn read(&self, after: EventId, wait: Duration) -> Result<ReadOutcome, BackendError> {
        let mut appended = pin!(self.appended.notified());
        appended.as_mut().enable();
        let outcome = self.state.lock().read(after);
        match &outcome {
            ReadOutcome::Events(events) if events.is_empty() && !wait.is_zero() => {
                // The log is read again in either case: after an append and after the timeout.
                let _ = timeout(wait, appended).await;
                Ok(self.state.lock().read(after))
            }
            _ => Ok(outcome),
        }
    }
}
