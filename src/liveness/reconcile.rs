//! The reconcile: compares the instances that are listed as online with the leases.
//!
//! The SchedulerActor starts it, on one replica at a time. It checks the online instances that
//! have no deadline on this replica, and reads through the leases for those that no replica
//! recorded. It changes nothing itself: [`ExpiryHandler`] and the conditional updates of the
//! RegistryActor decide.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::ExpiryHandler;
use super::expiry::ExpiredLease;
use crate::actor::{AskError, RecordOnline};
use crate::backend::BackendError;
use crate::coordination::Coordinator;
use crate::directory::InstanceEntry;
use crate::lease::ListCursor;
use crate::model::InstanceKey;
use crate::store::{LeaseStart, RegistryReader, StoreError};

/// The most instances in one step. Bounds the memory, and the time for which a step delays
/// others in the stores.
const PAGE: usize = 500;

/// The most pages of leases in one reconcile, each of about a thousand; the next one continues.
/// Most new leases are recorded by their own heartbeats long before.
const PAGES: usize = 50;

/// The name of the claim that makes it run on one replica at a time.
const CLAIM: &str = "reconcile";

/// Compares who is listed as online with the lease store.
pub struct Reconciler {
    /// The registry store: which addresses that have a lease are registered.
    pub reader: Arc<dyn RegistryReader>,
    /// Checks leases, and handles the missing ones.
    pub expiry: ExpiryHandler,
    /// Grants the claim.
    pub coordinator: Arc<dyn Coordinator>,
    /// Where the next page of leases begins.
    pub cursor: Mutex<ListCursor>,
    /// The duration of the claim: a little less than the interval.
    pub claim: Duration,
}

/// What a reconcile found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReconcileResult {
    /// Online instances without a deadline on this replica, which were checked.
    pub checked: usize,
    /// Instances listed as online that have no lease.
    pub expired: usize,
    /// Instances with a lease that were not recorded as online, and are now.
    pub recovered: usize,
}

/// Why a reconcile was aborted. The next one begins again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReconcileError {
    /// The registry store gave no answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The coordinator or the lease store gave no answer.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The RegistryActor gave no answer.
    #[error("the registry actor: {0}")]
    Ask(#[from] AskError),
}

impl Reconciler {
    /// Runs one reconcile; returns `None` if another replica has the claim.
    pub async fn run(&self) -> Result<Option<ReconcileResult>, ReconcileError> {
        if !self.coordinator.try_claim(CLAIM, self.claim).await? {
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

    /// Checks the online instances that have no deadline on this replica, and returns how many have
    /// no lease. They are evaluated together.
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

    /// Reads the leases from where the last reconcile ended, records those of instances that are
    /// not listed as online, and returns how many.
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
            // Ignore keys that are no lease keys.
            let others = others.filter_map(|key| InstanceKey::from_lease_key(key).ok());
            for keys in others.collect::<Vec<_>>().chunks(PAGE) {
                begun += self.record_recovered(keys).await?;
            }
            // Only now: after a failure the page is read again.
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
        if begun.is_empty() {
            Ok(0)
        } else {
            Ok(self.expiry.registry.ask(RecordOnline(begun)).await??.len())
        }
    }
}
