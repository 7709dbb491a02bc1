//! A wall clock that the test sets.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use parking_lot::Mutex;
use rollcalld::clock::{Clock, SystemClock};
use tokio::time::Instant;

/// Follows the time of the runtime, which may be virtual, with an offset.
pub(crate) struct FakeClock {
    /// When it was created.
    pub begin: Instant,
    wall: DateTime<Utc>,
    offset: Mutex<TimeDelta>,
}

impl FakeClock {
    /// Begins at a quarter of a minute.
    pub(crate) fn new() -> Arc<Self> {
        Self::at("2026-11-22T10:00:00Z".parse().unwrap())
    }

    /// Begins at the time of the machine.
    pub(crate) fn of_machine() -> Arc<Self> {
        Self::at(SystemClock.now())
    }

    fn at(wall: DateTime<Utc>) -> Arc<Self> {
        Arc::new(Self {
            begin: Instant::now(),
            wall,
            offset: Mutex::default(),
        })
    }

    /// Sets it ahead of the time of the runtime, or back.
    pub(crate) fn set(&self, ahead: TimeDelta) {
        *self.offset.lock() = ahead;
    }
}

impl Clock for FakeClock {
    fn now(&self) -> DateTime<Utc> {
        let elapsed = TimeDelta::from_std(self.begin.elapsed()).unwrap();
        self.wall + elapsed + *self.offset.lock()
    }
}
