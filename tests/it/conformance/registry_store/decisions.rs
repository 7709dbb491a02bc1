//! Decisions of operators: holds, approvals and overrides, and what ends them.

use chrono::TimeDelta;

use super::*;
use crate::conformance::suite;

suite! {
    backends:
        on_sqlite => crate::conformance::registry_store::sqlite(),
        on_postgres => crate::conformance::registry_store::postgres(),
        on_memory => crate::conformance::registry_store::of_tests();
    tests: {
        a_held_instance_stays_held_through_re_registration,
        a_hold_has_a_name_and_a_reason_and_ends_with_another_status,
        a_hold_with_an_end_is_ended_once_it_has_come,
        a_change_leaves_what_it_does_not_name,
        an_override_wins_over_registrations_until_it_is_cleared,
        a_decided_instance_is_deregistered_only_if_that_is_asked,
        a_change_that_may_end_only_an_own_hold_leaves_that_of_another_one,
        an_instance_is_taken_offline_or_only_a_decided_one,
        changing_an_unknown_instance_does_nothing,
        only_a_service_instance_is_disabled_by_its_id,
    }
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

async fn a_hold_with_an_end_is_ended_once_it_has_come(mut fixture: Fixture) {
    let keys = ["a:1", "b:1", "c:1"].map(|address| instance(service("orders"), address));
    for (key, end) in keys.iter().zip([Some(-1), Some(1), None]) {
        fixture.register(Registration::of(key.clone())).await;
        let until = end.map(|seconds| now() + TimeDelta::seconds(seconds));
        let held = StatusChange::Hold(Hold {
            by: "ada".to_owned(),
            reason: None,
            until,
        });
        let held = fixture.set(key, held).await;
        assert_eq!(held.hold.unwrap().until, until);
    }
    let ended = fixture
        .write(async |tx| tx.end_holds(10).await.unwrap())
        .await;
    let [ended] = ended.try_into().unwrap();
    assert_eq!(
        (&ended.key, ended.status, &ended.hold),
        (&keys[0], Status::Enabled, &None)
    );
    assert_eq!(fixture.find(&keys[0]).await, Some(ended));
    for key in &keys[1..] {
        assert_eq!(fixture.find(key).await.unwrap().status, Status::Held);
    }
    let again = fixture
        .write(async |tx| tx.end_holds(10).await.unwrap())
        .await;
    assert_eq!(again, []);
}

async fn a_change_leaves_what_it_does_not_name(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    fixture.register(full(key.clone())).await;
    fixture.set(&key, hold("ada", Some("why"))).await;
    let change = InstanceChange {
        weight: Field::Given(Weight::try_from(9).unwrap()),
        ..InstanceChange::default()
    };
    let changed = fixture.change(&key, change).await.unwrap();
    assert_eq!(changed.weight().get(), 9);
    assert_eq!(changed.status, Status::Held);
    assert_eq!(changed.hold.as_ref().unwrap().by, "ada");
    assert_eq!(changed.metadata(), &metadata(&[("zone", "a")]));
    let change = InstanceChange {
        metadata: Field::Given(metadata(&[("zone", "b")])),
        ..InstanceChange::default()
    };
    let changed = fixture.change(&key, change).await.unwrap();
    assert_eq!(changed.metadata(), &metadata(&[("zone", "b")]));
    assert_eq!((changed.weight().get(), changed.display_name()), (9, "One"));
    assert_eq!(changed.ttl.unwrap().as_secs(), 60);
    assert_eq!(fixture.find(&key).await, Some(changed));
}

async fn an_override_wins_over_registrations_until_it_is_cleared(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    fixture.register(full(key.clone())).await;
    fixture.online(&key, 10).await;
    let change = InstanceChange {
        weight: Field::Given(Weight::try_from(0).unwrap()),
        metadata: Field::Given(metadata(&[("lane", "canary")])),
        ..InstanceChange::default()
    };
    fixture.change(&key, change).await.unwrap();
    let heavier = Registration {
        weight: Field::Given(Weight::try_from(50).unwrap()),
        metadata: Field::Given(metadata(&[("zone", "c")])),
        ..Registration::of(key.clone())
    };
    let again = fixture.register(heavier).await.instance;
    assert_eq!(again.weight().get(), 0);
    assert_eq!(again.metadata(), &metadata(&[("lane", "canary")]));
    // Also a process that starts clean.
    fixture.offline(&key, 10).await;
    let clean = fixture.register(Registration::of(key.clone())).await;
    assert_eq!(clean.instance.weight().get(), 0);
    assert_eq!(clean.instance.given_weight, None);
    let clear = |weight, metadata| InstanceChange {
        status: None,
        weight,
        metadata,
        ..InstanceChange::default()
    };
    let change = clear(Field::Null, Field::Omitted);
    let changed = fixture.change(&key, change).await.unwrap();
    assert_eq!(changed.weight(), Weight::default());
    assert_eq!(changed.metadata(), &metadata(&[("lane", "canary")]));
    let change = clear(Field::Omitted, Field::Null);
    let changed = fixture.change(&key, change).await.unwrap();
    assert_eq!(changed.metadata(), &Metadata::default());
    assert_eq!(changed.overrides, None);
    assert_eq!(fixture.find(&key).await, Some(changed));
}

/// A held instance, an approved gateway, one with a weight and one with metadata of an operator.
async fn decided(fixture: &mut Fixture) -> [InstanceKey; 4] {
    fixture.declare(&group("edge"), None).await;
    let keys = [
        instance(service("orders"), "held:1"),
        instance(group("edge"), "approved:1"),
        instance(service("orders"), "light:1"),
        instance(service("orders"), "canary:1"),
    ];
    for key in &keys {
        fixture.register(full(key.clone())).await;
        fixture.online(key, 10).await;
    }
    fixture.set(&keys[0], hold("ada", Some("disk"))).await;
    fixture.set(&keys[1], StatusChange::Enable).await;
    for (key, weight, lane) in [
        (
            &keys[2],
            Field::Given(Weight::try_from(0).unwrap()),
            Field::Omitted,
        ),
        (
            &keys[3],
            Field::Omitted,
            Field::Given(metadata(&[("lane", "canary")])),
        ),
    ] {
        let change = InstanceChange {
            status: None,
            weight,
            metadata: lane,
            ..InstanceChange::default()
        };
        fixture.change(key, change).await.unwrap();
    }
    keys
}

async fn a_decided_instance_is_deregistered_only_if_that_is_asked(mut fixture: Fixture) {
    for key in decided(&mut fixture).await {
        let before = fixture.find(&key).await.unwrap();
        assert!(before.is_decided());
        let kept = fixture
            .write(async |tx| tx.deregister_instance(&key, true).await.unwrap())
            .await;
        assert_eq!(kept, Deregistration::Kept(before.clone()));
        assert_eq!(fixture.find(&key).await.as_ref(), Some(&before));
        let removed = fixture
            .write(async |tx| tx.deregister_instance(&key, false).await.unwrap())
            .await;
        let Deregistration::Removed(removed) = removed else {
            panic!("{removed:?}");
        };
        assert_eq!(removed.instances, [before]);
        assert_eq!(fixture.find(&key).await, None);
    }
}

async fn a_change_that_may_end_only_an_own_hold_leaves_that_of_another_one(mut fixture: Fixture) {
    let key = instance(service("orders"), "a:1");
    fixture.register(full(key.clone())).await;
    let by_web = |status| InstanceChange {
        status: Some(status),
        only_own_hold: Some("web".to_owned()),
        ..InstanceChange::default()
    };
    let held = fixture.change(&key, by_web(hold("web", None))).await;
    assert_eq!(held.unwrap().status, Status::Held);
    let enabled = fixture.change(&key, by_web(StatusChange::Enable)).await;
    assert_eq!(enabled.unwrap().status, Status::Enabled);

    let held = fixture.set(&key, hold("ada", Some("disk"))).await;
    for status in [StatusChange::Enable, hold("web", None)] {
        assert_eq!(fixture.change(&key, by_web(status)).await, None);
    }
    assert_eq!(fixture.find(&key).await, Some(held));
}

async fn an_instance_is_taken_offline_or_only_a_decided_one(mut fixture: Fixture) {
    for key in decided(&mut fixture).await {
        let before = fixture.find(&key).await.unwrap();
        let take =
            async |tx: &mut dyn RegistryTransaction| tx.take_offline(&key, true).await.unwrap();
        let offline = fixture.write(take).await.unwrap();
        assert!(!offline.presence.online && offline.is_decided());
        assert_eq!(offline.presence.epoch, before.presence.epoch);
        assert_eq!(offline.presence.changed_at, Some(now()));
        assert_eq!(offline.revision, before.revision + 1);
        assert_eq!(fixture.find(&key).await.as_ref(), Some(&offline));
        assert_eq!(fixture.write(take).await, None, "again");
        assert_eq!(fixture.find(&key).await, Some(offline));
    }
    let gateway = instance(group("edge"), "new:1");
    for key in [instance(service("orders"), "a:1"), gateway] {
        fixture.register(Registration::of(key.clone())).await;
        fixture.online(&key, 10).await;
        let offline = fixture
            .write(async |tx| tx.take_offline(&key, true).await.unwrap())
            .await;
        assert_eq!(offline, None);
        assert!(fixture.find(&key).await.unwrap().presence.online);
        let offline = fixture
            .write(async |tx| tx.take_offline(&key, false).await.unwrap())
            .await;
        assert_eq!(offline, fixture.find(&key).await);
        assert!(!offline.unwrap().presence.online);
    }
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
