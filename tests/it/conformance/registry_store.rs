//! The suite of the registry store.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rollcalld::model::{
    DisplayName, Epoch, Hold, Instance, InstanceChange, InstanceId, InstanceKey, Metadata, Note,
    Presence, Registration, Scope, ScopeId, ScopeKind, Status, StatusChange, Ttl, Weight,
};
use rollcalld::store::{
    self, Digest, LeaseStart, MigrateError, Registered, RegistryTransaction, ScopeDeletion, Store,
    StoreUrl, WentOnline,
};
use tempfile::TempDir;

use super::suite;
use crate::support::memory_store::MemoryStore;
use crate::support::postgres as servers;

pub(super) struct Fixture {
    store: Store,
    url: String,
    _dir: Option<TempDir>,
}

async fn sqlite() -> Fixture {
    let dir = TempDir::new().unwrap();
    let url = format!("sqlite:{}/registry.db", dir.path().display());
    Fixture::new(url, Some(dir)).await
}

async fn postgres() -> Fixture {
    let url = servers::shared().await.create_database().await;
    Fixture::new(url, None).await
}

/// The store of the tests: tests on it are worth nothing unless it behaves like the others.
async fn of_tests() -> Fixture {
    Fixture {
        store: MemoryStore::default().open(),
        url: String::new(),
        _dir: None,
    }
}

mod schema {
    use super::{
        a_schema_newer_than_this_binary_is_refused,
        addresses_of_older_versions_become_normal_and_one_instance_each,
        migrating_again_changes_nothing, suite,
    };

    suite! {
        backends:
            on_sqlite => crate::conformance::registry_store::sqlite(),
            on_postgres => crate::conformance::registry_store::postgres();
        tests: {
            migrating_again_changes_nothing,
            a_schema_newer_than_this_binary_is_refused,
            addresses_of_older_versions_become_normal_and_one_instance_each,
        }
    }
}

suite! {
    backends:
        on_sqlite => super::sqlite(),
        on_postgres => super::postgres(),
        on_memory => super::of_tests();
    tests: {
        a_scope_is_declared_once,
        a_scope_is_renamed_only_when_a_name_is_given,
        a_group_and_a_service_may_have_the_same_key,
        every_scope_is_listed,
        a_scope_is_found_by_its_id,
        a_scope_is_deleted_only_without_instances,
        a_service_is_declared_by_its_first_instance,
        a_gateway_of_an_undeclared_group_is_not_registered,
        a_new_gateway_is_disabled_and_stays_so,
        a_new_service_instance_is_enabled,
        re_registration_keeps_what_it_leaves_out,
        re_registration_replaces_what_it_gives,
        re_registration_enables_a_disabled_service_instance,
        a_held_instance_stays_held_through_re_registration,
        a_registration_sent_twice_leaves_one_row,
        many_registrations_are_answered_in_order,
        a_hold_has_a_name_and_a_reason_and_ends_with_another_status,
        a_change_leaves_what_it_does_not_name,
        changing_an_unknown_instance_does_nothing,
        only_a_service_instance_is_disabled_by_its_id,
        a_deregistered_instance_that_registers_again_is_a_new_one,
        a_dropped_transaction_changes_nothing,
        instances_are_found_by_their_keys,
        instances_are_listed_page_by_page,
        a_registration_that_changes_nothing_is_no_change,
        a_registration_names_the_services_it_declared,
        instances_offline_for_long_are_removed,
        the_digest_changes_with_every_change,
        every_script_and_sign_is_kept,
        a_new_instance_was_never_online,
        a_later_life_is_recorded_and_an_earlier_one_is_not,
        a_life_that_follows_unseen_is_no_transition,
        only_the_known_life_can_end_and_once,
        a_heartbeat_during_the_record_of_the_end_wins_in_any_order,
        presence_and_status_leave_each_other_alone,
        presence_of_the_unknown_is_not_recorded,
        a_change_is_a_new_revision,
    }
}

impl Fixture {
    async fn new(url: String, dir: Option<TempDir>) -> Self {
        let mut store = store::open(&url.parse::<StoreUrl>().unwrap()).unwrap();
        let mut migrations = vec!["V1__registry", "V2__keys_by_bytes"];
        // A SQLite has no other replicas.
        migrations.extend((dir.is_none()).then_some("V3__replicas"));
        migrations.push("V4__addresses");
        assert_eq!(store.writer.migrate().await.unwrap(), migrations);
        Self {
            store,
            url,
            _dir: dir,
        }
    }

