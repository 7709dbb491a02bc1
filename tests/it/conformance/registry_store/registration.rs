//! Registrations, changes, and what is read.

use super::*;
use crate::conformance::suite;

suite! {
    backends:
        on_sqlite => crate::conformance::registry_store::sqlite(),
        on_postgres => crate::conformance::registry_store::postgres(),
        on_memory => crate::conformance::registry_store::of_tests();
    tests: {
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
        the_digest_changes_with_every_change,
        every_script_and_sign_is_kept,
    }
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
