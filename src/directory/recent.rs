//! The instances that changed lately, for protocols whose clients ask for changes instead of lists.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// The most changes that are kept; with more, the time that they cover is shorter.
const KEPT: usize = 50_000;

/// The latest changes, oldest first.
#[derive(Debug)]
pub(super) struct RecentChanges<T> {
    /// How long a change is kept.
    keep: Duration,
    /// All changes since then are kept.
    complete_since: Instant,
    changes: VecDeque<(Instant, Arc<T>)>,
}

impl<T> RecentChanges<T> {
    /// Keeps changes for this long.
    pub(super) fn new(keep: Duration) -> Self {
        Self {
            keep,
            complete_since: Instant::now(),
            changes: VecDeque::new(),
        }
    }

    /// Adds a state, before or after a change.
    pub(super) fn add(&mut self, listed: &Arc<T>) {
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
    pub(super) fn list(&self) -> (Vec<Arc<T>>, bool) {
        let now = Instant::now();
        let is_recent = |at: Instant| now.duration_since(at) <= self.keep;
        let recent = self.changes.iter().filter(|(at, _)| is_recent(*at));
        let recent = recent.map(|(_, listed)| Arc::clone(listed)).collect();
        (recent, !is_recent(self.complete_since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(180);

    fn seen(recent: &RecentChanges<usize>) -> (Vec<usize>, bool) {
        let (changes, is_complete) = recent.list();
        (changes.iter().map(|change| **change).collect(), is_complete)
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_listed_for_some_time_and_complete_after_it() {
        let mut recent = RecentChanges::new(KEEP);
        recent.add(&Arc::new(1));
        assert_eq!(
            seen(&recent),
            (vec![1], false),
            "what was before is not known"
        );
        tokio::time::advance(KEEP).await;
        recent.add(&Arc::new(2));
        assert_eq!(seen(&recent), (vec![1, 2], false));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(seen(&recent), (vec![2], true));
        tokio::time::advance(KEEP).await;
        assert_eq!(seen(&recent), (vec![], true));
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_changes_are_not_complete() {
        let mut recent = RecentChanges::new(KEEP);
        tokio::time::advance(KEEP * 2).await;
        for number in 0..=KEPT {
            recent.add(&Arc::new(number));
        }
        let (changes, is_complete) = seen(&recent);
        assert_eq!((changes.len(), is_complete), (KEPT, false));
        tokio::time::advance(KEEP + Duration::from_secs(1)).await;
        assert!(seen(&recent).1);
    }
}