    async fn write<T>(&mut self, work: impl AsyncFnOnce(&mut dyn RegistryTransaction) -> T) -> T {
        let mut transaction = self.store.writer.begin(now()).await.unwrap();
        let output = work(&mut *transaction).await;
        transaction.commit().await.unwrap();
        output
    }

    async fn declare(&mut self, scope: &Scope, name: Option<&str>) -> store::Declared {
        let name = name.map(|name| DisplayName::try_from(name.to_owned()).unwrap());
        self.write(async |tx| tx.declare_scope(scope, name.as_ref()).await.unwrap())
            .await
    }

    async fn register(&mut self, registration: Registration) -> Registered {
        self.register_many(vec![registration])
            .await
            .remove(0)
            .unwrap()
    }

    async fn register_many(&mut self, registrations: Vec<Registration>) -> Vec<Option<Registered>> {
        self.write(async |tx| tx.register_instances(&registrations).await.unwrap())
            .await
            .instances
    }

    async fn change(&mut self, key: &InstanceKey, change: InstanceChange) -> Option<Instance> {
        self.write(async |tx| tx.change_instance(key, &change).await.unwrap())
            .await
    }

    async fn set(&mut self, key: &InstanceKey, status: StatusChange) -> Instance {
        let change = InstanceChange {
            status: Some(status),
            ..InstanceChange::default()
        };
        self.change(key, change).await.unwrap()
    }

    async fn online(&mut self, key: &InstanceKey, epoch: i64) -> Vec<WentOnline> {
        let starts = [start(key, epoch)];
        self.write(async |tx| tx.record_online(&starts).await.unwrap())
            .await
    }

    async fn offline(&mut self, key: &InstanceKey, epoch: i64) -> Vec<Instance> {
        let starts = [start(key, epoch)];
        self.write(async |tx| tx.record_offline(&starts).await.unwrap())
            .await
    }

    async fn all(&self) -> Vec<Instance> {
        let listed = self.store.reader.list_instances(InstanceId(0), 1000).await;
        listed.unwrap()
    }

    async fn find(&self, key: &InstanceKey) -> Option<Instance> {
        let found = self
            .store
            .reader
            .find_instances(std::slice::from_ref(key))
            .await;
        found.unwrap().pop()
    }
}

fn start(key: &InstanceKey, epoch: i64) -> LeaseStart {
    LeaseStart {
        key: key.clone(),
        epoch: Epoch(epoch),
    }
}

fn now() -> DateTime<Utc> {
    "2026-11-22T10:00:00.123Z".parse().unwrap()
}

fn group(key: &str) -> Scope {
    ScopeKind::Group.with(key.parse().unwrap())
}

fn service(key: &str) -> Scope {
    ScopeKind::Service.with(key.parse().unwrap())
}

fn instance(scope: Scope, address: &str) -> InstanceKey {
    InstanceKey {
        scope,
        address: address.parse().unwrap(),
    }
}

fn metadata(entries: &[(&str, &str)]) -> Metadata {
    let entries = entries
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Metadata::try_from(entries.collect::<BTreeMap<_, _>>()).unwrap()
}

fn full(key: InstanceKey) -> Registration {
    Registration {
        key,
        name: Some("One".to_owned().try_into().unwrap()),
        weight: Some(Weight::try_from(7).unwrap()),
        metadata: Some(metadata(&[("zone", "a")])),
        ttl: Some(Ttl::try_from(60).unwrap()),
    }
}

fn hold(by: &str, reason: Option<&str>) -> StatusChange {
    StatusChange::Hold(Hold {
        by: by.to_owned(),
        reason: reason.map(|reason| Note::try_from(reason.to_owned()).unwrap()),
    })
}

async fn migrating_again_changes_nothing(mut fixture: Fixture) {
    fixture.declare(&group("edge"), None).await;
    assert_eq!(
        fixture.store.writer.migrate().await.unwrap(),
        Vec::<String>::new()
    );
    assert!(
        fixture
            .store
            .reader
            .find_scope(&group("edge"))
            .await
            .unwrap()
            .is_some()
    );
}

/// Changes the database as an older or newer version, or another program, would.
async fn execute(fixture: &Fixture, statements: &str) {
    match fixture.url.strip_prefix("sqlite:") {
        Some(path) => {
            let connection = rusqlite::Connection::open(path).unwrap();
            connection.execute_batch(statements).unwrap();
        }
        None => {
            let client = servers::connect(&fixture.url).await.unwrap();
            client.batch_execute(statements).await.unwrap();
        }
    }
}

