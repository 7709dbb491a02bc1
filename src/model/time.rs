//! Times in leases and in JSON.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// Orders the successive leases of one instance: the start of a lease in Unix milliseconds of
/// the lease store's clock, or one more than the previous epoch if that is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch(pub i64);

impl Epoch {
    /// Returns the epoch under which a lease that began at this one is recorded after a lease with
    /// the epoch `known`. It is greater than `known`, whatever the lease store's clock says.
    pub(crate) fn after(self, known: Option<Self>) -> Self {
        known.map_or(self, |known| self.max(Self(known.0.saturating_add(1))))
    }

    /// Returns the time, clamped to the range of times.
    pub(crate) fn at(self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.0).unwrap_or_default()
    }
}

/// Formats a time as RFC 3339 in UTC with milliseconds, the form of every time in a lease and
/// in JSON.
pub(crate) fn rfc3339_millis(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
