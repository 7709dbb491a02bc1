//! Registrations, and what is read.

use chrono::TimeDelta;

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
        re_registration_keeps_what_it_leaves_out_while_the_lease_is_alive,
        a_new_process_on_an_old_address_starts_clean,
        a_field_that_is_null_takes_the_default,
        who_registered_an_instance_is_recorded_with_each_change,
        re_registration_replaces_what_it_gives,
        re_registration_enables_a_disabled_service_instance,
        a_registration_enables_or_disables_a_service_instance_or_keeps_its_status,
        reserved_metadata_are_stored,
        a_registration_sent_twice_leaves_one_row,
        many_registrations_are_answered_in_order,
        a_deregistered_instance_that_registers_again_is_a_new_one,
        a_dropped_transaction_changes_nothing,
        instances_are_found_by_their_keys,
        instances_are_listed_page_by_page,
        a_registration_that_changes_nothing_is_no_change,
        a_registration_names_the_services_it_declared,
        the_digest_changes_with_every_change,
        every_script_and_sign_is_kept,
        a_new_instance_is_answered_as_it_is_stored,
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
    assert_eq!((new.metadata(), &new.hold), (&Metadata::default(), &None));
    assert!(!new.is_decided());
    assert_eq!((new.registered_at, new.updated_at), (now(), now()));
    assert_eq!(fixture.find(&key).await.as_ref(), Some(new));
}

async fn re_registration_keeps_what_it_leaves_out_while_the_lease_is_alive(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    fixture.register(full(key.clone())).await;
    fixture.online(&key, 10).await;
    let known = fixture.find(&key).await.unwrap();
    let second = fixture.register(Registration::of(key)).await;
    assert!(!second.created && !second.changed);
    assert_eq!(second.instance, known);
}

async fn a_new_process_on_an_old_address_starts_clean(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    fixture.register(full(key.clone())).await;
    fixture.online(&key, 10).await;
    fixture.offline(&key, 10).await;
    let weight = Weight::try_from(3).unwrap();
    let second = fixture
        .register(Registration {
            weight: Field::Given(weight),
            ..Registration::of(key.clone())
        })
        .await;
    assert!(!second.created && second.changed);
    let clean = second.instance;
    assert_eq!((clean.weight(), clean.ttl), (weight, None));
    assert_eq!(clean.display_name(), "a:1");
    assert_eq!(clean.metadata(), &Metadata::default());
    // Also one whose process never sent a heartbeat.
    let never = instance(service("orders"), "b:1");
    fixture.register(full(never.clone())).await;
    let clean = fixture.register(Registration::of(never)).await.instance;
    assert_eq!((clean.weight(), clean.ttl), (Weight::default(), None));
}

async fn a_field_that_is_null_takes_the_default(mut fixture: Fixture) {
    let keys: Vec<_> = (0..6)
        .map(|i| instance(service("orders"), &format!("a:{}", i + 1)))
        .collect();
    fixture
        .register_many(keys.iter().cloned().map(full).collect())
        .await;
    for key in &keys {
        fixture.online(key, 10).await;
    }
    let [name, weight, metadata, ttl, none, all] = [0, 1, 2, 3, 4, 5].map(|i| {
        let mut one = Registration::of(keys[i].clone());
        if i == 0 || i == 5 {
            one.name = Field::Null;
        }
        if i == 1 || i == 5 {
            one.weight = Field::Null;
        }
        if i == 2 || i == 5 {
            one.metadata = Field::Null;
        }
        if i == 3 || i == 5 {
            one.ttl = Field::Null;
        }
        one
    });
    let registered = fixture
        .register_many(vec![name, weight, metadata, ttl, none, all])
        .await;
    let seen: Vec<_> = registered
        .into_iter()
        .map(|one| {
            let Registered {
                instance, changed, ..
            } = one.unwrap();
            let has_metadata = instance.metadata() != &Metadata::default();
            let weight = instance.weight().get();
            (
                changed,
                instance.name.is_some(),
                weight,
                has_metadata,
                instance.ttl.is_some(),
            )
        })
        .collect();
    let expected = [
        (true, false, 7, true, true),
        (true, true, 1, true, true),
        (true, true, 7, false, true),
        (true, true, 7, true, false),
        (false, true, 7, true, true),
        (true, false, 1, false, false),
    ];
    assert_eq!(seen, expected);
}