async fn a_schema_newer_than_this_binary_is_refused(mut fixture: Fixture) {
    let newer = "INSERT INTO refinery_schema_history (version, name, applied_on, checksum)
        VALUES (99, 'later', '2030-01-01T00:00:00Z', '1')";
    execute(&fixture, newer).await;
    match fixture.store.writer.migrate().await.unwrap_err() {
        MigrateError::SchemaNewer { found, known } => assert_eq!((found, known), (99, 4)),
        error => panic!("{error}"),
    }
}

async fn addresses_of_older_versions_become_normal_and_one_instance_each(mut fixture: Fixture) {
    fixture
        .register(full(instance(service("orders"), "10.0.0.1:80")))
        .await;
    let older = "DELETE FROM refinery_schema_history WHERE version = 4;
        INSERT INTO instance (scope_id, address, status, registered_at, updated_at)
        SELECT instance.scope_id, given.address, 'enabled', instance.registered_at,
               instance.updated_at
        FROM instance CROSS JOIN (
            SELECT 'Host.EU:80' AS address
            UNION ALL SELECT 'HOST.eu:80'
            UNION ALL SELECT '[0:0:0:0:0:0:0:1]:80'
            UNION ALL SELECT '[::FFFF:c000:0201]:81'
        ) AS given";
    execute(&fixture, older).await;
    let applied = fixture.store.writer.migrate().await.unwrap();
    assert_eq!(applied, ["V4__addresses"]);
    let all = fixture
        .store
        .reader
        .list_instances(InstanceId(0), 100)
        .await;
    let mut addresses: Vec<String> = all
        .unwrap()
        .iter()
        .map(|instance| instance.key.address.to_string())
        .collect();
    addresses.sort();
    assert_eq!(
        addresses,
        [
            "10.0.0.1:80",
            "[::1]:80",
            "[::ffff:192.0.2.1]:81",
            "host.eu:80"
        ]
    );
}

async fn a_scope_is_declared_once(mut fixture: Fixture) {
    let first = fixture.declare(&group("edge"), None).await;
    let second = fixture.declare(&group("edge"), None).await;
    assert!(first.created);
    assert!(!second.created);
    assert_eq!(
        (first.record.id, &first.record.scope),
        (second.record.id, &second.record.scope)
    );
    assert_eq!(first.record.created_at, second.record.created_at);
    assert_eq!(first.record.created_at, now());
    assert_eq!(first.record.display_name(), "edge");
    assert_eq!(
        fixture
            .store
            .reader
            .find_scope(&group("edge"))
            .await
            .unwrap(),
        Some(second.record)
    );
}

async fn a_scope_is_renamed_only_when_a_name_is_given(mut fixture: Fixture) {
    fixture.declare(&group("edge"), Some("Edge gateways")).await;
    let unnamed = fixture.declare(&group("edge"), None).await;
    assert_eq!(unnamed.record.display_name(), "Edge gateways");
    let renamed = fixture.declare(&group("edge"), Some("边缘网关")).await;
    assert_eq!(renamed.record.display_name(), "边缘网关");
    assert!(!renamed.created);
}

async fn a_group_and_a_service_may_have_the_same_key(mut fixture: Fixture) {
    let first = fixture.declare(&group("edge"), None).await;
    let second = fixture.declare(&service("edge"), None).await;
    assert!(second.created);
    assert_ne!(first.record.id, second.record.id);
}

async fn every_scope_is_listed(mut fixture: Fixture) {
    let mut declared = Vec::new();
    for scope in [group("b"), service("c"), group("a"), service("Z")] {
        declared.push(fixture.declare(&scope, None).await.record);
    }
    let mut listed = fixture.store.reader.list_scopes().await.unwrap();
    listed.sort_by_key(|record| record.id);
    assert_eq!(listed, declared);
}

async fn a_scope_is_found_by_its_id(mut fixture: Fixture) {
    let record = fixture.declare(&service("orders"), None).await.record;
    let reader = &fixture.store.reader;
    assert_eq!(
        reader.find_scope_by_id(record.id).await.unwrap(),
        Some(record.clone())
    );
    let other = ScopeId(record.id.0 + 1);
    assert_eq!(reader.find_scope_by_id(other).await.unwrap(), None);
}

