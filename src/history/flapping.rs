//! The instances that go online and offline again and again.

use std::cmp::Reverse;
use std::collections::VecDeque;

use chrono::{DateTime, TimeDelta, Utc};
use foldhash::HashMap;

use crate::model::InstanceKey;

/// The time within which transitions are counted.
const WITHIN: TimeDelta = TimeDelta::hours(1);

/// The most transitions that are kept; with more, the time that they cover is shorter.
const KEPT: usize = 100_000;

/// The transitions of the last hour.
#[derive(Default)]
pub(super) struct Flapping {
    transitions: VecDeque<(DateTime<Utc>, InstanceKey)>,
    counts: HashMap<InstanceKey, usize>,
}

impl Flapping {
    /// Notes a transition.
    pub(super) fn note(&mut self, key: &InstanceKey, at: DateTime<Utc>) {
        *self.counts.entry(key.clone()).or_default() += 1;
        self.transitions.push_back((at, key.clone()));
        self.drop_old(at);
    }

    fn drop_old(&mut self, now: DateTime<Utc>) {
        while let Some((at, _)) = self.transitions.front() {
            if now - *at <= WITHIN && self.transitions.len() <= KEPT {
                break;
            }
            let Some((_, key)) = self.transitions.pop_front() else {
                break;
            };
            if let Some(count) = self.counts.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&key);
                }
            }
        }
    }

    /// Returns the instances with at least `least` transitions, those with the most first.
    pub(super) fn list(
        &mut self,
        now: DateTime<Utc>,
        least: usize,
        limit: usize,
        is_visible: impl Fn(&InstanceKey) -> bool,
    ) -> Vec<(InstanceKey, usize)> {
        self.drop_old(now);
        let flapping = self
            .counts
            .iter()
            .filter(|(key, count)| **count >= least && is_visible(key));
        let mut flapping: Vec<_> = flapping.map(|(key, count)| (key.clone(), *count)).collect();
        flapping.sort_by(|(a, more), (b, less)| (Reverse(more), a).cmp(&(Reverse(less), b)));
        flapping.truncate(limit);
        flapping
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ScopeKind;

    fn key(address: &str) -> InstanceKey {
        InstanceKey {
            scope: ScopeKind::Service.with("orders".parse().unwrap()),
            address: address.parse().unwrap(),
        }
    }

    #[test]
    fn transitions_of_the_last_hour_are_counted_and_older_ones_forgotten() {
        let start = DateTime::from_timestamp_millis(0).unwrap();
        let after = |minutes| start + TimeDelta::minutes(minutes);
        let (often, rarely) = (key("a:1"), key("b:1"));
        let mut flapping = Flapping::default();
        for minute in 0..6 {
            flapping.note(&often, after(minute));
        }
        flapping.note(&rarely, after(6));
        let seen = |flapping: &mut Flapping, minutes, least| {
            flapping.list(after(minutes), least, 10, |_| true)
        };
        assert_eq!(seen(&mut flapping, 6, 2), [(often.clone(), 6)]);
        assert_eq!(
            seen(&mut flapping, 6, 1),
            [(often.clone(), 6), (rarely.clone(), 1)]
        );
        assert_eq!(
            flapping.list(after(6), 1, 10, |key| *key == rarely),
            [(rarely.clone(), 1)]
        );
        assert_eq!(seen(&mut flapping, 63, 1), [(often, 3), (rarely, 1)]);
        assert_eq!(seen(&mut flapping, 127, 1), []);
        assert!(flapping.counts.is_empty() && flapping.transitions.is_empty());
    }

    #[test]
    fn the_number_of_kept_transitions_is_bounded() {
        let start = DateTime::from_timestamp_millis(0).unwrap();
        let mut flapping = Flapping::default();
        for number in 0..KEPT + 10 {
            flapping.note(&key(&format!("h:{}", 1 + number % 5)), start);
        }
        assert_eq!(flapping.transitions.len(), KEPT);
        assert_eq!(flapping.counts.values().sum::<usize>(), KEPT);
    }
}
