//! What happened: the events that the event log keeps, in the memory of each replica, so that a
//! question about them reads no backend; which instances are flapping; and samples of the numbers
//! of instances.
//!
//! The Follower adds the events in the order of the log. Everything here is bounded, is lost with
//! the process, and is read again from the log as far as that keeps it.

mod counts;
mod entry;
mod flapping;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::RwLock;
use tokio::time::sleep;

pub(crate) use self::counts::{CountSamples, Counts, Series};
pub(crate) use self::entry::{HistoryEntry, InstanceState, Subject};
use self::flapping::Flapping;
use crate::event_log::{EventLog, LogEntry};
use crate::model::{EventId, InstanceKey};

/// The time between retries while the event log is unavailable.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// The latest events, oldest first.
pub(crate) struct History {
    /// The most events.
    capacity: usize,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    entries: VecDeque<Arc<HistoryEntry>>,
    flapping: Flapping,
}

impl History {
    /// An empty history that keeps `capacity` events.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            state: RwLock::default(),
        }
    }

    /// Adds the next event.
    pub(crate) fn add(&self, entry: HistoryEntry) {
        let mut state = self.state.write();
        if let Some((key, _)) = entry.transition() {
            state.flapping.note(key, entry.at);
        }
        state.entries.push_back(Arc::new(entry));
        if state.entries.len() > self.capacity {
            state.entries.pop_front();
        }
    }

    /// Reads the events that the log has up to `head`, after those that are known, and adds them.
    /// Retries until the log can be read.
    pub(crate) async fn read_log(&self, log: &dyn EventLog, head: EventId) {
        let known = self
            .state
            .read()
            .entries
            .iter()
            .rev()
            .map(|entry| entry.id)
            .find(|id| *id <= head);
        let mut read: Vec<Arc<HistoryEntry>> = Vec::new();
        let mut before = EventId {
            sequence: head.sequence.saturating_add(1),
            ..head
        };
        loop {
            let page = match log.read_before(before).await {
                Ok(page) => page,
                Err(error) => {
                    log::debug!("cannot read the history from the event log, retrying: {error}");
                    sleep(RETRY_DELAY).await;
                    continue;
                }
            };
            let is_new = |logged: &&LogEntry| known.is_none_or(|known| logged.id > known);
            let new: Vec<&LogEntry> = page.iter().take_while(is_new).collect();
            read.extend(
                new.iter()
                    .filter_map(|logged| HistoryEntry::of(logged))
                    .map(Arc::new),
            );
            match new.last() {
                Some(last) if new.len() == page.len() && read.len() < self.capacity => {
                    before = last.id
                }
                _ => break,
            }
        }
        self.state.write().merge(read, self.capacity);
    }

    /// Returns the latest events before an ID that `is_selected`, at most `limit`, the latest first;
    /// and the time of the oldest event that is known.
    pub(crate) fn list(
        &self,
        before: Option<EventId>,
        limit: usize,
        is_selected: impl Fn(&HistoryEntry) -> bool,
    ) -> (Vec<Arc<HistoryEntry>>, Option<DateTime<Utc>>) {
        let state = self.state.read();
        let latest = state.entries.iter().rev();
        let earlier = latest.skip_while(|entry| before.is_some_and(|before| entry.id >= before));
        let selected = earlier.filter(|entry| is_selected(entry)).take(limit);
        let oldest = state.entries.front().map(|entry| entry.at);
        (selected.cloned().collect(), oldest)
    }

    /// Returns the instances with the most transitions within the hour before `now`, and their
    /// number: those with at least `least`, at most `limit`.
    pub(crate) fn flapping(
        &self,
        now: DateTime<Utc>,
        least: usize,
        limit: usize,
        is_visible: impl Fn(&InstanceKey) -> bool,
    ) -> Vec<(InstanceKey, usize)> {
        let mut state = self.state.write();
        state.flapping.list(now, least, limit, is_visible)
    }
}

impl State {
    /// Adds events that were read from the log, in any order.
    fn merge(&mut self, read: Vec<Arc<HistoryEntry>>, capacity: usize) {
        let mut all = Vec::from(std::mem::take(&mut self.entries));
        all.extend(read);
        all.sort_by_key(|entry| entry.id);
        // Two readers of the log may have read the same events.
        all.dedup_by_key(|entry| entry.id);
        self.entries = all.into();
        while self.entries.len() > capacity {
            self.entries.pop_front();
        }
        self.flapping = Flapping::default();
        for entry in &self.entries {
            if let Some((key, _)) = entry.transition() {
                self.flapping.note(key, entry.at);
            }
        }
    }
}