async fn a_scope_is_deleted_only_without_instances(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    fixture.register(Registration::of(key.clone())).await;
    let delete =
        async |tx: &mut dyn RegistryTransaction| tx.delete_scope(&service("orders")).await.unwrap();
    assert_eq!(fixture.write(delete).await, ScopeDeletion::HasInstances);
    fixture
        .write(async |tx| tx.deregister_instance(&key).await.unwrap())
        .await;
    let record = fixture.store.reader.find_scope(&service("orders")).await;
    assert_eq!(
        fixture.write(delete).await,
        ScopeDeletion::Deleted(record.unwrap().unwrap())
    );
    assert_eq!(fixture.write(delete).await, ScopeDeletion::Unknown);
    assert_eq!(
        fixture
            .store
            .reader
            .find_scope(&service("orders"))
            .await
            .unwrap(),
        None
    );
}

async fn a_service_is_declared_by_its_first_instance(mut fixture: Fixture) {
    fixture
        .register(Registration::of(instance(service("orders"), "a:1")))
        .await;
    let record = fixture
        .store
        .reader
        .find_scope(&service("orders"))
        .await
        .unwrap()
        .unwrap();
    fixture
        .register(Registration::of(instance(service("orders"), "a:2")))
        .await;
    let again = fixture
        .store
        .reader
        .find_scope(&service("orders"))
        .await
        .unwrap();
    assert_eq!(again, Some(record));
}

async fn a_gateway_of_an_undeclared_group_is_not_registered(mut fixture: Fixture) {
    let key = instance(group("edge"), "a:1");
    let answers = fixture
        .register_many(vec![Registration::of(key.clone())])
        .await;
    assert_eq!(answers, [None]);
    assert_eq!(fixture.find(&key).await, None);
    assert_eq!(
        fixture
            .store
            .reader
            .find_scope(&group("edge"))
            .await
            .unwrap(),
        None
    );
}

async fn a_new_gateway_is_disabled_and_stays_so(mut fixture: Fixture) {
    fixture.declare(&group("edge"), None).await;
    let key = instance(group("edge"), "a:1");
    let first = fixture.register(Registration::of(key.clone())).await;
    let second = fixture.register(Registration::of(key.clone())).await;
    assert_eq!(first.instance.status, Status::Disabled);
    assert_eq!(second.instance.status, Status::Disabled);
    fixture.set(&key, StatusChange::Enable).await;
    let third = fixture.register(Registration::of(key)).await;
    assert_eq!(third.instance.status, Status::Enabled);
}

async fn a_new_service_instance_is_enabled(mut fixture: Fixture) {
    let key = instance(service("orders"), "[2001:db8::1]:8080");
    let registered = fixture.register(Registration::of(key.clone())).await;
    assert!(registered.created);
    let new = &registered.instance;
    assert_eq!((&new.key, new.status), (&key, Status::Enabled));
    assert_eq!(new.display_name(), "[2001:db8::1]:8080");
    assert_eq!((new.weight(), new.ttl), (Weight::default(), None));
    assert_eq!((&new.metadata, &new.hold), (&Metadata::default(), &None));
    assert_eq!((new.registered_at, new.updated_at), (now(), now()));
    assert_eq!(fixture.find(&key).await.as_ref(), Some(new));
}

async fn re_registration_keeps_what_it_leaves_out(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    let first = fixture.register(full(key.clone())).await;
    let second = fixture.register(Registration::of(key)).await;
    assert!(!second.created);
    assert_eq!(second.instance, first.instance);
}

async fn re_registration_replaces_what_it_gives(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    fixture.register(full(key.clone())).await;
    let second = fixture
        .register(Registration {
            weight: Some(Weight::try_from(0).unwrap()),
            metadata: Some(Metadata::default()),
            ..Registration::of(key)
        })
        .await
        .instance;
    assert_eq!(second.weight().get(), 0);
    assert_eq!(second.metadata, Metadata::default());
    assert_eq!(second.display_name(), "One");
    assert_eq!(second.ttl.unwrap().as_secs(), 60);
}

async fn re_registration_enables_a_disabled_service_instance(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    fixture.register(Registration::of(key.clone())).await;
    let disabled = fixture.set(&key, StatusChange::Disable).await;
    assert_eq!(disabled.status, Status::Disabled);
    let again = fixture.register(Registration::of(key)).await;
    assert_eq!(again.instance.status, Status::Enabled);
}