async fn who_registered_an_instance_is_recorded_with_each_change(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    let by = |token: &str| Some(Registrant::new(token, "2001:db8::9".parse().unwrap()));
    let registration = |token, weight: i64| Registration {
        weight: Field::Given(Weight::try_from(weight).unwrap()),
        by: by(token),
        ..Registration::of(key.clone())
    };
    let first = fixture.register(registration("one", 1)).await.instance;
    assert_eq!(first.registered_by, by("one"));
    let same = fixture.register(registration("two", 1)).await;
    assert_eq!((same.changed, &same.instance), (false, &first));
    let changed = fixture.register(registration("two", 2)).await.instance;
    assert_eq!(changed.registered_by, by("two"));
    assert_eq!(fixture.find(&key).await, Some(changed));
}

async fn re_registration_replaces_what_it_gives(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    fixture.register(full(key.clone())).await;
    fixture.online(&key, 10).await;
    let second = fixture
        .register(Registration {
            weight: Field::Given(Weight::try_from(0).unwrap()),
            metadata: Field::Given(Metadata::default()),
            ..Registration::of(key)
        })
        .await
        .instance;
    assert_eq!(second.weight().get(), 0);
    assert_eq!(second.metadata(), &Metadata::default());
    assert_eq!(second.display_name(), "One");
    assert_eq!(second.ttl.unwrap().as_secs(), 60);
}

async fn a_registration_enables_or_disables_a_service_instance_or_keeps_its_status(
    mut fixture: Fixture,
) {
    use RegisteredStatus::{Disabled, Enabled, Unchanged};

    let key = instance(service("orders"), "a:1");
    let with = |status| Registration {
        status,
        ..Registration::of(key.clone())
    };
    for (status, expected) in [
        (Disabled, Status::Disabled),
        (Unchanged, Status::Disabled),
        (Enabled, Status::Enabled),
        (Unchanged, Status::Enabled),
        (Disabled, Status::Disabled),
    ] {
        let registered = fixture.register(with(status)).await.instance;
        assert_eq!(registered.status, expected, "{status:?}");
    }
    fixture.set(&key, hold("ada", None)).await;
    for status in [Enabled, Disabled, Unchanged] {
        let registered = fixture.register(with(status)).await.instance;
        assert_eq!(registered.status, Status::Held, "{status:?}");
    }
    let other = instance(service("orders"), "b:1");
    let unchanged = Registration {
        status: Unchanged,
        ..Registration::of(other)
    };
    let new = fixture.register(unchanged).await.instance;
    assert_eq!(new.status, Status::Enabled);

    fixture.declare(&group("edge"), None).await;
    let gateway = instance(group("edge"), "a:1");
    for status in [Enabled, Disabled, Unchanged] {
        let registration = Registration {
            status,
            ..Registration::of(gateway.clone())
        };
        let gateway = fixture.register(registration).await.instance;
        assert_eq!(gateway.status, Status::Disabled, "{status:?}");
    }
}

async fn reserved_metadata_are_stored(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    let text = r#"{"ids":["orders-1"]}"#.to_owned();
    let with_entry = metadata(&[("zone", "a")]).with_protocol(Protocol::Eureka, Some(text.clone()));
    let registration = Registration {
        metadata: Field::Given(with_entry.unwrap()),
        ..Registration::of(key.clone())
    };
    fixture.register(registration).await;
    let found = fixture.find(&key).await.unwrap();
    let entry = found.given_metadata.of_protocol(Protocol::Eureka);
    assert_eq!(entry, Some(text.as_str()));
}

async fn re_registration_enables_a_disabled_service_instance(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    fixture.register(Registration::of(key.clone())).await;
    let disabled = fixture.set(&key, StatusChange::Disable).await;
    assert_eq!(disabled.status, Status::Disabled);
    let again = fixture.register(Registration::of(key)).await;
    assert_eq!(again.instance.status, Status::Enabled);
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

async fn a_deregistered_instance_that_registers_again_is_a_new_one(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    let first = fixture.register(full(key.clone())).await.instance;
    let deregister =
        async |tx: &mut dyn RegistryTransaction| tx.deregister_instance(&key, true).await.unwrap();
    let Deregistration::Removed(removed) = fixture.write(deregister).await else {
        panic!("it was registered");
    };
    assert_eq!(removed.instances, std::slice::from_ref(&first));
    assert_eq!(fixture.write(deregister).await, Deregistration::Unknown);
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
        let last_id = page.last_id();
        let page: Vec<Instance> = page.collect::<Result<_, _>>().unwrap();
        assert_eq!(last_id, page.last().map(|last| last.id));
        assert!(page.len() <= 3);
        let Some(last_id) = last_id else { break };
        after = last_id;
        listed.extend(page);
    }
    assert_eq!(listed, registered);
}

