//! Samples of the numbers of instances: of the registry, every 10 seconds for a day, and of each
//! scope, every minute for three hours.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::clock::Clock;
use crate::directory::{Counts as DirectoryCounts, Directory};
use crate::model::{Scope, ScopeKind};

/// The time between two samples of the registry.
const TOTAL_STEP: Duration = Duration::from_secs(10);

/// The number of samples of the registry: a day.
const TOTALS: usize = 8640;

/// The number of samples of the registry between two samples of the scopes: a minute.
const SCOPE_EVERY: u32 = 6;

/// How long the samples of a scope are kept, in seconds.
const SCOPE_KEPT: i64 = 3 * 3600;

/// The most scopes that are sampled.
const SCOPES: usize = 10_000;

/// The most values in an answer: more are summarised.
const SERIES: usize = 720;

/// The numbers of instances at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) instances: u32,
    pub(crate) online: u32,
    pub(crate) available: u32,
    pub(crate) suspect: u32,
}

impl From<DirectoryCounts> for Counts {
    fn from(counts: DirectoryCounts) -> Self {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            instances: number(counts.instances),
            online: number(counts.online),
            available: number(counts.available),
            suspect: number(counts.suspect),
        }
    }
}

/// Samples of one scope or of the registry, oldest first: those that differ from the previous one.
type Samples = VecDeque<(i64, Counts)>;

/// The samples.
#[derive(Default)]
pub(crate) struct CountSamples {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When the first sample was made, and the last one, in Unix seconds.
    first: Option<i64>,
    last: i64,
    totals: Samples,
    scopes: HashMap<Scope, Samples>,
}

/// The numbers of instances at equal distances in time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Series {
    /// The time of the first value, in Unix seconds.
    pub(crate) start: i64,
    /// The time between two values, in seconds. A value has the least online and available
    /// instances of that time, and the most registered and suspect ones.
    pub(crate) step: i64,
    pub(crate) values: Vec<Counts>,
}

