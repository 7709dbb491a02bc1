//! The read model: who is registered, and who is present.
//!
//! Handlers read it and the RegistryActor tells it of its own commits. It changes
//! nothing. What it shows it reads from the stores at that moment, so that every
//! replica shows the same; only what heartbeats need is kept in memory, for a while.

mod known;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

use self::known::Known;
use crate::lease::{LeaseError, LeaseStore};
use crate::model::{
    Instance, InstanceKey, Scope, ScopeId, ScopeKind, ScopeRecord, Status, Ttl, Weight,
};
use crate::store::{RegistryReader, StoreError};

/// How many look-ups on behalf of heartbeats may be under way at once, so that a
/// flood of unknown addresses does not become a flood of queries.
const LOOKUPS: usize = 64;

/// The same for the original's heartbeats, whose addresses may all be unknown.
const KEEP_ALIVE_LOOKUPS: usize = 16;

/// How long a heartbeat waits for the registry store, a place included.
const LOOKUP: Duration = Duration::from_millis(600);

/// How many reads may be under way at once, and how long one waits for a place.
const READS: usize = 64;
const READ_PLACE: Duration = Duration::from_secs(1);

/// The most leases to ask about in one round trip.
const LOOK: usize = 1000;

/// Why the Directory gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DirectoryError {
    /// The registry store gave none.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The lease store gave none.
    #[error(transparent)]
    Leases(#[from] LeaseError),
    /// Too many questions to the stores are under way.
    #[error("too many look-ups are under way")]
    Overloaded,
}

/// What a heartbeat needs to know of an instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Profile {
    /// Its weight, or the default.
    pub weight: Weight,
    /// Its own time to live, if it has one.
    pub ttl: Option<Ttl>,
}

impl From<&Instance> for Profile {
    fn from(instance: &Instance) -> Self {
        Self {
            weight: instance.weight(),
            ttl: instance.ttl,
        }
    }
}

/// An instance and its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What is registered.
    pub instance: Instance,
    /// Whether its lease is alive.
    pub online: bool,
}

impl Listed {
    /// Whether it may be sent traffic: enabled and online.
    pub fn available(&self) -> bool {
        self.online && self.instance.status == Status::Enabled
    }
}

/// How many instances a scope has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Registered.
    pub instances: usize,
    /// Registered, with a live lease.
    pub online: usize,
    /// Enabled, with a live lease.
    pub available: usize,
}

impl Counts {
    fn add(&mut self, status: Status, online: bool) {
        self.instances += 1;
        self.online += usize::from(online);
        self.available += usize::from(online && status == Status::Enabled);
    }
}

/// Answers from the stores, and remembers what heartbeats need.
pub struct Directory {
    reader: Arc<dyn RegistryReader>,
    leases: Arc<dyn LeaseStore>,
    known: Known,
    lookups: Semaphore,
    keep_alive_lookups: Semaphore,
    reads: Semaphore,
}

impl Directory {
    /// Reads from these stores.
    pub fn new(reader: Arc<dyn RegistryReader>, leases: Arc<dyn LeaseStore>) -> Self {
        Self {
            reader,
            leases,
            known: Known::default(),
            lookups: Semaphore::new(LOOKUPS),
            keep_alive_lookups: Semaphore::new(KEEP_ALIVE_LOOKUPS),
            reads: Semaphore::new(READS),
        }
    }

    /// All scopes of a kind, by key.
    pub async fn scopes(
        &self,
        kind: ScopeKind,
    ) -> Result<Vec<(ScopeRecord, Counts)>, DirectoryError> {
        let _place = self.read_place().await?;
        let records = self.reader.list_scopes(kind).await?;
        let (keys, statuses): (Vec<_>, Vec<_>) =
            self.reader.list_statuses(kind).await?.into_iter().unzip();
        let online = self.online(&keys).await?;
        let mut counts: HashMap<Scope, Counts> = HashMap::new();
        for ((key, status), online) in keys.into_iter().zip(statuses).zip(online) {
            counts.entry(key.scope).or_default().add(status, online);
        }
        Ok(records
            .into_iter()
            .map(|record| {
                let counts = counts.get(&record.scope).copied().unwrap_or_default();
                (record, counts)
            })
            .collect())
    }

    /// One scope, if it is declared.
    pub async fn scope(
        &self,
        scope: &Scope,
    ) -> Result<Option<(ScopeRecord, Counts)>, DirectoryError> {
        let place = self.read_place().await?;
        let Some(record) = self.reader.find_scope(scope).await? else {
            return Ok(None);
        };
        drop(place);
        let mut counts = Counts::default();
        for listed in self.instances(scope).await? {
            counts.add(listed.instance.status, listed.online);
        }
        Ok(Some((record, counts)))
    }

    /// Whether a scope is declared.
    pub async fn is_declared(&self, scope: &Scope) -> Result<bool, DirectoryError> {
        let _place = self.read_place().await?;
        Ok(self.reader.find_scope(scope).await?.is_some())
    }

    /// The scope with that id, of either kind.
    pub async fn scope_by_id(&self, id: ScopeId) -> Result<Option<ScopeRecord>, DirectoryError> {
        let _place = self.read_place().await?;
        Ok(self.reader.find_scope_by_id(id).await?)
    }

    /// The instances of a scope, by address; none where it is not declared.
    pub async fn instances(&self, scope: &Scope) -> Result<Vec<Listed>, DirectoryError> {
        let _place = self.read_place().await?;
        self.with_leases(self.reader.list_instances(scope).await?)
            .await
    }

    /// One instance, if it is registered.
    pub async fn instance(&self, key: &InstanceKey) -> Result<Option<Listed>, DirectoryError> {
        let found = self.registration(key).await?;
        Ok(self.with_leases(Vec::from_iter(found)).await?.pop())
    }

