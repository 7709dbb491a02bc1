//! A lease store that the test holds up.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use rollcalld::backend::BackendError;
use rollcalld::lease::{
    Identity, LeasePage, LeaseSnapshot, LeaseStore, ListCursor, Renewal, Renewed,
};
use rollcalld::model::{Epoch, InstanceKey};
use tokio::sync::Semaphore;

/// A lease store whose round trips end when the test lets them.
#[derive(Default)]
pub(crate) struct FakeLeases {
    pub gate: Option<Semaphore>,
    pub batches: Mutex<Vec<usize>>,
    pub leases: Mutex<HashSet<InstanceKey>>,
    pub broken: AtomicBool,
    /// How many pages its list has, and which were asked for.
    pub pages: u64,
    pub asked: Mutex<Vec<u64>>,
}

#[async_trait]
impl LeaseStore for FakeLeases {
    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<Renewed>, BackendError> {
        self.batches.lock().unwrap().push(renewals.len());
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        if self.broken.load(Ordering::SeqCst) {
            return Err(BackendError::Unavailable("away".into()));
        }
        let mut leases = self.leases.lock().unwrap();
        let renew = |renewal: &Renewal| Renewed {
            created: leases.insert(renewal.key.clone()),
            epoch: Epoch(1),
        };
        Ok(renewals.iter().map(renew).collect())
    }

    async fn inspect(&self, keys: &[InstanceKey]) -> Result<LeaseSnapshot, BackendError> {
        Ok(LeaseSnapshot {
            leases: vec![None; keys.len()],
            identity: Identity::default(),
        })
    }

    async fn set_hidden(&self, _: &InstanceKey, _: bool) -> Result<bool, BackendError> {
        Ok(false)
    }

    async fn revoke(&self, keys: &[InstanceKey]) -> Result<(), BackendError> {
        let mut leases = self.leases.lock().unwrap();
        keys.iter().for_each(|key| {
            leases.remove(key);
        });
        Ok(())
    }

    async fn probe(&self) -> Result<Identity, BackendError> {
        Ok(Identity::default())
    }

    async fn list(&self, cursor: ListCursor) -> Result<LeasePage, BackendError> {
        let cursor = cursor.position;
        self.asked.lock().unwrap().push(cursor);
        Ok(LeasePage {
            keys: Vec::new(),
            next: Some(cursor + 1)
                .filter(|next| *next < self.pages)
                .map(|position| ListCursor {
                    server: 0,
                    position,
                }),
        })
    }
}
