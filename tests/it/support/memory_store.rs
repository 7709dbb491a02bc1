//! A registry store in memory, for tests in virtual time: several daemons may share it. It
//! passes the suite of the real ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rollcalld::model::{
    Action, ActionRecord, ActionSelection, DisplayName, Epoch, Field, Instance, InstanceChange,
    InstanceId, InstanceKey, Overrides, Presence, RegisteredStatus, Registration, Scope, ScopeId,
    ScopeKind, ScopeRecord, Status,
};
use rollcalld::store::{
    Attestation, Declared, Deregistration, Digest, InstancePage, LeaseStart, MigrateError,
    RecordedLease, Registered, RegisteredMany, RegistryReader, RegistryTransaction, RegistryWriter,
    Removal, ScopeDeletion, Store, StoreError,
};
use tokio::time::Instant;

/// The rows, shared by all handles.
#[derive(Clone, Default)]
pub(crate) struct MemoryStore(Arc<Mutex<Rows>>);

#[derive(Clone, Default)]
struct Rows {
    scopes: BTreeMap<Scope, ScopeRecord>,
    instances: BTreeMap<InstanceKey, Instance>,
    /// The scopes that stay without instances.
    declared: BTreeSet<Scope>,
    last_id: i64,
    /// The last attestation of each replica, and its time.
    replicas: BTreeMap<String, (Attestation, Instant)>,
    transitions: Vec<(InstanceId, i64, bool)>,
    actions: Vec<ActionRecord>,
}

/// The rows at some moment.
pub(crate) struct Backup(Rows);

impl MemoryStore {
    /// A reader and a writer on the rows.
    pub(crate) fn open(&self) -> Store {
        Store {
            reader: Arc::new(self.clone()),
            writer: Box::new(self.clone()),
        }
    }

    /// Everything as it is now.
    pub(crate) fn backup(&self) -> Backup {
        Backup(self.0.lock().unwrap().clone())
    }

    /// Restores everything, except the record of transitions.
    pub(crate) fn restore(&self, backup: Backup) {
        let mut rows = self.0.lock().unwrap();
        let transitions = std::mem::take(&mut rows.transitions);
        *rows = backup.0;
        rows.transitions = transitions;
    }

    /// Every transition that was committed: the instance, its revision, whether it went online.
    pub(crate) fn transitions(&self) -> Vec<(InstanceId, i64, bool)> {
        self.0.lock().unwrap().transitions.clone()
    }

    fn read<T>(&self, read: impl FnOnce(&Rows) -> T) -> Result<T, StoreError> {
        Ok(read(&self.0.lock().unwrap()))
    }
}

#[async_trait]
impl RegistryReader for MemoryStore {
    async fn list_scopes(&self) -> Result<Vec<ScopeRecord>, StoreError> {
        self.read(|rows| rows.scopes.values().cloned().collect())
    }

    async fn find_scope(&self, scope: &Scope) -> Result<Option<ScopeRecord>, StoreError> {
        self.read(|rows| rows.scopes.get(scope).cloned())
    }

    async fn find_scope_by_id(&self, id: ScopeId) -> Result<Option<ScopeRecord>, StoreError> {
        self.read(|rows| rows.scopes.values().find(|scope| scope.id == id).cloned())
    }

    async fn list_instances(
        &self,
        after: InstanceId,
        limit: u16,
    ) -> Result<InstancePage, StoreError> {
        let mut all = self.read(|rows| rows.instances.values().cloned().collect::<Vec<_>>())?;
        all.retain(|instance| instance.id > after);
        all.sort_by_key(|instance| instance.id);
        all.truncate(limit.into());
        Ok(all.into())
    }

    async fn find_instances(&self, keys: &[InstanceKey]) -> Result<Vec<Instance>, StoreError> {
        self.read(|rows| {
            let found = keys.iter().filter_map(|key| rows.instances.get(key));
            found.cloned().collect()
        })
    }

    async fn list_actions(
        &self,
        selection: &ActionSelection,
        before: Option<i64>,
        limit: u16,
    ) -> Result<Vec<ActionRecord>, StoreError> {
        let mut actions = self.read(|rows| rows.actions.clone())?;
        actions.retain(|ActionRecord { id, at, action }| {
            let scope = action.subject.scope();
            let is_within = |(kind, key, any_end): &(ScopeKind, String, bool)| {
                scope.is_some_and(|scope| {
                    let own = scope.key.to_string();
                    let matches = own == *key || (*any_end && own.starts_with(key.as_str()));
                    scope.kind == *kind && matches
                })
            };
            let address = action.subject.instance().map(|key| &key.address);
            before.is_none_or(|before| *id < before)
                && selection.scope.as_ref().is_none_or(|it| scope == Some(it))
                && selection
                    .address
                    .as_ref()
                    .is_none_or(|it| address == Some(it))
                && selection
                    .token
                    .as_ref()
                    .is_none_or(|it| action.by.token() == it)
                && selection.kind.is_none_or(|it| action.kind == it)
                && selection.since.is_none_or(|it| *at >= it)
                && selection.until.is_none_or(|it| *at < it)
                && selection.within.as_ref().is_none_or(is_within)
        });
        actions.reverse();
        actions.truncate(limit.into());
        Ok(actions)
    }