async fn a_held_instance_stays_held_through_re_registration(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    fixture.register(Registration::of(key.clone())).await;
    let held = fixture
        .set(&key, hold("ada", Some("disk is failing")))
        .await;
    let again = fixture.register(full(key)).await.instance;
    assert_eq!(again.status, Status::Held);
    assert_eq!(again.hold, held.hold);
    assert_eq!(again.weight().get(), 7);
}

async fn a_registration_sent_twice_leaves_one_row(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    let first = fixture.register(full(key.clone())).await.instance;
    let second = fixture.register(full(key)).await.instance;
    assert_eq!(first.id, second.id);
    assert_eq!(fixture.all().await, [second]);
}

async fn many_registrations_are_answered_in_order(mut fixture: Fixture) {
    fixture.declare(&group("edge"), None).await;
    fixture
        .register(Registration::of(instance(service("s1"), "known:1")))
        .await;
    let keys = [
        instance(service("s2"), "z:1"),
        instance(group("edge"), "g:1"),
        instance(group("missing"), "g:1"),
        instance(service("s1"), "known:1"),
        instance(service("s2"), "a:1"),
        instance(service("s1"), "a:1"),
    ];
    let registrations = keys.iter().cloned().map(Registration::of).collect();
    let answers = fixture.register_many(registrations).await;
    let seen: Vec<_> = answers
        .iter()
        .map(|answer| {
            answer
                .as_ref()
                .map(|answer| (&answer.instance.key, answer.created))
        })
        .collect();
    let expected = [
        Some((&keys[0], true)),
        Some((&keys[1], true)),
        None,
        Some((&keys[3], false)),
        Some((&keys[4], true)),
        Some((&keys[5], true)),
    ];
    assert_eq!(seen, expected);
}

async fn a_hold_has_a_name_and_a_reason_and_ends_with_another_status(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    fixture.register(Registration::of(key.clone())).await;
    let held = fixture.set(&key, hold("ada", Some("坏盘"))).await;
    assert_eq!(held.status, Status::Held);
    let hold_of = held.hold.unwrap();
    assert_eq!(
        (hold_of.by.as_str(), hold_of.reason.unwrap().as_str()),
        ("ada", "坏盘")
    );
    let without = fixture.set(&key, hold("bob", None)).await.hold.unwrap();
    assert_eq!((without.by.as_str(), without.reason), ("bob", None));
    let enabled = fixture.set(&key, StatusChange::Enable).await;
    assert_eq!((enabled.status, enabled.hold), (Status::Enabled, None));
}

async fn a_change_leaves_what_it_does_not_name(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    fixture.register(full(key.clone())).await;
    fixture.set(&key, hold("ada", Some("why"))).await;
    let change = InstanceChange {
        weight: Some(Weight::try_from(9).unwrap()),
        ..InstanceChange::default()
    };
    let changed = fixture.change(&key, change).await.unwrap();
    assert_eq!(changed.weight().get(), 9);
    assert_eq!(
        (changed.status, changed.hold.unwrap().by.as_str()),
        (Status::Held, "ada")
    );
    assert_eq!(changed.metadata, metadata(&[("zone", "a")]));
    let change = InstanceChange {
        metadata: Some(metadata(&[("zone", "b")])),
        ..InstanceChange::default()
    };
    let changed = fixture.change(&key, change).await.unwrap();
    assert_eq!(changed.metadata, metadata(&[("zone", "b")]));
    assert_eq!((changed.weight().get(), changed.display_name()), (9, "One"));
    assert_eq!(changed.ttl.unwrap().as_secs(), 60);
    assert_eq!(fixture.find(&key).await, Some(changed));
}

async fn changing_an_unknown_instance_does_nothing(mut fixture: Fixture) {
    fixture
        .register(Registration::of(instance(service("orders"), "a:1")))
        .await;
    let unknown = instance(service("orders"), "a:2");
    let change = InstanceChange {
        status: Some(StatusChange::Enable),
        ..InstanceChange::default()
    };
    assert_eq!(fixture.change(&unknown, change).await, None);
    assert_eq!(fixture.find(&unknown).await, None);
}

