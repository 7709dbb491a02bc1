//! Wall time, for times that are recorded or displayed.
//!
//! It never measures a duration: durations use [`tokio::time::Instant`], and leases expire by
//! the clock of the lease store.

use chrono::{DateTime, SubsecRound, Utc};

/// The source of recorded times. The clocks of replicas may differ; no decision uses them.
pub trait Clock: Send + Sync {
    /// Returns the current wall time in UTC, in whole milliseconds, the precision of all stored
    /// times.
    fn now(&self) -> DateTime<Utc>;
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the only call that reads the clock of the machine"
    )]
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(3)
    }
}