    async fn digest(&self) -> Result<Digest, StoreError> {
        self.read(|rows| Digest {
            scopes: rows.scopes.len() as i64,
            scope_sum: rows
                .scopes
                .values()
                .map(|scope| scope.id.0 + scope.revision)
                .sum(),
            instances: rows.instances.len() as i64,
            instance_sum: rows.instances.values().map(Digest::term).sum(),
        })
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl RegistryWriter for MemoryStore {
    async fn migrate(&mut self) -> Result<Vec<String>, MigrateError> {
        Ok(Vec::new())
    }

    async fn begin<'a>(
        &'a mut self,
        now: DateTime<Utc>,
    ) -> Result<Box<dyn RegistryTransaction + 'a>, StoreError> {
        Ok(Box::new(MemoryTransaction {
            writes: Vec::new(),
            store: self.clone(),
            now,
        }))
    }
}

type WriteAgain = Box<dyn Fn(&mut Rows) + Send + Sync>;

/// Each write is applied to a copy of the rows, after earlier ones of the transaction, and the
/// commit applies all of them. Nothing waits within a transaction of these tests, so no other
/// one interleaves.
struct MemoryTransaction {
    writes: Vec<WriteAgain>,
    store: MemoryStore,
    now: DateTime<Utc>,
}

impl MemoryTransaction {
    fn write<T>(
        &mut self,
        write: impl Fn(&mut Rows) -> T + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        let mut rows = self.store.0.lock().unwrap().clone();
        self.writes.iter().for_each(|write| write(&mut rows));
        let output = write(&mut rows);
        self.writes.push(Box::new(move |rows| drop(write(rows))));
        Ok(output)
    }
}

impl Rows {
    fn next_id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    fn remove(&mut self, instances: Vec<Instance>) -> Removal {
        let mut services = Vec::new();
        for Instance { key, .. } in &instances {
            self.instances.remove(key);
            let scope = &key.scope;
            let is_empty = !self.instances.keys().any(|key| key.scope == *scope);
            if is_empty && scope.kind == ScopeKind::Service && !self.declared.contains(scope) {
                services.extend(self.scopes.remove(scope));
            }
        }
        Removal {
            instances,
            services,
        }
    }

    fn declare(&mut self, scope: &Scope, now: DateTime<Utc>) -> ScopeRecord {
        let record = ScopeRecord {
            id: ScopeId(self.next_id()),
            scope: scope.clone(),
            name: None,
            created_at: now,
            revision: 1,
        };
        self.scopes.insert(scope.clone(), record.clone());
        record
    }

    fn register(&mut self, given: &Registration, now: DateTime<Utc>) -> Registered {
        let known = self.instances.get(&given.key).cloned();
        let is_service = given.key.scope.kind == ScopeKind::Service;
        let mut instance = known.clone().unwrap_or_else(|| Instance {
            id: InstanceId(self.next_id()),
            key: given.key.clone(),
            name: None,
            given_weight: None,
            given_metadata: Default::default(),
            ttl: None,
            status: Status::Disabled,
            hold: None,
            overrides: None,
            registered_by: None,
            presence: Presence::default(),
            registered_at: now,
            updated_at: now,
            revision: 0,
        });
        let keeps = !is_service || given.status == RegisteredStatus::Unchanged;
        if known.is_none() || !(keeps || instance.status == Status::Held) {
            instance.status = match given.status {
                RegisteredStatus::Enabled | RegisteredStatus::Unchanged if is_service => {
                    Status::Enabled
                }
                _ => Status::Disabled,
            };
        }
        fn field<T: Clone>(given: &Field<T>, known: Option<T>, is_alive: bool) -> Option<T> {
            match given {
                Field::Given(value) => Some(value.clone()),
                Field::Omitted if is_alive => known,
                Field::Omitted | Field::Null => None,
            }
        }
        let is_alive = instance.presence.online;
        let name = instance.name.take().map(|name| *name);
        instance.name = field(&given.name, name, is_alive).map(Box::new);
        instance.given_weight = field(&given.weight, instance.given_weight, is_alive);
        let metadata = std::mem::take(&mut instance.given_metadata);
        let metadata = field(&given.metadata, Some(metadata), is_alive);
        instance.given_metadata = metadata.unwrap_or_default();
        instance.ttl = field(&given.ttl, instance.ttl, is_alive);
        let changed = known.as_ref() != Some(&instance);
        if changed {
            instance.registered_by.clone_from(&given.by);
            instance.revision += 1;
            instance.updated_at = now;
        }
        self.instances.insert(given.key.clone(), instance.clone());
        Registered {
            instance,
            created: known.is_none(),
            changed,
        }
    }
}