async fn only_a_service_instance_is_disabled_by_its_id(mut fixture: Fixture) {
    fixture.declare(&group("edge"), None).await;
    let (gateway, own) = (
        instance(group("edge"), "g:1"),
        instance(service("orders"), "a:1"),
    );
    let gateway_id = fixture
        .register(Registration::of(gateway.clone()))
        .await
        .instance
        .id;
    let id = fixture
        .register(Registration::of(own.clone()))
        .await
        .instance
        .id;
    fixture.set(&gateway, StatusChange::Enable).await;
    let disable = async |fixture: &mut Fixture, id| {
        fixture
            .write(async |tx| tx.disable_service_instance(id).await.unwrap())
            .await
    };
    let disabled = disable(&mut fixture, id).await;
    assert_eq!(disabled, fixture.find(&own).await);
    assert!(disable(&mut fixture, id).await.is_some(), "again");
    assert_eq!(fixture.find(&own).await.unwrap().status, Status::Disabled);
    assert!(disable(&mut fixture, gateway_id).await.is_none());
    assert_eq!(
        fixture.find(&gateway).await.unwrap().status,
        Status::Enabled
    );
    assert!(
        disable(&mut fixture, InstanceId(id.0 + 1000))
            .await
            .is_none()
    );
    fixture.set(&own, hold("ada", None)).await;
    assert!(disable(&mut fixture, id).await.is_some());
    assert_eq!(fixture.find(&own).await.unwrap().status, Status::Held);
}

async fn a_deregistered_instance_that_registers_again_is_a_new_one(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    let first = fixture.register(full(key.clone())).await.instance;
    let deregister =
        async |tx: &mut dyn RegistryTransaction| tx.deregister_instance(&key).await.unwrap();
    assert_eq!(fixture.write(deregister).await.as_ref(), Some(&first));
    assert_eq!(fixture.write(deregister).await, None);
    assert_eq!(fixture.find(&key).await, None);
    let second = fixture.register(Registration::of(key.clone())).await;
    assert!(second.created);
    assert!(second.instance.id > first.id);
    assert_eq!(second.instance.weight(), Weight::default());
}

async fn a_dropped_transaction_changes_nothing(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    let mut transaction = fixture.store.writer.begin(now()).await.unwrap();
    let registration = Registration::of(key.clone());
    transaction
        .register_instances(&[registration])
        .await
        .unwrap();
    drop(transaction);
    assert_eq!(fixture.find(&key).await, None);
    fixture.register(Registration::of(key.clone())).await;
    assert!(fixture.find(&key).await.is_some());
}

async fn instances_are_found_by_their_keys(mut fixture: Fixture) {
    let keys: Vec<InstanceKey> = (1..=5)
        .map(|i| instance(service(&format!("s{i}")), &format!("a:{i}")))
        .collect();
    for key in &keys[..3] {
        fixture.register(Registration::of(key.clone())).await;
    }
    // The key of one and the address of another are not an instance.
    let mut asked = keys.clone();
    asked.push(instance(service("s1"), "a:2"));
    let mut found: Vec<InstanceKey> = fixture
        .store
        .reader
        .find_instances(&asked)
        .await
        .unwrap()
        .into_iter()
        .map(|instance| instance.key)
        .collect();
    found.sort();
    assert_eq!(found, keys[..3]);
    assert_eq!(fixture.store.reader.find_instances(&[]).await.unwrap(), []);
}

async fn instances_are_listed_page_by_page(mut fixture: Fixture) {
    let mut registered = Vec::new();
    for i in 0..7 {
        let scope = service(&format!("s{}", i % 2));
        let registration = full(instance(scope, &format!("h-{i}:1")));
        registered.push(fixture.register(registration).await.instance);
    }
    let (mut listed, mut after) = (Vec::new(), InstanceId(0));
    loop {
        let page = fixture.store.reader.list_instances(after, 3).await.unwrap();
        assert!(page.len() <= 3);
        let Some(last) = page.last() else { break };
        after = last.id;
        listed.extend(page);
    }
    assert_eq!(listed, registered);
}

async fn a_registration_that_changes_nothing_is_no_change(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    let first = fixture.register(full(key.clone())).await;
    assert!(first.created && first.changed);
    for registration in [full(key.clone()), Registration::of(key.clone())] {
        let again = fixture.register(registration).await;
        assert!(!again.created && !again.changed);
        assert_eq!(again.instance, first.instance);
    }
    let heavier = Registration {
        weight: Some(Weight::try_from(77).unwrap()),
        ..Registration::of(key.clone())
    };
    let changed = fixture.register(heavier.clone()).await;
    assert!(!changed.created && changed.changed);
    assert!(changed.instance.revision > first.instance.revision);
    assert!(!fixture.register(heavier).await.changed);
    // To be enabled again is a change.
    fixture.set(&key, StatusChange::Disable).await;
    assert!(fixture.register(Registration::of(key)).await.changed);
}

