//! The state of protection mode, as it is shown.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::model::ProtectionReason;

/// A period of protection mode that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ActivePeriod {
    /// When it began, in wall time.
    pub(crate) at: DateTime<Utc>,
    /// Why it began.
    pub(crate) why: ProtectionReason,
    pub(super) since: Instant,
    /// When the share of suspects last exceeded `ratio`.
    pub(super) exceeded_at: Instant,
}

/// The state of protection mode and of offline detection, for display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// The current period of protection mode, and its maximum remaining duration.
    pub(crate) active: Option<(ActivePeriod, Duration)>,
    /// How many more of the online instances would have to go offline now for protection mode to begin;
    /// `None` while it is active, disabled, or there are too few instances.
    pub(crate) begins_with: Option<usize>,
    /// Why no instance with the default TTL is marked offline yet, and for how much longer.
    pub(crate) grace: Option<(&'static str, Duration)>,
    /// Why the replicas do not use the same lease store, or why that cannot be checked; `None`
    /// while they do.
    pub(crate) disagreement: Option<String>,
    /// Why the lease store is unavailable; `None` while it works.
    pub(crate) lease_store_failure: Option<String>,
}

impl Report {
    /// Returns whether offline detection is suspended for instances with the default TTL, for
    /// another reason than protection mode.
    pub(crate) fn is_suspended(&self) -> bool {
        self.grace.is_some() || self.disagreement.is_some() || self.lease_store_failure.is_some()
    }
}
