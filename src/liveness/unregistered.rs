//! Leases of addresses that never registered. The original's services only renew leases, and its
//! gateways refresh when one of them begins or ends.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::model::InstanceKey;

/// The most leases that are followed. The ends of others are not announced.
const MAX: usize = 100_000;

/// The deadlines of these leases that this replica renewed.
#[derive(Default)]
pub struct UnregisteredLeases(Mutex<HashMap<InstanceKey, Instant>>);

impl UnregisteredLeases {
    /// Follows a lease until a deadline.
    pub(crate) fn follow(&self, key: InstanceKey, until: Instant) {
        let mut deadlines = self.0.lock();
        if deadlines.len() < MAX || deadlines.contains_key(&key) {
            deadlines.insert(key, until);
        }
    }

    /// Returns the leases whose deadlines have passed, and follows them no longer.
    pub(super) fn take_passed(&self) -> Vec<InstanceKey> {
        let now = Instant::now();
        let mut deadlines = self.0.lock();
        let passed = deadlines.extract_if(|_, until| *until <= now);
        passed.map(|(key, _)| key).collect()
    }
}
