//! Which instances are offline.
//!
//! [`Protection`] decides, the sweep and the reconcile find instances whose leases are missing,
//! and [`ExpiryHandler`] marks them.

mod agreement;
mod clock_watch;
mod expiry;
mod protection;
mod reconcile;

pub use self::agreement::Agreement;
pub(crate) use self::clock_watch::ClockWatch;
pub use self::expiry::ExpiryHandler;
pub use self::protection::{
    ActivePeriod, Limits, OVERDUE, Protection, Report, Sample, TICK, Verdict,
};
pub use self::reconcile::{ReconcileResult, Reconciler};