#[async_trait]
impl RegistryTransaction for MemoryTransaction {
    async fn declare_scope(
        &mut self,
        scope: &Scope,
        name: Option<&DisplayName>,
    ) -> Result<Declared, StoreError> {
        let (scope, name, now) = (scope.clone(), name.cloned(), self.now);
        self.write(move |rows| {
            let known = rows.scopes.get(&scope).cloned();
            let mut record = known.clone().unwrap_or_else(|| rows.declare(&scope, now));
            rows.declared.insert(scope.clone());
            record.name = name.clone().or(record.name);
            record.revision += i64::from(known.is_some());
            rows.scopes.insert(scope.clone(), record.clone());
            Declared {
                record,
                created: known.is_none(),
            }
        })
    }

    async fn delete_scope(&mut self, scope: &Scope) -> Result<ScopeDeletion, StoreError> {
        let scope = scope.clone();
        self.write(move |rows| {
            if rows.instances.keys().any(|key| key.scope == scope) {
                return ScopeDeletion::HasInstances;
            }
            rows.declared.remove(&scope);
            let removed = rows.scopes.remove(&scope);
            removed.map_or(ScopeDeletion::Unknown, ScopeDeletion::Deleted)
        })
    }

    async fn register_instances(
        &mut self,
        registrations: &[Registration],
    ) -> Result<RegisteredMany, StoreError> {
        let (registrations, now) = (registrations.to_vec(), self.now);
        self.write(move |rows| {
            let mut done = RegisteredMany::default();
            for given in &registrations {
                let scope = &given.key.scope;
                let declared = rows.scopes.contains_key(scope);
                if !declared && scope.kind == ScopeKind::Service {
                    done.services.push(rows.declare(scope, now));
                }
                let may = declared || scope.kind == ScopeKind::Service;
                done.instances.push(may.then(|| rows.register(given, now)));
            }
            done
        })
    }

    async fn change_instance(
        &mut self,
        key: &InstanceKey,
        change: &InstanceChange,
    ) -> Result<Option<Instance>, StoreError> {
        let (key, change, now) = (key.clone(), change.clone(), self.now);
        self.write(move |rows| {
            let instance = rows.instances.get_mut(&key)?;
            if let (Some(own), Some(hold)) = (&change.only_own_hold, &instance.hold)
                && hold.by != *own
            {
                return None;
            }
            if let Some(status) = &change.status {
                instance.status = status.status();
                instance.hold = status.hold().cloned().map(Box::new);
            }
            let known = instance.overrides.take().unwrap_or_default();
            instance.overrides = Overrides::of(
                match &change.weight {
                    Field::Omitted => known.weight,
                    weight => weight.given().copied(),
                },
                match &change.metadata {
                    Field::Omitted => known.metadata,
                    metadata => metadata.given().cloned(),
                },
            );
            instance.updated_at = now;
            instance.revision += 1;
            Some(instance.clone())
        })
    }

    async fn disable_service_instance(
        &mut self,
        id: InstanceId,
    ) -> Result<Option<Instance>, StoreError> {
        let now = self.now;
        self.write(move |rows| {
            let mut instances = rows.instances.values_mut();
            let instance = instances.find(|instance| instance.id == id)?;
            if instance.key.scope.kind != ScopeKind::Service {
                return None;
            }
            if instance.status == Status::Enabled {
                instance.status = Status::Disabled;
            }
            instance.updated_at = now;
            instance.revision += 1;
            Some(instance.clone())
        })
    }

    async fn deregister_instance(
        &mut self,
        key: &InstanceKey,
        keep_decided: bool,
    ) -> Result<Deregistration, StoreError> {
        let key = key.clone();
        self.write(move |rows| match rows.instances.get(&key) {
            None => Deregistration::Unknown,
            Some(known) if keep_decided && known.is_decided() => {
                Deregistration::Kept(known.clone())
            }
            Some(known) => {
                let removed = vec![known.clone()];
                Deregistration::Removed(rows.remove(removed))
            }
        })
    }

    async fn take_offline(
        &mut self,
        key: &InstanceKey,
        only_decided: bool,
    ) -> Result<Option<Instance>, StoreError> {
        let (key, now) = (key.clone(), self.now);
        self.write(move |rows| {
            let instance = rows.instances.get_mut(&key)?;
            let spared = only_decided && !instance.is_decided();
            if spared || !instance.presence.online {
                return None;
            }
            instance.presence.online = false;
            instance.presence.changed_at = Some(now);
            instance.revision += 1;
            Some(instance.clone())
        })
    }

