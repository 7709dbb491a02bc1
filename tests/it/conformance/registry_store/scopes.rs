//! Scopes.

use super::*;
use crate::conformance::suite;

suite! {
    backends:
        on_sqlite => crate::conformance::registry_store::sqlite(),
        on_postgres => crate::conformance::registry_store::postgres(),
        on_memory => crate::conformance::registry_store::of_tests();
    tests: {
        a_scope_is_declared_once,
        a_scope_is_renamed_only_when_a_name_is_given,
        a_group_and_a_service_may_have_the_same_key,
        every_scope_is_listed,
        a_scope_is_found_by_its_id,
        a_scope_is_deleted_only_without_instances,
        complaint_18_a_service_that_was_never_declared_goes_with_its_last_instance,
    }
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
    fixture.declare(&service("orders"), None).await;
    fixture.register(Registration::of(key.clone())).await;
    let delete =
        async |tx: &mut dyn RegistryTransaction| tx.delete_scope(&service("orders")).await.unwrap();
    assert_eq!(fixture.write(delete).await, ScopeDeletion::HasInstances);
    fixture
        .write(async |tx| tx.deregister_instance(&key, false).await.unwrap())
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

async fn complaint_18_a_service_that_was_never_declared_goes_with_its_last_instance(
    mut fixture: Fixture,
) {
    let keys = ["a:1", "b:1"].map(|address| instance(service("orders"), address));
    let deregister = async |fixture: &mut Fixture, key: &InstanceKey| {
        let outcome = fixture.write(async |tx| tx.deregister_instance(key, false).await.unwrap());
        match outcome.await {
            Deregistration::Removed(removal) => removal.services,
            outcome => panic!("{outcome:?}"),
        }
    };
    let find = async |fixture: &Fixture, scope: &Scope| {
        fixture.store.reader.find_scope(scope).await.unwrap()
    };
    for key in &keys {
        fixture.register(Registration::of(key.clone())).await;
    }
    let record = find(&fixture, &service("orders")).await.unwrap();
    assert_eq!(deregister(&mut fixture, &keys[0]).await, []);
    let removed = deregister(&mut fixture, &keys[1]).await;
    assert_eq!(removed, std::slice::from_ref(&record));
    assert_eq!(find(&fixture, &service("orders")).await, None);
    // The next instance declares it again, as another scope.
    fixture.register(Registration::of(keys[0].clone())).await;
    let again = find(&fixture, &service("orders")).await.unwrap();
    assert!(again.id > record.id);

    // Declaring a service that its instance has declared makes it stay.
    fixture.declare(&service("orders"), None).await;
    assert_eq!(deregister(&mut fixture, &keys[0]).await, []);
    assert!(find(&fixture, &service("orders")).await.is_some());
    // A group is always declared.
    fixture.declare(&group("edge"), None).await;
    let gateway = instance(group("edge"), "a:1");
    fixture.register(Registration::of(gateway.clone())).await;
    assert_eq!(deregister(&mut fixture, &gateway).await, []);
    assert!(find(&fixture, &group("edge")).await.is_some());

    // Instances that were offline for long take their services with them, too.
    let old = ["x", "y"].map(|scope| instance(service(scope), "a:1"));
    for key in &old {
        fixture.register(Registration::of(key.clone())).await;
    }
    fixture.declare(&service("y"), None).await;
    let later = now() + chrono::TimeDelta::milliseconds(1);
    let removal = fixture
        .write(async |tx| tx.purge_offline_instances(later, 10).await.unwrap())
        .await;
    let scopes: Vec<_> = removal.services.iter().map(|one| &one.scope).collect();
    assert_eq!(scopes, [&service("x")]);
    assert!(find(&fixture, &service("y")).await.is_some());
}
