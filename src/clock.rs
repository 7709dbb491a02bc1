//! Wall time, for what is recorded and shown.
//!
//! Called by the composition root, the registry writer and the scheduler. It
//! never measures a duration: those use [`tokio::time::Instant`], and a lease's
//! expiry uses the lease store's own clock.

use chrono::{DateTime, SubsecRound, Utc};

/// Where recorded times come from. Replicas may disagree; nothing is decided by it.
pub trait Clock: Send + Sync {
    /// The current wall time in UTC, in whole milliseconds: all that is stored and shown.
    fn now(&self) -> DateTime<Utc>;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the machine's clock"
    )]
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(3)
    }
}