    /// What is registered under that key, without looking at its lease.
    pub async fn registration(
        &self,
        key: &InstanceKey,
    ) -> Result<Option<Instance>, DirectoryError> {
        let _place = self.read_place().await?;
        let mut found = self
            .reader
            .find_instances(std::slice::from_ref(key))
            .await?;
        Ok(found.pop())
    }

    /// Whether the registry store answers.
    pub async fn ping_store(&self) -> Result<(), StoreError> {
        self.reader.ping().await
    }

    /// Whether the lease store answers.
    pub async fn ping_leases(&self) -> Result<(), LeaseError> {
        self.leases.ping().await
    }

    async fn read_place(&self) -> Result<SemaphorePermit<'_>, DirectoryError> {
        match timeout(READ_PLACE, self.reads.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(DirectoryError::Overloaded),
        }
    }

    async fn with_leases(&self, instances: Vec<Instance>) -> Result<Vec<Listed>, DirectoryError> {
        let keys: Vec<InstanceKey> = instances
            .iter()
            .map(|instance| instance.key.clone())
            .collect();
        let online = self.online(&keys).await?;
        let listed = instances.into_iter().zip(online);
        Ok(listed
            .map(|(instance, online)| Listed { instance, online })
            .collect())
    }

    /// Whether each instance has a live lease.
    async fn online(&self, keys: &[InstanceKey]) -> Result<Vec<bool>, LeaseError> {
        let mut online = Vec::with_capacity(keys.len());
        for part in keys.chunks(LOOK) {
            let leases = self.leases.look(part).await?;
            online.extend(leases.iter().map(Option::is_some));
        }
        Ok(online)
    }

    /// For each instance what a heartbeat needs, or `None` where it is not registered.
    ///
    /// What was read a short while ago is taken from memory; the rest is asked of the
    /// store, all at once. Where the store gives no answer, heartbeats go on without it:
    /// what is remembered serves, however old, and what is not is taken on trust with the
    /// defaults. A lease that turns out to be nobody's is listed nowhere and expires.
    pub async fn resolve(
        &self,
        keys: &[InstanceKey],
    ) -> Result<Vec<Option<Profile>>, DirectoryError> {
        let (mut profiles, unsure) = self.known.recall(keys);
        if unsure.is_empty() {
            return Ok(profiles);
        }
        match self.look_up(&unsure, &self.lookups).await {
            Ok(found) => {
                let unsure: HashSet<&InstanceKey> = unsure.iter().collect();
                for (key, profile) in keys.iter().zip(&mut profiles) {
                    if unsure.contains(key) {
                        *profile = found.get(key).copied();
                    }
                }
                Ok(profiles)
            }
            Err(DirectoryError::Overloaded) if profiles.contains(&None) => {
                Err(DirectoryError::Overloaded)
            }
            Err(error) => {
                log::debug!("heartbeats go on without the registry store: {error}");
                let trusted = profiles.into_iter().map(Option::unwrap_or_default);
                Ok(trusted.map(Some).collect())
            }
        }
    }

    /// The same for one heartbeat in the original's manner, which may be of an address
    /// that never registers: so it is asked of the store only while few others are.
    pub async fn resolve_keep_alive(&self, key: &InstanceKey) -> Option<Profile> {
        let (profiles, unsure) = self.known.recall(std::slice::from_ref(key));
        let remembered = profiles.first().copied().flatten();
        if unsure.is_empty() || self.keep_alive_lookups.available_permits() == 0 {
            return remembered;
        }
        match self.look_up(&unsure, &self.keep_alive_lookups).await {
            Ok(found) => found.get(key).copied(),
            Err(_) => remembered,
        }
    }

    /// Those of the given instances that the store says are not registered, now.
    /// Without an answer from the store, none of them.
    pub async fn vanished(&self, keys: &[InstanceKey]) -> Vec<InstanceKey> {
        if keys.is_empty() {
            return Vec::new();
        }
        match self.look_up(keys, &self.lookups).await {
            Ok(found) => keys
                .iter()
                .filter(|key| !found.contains_key(key))
                .cloned()
                .collect(),
            Err(error) => {
                log::debug!("cannot confirm new leases: {error}");
                Vec::new()
            }
        }
    }

    /// Remembers an instance as the RegistryActor has just committed it.
    pub fn learn(&self, instance: &Instance) {
        self.known.learn(instance);
    }

    /// Has the store asked at the next beat of these: a renewal whose answer was lost may
    /// have created a lease that nobody has looked after.
    pub fn doubt(&self, keys: &[InstanceKey]) {
        self.known.doubt(keys);
    }

    /// Forgets an instance that the RegistryActor has just removed.
    pub fn forget(&self, key: &InstanceKey) {
        self.known.forget(key);
    }

    async fn look_up(
        &self,
        keys: &[InstanceKey],
        places: &Semaphore,
    ) -> Result<HashMap<InstanceKey, Profile>, DirectoryError> {
        let begin = Instant::now();
        let _place = match timeout_at(begin + LOOKUP, places.acquire()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) | Err(_) => return Err(DirectoryError::Overloaded),
        };
        let asked_at = Instant::now();
        let found = match timeout_at(begin + LOOKUP, self.reader.find_instances(keys)).await {
            Ok(found) => found?,
            Err(_) => {
                let late = format!("no look-up within {LOOKUP:?}");
                return Err(StoreError::Unavailable(late).into());
            }
        };
        let profiles: HashMap<InstanceKey, Profile> = found
            .iter()
            .map(|instance| (instance.key.clone(), instance.into()))
            .collect();
        self.known.update(keys, &found, asked_at);
        Ok(profiles)
    }
}
