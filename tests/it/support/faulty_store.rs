//! A registry store in memory with the faults that a test asks for.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rollcalld::clock::{Clock, SystemClock};
use rollcalld::model::{
    Action, ActionRecord, ActionSelection, DisplayName, Instance, InstanceChange, InstanceId,
    InstanceKey, Registration, Scope, ScopeId, ScopeRecord,
};
use rollcalld::store::{
    Attestation, Declared, Deregistration, Digest, InstancePage, LeaseStart, MigrateError,
    RecordedLease, RegisteredMany, RegistryReader, RegistryTransaction, RegistryWriter, Removal,
    ScopeDeletion, Store, StoreError,
};
use tokio::sync::Semaphore;

use super::memory_store::MemoryStore;

/// The store; shared with the test.
#[derive(Default)]
pub(crate) struct FaultyStore {
    pub store: MemoryStore,
    /// The registrations, scopes and leases of each transaction that was committed.
    pub committed: Mutex<Vec<Vec<String>>>,
    /// One permit lets one transaction begin.
    pub gate: Option<Semaphore>,
    /// Look-ups and records of leases fail.
    pub away: AtomicBool,
    pub look_ups: AtomicUsize,
    pub fail_commit: AtomicBool,
}

impl FaultyStore {
    /// A store whose transactions begin when the test lets them.
    pub(crate) fn gated() -> Arc<Self> {
        Arc::new(Self {
            gate: Some(Semaphore::new(0)),
            ..Self::default()
        })
    }

    pub(crate) fn writer(self: &Arc<Self>) -> Box<dyn RegistryWriter> {
        let Store { writer, .. } = self.store.open();
        Box::new(FaultyWriter {
            store: Arc::clone(self),
            writer,
        })
    }

    /// Registers instances without a fault, and without a record in `committed`.
    pub(crate) async fn register(&self, keys: impl Iterator<Item = InstanceKey>) {
        let mut writer = self.store.open().writer;
        let mut transaction = writer.begin(SystemClock.now()).await.unwrap();
        let registrations: Vec<_> = keys.map(Registration::of).collect();
        transaction
            .register_instances(&registrations)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
    }

    fn is_away(&self) -> Result<(), StoreError> {
        if self.away.load(Ordering::SeqCst) {
            Err(StoreError::Unavailable("away".into()))
        } else {
            Ok(())
        }
    }
}

struct FaultyWriter {
    store: Arc<FaultyStore>,
    writer: Box<dyn RegistryWriter>,
}

struct FaultyTransaction<'a> {
    store: &'a FaultyStore,
    inner: Box<dyn RegistryTransaction + 'a>,
    writes: Vec<String>,
}

#[async_trait]
impl RegistryWriter for FaultyWriter {
    async fn migrate(&mut self) -> Result<Vec<String>, MigrateError> {
        self.writer.migrate().await
    }

    async fn begin<'a>(
        &'a mut self,
        now: DateTime<Utc>,
    ) -> Result<Box<dyn RegistryTransaction + 'a>, StoreError> {
        if let Some(gate) = &self.store.gate {
            gate.acquire().await.unwrap().forget();
        }
        Ok(Box::new(FaultyTransaction {
            store: &self.store,
            inner: self.writer.begin(now).await?,
            writes: Vec::new(),
        }))
    }
}

