//! The reconcile: compares the instances that are listed as online with the leases.
//!
//! It runs on one replica at a time. It checks the online instances that
//! have no deadline on this replica, and reads through the leases for those that no replica
//! recorded. It changes nothing itself: [`ExpiryHandler`] and the conditional updates of the
//! RegistryActor decide.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;

use super::ExpiryHandler;
use super::expiry::ExpiredLease;
use crate::actor::{Mailbox, RecordOnline, RegistryActor, WriteError};
use crate::backend::BackendError;
use crate::clock::Clock;
use crate::coordination::Coordinator;
use crate::directory::{Directory, InstanceEntry};
use crate::lease::{LeasePage, LeaseStore, ListCursor};
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

/// Compares the instances that are listed as online with the lease store.
pub struct Reconciler {
    expiry: Arc<ExpiryHandler>,
    directory: Arc<Directory>,
    leases: Arc<dyn LeaseStore>,
    reader: Arc<dyn RegistryReader>,
    registry: Mailbox<RegistryActor>,
    coordinator: Arc<dyn Coordinator>,
    clock: Arc<dyn Clock>,
    /// Where the next page of leases begins.
    cursor: Mutex<ListCursor>,
    report: Mutex<ReconcileReport>,
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

/// Statistics of the reconciles of this replica since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReconcileReport {
    /// Completed reconciles.
    pub completed: u64,
    /// Instances checked.
    pub(crate) checked: u64,
    /// Instances found without a lease.
    pub(crate) expired: u64,
    /// Instances found alive and recorded as online.
    pub(crate) recovered: u64,
    /// When the last one was completed.
    pub(crate) last_at: Option<DateTime<Utc>>,
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
    /// The living instances were not recorded.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Reconciler {
    /// The time between reconciles.
    pub const INTERVAL: Duration = Duration::from_secs(15);

    /// Checks leases by `expiry`, asks `reader` which addresses with a lease are registered, and
    /// records living instances by `registry`.
    pub fn new(
        expiry: Arc<ExpiryHandler>,
        directory: Arc<Directory>,
        leases: Arc<dyn LeaseStore>,
        reader: Arc<dyn RegistryReader>,
        registry: Mailbox<RegistryActor>,
        coordinator: Arc<dyn Coordinator>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            expiry,
            directory,
            leases,
            reader,
            registry,
            coordinator,
            clock,
            cursor: Mutex::default(),
            report: Mutex::default(),
        }
    }

    /// Returns the statistics.
    pub fn report(&self) -> ReconcileReport {
        *self.report.lock()
    }

    /// Runs one reconcile, unless another replica has the claim.
    pub async fn run(&self) -> Result<(), ReconcileError> {
        // A little less than the interval.
        let claim = Self::INTERVAL - Duration::from_secs(1);
        if self.coordinator.try_claim(CLAIM, claim).await? {
            let result = self.reconcile().await?;
            log::debug!("reconciled: {result:?}");
            self.report.lock().add(result, self.clock.now());
        }
        Ok(())
    }

    /// Runs one reconcile.
    pub async fn reconcile(&self) -> Result<ReconcileResult, ReconcileError> {
        let unwatched = self.directory.unwatched(self.expiry.default_ttl());
        Ok(ReconcileResult {
            checked: unwatched.len(),
            expired: self.find_expired(&unwatched).await?,
            recovered: self.find_recovered().await?,
        })
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
            let LeasePage { mut keys, next } = self.leases.list(cursor).await?;
            keys.retain(|key| {
                let listed = self.directory.find(key);
                listed.is_none_or(|listed| !listed.instance.presence.online)
            });
            for keys in keys.chunks(PAGE) {
                begun += self.record_recovered(keys).await?;
            }
            // Only now: after a failure the page is read again.
            *self.cursor.lock() = next.unwrap_or_default();
            if next.is_none() {
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
            let message = RecordOnline::new(begun, &self.directory);
            Ok(self.registry.write(message).await?.len())
        }
    }
}

impl ReconcileReport {
    fn add(&mut self, result: ReconcileResult, at: DateTime<Utc>) {
        self.completed += 1;
        self.checked += result.checked as u64;
        self.expired += result.expired as u64;
        self.recovered += result.recovered as u64;
        self.last_at = Some(at);
    }
}
