//! Look-ups of what the Directory does not know in the registry store.
//!
//! It may have been registered on another replica a moment ago. These look-ups have few permits
//! and a short time limit.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use papaya::Equivalent;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::{Directory, InstanceEntry, ScopeSnapshot, Slot};
use crate::model::{
    Epoch, EventKind, InstanceKey, Scope, ScopeId, ScopeKind, ScopeRecord, Status, Ttl, Weight,
};
use crate::store::StoreError;

/// The most look-ups of unknown instances at once, so that a flood of unknown addresses does
/// not become a flood of queries.
const LOOKUPS: usize = 64;

/// The same for heartbeats in the original's form, whose addresses may all be unknown.
const KEEP_ALIVE_LOOKUPS: usize = 16;

/// The time limit of a look-up, including the wait for a permit.
const LOOKUP: Duration = Duration::from_millis(600);

/// The permits of look-ups.
pub(super) struct LookupPermits {
    any: Semaphore,
    keep_alive: Semaphore,
}

impl Default for LookupPermits {
    fn default() -> Self {
        Self {
            any: Semaphore::new(LOOKUPS),
            keep_alive: Semaphore::new(KEEP_ALIVE_LOOKUPS),
        }
    }
}

/// An [`InstanceKey`] whose parts are borrowed. It has the same hash as the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KeyParts<'a> {
    /// The kind of the scope.
    pub(crate) kind: ScopeKind,
    /// The key of the scope.
    pub(crate) key: &'a str,
    /// The address within the scope.
    pub(crate) address: &'a str,
}

impl Equivalent<InstanceKey> for KeyParts<'_> {
    fn equivalent(&self, other: &InstanceKey) -> bool {
        let Scope { kind, key } = &other.scope;
        (self.kind, self.key, self.address) == (*kind, key.as_str(), other.address.as_str())
    }
}

/// Why the Directory has no answer about something that it does not know.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DirectoryError {
    /// The registry store gave no answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Too many look-ups are in flight.
    #[error("too many look-ups are in flight")]
    Overloaded,
}

/// What a heartbeat needs to know about an instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeartbeatInfo {
    /// The weight, or the default.
    pub(crate) weight: Weight,
    /// The instance's own TTL, if it has one.
    pub(crate) ttl: Option<Ttl>,
    /// Whether the instance is recorded as online.
    pub(crate) online: bool,
    /// The epoch of the last recorded lease.
    pub(crate) epoch: Option<Epoch>,
    /// Whether its lease is hidden, because it is not enabled.
    pub(crate) is_hidden: bool,
    /// The slot of its deadline; `None` if it is not known to be registered.
    pub(crate) slot: Option<Slot>,
}

impl From<&InstanceEntry> for HeartbeatInfo {
    fn from(listed: &InstanceEntry) -> Self {
        Self {
            weight: listed.instance.weight(),
            ttl: listed.instance.ttl,
            online: listed.instance.presence.online,
            epoch: listed.instance.presence.epoch,
            is_hidden: listed.instance.status != Status::Enabled,
            slot: listed.slot,
        }
    }
}

impl Directory {
    /// Returns an instance, if it is registered. An unknown one may have been registered on another
    /// replica a moment ago, so the registry store is asked first.
    pub(crate) async fn instance(
        &self,
        key: &InstanceKey,
    ) -> Result<Option<Arc<InstanceEntry>>, DirectoryError> {
        if let Some(listed) = self.find(key) {
            return Ok(Some(listed));
        }
        self.look_up(std::slice::from_ref(key), &self.permits.any)
            .await?;
        Ok(self.find(key))
    }

    /// Returns a scope, if it is declared. The registry store is asked about an unknown one.
    pub(crate) async fn declared(
        &self,
        scope: &Scope,
    ) -> Result<Option<Arc<ScopeSnapshot>>, DirectoryError> {
        let known = |view: &Arc<ScopeSnapshot>| view.record.is_some();
        if let Some(view) = self.scope(scope).filter(known) {
            return Ok(Some(view));
        }
        let found = self.ask(self.reader.find_scope(scope)).await?;
        if let Some(record) = found {
            self.apply([&EventKind::ScopeDeclared(record)]);
        }
        Ok(self.scope(scope).filter(known))
    }

    /// Returns the scope with this ID, of either kind.
    pub(crate) async fn scope_by_id(
        &self,
        id: ScopeId,
    ) -> Result<Option<ScopeRecord>, DirectoryError> {
        self.ask(self.reader.find_scope_by_id(id)).await
    }

    /// Returns an instance by the parts of its key.
    pub(crate) fn find_by_parts(&self, parts: KeyParts<'_>) -> Option<Arc<InstanceEntry>> {
        self.maps.instances.pin().get(&parts).cloned()
    }

    /// Returns the key of an instance in the Directory, and what a heartbeat needs.
    pub(crate) fn known(&self, parts: KeyParts<'_>) -> Option<(InstanceKey, HeartbeatInfo)> {
        let known = self.maps.instances.pin();
        let (key, listed) = known.get_key_value(&parts)?;
        Some((key.clone(), HeartbeatInfo::from(&**listed)))
    }