async fn a_registration_that_changes_nothing_is_no_change(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    let first = fixture.register(full(key.clone())).await;
    assert!(first.created && first.changed);
    fixture.online(&key, 10).await;
    let first = fixture.find(&key).await.unwrap();
    for registration in [full(key.clone()), Registration::of(key.clone())] {
        let again = fixture.register(registration).await;
        assert!(!again.created && !again.changed);
        assert_eq!(again.instance, first);
    }
    let heavier = Registration {
        weight: Field::Given(Weight::try_from(77).unwrap()),
        ..Registration::of(key.clone())
    };
    let changed = fixture.register(heavier.clone()).await;
    assert!(!changed.created && changed.changed);
    assert!(changed.instance.revision > first.revision);
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
        let all = fixture.all().await;
        let terms = all.iter().map(Digest::term).sum::<i64>();
        assert_eq!(digest.instance_sum, terms);
    };
    fixture.declare(&group("edge"), None).await;
    changed(&fixture).await;
    fixture.declare(&group("edge"), Some("Edge")).await;
    changed(&fixture).await;
    let without_instance = fixture.store.reader.digest().await.unwrap();
    fixture.register(Registration::of(key.clone())).await;
    changed(&fixture).await;
    fixture.online(&key, 1000).await;
    changed(&fixture).await;
    fixture.offline(&key, 1000).await;
    changed(&fixture).await;
    fixture
        .write(async |tx| tx.deregister_instance(&key, false).await.unwrap())
        .await;
    // The service has gone with its instance: the rows are those of before.
    let digest = fixture.store.reader.digest().await.unwrap();
    assert_eq!(digest, without_instance);
    assert_eq!(
        (digest.scopes, digest.instances, digest.instance_sum),
        (1, 0, 0)
    );
}

async fn every_script_and_sign_is_kept(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    let registration = Registration {
        name: Field::Given("订单 'Orders' \"€\" 🚀 \\".to_owned().try_into().unwrap()),
        metadata: Field::Given(metadata(&[
            ("quote", "it's \"quoted\""),
            ("line\nbreak", "\t\u{7f}"),
            ("emoji", "🚀{}[],:\\"),
            ("empty", ""),
        ])),
        ..Registration::of(key.clone())
    };
    let registered = fixture.register(registration.clone()).await.instance;
    assert_eq!(registered.name.as_deref(), registration.name.given());
    assert_eq!(Some(registered.metadata()), registration.metadata.given());
    assert_eq!(fixture.find(&key).await, Some(registered));
}

async fn a_new_instance_is_answered_as_it_is_stored(mut fixture: Fixture) {
    fixture.declare(&group("edge"), None).await;
    let registrations = vec![
        Registration::of(instance(service("orders"), "a:1")),
        full(instance(service("orders"), "[2001:db8::1]:8080")),
        full(instance(group("edge"), "a:1")),
        Registration {
            status: RegisteredStatus::Disabled,
            metadata: Field::Given(metadata(&[])),
            weight: Field::Null,
            ..full(instance(service("orders"), "a:2"))
        },
        Registration {
            // Not in the order in which a database keeps them.
            metadata: Field::Given(metadata(&[
                ("zone", "a"),
                ("b", "1"),
                ("a", "2"),
                ("c", "3"),
            ])),
            name: Field::Null,
            ..full(instance(service("billing"), "a:1"))
        },
    ];
    // A clock is more precise than a store.
    let now = now() + TimeDelta::nanoseconds(456_789);
    let mut transaction = fixture.store.writer.begin(now).await.unwrap();
    let done = transaction.register_instances(&registrations).await;
    transaction.commit().await.unwrap();
    let instances = done.unwrap().instances;
    assert_eq!(instances.len(), registrations.len());
    for (registered, registration) in instances.into_iter().zip(registrations) {
        let Registered {
            instance,
            created,
            changed,
        } = registered.unwrap();
        assert!(created && changed);
        assert_eq!(fixture.find(&registration.key).await, Some(instance));
    }
}
