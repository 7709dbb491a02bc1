//! Presence: which instances are recorded as online.

use super::*;
use crate::conformance::suite;

suite! {
    backends:
        on_sqlite => crate::conformance::registry_store::sqlite(),
        on_postgres => crate::conformance::registry_store::postgres(),
        on_memory => crate::conformance::registry_store::of_tests();
    tests: {
        instances_offline_for_long_are_removed,
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
        let removed = forgotten.instances.into_iter();
        let mut keys: Vec<InstanceKey> = removed.map(|gone| gone.key).collect();
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
    assert_eq!(changed[0].index, 1);
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