impl CountSamples {
    /// Samples for ever.
    pub(crate) async fn run(
        self: Arc<Self>,
        directory: Arc<Directory>,
        clock: Arc<dyn Clock>,
    ) -> Infallible {
        let mut ticks = interval_at(Instant::now(), TOTAL_STEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut round = 0;
        loop {
            ticks.tick().await;
            self.sample(&directory, clock.now(), round % SCOPE_EVERY == 0);
            round += 1;
        }
    }

    fn sample(&self, directory: &Directory, now: DateTime<Utc>, with_scopes: bool) {
        let now = now.timestamp();
        let mut state = self.state.lock();
        state.first.get_or_insert(now);
        state.last = now;
        push(&mut state.totals, now, directory.totals().instances.into());
        let day = i64::try_from(TOTALS).unwrap_or_default() * 10;
        drop_before(&mut state.totals, now - day);
        if !with_scopes {
            return;
        }
        for kind in [ScopeKind::Service, ScopeKind::Group] {
            for view in directory.scopes(kind) {
                let Some(record) = &view.record else { continue };
                let is_known = state.scopes.contains_key(&record.scope);
                if is_known || state.scopes.len() < SCOPES {
                    let samples = state.scopes.entry(record.scope.clone()).or_default();
                    push(samples, now, view.counts.into());
                }
            }
        }
        state.scopes.retain(|scope, samples| {
            if directory.scope(scope).is_none() {
                push(samples, now, Counts::default());
            }
            drop_before(samples, now - SCOPE_KEPT);
            // A removed scope is forgotten once its last change is too old.
            let is_empty = samples
                .back()
                .is_none_or(|(_, counts)| *counts == Counts::default());
            !(is_empty && samples.len() <= 1 && directory.scope(scope).is_none())
        });
    }

    /// Returns the numbers since a time, of a scope or of the registry; `None` if the scope has no
    /// samples.
    pub(crate) fn series(&self, scope: Option<&Scope>, since: DateTime<Utc>) -> Option<Series> {
        let state = self.state.lock();
        let (samples, step) = match scope {
            Some(scope) => (state.scopes.get(scope)?, 60),
            None => (&state.totals, 10),
        };
        let Some(first) = state.first else {
            return Some(Series::default());
        };
        let oldest = samples.front().map_or(first, |(at, _)| *at);
        Some(series(
            samples,
            since.timestamp().max(oldest),
            state.last,
            step,
        ))
    }
}

fn push(samples: &mut Samples, now: i64, counts: Counts) {
    if samples.back().is_none_or(|(_, last)| *last != counts) {
        samples.push_back((now, counts));
    }
}

/// Drops the samples whose time is over: those of which the next one is older than `time` too.
fn drop_before(samples: &mut Samples, time: i64) {
    while samples.get(1).is_some_and(|(at, _)| *at <= time) {
        samples.pop_front();
    }
}

/// Returns the values from `start` to `end`, at most [`SERIES`] of them.
fn series(samples: &Samples, start: i64, end: i64, least_step: i64) -> Series {
    let span = (end - start).max(0);
    let most = i64::try_from(SERIES).unwrap_or(i64::MAX);
    let step = (span / most / least_step + 1) * least_step;
    let start = start - start.rem_euclid(step);
    let mut values: Vec<Counts> = Vec::new();
    let mut rest = samples.iter().peekable();
    let mut current = Counts::default();
    while let Some((_, counts)) = rest.next_if(|(at, _)| *at <= start) {
        current = *counts;
    }
    let mut time = start;
    while time <= end {
        let mut value = current;
        while let Some((_, counts)) = rest.next_if(|(at, _)| *at < time + step) {
            current = *counts;
            value = if values.is_empty() && value == Counts::default() {
                current
            } else {
                Counts {
                    instances: value.instances.max(current.instances),
                    online: value.online.min(current.online),
                    available: value.available.min(current.available),
                    suspect: value.suspect.max(current.suspect),
                }
            };
        }
        values.push(value);
        time += step;
    }
    Series {
        start,
        step,
        values,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(online: u32) -> Counts {
        Counts {
            instances: 9,
            online,
            available: online,
            suspect: 0,
        }
    }

    fn online(series: &Series) -> Vec<u32> {
        series.values.iter().map(|value| value.online).collect()
    }

    #[test]
    fn a_value_lasts_until_the_next_sample_that_differs() {
        let mut samples = Samples::new();
        for (at, number) in [(100, 3), (110, 3), (120, 3), (130, 1), (140, 1)] {
            push(&mut samples, at, counts(number));
        }
        assert_eq!(samples.len(), 2);
        let all = series(&samples, 100, 140, 10);
        assert_eq!((all.start, all.step), (100, 10));
        assert_eq!(online(&all), [3, 3, 3, 1, 1]);
        assert_eq!(online(&series(&samples, 120, 140, 10)), [3, 1, 1]);
    }

    #[test]
    fn a_short_outage_is_seen_also_in_few_values() {
        let mut samples = Samples::new();
        let hour = 3600;
        for (at, number) in [(0, 9), (12 * hour, 0), (12 * hour + 10, 9)] {
            push(&mut samples, at, counts(number));
        }
        let day = series(&samples, 0, 24 * hour, 10);
        assert!(day.values.len() <= SERIES + 1);
        assert_eq!(
            day.values.iter().filter(|value| value.online == 0).count(),
            1
        );
    }

    #[test]
    fn samples_that_are_over_are_dropped() {
        let mut samples = Samples::new();
        for at in 0..10 {
            push(&mut samples, at, counts(u32::try_from(at).unwrap()));
        }
        drop_before(&mut samples, 5);
        // The sample at 5 is the value since then.
        assert_eq!(samples.front(), Some(&(5, counts(5))));
        drop_before(&mut samples, 100);
        assert_eq!(samples.len(), 1, "the last value lasts");
    }
}
