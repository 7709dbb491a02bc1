//! The reconcile chore: who is listed as online, against the leases there are.
//!
//! The SchedulerActor begins it, on one daemon at a time. It goes through the leases, page by
//! page, and looks more closely at what is not as the Directory says. It changes nothing itself:
//! what differs goes to the RegistryActor, whose conditional updates decide, and who is gone is
//! judged before.

use std::sync::Arc;
use std::time::Duration;

use super::expiry::Gone;
use super::{AskError, Expiry, RecordOnline};
use crate::bus::{BusError, EventBus};
use crate::directory::Listed;
use crate::lease::LeaseError;
use crate::model::{InstanceId, InstanceKey};
use crate::store::{Life, RegistryReader, StoreError};

/// How many instances are looked at in one step. Bounds the memory, and how long a step
/// holds up others in the stores.
const PAGE: usize = 500;

/// The name of the claim that keeps it to one daemon at a time.
const CLAIM: &str = "reconcile";

/// Compares the registry store with the lease store.
pub struct Reconciler {
    /// Says who is registered of those who have a lease and are not listed as online.
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
        // In this order: whoever comes meanwhile is not missed among the leases.
        let online = self.expiry.directory.online();
        let (mut leased, begun) = self.read_leases().await?;
        leased.sort_unstable();
        let id = |listed: &Arc<Listed>| listed.instance.id;
        let looked = online.len();
        let missing = online
            .into_iter()
            .filter(|listed| leased.binary_search(&id(listed)).is_err());
        Ok(Some(Repairs {
            looked,
            gone: self.find_ended(missing.collect()).await?,
            online: begun,
        }))
    }

    /// Goes through the leases. Those who are listed as online and have one, and how many
    /// were not and are now.
    async fn read_leases(&self) -> Result<(Vec<InstanceId>, usize), ReconcileError> {
        let (mut leased, mut begun, mut cursor) = (Vec::new(), 0, 0);
        loop {
            let page = self.expiry.leases.list(cursor).await?;
            let mut others = Vec::new();
            for key in page.keys {
                match self.expiry.directory.find(&key) {
                    Some(listed) if listed.instance.presence.online => {
                        leased.push(listed.instance.id);
                    }
                    _ => others.push(key),
                }
            }
            for keys in others.chunks(PAGE) {
                begun += self.record_begun(keys).await?;
            }
            match page.next {
                Some(next) => cursor = next,
                None => return Ok((leased, begun)),
            }
        }
    }

    /// Looks at those of whom no lease was seen, and has all who have none judged together;
    /// how many they are.
    async fn find_ended(&self, missing: Vec<Arc<Listed>>) -> Result<usize, ReconcileError> {
        let mut gone = Vec::new();
        for part in missing.chunks(PAGE) {
            let keys = part.iter().map(|listed| listed.instance.key.clone());
            let leases = self.expiry.look(&keys.collect::<Vec<_>>()).await?;
            let ended = part.iter().zip(leases).filter(|(_, lease)| lease.is_none());
            gone.extend(ended.map(|(listed, _)| Gone {
                listed: Arc::clone(listed),
                since: None,
            }));
        }
        let found = gone.len();
        self.expiry.judge(gone).await;
        Ok(found)
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
