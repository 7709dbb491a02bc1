//! Watches the wall clock beside the monotonic clock, for decisions that compare recorded
//! times.
//!
//! A removal because of a recorded time cannot be undone, and a wall clock may be wrong for a
//! while: after a virtual machine was resumed, with an empty battery, by mistake. So the
//! decision uses the slowest time that the clock has shown within a window.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::Clock;

/// The difference between two readings that counts as a jump of the clock.
const JUMP: TimeDelta = TimeDelta::seconds(1);

/// The longest time that the clock is watched before a decision; a tenth of the window if that
/// is shorter. The clock of a machine that started with a wrong time is usually corrected
/// within it.
const LONGEST_WATCH: Duration = Duration::from_secs(3600);

/// Reads the wall clock, and reports its jumps.
pub(crate) struct ClockWatch {
    clock: Arc<dyn Clock>,
    readings: Mutex<Readings>,
    jumps: AtomicU64,
}

impl ClockWatch {
    /// Begins to watch. Readings older than `window` are dropped.
    pub(crate) fn new(clock: Arc<dyn Clock>, window: Duration) -> Self {
        Self {
            clock,
            readings: Mutex::new(Readings::new(window, Instant::now())),
            jumps: AtomicU64::new(0),
        }
    }

    /// Reads the clock, and logs a jump.
    pub(crate) fn read(&self) {
        let jump = self.readings.lock().add(self.clock.now(), Instant::now());
        if let Some(jump) = jump {
            self.jumps.fetch_add(1, Ordering::Relaxed);
            let seconds = jump.as_seconds_f64();
            let to = if seconds > 0.0 { "ahead" } else { "back" };
            log::warn!(
                "the wall clock jumped {to} by {:.1} s; --remove-offline-after and --keep-audit use the slowest clock of the last days",
                seconds.abs()
            );
        }
    }

    /// Reads the clock, and returns its slowest time within the window; `None` until it has been
    /// watched for long enough.
    pub(crate) fn slowest(&self) -> Option<DateTime<Utc>> {
        self.read();
        self.readings.lock().slowest(Instant::now())
    }

    /// Returns the number of jumps by more than a second.
    pub(crate) fn jumps(&self) -> u64 {
        self.jumps.load(Ordering::Relaxed)
    }
}

/// The wall clock as this process has seen it.
struct Readings {
    begin: Instant,
    window: Duration,
    /// The wall-clock time at `begin` that each reading implies, with the last reading that implied
    /// about the same. A clock without jumps implies the same time for ever.
    origins: VecDeque<(DateTime<Utc>, Instant)>,
    /// The origin that the last reading implied.
    last: Option<DateTime<Utc>>,
}

impl Readings {
    /// Begins at `begin`. Readings older than `window` are dropped.
    fn new(window: Duration, begin: Instant) -> Self {
        Self {
            begin,
            window,
            origins: VecDeque::new(),
            last: None,
        }
    }

    /// Adds a reading of both clocks, and returns by how much the wall clock has jumped since the last reading,
    /// if it has.
    fn add(&mut self, wall: DateTime<Utc>, now: Instant) -> Option<TimeDelta> {
        let origin = wall.checked_sub_signed(self.since_begin(now))?;
        let jump = self.last.replace(origin).map(|last| origin - last);
        match self.origins.back_mut() {
            Some((known, seen)) if (origin - *known).abs() <= JUMP => {
                *known = origin.min(*known);
                *seen = now;
            }
            _ => self.origins.push_back((origin, now)),
        }
        let begin = now.checked_sub(self.window).unwrap_or(self.begin);
        while self.origins.front().is_some_and(|(_, seen)| *seen < begin) {
            self.origins.pop_front();
        }
        jump.filter(|jump| jump.abs() > JUMP)
    }

    /// Returns the time by the slowest state of the clock within the window, so a clock that was
    /// set ahead counts only after the whole window. Returns `None` until the clock has been
    /// watched for long enough.
    fn slowest(&self, now: Instant) -> Option<DateTime<Utc>> {
        let watch = (self.window / 10).min(LONGEST_WATCH);
        if now.duration_since(self.begin) < watch {
            return None;
        }
        let origin = self.origins.iter().map(|(origin, _)| *origin).min()?;
        origin.checked_add_signed(self.since_begin(now))
    }

