//! Which instances are offline.
//!
//! [`Protection`] decides, the sweep and the reconcile find instances whose leases are missing,
//! and [`ExpiryHandler`] marks them. [`Jobs`] runs all of it, one loop for each job.

mod agreement;
mod clock_watch;
mod expiry;
mod jobs;
mod protection;
mod reconcile;
mod replicas;
mod report;
mod unregistered;

pub(crate) use self::agreement::Agreement;
pub(crate) use self::clock_watch::ClockWatch;
pub use self::expiry::ExpiryHandler;
pub(crate) use self::jobs::{AuditPurge, Holds, Jobs, Purge};
pub use self::protection::{Limits, Protection};
pub use self::reconcile::{ReconcileReport, ReconcileResult, Reconciler};
pub(crate) use self::replicas::Replicas;
pub use self::unregistered::UnregisteredLeases;
