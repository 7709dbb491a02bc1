//! The reconcile chore: who is listed as online, against the leases there are.
//!
//! The SchedulerActor begins it, on one daemon at a time. It looks at those whom no deadline
//! here will find, and goes through the leases for lives that nobody reported. It changes
//! nothing itself: what differs goes to the RegistryActor, whose conditional updates decide,
//! and who is gone is judged before.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::expiry::ExpiredLease;
use super::{AskError, ExpiryHandler, RecordOnline};
use crate::bus::{BusError, EventBus};
use crate::directory::InstanceEntry;
use crate::lease::{LeaseError, ListCursor};
use crate::model::InstanceKey;
use crate::store::{LeaseStart, RegistryReader, StoreError};

/// How many instances are looked at in one step. Bounds the memory, and how long a step
/// holds up others in the stores.
const PAGE: usize = 500;

/// How many pages of leases it goes through, each of about a thousand: of more than that the
/// others come next time. Most lives are reported by their own heartbeats long before.
const PAGES: usize = 50;

/// The name of the claim that keeps it to one daemon at a time.
const CLAIM: &str = "reconcile";

/// Compares who is listed as online with the lease store.
pub struct Reconciler {
    /// Says who is registered of those who have a lease and are not listed as online.
    pub reader: Arc<dyn RegistryReader>,
    /// Looks at leases, and judges those that are gone.
    pub expiry: ExpiryHandler,
    /// Knows which daemon does it.
    pub bus: Arc<dyn EventBus>,
    /// Where the next page of leases begins.
    pub cursor: Mutex<ListCursor>,
    /// How long a claim keeps others from it: a little less than its interval.
    pub claim: Duration,
}

/// What a reconcile found different.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReconcileResult {
    /// How many it looked at, who are listed as online and not watched here.
    pub checked: usize,
    /// Instances listed as online that have no lease.
    pub expired: usize,
    /// Alive, and not recorded so: which they are now.
    pub recovered: usize,
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
    pub async fn run(&self) -> Result<Option<ReconcileResult>, ReconcileError> {
        if !self.bus.claim(CLAIM, self.claim).await? {
            return Ok(None);
        }
        let default_ttl = self.expiry.protection.limits().ttl;
        let unwatched = self.expiry.directory.unwatched(default_ttl);
        Ok(Some(ReconcileResult {
            checked: unwatched.len(),
            expired: self.find_expired(&unwatched).await?,
            recovered: self.find_recovered().await?,
        }))
    }

    /// Looks at those who are listed as online and whose end no deadline here will find. All
    /// who are gone are judged together; how many they are.
    async fn find_expired(
        &self,
        unwatched: &[Arc<InstanceEntry>],
    ) -> Result<usize, ReconcileError> {
        let mut expired = Vec::new();
        for part in unwatched.chunks(PAGE) {
            let keys = part.iter().map(|listed| listed.instance.key.clone());
            let leases = self.expiry.inspect(&keys.collect::<Vec<_>>()).await?;
            let ended = part.iter().zip(leases).filter(|(_, lease)| lease.is_none());
            expired.extend(ended.map(|(listed, _)| ExpiredLease {
                listed: Arc::clone(listed),
                since: None,
            }));
        }
        let found = expired.len();
        self.expiry.evaluate(expired).await;
        Ok(found)
    }

    /// Goes through the leases, from where the last time ended, and has lives recorded of
    /// instances that are not listed as online; how many.
    async fn find_recovered(&self) -> Result<usize, ReconcileError> {
        let mut begun = 0;
        for _ in 0..PAGES {
            let cursor = *self.cursor.lock();
            let page = self.expiry.leases.list(cursor).await?;
            let is_online = |key: &String| {
                let listed = self.expiry.directory.find_by_lease_key(key);
                listed.is_some_and(|listed| listed.instance.presence.online)
            };
            let others = page.keys.iter().filter(|key| !is_online(key));
            // What is no lease key is nobody's.
            let others = others.filter_map(|key| InstanceKey::from_lease_key(key).ok());
            for keys in others.collect::<Vec<_>>().chunks(PAGE) {
                begun += self.record_recovered(keys).await?;
            }
            // Not before: where something failed, the page is gone through again.
            *self.cursor.lock() = page.next.unwrap_or_default();
            if page.next.is_none() {
                break;
            }
        }
        Ok(begun)
    }

    async fn record_recovered(&self, keys: &[InstanceKey]) -> Result<usize, ReconcileError> {
        let registered = self.reader.find_instances(keys).await?;
        let keys: Vec<_> = registered
            .iter()
            .map(|instance| instance.key.clone())
            .collect();
        let leases = self.expiry.inspect(&keys).await?;
        let begun: Vec<LeaseStart> = registered
            .into_iter()
            .zip(leases)
            .filter_map(|(instance, lease)| {
                let epoch = lease?.epoch;
                let presence = instance.presence;
                let is_recorded = presence.online && presence.epoch >= Some(epoch);
                (!is_recorded).then(|| LeaseStart {
                    key: instance.key,
                    epoch: epoch.after(presence.epoch),
                })
            })
            .collect();
        match begun.is_empty() {
            true => Ok(0),
            false => Ok(self.expiry.registry.ask(RecordOnline(begun)).await??.len()),
        }
    }
}