    fn since_begin(&self, now: Instant) -> TimeDelta {
        let since = now.duration_since(self.begin);
        TimeDelta::from_std(since).unwrap_or(TimeDelta::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A watch that reads the clocks once a second, and the correct time.
    struct Watched {
        readings: Readings,
        begin: Instant,
        passed: u64,
    }

    impl Watched {
        fn new() -> Self {
            let begin = Instant::now();
            Self {
                readings: Readings::new(10 * HOUR, begin),
                begin,
                passed: 0,
            }
        }

        fn right(&self) -> DateTime<Utc> {
            DateTime::from_timestamp(1_800_000_000, 0).unwrap()
                + TimeDelta::seconds(i64::try_from(self.passed).unwrap())
        }

        /// Lets time pass with a wall clock that is `ahead` of the correct time, and returns the
        /// jumps that were found.
        fn run(&mut self, time: Duration, ahead: TimeDelta) -> Vec<TimeDelta> {
            let mut jumps = Vec::new();
            for _ in 0..time.as_secs() {
                self.passed += 1;
                let now = self.begin + Duration::from_secs(self.passed);
                jumps.extend(self.readings.add(self.right() + ahead, now));
            }
            jumps
        }

        /// Returns by how much the time used for decisions is ahead of the correct time.
        fn slowest(&self) -> Option<TimeDelta> {
            let now = self.begin + Duration::from_secs(self.passed);
            self.readings.slowest(now).map(|time| time - self.right())
        }
    }

    #[test]
    fn a_clock_that_jumps_ahead_counts_only_after_the_whole_window() {
        let (none, ahead) = (TimeDelta::zero(), TimeDelta::days(3));
        let mut clock = Watched::new();
        assert_eq!(clock.run(2 * HOUR, none), []);
        assert_eq!(clock.slowest(), Some(none));
        assert_eq!(clock.run(HOUR, ahead), [ahead]);
        assert_eq!(clock.slowest(), Some(none));
        assert_eq!(clock.run(8 * HOUR, ahead), []);
        assert_eq!(clock.slowest(), Some(none));
        assert_eq!(clock.run(2 * HOUR, ahead), []);
        assert_eq!(clock.slowest(), Some(ahead));
    }

    #[test]
    fn a_clock_that_jumps_ahead_and_back_never_counts() {
        let (none, ahead) = (TimeDelta::zero(), TimeDelta::hours(2));
        let mut clock = Watched::new();
        clock.run(2 * HOUR, none);
        assert_eq!(clock.run(HOUR / 60, ahead), [ahead]);
        assert_eq!(clock.slowest(), Some(none));
        assert_eq!(clock.run(20 * HOUR, none), [-ahead]);
        assert_eq!(clock.slowest(), Some(none));
    }

    #[test]
    fn what_was_recorded_by_a_clock_that_was_behind_is_not_old_when_it_is_set_right() {
        let (none, behind) = (TimeDelta::zero(), TimeDelta::days(-400));
        let mut clock = Watched::new();
        clock.run(2 * HOUR, behind);
        assert_eq!(clock.run(HOUR, none), [-behind]);
        assert_eq!(clock.slowest(), Some(behind));
    }

    #[test]
    fn a_clock_that_is_set_right_soon_after_the_start_never_counted() {
        let (none, ahead) = (TimeDelta::zero(), TimeDelta::days(3));
        let mut clock = Watched::new();
        clock.run(HOUR / 60, ahead);
        assert_eq!(clock.slowest(), None);
        clock.run(HOUR, none);
        assert_eq!(clock.slowest(), Some(none));
    }

    #[test]
    fn a_clock_that_drifts_is_not_set() {
        let mut clock = Watched::new();
        for second in 0..200 {
            let ahead = TimeDelta::milliseconds(50 * second);
            assert_eq!(clock.run(HOUR / 60, ahead), []);
        }
        assert!(clock.readings.origins.len() < 20);
    }
}