    /// Does the same for many instances.
    pub(crate) fn all_known<'a>(
        &self,
        parts: impl Iterator<Item = KeyParts<'a>>,
    ) -> Vec<Option<(InstanceKey, HeartbeatInfo)>> {
        let known = self.maps.instances.pin();
        let look = |parts| {
            let (key, listed) = known.get_key_value(&parts)?;
            Some((key, HeartbeatInfo::from(&**listed)))
        };
        // All are looked up before one key is cloned: an atomic reference count keeps the processor
        // from starting the next look-up, and with many instances each of them waits for memory.
        let found: Vec<_> = parts.map(look).collect();
        let cloned = |(key, profile): (&InstanceKey, _)| (key.clone(), profile);
        found.into_iter().map(|found| found.map(cloned)).collect()
    }

    /// Fills in what a heartbeat needs for the instances that the Directory does not know; those
    /// that are not registered stay `None`.
    ///
    /// The registry store is asked about all of them at once. If it gives no answer, they are
    /// trusted and get the defaults: a lease without a registered instance is listed nowhere, and
    /// expires.
    pub async fn resolve(
        &self,
        instances: &mut [(InstanceKey, Option<HeartbeatInfo>)],
    ) -> Result<(), DirectoryError> {
        let mut unknown = Vec::new();
        {
            let known = self.maps.instances.pin();
            for (key, info) in instances.iter_mut().filter(|(_, info)| info.is_none()) {
                *info = known.get(key).map(|listed| HeartbeatInfo::from(&**listed));
                if info.is_none() {
                    unknown.push((key, info));
                }
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let keys = unknown.iter().map(|(key, _)| InstanceKey::clone(key));
        let found = self
            .look_up(&keys.collect::<Vec<_>>(), &self.permits.any)
            .await;
        if let Err(DirectoryError::Store(error)) = &found {
            log::debug!(
                "the registry store does not answer, heartbeats continue without it: {error}"
            );
        }
        for (key, info) in unknown {
            *info = match &found {
                Ok(found) => found.get(key).copied(),
                Err(DirectoryError::Store(_)) => Some(HeartbeatInfo::default()),
                Err(overloaded) => return Err(overloaded.clone()),
            };
        }
        Ok(())
    }

    /// Returns what a heartbeat in the original's form needs, which may be of an address that never
    /// registers. The registry store is asked only while few such look-ups are in flight.
    pub(crate) async fn resolve_keep_alive(&self, key: &InstanceKey) -> Option<HeartbeatInfo> {
        if let Some(known) = self.maps.instances.pin().get(key) {
            return Some(HeartbeatInfo::from(&**known));
        }
        if self.permits.keep_alive.available_permits() == 0 {
            return None;
        }
        let found = self.look_up(std::slice::from_ref(key), &self.permits.keep_alive);
        found.await.ok()?.get(key).copied()
    }

    /// Returns those of the given instances that the registry store does not have. Without an
    /// answer, none.
    pub(crate) async fn vanished(&self, keys: &[InstanceKey]) -> Vec<InstanceKey> {
        if keys.is_empty() {
            return Vec::new();
        }
        match self.look_up(keys, &self.permits.any).await {
            Ok(found) => keys
                .iter()
                .filter(|key| !found.contains_key(key))
                .cloned()
                .collect(),
            Err(error) => {
                log::debug!("the registry store cannot confirm new leases: {error}");
                Vec::new()
            }
        }
    }

    /// Asks the registry store for instances, and applies its rows.
    async fn look_up(
        &self,
        keys: &[InstanceKey],
        permits: &Semaphore,
    ) -> Result<HashMap<InstanceKey, HeartbeatInfo>, DirectoryError> {
        let rows = self
            .ask_in(permits, self.reader.find_instances(keys))
            .await?;
        let events: Vec<EventKind> = rows.into_iter().map(EventKind::LeaseRestarted).collect();
        self.apply(&events);
        let instances = events.iter().filter_map(EventKind::instance);
        let infos = instances.map(|instance| {
            let entry = self.find(&instance.key);
            let info = entry.map(|entry| HeartbeatInfo::from(&*entry));
            (instance.key.clone(), info.unwrap_or_default())
        });
        Ok(infos.collect())
    }

    async fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, DirectoryError> {
        self.ask_in(&self.permits.any, question).await
    }

    async fn ask_in<T>(
        &self,
        permits: &Semaphore,
        question: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, DirectoryError> {
        let deadline = Instant::now() + LOOKUP;
        let _permit = match timeout_at(deadline, permits.acquire()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => return Err(DirectoryError::Overloaded),
        };
        match timeout_at(deadline, question).await {
            Ok(answer) => Ok(answer?),
            Err(_) => {
                let late = format!("no look-up within {LOOKUP:?}");
                Err(StoreError::Unavailable(late).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use foldhash::fast::RandomState;

    use super::*;

    #[test]
    fn an_instance_is_found_by_the_parts_of_its_key() {
        let hash = RandomState::default();
        for kind in [ScopeKind::Group, ScopeKind::Service] {
            let key = InstanceKey {
                scope: kind.with("orders".parse().unwrap()),
                address: "[::1]:80".parse().unwrap(),
            };
            let parts = KeyParts {
                kind,
                key: "orders",
                address: "[::1]:80",
            };
            assert!(parts.equivalent(&key));
            assert_eq!(hash.hash_one(parts), hash.hash_one(&key));
        }
    }
}