async fn a_registration_names_the_services_it_declared(mut fixture: Fixture) {
    fixture.declare(&service("known"), None).await;
    let registrations = [
        Registration::of(instance(service("known"), "a:1")),
        Registration::of(instance(service("new"), "a:1")),
        Registration::of(instance(service("new"), "b:1")),
        Registration::of(instance(group("none"), "a:1")),
    ];
    let done = fixture
        .write(async |tx| tx.register_instances(&registrations).await.unwrap())
        .await;
    let declared: Vec<Scope> = done
        .services
        .iter()
        .map(|record| record.scope.clone())
        .collect();
    assert_eq!(declared, [service("new")]);
    assert_eq!(done.instances.iter().flatten().count(), 3);
}

async fn instances_offline_for_long_are_removed(mut fixture: Fixture) {
    let keys: Vec<InstanceKey> = (0..6)
        .map(|i| instance(service("orders"), &format!("h-{i}:1")))
        .collect();
    for key in &keys {
        fixture.register(Registration::of(key.clone())).await;
    }
    for key in &keys[..3] {
        fixture.online(key, 1000).await;
    }
    fixture.offline(&keys[1], 1000).await;
    fixture.set(&keys[5], hold("ada", None)).await;
    let forget = async |fixture: &mut Fixture, before: DateTime<Utc>, limit| {
        let forgotten = fixture
            .write(async |tx| tx.purge_offline_instances(before, limit).await.unwrap())
            .await;
        let mut keys: Vec<InstanceKey> = forgotten.into_iter().map(|gone| gone.key).collect();
        keys.sort();
        keys
    };
    // Everything here happened now.
    assert_eq!(forget(&mut fixture, now(), 10).await, []);
    let later = now() + chrono::TimeDelta::milliseconds(1);
    assert_eq!(
        forget(&mut fixture, later, 2).await,
        [keys[1].clone(), keys[3].clone()]
    );
    assert_eq!(forget(&mut fixture, later, 2).await, [keys[4].clone()]);
    assert_eq!(forget(&mut fixture, later, 2).await, []);
    // Online instances and the held one remain.
    let left: Vec<InstanceKey> = fixture
        .all()
        .await
        .into_iter()
        .map(|left| left.key)
        .collect();
    assert_eq!(left, [keys[0].clone(), keys[2].clone(), keys[5].clone()]);
}

async fn the_digest_changes_with_every_change(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    let mut seen = vec![fixture.store.reader.digest().await.unwrap()];
    let mut changed = async |fixture: &Fixture| {
        let digest = fixture.store.reader.digest().await.unwrap();
        assert!(!seen.contains(&digest), "{digest:?} of {seen:?}");
        seen.push(digest);
        // The Directory computes the same from its rows.
        let all = fixture
            .store
            .reader
            .list_instances(InstanceId(0), 100)
            .await;
        let terms = all.unwrap().iter().map(Digest::term).sum::<i64>();
        assert_eq!(digest.instance_sum, terms);
    };
    fixture.declare(&group("edge"), None).await;
    changed(&fixture).await;
    fixture.declare(&group("edge"), Some("Edge")).await;
    changed(&fixture).await;
    fixture.register(Registration::of(key.clone())).await;
    changed(&fixture).await;
    fixture.online(&key, 1000).await;
    changed(&fixture).await;
    fixture.offline(&key, 1000).await;
    changed(&fixture).await;
    fixture
        .write(async |tx| tx.deregister_instance(&key).await.unwrap())
        .await;
    changed(&fixture).await;
    let digest = fixture.store.reader.digest().await.unwrap();
    assert_eq!(
        (digest.scopes, digest.instances, digest.instance_sum),
        (2, 0, 0)
    );
}

async fn every_script_and_sign_is_kept(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    let registration = Registration {
        name: Some("订单 'Orders' \"€\" 🚀 \\".to_owned().try_into().unwrap()),
        metadata: Some(metadata(&[
            ("quote", "it's \"quoted\""),
            ("line\nbreak", "\t\u{7f}"),
            ("emoji", "🚀{}[],:\\"),
            ("empty", ""),
        ])),
        ..Registration::of(key.clone())
    };
    let registered = fixture.register(registration.clone()).await.instance;
    assert_eq!(registered.name, registration.name.clone().map(Box::new));
    assert_eq!(Some(&registered.metadata), registration.metadata.as_ref());
    assert_eq!(fixture.find(&key).await, Some(registered));
}

