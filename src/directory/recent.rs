//! The instances that changed lately, for protocols whose clients ask for changes instead of lists.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::entry::InstanceEntry;

/// The most changes that are kept; with more, the time that they cover is shorter.
const KEPT: usize = 50_000;

/// The latest changes, oldest first.
#[derive(Debug)]
pub(super) struct RecentChanges {
    /// How long a change is kept.
    keep: Duration,
    /// All changes since then are kept.
    complete_since: Instant,
    changes: VecDeque<(Instant, Arc<InstanceEntry>)>,
}

impl RecentChanges {
    /// Keeps changes for this long.
    pub(super) fn new(keep: Duration) -> Self {
        Self {
            keep,
            complete_since: Instant::now(),
            changes: VecDeque::new(),
        }
    }

    /// Adds the state of an instance before or after a change.
    pub(super) fn add(&mut self, listed: &Arc<InstanceEntry>) {
        let now = Instant::now();
        self.changes.push_back((now, Arc::clone(listed)));
        while let Some((at, _)) = self.changes.front() {
            let is_old = now.duration_since(*at) > self.keep;
            if !is_old && self.changes.len() <= KEPT {
                break;
            }
            self.complete_since = self.complete_since.max(*at);
            self.changes.pop_front();
        }
    }

    /// Returns the changes of the time for which they are kept, and whether these are all.
    pub(super) fn list(&self) -> (Vec<Arc<InstanceEntry>>, bool) {
        let now = Instant::now();
        let is_recent = |at: Instant| now.duration_since(at) <= self.keep;
        let recent = self.changes.iter().filter(|(at, _)| is_recent(*at));
        let recent = recent.map(|(_, listed)| Arc::clone(listed)).collect();
        (recent, !is_recent(self.complete_since))
    }
}
