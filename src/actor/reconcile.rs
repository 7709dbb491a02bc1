//! The reconcile chore: what the registry says is online, against the leases there are.
//!
//! The SchedulerActor begins it, on one daemon at a time. It looks, page by page, and
//! changes nothing itself: what differs goes to the RegistryActor, whose conditional
//! updates decide, and who is gone is judged before.

use std::sync::Arc;
use std::time::Duration;

use super::expiry::Gone;
use super::{AskError, Expiry, RecordOnline};
use crate::bus::{BusError, EventBus};
use crate::lease::LeaseError;
use crate::model::{InstanceId, InstanceKey};
use crate::store::{Life, RegistryReader, StoreError};

/// How many instances are looked at in one step. Bounds the memory, and how long a step
/// holds up others in the stores.
const PAGE: u16 = 500;

/// The name of the claim that keeps it to one daemon at a time.
const CLAIM: &str = "reconcile";

/// Compares the registry store with the lease store.
pub struct Reconciler {
    /// Says what is recorded as online.
    pub reader: Arc<dyn RegistryReader>,
    /// Looks at leases, and judges those that are gone.
    pub expiry: Expiry,
    /// Knows which daemon does it.
    pub bus: Arc<dyn EventBus>,
    /// How long a claim keeps others from it: a little less than its interval.
    pub claim: Duration,
}

/// What a reconcile found different.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repairs {
    /// How many it looked at, who are recorded as online.
    pub looked: usize,
    /// Recorded as online, without a lease: to be judged.
    pub gone: usize,
    /// Alive, and not recorded so: which they are now.
    pub online: usize,
}

/// Why a reconcile was broken off. The next one begins anew.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReconcileError {
    /// The bus could not say whose turn it is.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The registry store gave no answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The lease store gave no answer. Nobody is judged without one.
    #[error(transparent)]
    Leases(#[from] LeaseError),
    /// The RegistryActor gave no answer.
    #[error("the registry actor: {0}")]
    Ask(#[from] AskError),
}

impl Reconciler {
    /// Compares everything once; `None` where it is another daemon's turn.
    pub async fn run(&self) -> Result<Option<Repairs>, ReconcileError> {
        if !self.bus.claim(CLAIM, self.claim).await? {
            return Ok(None);
        }
        let (looked, gone) = self.find_ended().await?;
        Ok(Some(Repairs {
            looked,
            gone,
            online: self.find_begun().await?,
        }))
    }

    /// Goes through what is recorded as online. All who are gone are judged together. How
    /// many it looked at, and how many are gone.
    async fn find_ended(&self) -> Result<(usize, usize), ReconcileError> {
        let (mut after, mut looked, mut gone) = (InstanceId(0), 0, Vec::new());
        loop {
            let (ids, lives): (Vec<_>, Vec<_>) = self
                .reader
                .list_online(after, PAGE)
                .await?
                .into_iter()
                .unzip();
            let Some(last) = ids.last() else { break };
            after = *last;
            looked += ids.len();
            let keys: Vec<InstanceKey> = lives.into_iter().map(|life| life.key).collect();
            let leases = self.expiry.look(&keys).await?;
            let missing = keys.iter().zip(leases).filter(|(_, lease)| lease.is_none());
            gone.extend(missing.filter_map(|(key, _)| {
                let listed = self.expiry.directory.find(key)?;
                Some(Gone {
                    listed,
                    since: None,
                })
            }));
        }
        let found = gone.len();
        self.expiry.judge(gone).await;
        Ok((looked, found))
    }

    /// Goes through the leases.
    async fn find_begun(&self) -> Result<usize, ReconcileError> {
        let (mut cursor, mut repaired) = (0, 0);
        loop {
            let page = self.expiry.leases.list(cursor).await?;
            for keys in page.keys.chunks(PAGE.into()) {
                repaired += self.record_begun(keys).await?;
            }
            match page.next {
                Some(next) => cursor = next,
                None => return Ok(repaired),
            }
        }
    }

    async fn record_begun(&self, keys: &[InstanceKey]) -> Result<usize, ReconcileError> {
        let registered = self.reader.find_instances(keys).await?;
        let keys: Vec<_> = registered
            .iter()
            .map(|instance| instance.key.clone())
            .collect();
        let leases = self.expiry.look(&keys).await?;
        let begun: Vec<Life> = registered
            .into_iter()
            .zip(leases)
            .filter_map(|(instance, lease)| {
                let epoch = lease?.epoch;
                let known = instance.presence.epoch;
                (known.is_none_or(|known| known < epoch)).then_some(Life {
                    key: instance.key,
                    epoch,
                })
            })
            .collect();
        match begun.is_empty() {
            true => Ok(0),
            false => Ok(self.expiry.registry.ask(RecordOnline(begun)).await??.len()),
        }
    }
}