async fn a_new_instance_was_never_online(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    let new = fixture.register(Registration::of(key)).await.instance;
    assert_eq!((new.presence, new.revision), (Presence::default(), 1));
}

async fn a_later_life_is_recorded_and_an_earlier_one_is_not(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    fixture.register(Registration::of(key.clone())).await;
    let changed = fixture.online(&key, 1000).await;
    assert_eq!(changed.len(), 1);
    assert!(changed[0].transition);
    let presence = Presence {
        online: true,
        epoch: Some(Epoch(1000)),
        changed_at: Some(now()),
    };
    assert_eq!(changed[0].instance.presence, presence);
    for epoch in [1000, 999, -1] {
        assert_eq!(fixture.online(&key, epoch).await, [], "{epoch}");
    }
    assert_eq!(fixture.find(&key).await.unwrap().presence, presence);
}

async fn a_life_that_follows_unseen_is_no_transition(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    fixture.register(Registration::of(key.clone())).await;
    fixture.online(&key, 1000).await;
    let changed = fixture.online(&key, 2000).await;
    assert_eq!(changed.len(), 1);
    assert!(!changed[0].transition);
    assert_eq!(changed[0].instance.presence.epoch, Some(Epoch(2000)));
}

async fn only_the_known_life_can_end_and_once(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    fixture.register(Registration::of(key.clone())).await;
    assert_eq!(fixture.offline(&key, 1000).await, [], "it never lived");
    fixture.online(&key, 1000).await;
    assert_eq!(fixture.offline(&key, 999).await, []);
    assert_eq!(fixture.offline(&key, 1001).await, []);
    let gone = fixture.offline(&key, 1000).await;
    assert_eq!(gone.len(), 1);
    assert!(!gone[0].presence.online);
    assert_eq!(fixture.offline(&key, 1000).await, [], "it ended already");
    assert_eq!(
        fixture.online(&key, 1000).await,
        [],
        "and does not come back"
    );
    assert!(fixture.online(&key, 1001).await[0].transition);
}

async fn a_heartbeat_during_the_record_of_the_end_wins_in_any_order(mut fixture: Fixture) {
    let (first, second) = (instance(service("s"), "a:1"), instance(service("s"), "b:1"));
    for key in [&first, &second] {
        fixture.register(Registration::of(key.clone())).await;
        fixture.online(key, 1000).await;
    }
    fixture.offline(&first, 1000).await;
    fixture.online(&first, 2000).await;
    fixture.online(&second, 2000).await;
    assert_eq!(fixture.offline(&second, 1000).await, []);
    for key in [&first, &second] {
        let presence = fixture.find(key).await.unwrap().presence;
        assert_eq!((presence.online, presence.epoch), (true, Some(Epoch(2000))));
    }
}

async fn presence_and_status_leave_each_other_alone(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    fixture.register(full(key.clone())).await;
    fixture.set(&key, hold("ada", Some("why"))).await;
    fixture.online(&key, 1000).await;
    let held = fixture.find(&key).await.unwrap();
    assert_eq!(
        (held.status, held.hold.unwrap().by.as_str()),
        (Status::Held, "ada")
    );
    fixture.register(full(key.clone())).await;
    let enabled = fixture.set(&key, StatusChange::Enable).await;
    assert_eq!(
        (enabled.presence.online, enabled.presence.epoch),
        (true, Some(Epoch(1000)))
    );
}

async fn presence_of_the_unknown_is_not_recorded(mut fixture: Fixture) {
    let known = instance(service("orders"), "a:1");
    let unknown = instance(service("orders"), "b:1");
    fixture.register(Registration::of(known.clone())).await;
    let starts = [start(&unknown, 1000), start(&known, 1000)];
    let changed = fixture
        .write(async |tx| tx.record_online(&starts).await.unwrap())
        .await;
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].instance.key, known);
    assert_eq!(fixture.find(&unknown).await, None);
    assert_eq!(fixture.offline(&unknown, 1000).await, []);
}

async fn a_change_is_a_new_revision(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    let mut last = fixture.register(full(key.clone())).await.instance.revision;
    let mut later = |revision: i64| {
        assert!(revision > last, "{revision} after {last}");
        last = revision;
    };
    later(fixture.set(&key, StatusChange::Disable).await.revision);
    later(fixture.online(&key, 1000).await[0].instance.revision);
    later(fixture.online(&key, 2000).await[0].instance.revision);
    later(fixture.offline(&key, 2000).await[0].revision);
}
