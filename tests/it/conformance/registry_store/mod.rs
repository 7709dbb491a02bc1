//! The suite of the registry store.

mod actions;
mod decisions;
mod presence;
mod registration;
mod schema;
mod scopes;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rollcalld::model::{
    DisplayName, Epoch, Field, Hold, Instance, InstanceChange, InstanceId, InstanceKey, Metadata,
    Note, Presence, Protocol, RegisteredStatus, Registrant, Registration, Scope, ScopeId,
    ScopeKind, Status, StatusChange, Ttl, Weight,
};
use rollcalld::store::{
    self, Deregistration, Digest, LeaseStart, MigrateError, RecordedLease, Registered,
    RegistryTransaction, ScopeDeletion, Store, StoreUrl,
};
use tempfile::TempDir;

use crate::support::memory_store::MemoryStore;
use crate::support::postgres as servers;

/// An instance that was marked online.
#[derive(Debug, PartialEq)]
pub(super) struct WentOnline {
    pub(super) instance: Instance,
    pub(super) transition: bool,
}

pub(super) struct Fixture {
    pub(super) store: Store,
    pub(super) url: String,
    _dir: Option<TempDir>,
}

pub(super) async fn sqlite() -> Fixture {
    let dir = TempDir::new().unwrap();
    let url = format!("sqlite:{}/registry.db", dir.path().display());
    Fixture::new(url, Some(dir)).await
}

pub(super) async fn postgres() -> Fixture {
    let url = servers::shared().await.create_database().await;
    Fixture::new(url, None).await
}

/// The store of the tests: tests on it are worth nothing unless it behaves like the others.
pub(super) async fn of_tests() -> Fixture {
    Fixture {
        store: MemoryStore::default().open(),
        url: String::new(),
        _dir: None,
    }
}

impl Fixture {
    pub(super) async fn new(url: String, dir: Option<TempDir>) -> Self {
        let mut store = store::open(&url.parse::<StoreUrl>().unwrap()).unwrap();
        let mut migrations = vec!["V1__registry", "V2__keys_by_bytes"];
        // A SQLite has no other replicas.
        migrations.extend((dir.is_none()).then_some("V3__replicas"));
        migrations.extend(["V4__addresses", "V5__decisions", "V6__actions"]);
        migrations.extend((dir.is_none()).then_some("V7__replica_state"));
        assert_eq!(store.writer.migrate().await.unwrap(), migrations);
        Self {
            store,
            url,
            _dir: dir,
        }
    }

    pub(super) async fn write<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut dyn RegistryTransaction) -> T,
    ) -> T {
        let mut transaction = self.store.writer.begin(now()).await.unwrap();
        let output = work(&mut *transaction).await;
        transaction.commit().await.unwrap();
        output
    }

    pub(super) async fn declare(&mut self, scope: &Scope, name: Option<&str>) -> store::Declared {
        let name = name.map(|name| DisplayName::try_from(name.to_owned()).unwrap());
        self.write(async |tx| tx.declare_scope(scope, name.as_ref()).await.unwrap())
            .await
    }

    pub(super) async fn register(&mut self, registration: Registration) -> Registered {
        self.register_many(vec![registration])
            .await
            .remove(0)
            .unwrap()
    }

    pub(super) async fn register_many(
        &mut self,
        registrations: Vec<Registration>,
    ) -> Vec<Option<Registered>> {
        self.write(async |tx| tx.register_instances(&registrations).await.unwrap())
            .await
            .instances
    }

    pub(super) async fn change(
        &mut self,
        key: &InstanceKey,
        change: InstanceChange,
    ) -> Option<Instance> {
        self.write(async |tx| tx.change_instance(key, &change).await.unwrap())
            .await
    }

    pub(super) async fn set(&mut self, key: &InstanceKey, status: StatusChange) -> Instance {
        let change = InstanceChange {
            status: Some(status),
            ..InstanceChange::default()
        };
        self.change(key, change).await.unwrap()
    }

    pub(super) async fn online(&mut self, key: &InstanceKey, epoch: i64) -> Vec<WentOnline> {
        let starts = [start(key, epoch)];
        let keys = [key.clone()];
        self.write(async |tx| {
            let before = tx.find_instances(&keys).await.unwrap();
            let recorded = tx.record_online(&starts).await.unwrap();
            let after = tx.find_instances(&keys).await.unwrap();
            let went_online =
                |(lease, (before, instance)): (RecordedLease, (Instance, Instance))| {
                    let applied = lease.applied_to(&before, &starts[lease.index]);
                    assert_eq!(applied, Some(instance.clone()), "the row is as it says");
                    WentOnline {
                        instance,
                        transition: lease.transition,
                    }
                };
            let rows = before.into_iter().zip(after);
            recorded.into_iter().zip(rows).map(went_online).collect()
        })
        .await
    }

    pub(super) async fn offline(&mut self, key: &InstanceKey, epoch: i64) -> Vec<Instance> {
        let starts = [start(key, epoch)];
        self.write(async |tx| tx.record_offline(&starts).await.unwrap())
            .await
    }

    pub(super) async fn all(&self) -> Vec<Instance> {
        let listed = self.store.reader.list_instances(InstanceId(0), 1000).await;
        listed.unwrap().collect::<Result<_, _>>().unwrap()
    }

    pub(super) async fn find(&self, key: &InstanceKey) -> Option<Instance> {
        let found = self
            .store
            .reader
            .find_instances(std::slice::from_ref(key))
            .await;
        found.unwrap().pop()
    }
}

pub(super) fn start(key: &InstanceKey, epoch: i64) -> LeaseStart {
    LeaseStart {
        key: key.clone(),
        epoch: Epoch(epoch),
    }
}

pub(super) fn now() -> DateTime<Utc> {
    "2026-11-22T10:00:00.123Z".parse().unwrap()
}

pub(super) fn group(key: &str) -> Scope {
    ScopeKind::Group.with(key.parse().unwrap())
}

pub(super) fn service(key: &str) -> Scope {
    ScopeKind::Service.with(key.parse().unwrap())
}

pub(super) fn instance(scope: Scope, address: &str) -> InstanceKey {
    InstanceKey {
        scope,
        address: address.parse().unwrap(),
    }
}

pub(super) fn metadata(entries: &[(&str, &str)]) -> Metadata {
    let entries = entries
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Metadata::try_from(entries.collect::<BTreeMap<_, _>>()).unwrap()
}

pub(super) fn full(key: InstanceKey) -> Registration {
    Registration {
        name: Field::Given("One".to_owned().try_into().unwrap()),
        weight: Field::Given(Weight::try_from(7).unwrap()),
        metadata: Field::Given(metadata(&[("zone", "a")])),
        ttl: Field::Given(Ttl::try_from(60).unwrap()),
        by: Some(Registrant::new("web-team", "10.0.0.9".parse().unwrap())),
        ..Registration::of(key)
    }
}

pub(super) fn hold(by: &str, reason: Option<&str>) -> StatusChange {
    StatusChange::Hold(Hold {
        by: by.to_owned(),
        reason: reason.map(|reason| Note::try_from(reason.to_owned()).unwrap()),
        until: None,
    })
}
