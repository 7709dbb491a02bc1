//! Leases in the memory of this process, for a single replica.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use async_trait::async_trait;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Identity, Lease, LeasePage, LeaseSnapshot, LeaseStore, ListCursor, Renewal, Renewed};
use crate::backend::BackendError;
use crate::clock::Clock;
use crate::model::{Epoch, InstanceKey};

pub(super) struct MemoryLeaseStore {
    clock: Arc<dyn Clock>,
    /// Random, so that two processes never appear to share one lease store.
    identity: Identity,
    leases: Mutex<Leases>,
}

#[derive(Default)]
struct Leases {
    by_key: HashMap<InstanceKey, StoredLease, RandomState>,
    /// The number of leases at which expired ones are removed. It doubles after each sweep,
    /// so that the amortized cost of an insertion is constant.
    sweep_at: usize,
}

struct StoredLease {
    epoch: Epoch,
    expires_at: Instant,
}

/// The smallest number of leases that starts a sweep.
const MIN_SWEEP: usize = 1024;

impl MemoryLeaseStore {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            identity: Identity::of([format!(
                "memory.{:016x}",
                RandomState::default().hash_one(0)
            )]),
            leases: Mutex::new(Leases {
                sweep_at: MIN_SWEEP,
                ..Leases::default()
            }),
        }
    }
}

impl Leases {
    fn renew(&mut self, renewal: &Renewal, now: Instant, clock_millis: i64) -> Renewed {
        let expires_at = now + renewal.ttl.as_duration();
        if let Some(lease) = self.by_key.get_mut(&renewal.key)
            && lease.expires_at > now
        {
            lease.expires_at = expires_at;
            return Renewed {
                created: false,
                epoch: lease.epoch,
            };
        }
        let epoch = Epoch(clock_millis);
        self.by_key
            .insert(renewal.key.clone(), StoredLease { epoch, expires_at });
        if self.by_key.len() >= self.sweep_at {
            self.by_key.retain(|_, lease| lease.expires_at > now);
            self.sweep_at = (2 * self.by_key.len()).max(MIN_SWEEP);
        }
        Renewed {
            created: true,
            epoch,
        }
    }
}

#[async_trait]
impl LeaseStore for MemoryLeaseStore {
    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, BackendError> {
        let (now, clock_millis) = (Instant::now(), self.clock.now().timestamp_millis());
        let mut leases = self.leases.lock();
        Ok(renewals
            .iter()
            .map(|renewal| leases.renew(renewal, now, clock_millis))
            .collect())
    }

    async fn inspect(&self, keys: &[InstanceKey]) -> Result<LeaseSnapshot, BackendError> {
        let now = Instant::now();
        let leases = self.leases.lock();
        let inspect = |key| {
            let StoredLease { epoch, expires_at } = *leases.by_key.get(key)?;
            let remaining = expires_at.saturating_duration_since(now);
            (!remaining.is_zero()).then_some(Lease {
                left: remaining,
                epoch,
            })
        };
        Ok(LeaseSnapshot {
            leases: keys.iter().map(inspect).collect(),
            identity: self.identity.clone(),
        })
    }

    async fn set_hidden(&self, _: &InstanceKey, _: bool) -> Result<bool, BackendError> {
        // No other program reads it.
        Ok(false)
    }

    async fn revoke(&self, keys: &[InstanceKey]) -> Result<(), BackendError> {
        let mut leases = self.leases.lock();
        for key in keys {
            leases.by_key.remove(key);
        }
        Ok(())
    }

    async fn probe(&self) -> Result<Identity, BackendError> {
        Ok(self.identity.clone())
    }

    async fn list(&self, _cursor: ListCursor) -> Result<LeasePage, BackendError> {
        let now = Instant::now();
        let leases = self.leases.lock();
        let alive = leases
            .by_key
            .iter()
            .filter(|(_, lease)| lease.expires_at > now);
        Ok(LeasePage {
            keys: alive.map(|(key, _)| key.clone()).collect(),
            next: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::SystemClock;
    use crate::model::{ScopeKind, Ttl, Weight};

    #[tokio::test(start_paused = true)]
    async fn expired_leases_do_not_pile_up() {
        let store = MemoryLeaseStore::new(Arc::new(SystemClock));
        for i in 0..20 * MIN_SWEEP {
            let renewal = Renewal {
                key: InstanceKey {
                    scope: ScopeKind::Service.with("s".parse().unwrap()),
                    address: format!("h{i}:1").parse().unwrap(),
                },
                weight: Weight::default(),
                ttl: Ttl::try_from(5).unwrap(),
                is_hidden: false,
            };
            store.renew(&[renewal]).await.unwrap();
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        // With a TTL of 5 s and one lease each 10 ms, 499 are alive after the last step.
        assert_eq!(
            store.list(ListCursor::default()).await.unwrap().keys.len(),
            499
        );
        assert!(store.leases.lock().by_key.len() <= MIN_SWEEP);
    }
}