    async fn purge_offline_instances(
        &mut self,
        before: DateTime<Utc>,
        limit: u16,
    ) -> Result<Removal, StoreError> {
        self.write(move |rows| {
            let old = |instance: &&Instance| {
                let last = instance.presence.changed_at.max(Some(instance.updated_at));
                !instance.presence.online && instance.status != Status::Held && last < Some(before)
            };
            let mut old: Vec<Instance> = rows.instances.values().filter(old).cloned().collect();
            old.sort_by_key(|instance| instance.id);
            old.truncate(limit.into());
            rows.remove(old)
        })
    }

    async fn end_holds(&mut self, limit: u16) -> Result<Vec<Instance>, StoreError> {
        let now = self.now;
        self.write(move |rows| {
            let has_ended = |instance: &&mut Instance| {
                let hold = instance.hold.as_ref();
                hold.is_some_and(|hold| hold.until.is_some_and(|until| until <= now))
            };
            let ended = rows.instances.values_mut().filter(has_ended);
            let enabled = ended.take(limit.into()).map(|instance| {
                instance.status = Status::Enabled;
                instance.hold = None;
                instance.updated_at = now;
                instance.revision += 1;
                instance.clone()
            });
            enabled.collect()
        })
    }

    async fn find_instances(&mut self, keys: &[InstanceKey]) -> Result<Vec<Instance>, StoreError> {
        let keys = keys.to_vec();
        self.write(move |rows| {
            let found = keys.iter().filter_map(|key| rows.instances.get(key));
            found.cloned().collect()
        })
    }

    async fn record_action(&mut self, action: &Action) -> Result<(), StoreError> {
        let (action, at) = (action.clone(), self.now);
        self.write(move |rows| {
            let (id, action) = (rows.next_id(), action.clone());
            rows.actions.push(ActionRecord { id, at, action });
        })
    }

    async fn purge_actions(
        &mut self,
        before: DateTime<Utc>,
        limit: u16,
    ) -> Result<usize, StoreError> {
        self.write(move |rows| {
            let old = rows.actions.iter().take_while(|it| it.at < before);
            let count = old.count().min(limit.into());
            rows.actions.drain(..count);
            count
        })
    }

    async fn record_online(
        &mut self,
        starts: &[LeaseStart],
    ) -> Result<Vec<RecordedLease>, StoreError> {
        let (starts, now) = (starts.to_vec(), self.now);
        self.write(move |rows| {
            let Rows {
                instances,
                transitions,
                ..
            } = rows;
            let record = |(index, LeaseStart { key, epoch }): (usize, &LeaseStart)| {
                let instance = instances.get_mut(key)?;
                let presence = &mut instance.presence;
                if presence.epoch.is_some_and(|known| known >= *epoch) {
                    return None;
                }
                let transition = !presence.online;
                presence.epoch = Some(*epoch);
                presence.online = true;
                if transition {
                    presence.changed_at = Some(now);
                }
                instance.revision += 1;
                if transition {
                    transitions.push((instance.id, instance.revision, true));
                }
                Some(RecordedLease {
                    index,
                    id: instance.id,
                    changed_at: instance.presence.changed_at.unwrap_or(now),
                    revision: instance.revision,
                    transition,
                })
            };
            starts.iter().enumerate().filter_map(record).collect()
        })
    }

    async fn record_offline(&mut self, starts: &[LeaseStart]) -> Result<Vec<Instance>, StoreError> {
        let (starts, now) = (starts.to_vec(), self.now);
        self.write(move |rows| {
            let Rows {
                instances,
                transitions,
                ..
            } = rows;
            let record = |LeaseStart { key, epoch }: &LeaseStart| {
                let instance = instances.get_mut(key)?;
                let presence = &mut instance.presence;
                let current: Option<Epoch> = presence.epoch.filter(|_| presence.online);
                if current != Some(*epoch) {
                    return None;
                }
                presence.online = false;
                presence.changed_at = Some(now);
                instance.revision += 1;
                transitions.push((instance.id, instance.revision, false));
                Some(instance.clone())
            };
            starts.iter().filter_map(record).collect()
        })
    }

    async fn attest(&mut self, own: &Attestation) -> Result<Vec<Attestation>, StoreError> {
        let own = own.clone();
        self.write(move |rows| {
            let now = Instant::now();
            rows.replicas
                .insert(own.replica.0.clone(), (own.clone(), now));
            let running = rows.replicas.values().filter(|(other, seen_at)| {
                other.replica != own.replica && now.duration_since(*seen_at).as_secs() < 5
            });
            running.map(|(other, _)| other.clone()).collect()
        })
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        let mut rows = self.store.0.lock().unwrap();
        self.writes.iter().for_each(|write| write(&mut rows));
        Ok(())
    }
}