#[async_trait]
impl RegistryTransaction for FaultyTransaction<'_> {
    async fn declare_scope(
        &mut self,
        scope: &Scope,
        name: Option<&DisplayName>,
    ) -> Result<Declared, StoreError> {
        self.writes.push(scope.to_string());
        self.inner.declare_scope(scope, name).await
    }

    async fn delete_scope(&mut self, scope: &Scope) -> Result<ScopeDeletion, StoreError> {
        self.inner.delete_scope(scope).await
    }

    async fn attest(&mut self, own: &Attestation) -> Result<Vec<Attestation>, StoreError> {
        self.inner.attest(own).await
    }

    async fn register_instances(
        &mut self,
        registrations: &[Registration],
    ) -> Result<RegisteredMany, StoreError> {
        for Registration { key, .. } in registrations {
            match key.address.as_str() {
                "poison:1" => return Err(StoreError::Refused("poison".into())),
                "conflict:1" if registrations.len() > 1 => {
                    return Err(StoreError::Conflict("deadlock".into()));
                }
                "panic:1" => panic!("as this test wants it"),
                address => self.writes.push(address.to_owned()),
            }
        }
        let mut keys: Vec<_> = registrations.iter().map(|one| &one.key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), registrations.len(), "twice in one statement");
        self.inner.register_instances(registrations).await
    }

    async fn change_instance(
        &mut self,
        key: &InstanceKey,
        change: &InstanceChange,
    ) -> Result<Option<Instance>, StoreError> {
        self.inner.change_instance(key, change).await
    }

    async fn disable_service_instance(
        &mut self,
        id: InstanceId,
    ) -> Result<Option<Instance>, StoreError> {
        self.inner.disable_service_instance(id).await
    }

    async fn deregister_instance(
        &mut self,
        key: &InstanceKey,
        keep_decided: bool,
    ) -> Result<Deregistration, StoreError> {
        self.inner.deregister_instance(key, keep_decided).await
    }

    async fn take_offline(
        &mut self,
        key: &InstanceKey,
        only_decided: bool,
    ) -> Result<Option<Instance>, StoreError> {
        self.inner.take_offline(key, only_decided).await
    }

    async fn purge_offline_instances(
        &mut self,
        before: DateTime<Utc>,
        limit: u16,
    ) -> Result<Removal, StoreError> {
        self.inner.purge_offline_instances(before, limit).await
    }

    async fn end_holds(&mut self, limit: u16) -> Result<Vec<Instance>, StoreError> {
        self.inner.end_holds(limit).await
    }

    async fn find_instances(&mut self, keys: &[InstanceKey]) -> Result<Vec<Instance>, StoreError> {
        self.inner.find_instances(keys).await
    }

    async fn record_action(&mut self, action: &Action) -> Result<(), StoreError> {
        self.inner.record_action(action).await
    }

    async fn purge_actions(
        &mut self,
        before: DateTime<Utc>,
        limit: u16,
    ) -> Result<usize, StoreError> {
        self.inner.purge_actions(before, limit).await
    }

    async fn record_online(
        &mut self,
        starts: &[LeaseStart],
    ) -> Result<Vec<RecordedLease>, StoreError> {
        let lease = |start: &LeaseStart| format!("{} since {}", start.key.address, start.epoch.0);
        self.writes.extend(starts.iter().map(lease));
        self.store.is_away()?;
        self.inner.record_online(starts).await
    }

    async fn record_offline(&mut self, ends: &[LeaseStart]) -> Result<Vec<Instance>, StoreError> {
        self.inner.record_offline(ends).await
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        if self.store.fail_commit.load(Ordering::SeqCst) {
            return Err(StoreError::OutcomeUnknown("cut".into()));
        }
        self.inner.commit().await?;
        self.store.committed.lock().unwrap().push(self.writes);
        Ok(())
    }
}

#[async_trait]
impl RegistryReader for FaultyStore {
    async fn list_scopes(&self) -> Result<Vec<ScopeRecord>, StoreError> {
        self.store.list_scopes().await
    }

    async fn find_scope(&self, scope: &Scope) -> Result<Option<ScopeRecord>, StoreError> {
        self.store.find_scope(scope).await
    }

    async fn find_scope_by_id(&self, id: ScopeId) -> Result<Option<ScopeRecord>, StoreError> {
        self.store.find_scope_by_id(id).await
    }

    async fn list_instances(
        &self,
        after: InstanceId,
        limit: u16,
    ) -> Result<InstancePage, StoreError> {
        self.store.list_instances(after, limit).await
    }

    async fn list_actions(
        &self,
        selection: &ActionSelection,
        before: Option<i64>,
        limit: u16,
    ) -> Result<Vec<ActionRecord>, StoreError> {
        self.store.list_actions(selection, before, limit).await
    }

    async fn digest(&self) -> Result<Digest, StoreError> {
        self.store.digest().await
    }

    async fn find_instances(&self, keys: &[InstanceKey]) -> Result<Vec<Instance>, StoreError> {
        self.look_ups.fetch_add(1, Ordering::SeqCst);
        self.is_away()?;
        self.store.find_instances(keys).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.store.ping().await
    }
}
