//! The bus within one process.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::{BusError, EventBus, LOG_CAPACITY, LogEntry, READ, ReadOutcome, TRANSITION_MEMORY};
use crate::clock::Clock;
use crate::model::{Event, EventId, EventKind, InstanceId};

pub(super) struct MemoryBus {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    appended: Notify,
}

#[derive(Default)]
struct State {
    /// Until when each claim is remembered.
    claims: HashMap<String, Instant>,
    log: VecDeque<LogEntry>,
    /// Of each instance that changed lately the last transition.
    transitions: HashMap<InstanceId, Transition>,
    /// Old ones are forgotten when there are this many.
    sweep_at: usize,
}

struct Transition {
    revision: i64,
    online: bool,
    told_at: Instant,
}

/// The least number of remembered transitions at which it is worth forgetting some.
const MIN_SWEEP: usize = 1024;

impl State {
    fn claim(&mut self, claim: &str, remember: Duration) -> bool {
        let now = Instant::now();
        self.claims.retain(|_, until| *until > now);
        if self.claims.contains_key(claim) {
            return false;
        }
        self.claims.insert(claim.to_owned(), now + remember);
        true
    }

    fn append(&mut self, event: &Event, epoch: u64) {
        if event.kind == EventKind::EventsLost {
            // The revisions of a restored registry store may repeat.
            self.transitions.clear();
        }
        if let Some((instance, online)) = event.kind.transition() {
            let now = Instant::now();
            let told = self.transitions.get(&instance.id);
            let told = told.filter(|told| now.duration_since(told.told_at) < TRANSITION_MEMORY);
            if told.is_some_and(|told| told.revision >= instance.revision) {
                return;
            }
            if told.is_some_and(|told| told.online == online)
                && let Some(kind) = event.kind.opposite()
            {
                self.push(Event { at: event.at, kind }, epoch);
            }
            let told = Transition {
                revision: instance.revision,
                online,
                told_at: now,
            };
            self.transitions.insert(instance.id, told);
            if self.transitions.len() >= self.sweep_at.max(MIN_SWEEP) {
                self.transitions
                    .retain(|_, told| now.duration_since(told.told_at) < TRANSITION_MEMORY);
                self.sweep_at = 2 * self.transitions.len();
            }
        }
        self.push(event.clone(), epoch);
    }

    fn push(&mut self, event: Event, epoch: u64) {
        let last = self.log.back().map(|last| last.id);
        let last = last.unwrap_or(EventId { epoch, sequence: 0 });
        let id = EventId {
            sequence: last.sequence + 1,
            ..last
        };
        self.log.push_back(LogEntry { id, event });
        if self.log.len() > LOG_CAPACITY {
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
        // What is before the first that is kept may be followed by it.
        let known =
            (after.epoch == head.epoch && after.sequence < head.sequence) || after.is_empty();
        let skip = after.sequence.saturating_add(1).checked_sub(first.sequence);
        match skip.and_then(|skip| usize::try_from(skip).ok()) {
            Some(skip) if known => {
                let events = self.log.iter().skip(skip).take(READ);
                ReadOutcome::Events(events.cloned().collect())
            }
            _ => ReadOutcome::Lost,
        }
    }
}

impl MemoryBus {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            state: Mutex::default(),
            appended: Notify::new(),
        }
    }
}

#[async_trait]
impl EventBus for MemoryBus {
    async fn publish_once(
        &self,
        _: &str,
        _: &str,
        claim: &str,
        remember: Duration,
    ) -> Result<bool, BusError> {
        // There is no subscriber within the process.
        self.claim(claim, remember).await
    }

    async fn claim(&self, claim: &str, remember: Duration) -> Result<bool, BusError> {
        Ok(self.state.lock().claim(claim, remember))
    }

    async fn append(&self, events: &[Event]) -> Result<(), BusError> {
        // Only the log's first event takes its number from here.
        let epoch = u64::try_from(self.clock.now().timestamp_millis()).unwrap_or(1);
        {
            let mut state = self.state.lock();
            for event in events {
                state.append(event, epoch);
            }
        }
        self.appended.notify_waiters();
        Ok(())
    }

    async fn head(&self) -> Result<EventId, BusError> {
        Ok(self.state.lock().head())
    }

    async fn read(&self, after: EventId, wait: Duration) -> Result<ReadOutcome, BusError> {
        let mut appended = pin!(self.appended.notified());
        appended.as_mut().enable();
        let following = self.state.lock().read(after);
        match &following {
            ReadOutcome::Events(events) if events.is_empty() && !wait.is_zero() => {
                // Whether one was appended or not, what is there now is the answer.
                let _ = timeout(wait, appended).await;
                Ok(self.state.lock().read(after))
            }
            _ => Ok(following),
        }
    }
}
