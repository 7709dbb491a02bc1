//! The actions of operators.

use chrono::TimeDelta;
use rollcalld::model::{Action, ActionKind, ActionRecord, ActionSelection, Subject};
use serde_json::{Map, Value, json};

use super::*;
use crate::conformance::suite;

suite! {
    backends:
        on_sqlite => crate::conformance::registry_store::sqlite(),
        on_postgres => crate::conformance::registry_store::postgres(),
        on_memory => crate::conformance::registry_store::of_tests();
    tests: {
        an_action_is_read_as_it_was_recorded,
        actions_are_listed_from_the_latest_and_page_by_page,
        actions_are_selected_by_every_condition,
        old_actions_are_deleted_up_to_the_limit,
    }
}

fn members(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn action(token: &str, kind: ActionKind, subject: Subject) -> Action {
    Action {
        by: Registrant::new(token, "10.0.0.9".parse().unwrap()),
        kind,
        subject,
        before: Map::new(),
        after: Map::new(),
        reason: None,
        count: 0,
    }
}

impl Fixture {
    async fn record(&mut self, at: DateTime<Utc>, action: &Action) {
        let mut transaction = self.store.writer.begin(at).await.unwrap();
        transaction.record_action(action).await.unwrap();
        transaction.commit().await.unwrap();
    }

    async fn actions(&self, selection: &ActionSelection) -> Vec<ActionRecord> {
        let listed = self.store.reader.list_actions(selection, None, 100).await;
        listed.unwrap()
    }
}

async fn an_action_is_read_as_it_was_recorded(mut fixture: Fixture) {
    let subjects = [
        Subject::Instance(instance(service("orders"), "a:1")),
        Subject::Scope(group("edge")),
        Subject::Registry,
    ];
    let full = Action {
        before: members(json!({"status": "enabled", "weight": 1})),
        after: members(json!({"status": "held", "held_by": "ada", "weight": 3})),
        reason: Some(Note::try_from("坏盘".to_owned()).unwrap()),
        count: 1,
        ..action("ada", ActionKind::Hold, subjects[0].clone())
    };
    let scope = action("bob", ActionKind::Declare, subjects[1].clone());
    let registry = Action {
        count: 300,
        ..action("ada", ActionKind::Release, subjects[2].clone())
    };
    for action in [&full, &scope, &registry] {
        fixture.record(now(), action).await;
    }
    let listed = fixture.actions(&ActionSelection::default()).await;
    assert!(listed.iter().all(|record| record.at == now()));
    let listed: Vec<Action> = listed.into_iter().map(|record| record.action).collect();
    assert_eq!(listed, [registry, scope, full]);
}

async fn actions_are_listed_from_the_latest_and_page_by_page(mut fixture: Fixture) {
    for count in 0..5 {
        let action = Action {
            count,
            ..action("ada", ActionKind::Release, Subject::Registry)
        };
        fixture.record(now(), &action).await;
    }
    let (mut counts, mut before) = (Vec::new(), None);
    loop {
        let all = ActionSelection::default();
        let page = fixture
            .store
            .reader
            .list_actions(&all, before, 2)
            .await
            .unwrap();
        assert!(page.len() <= 2);
        counts.extend(page.iter().map(|record| record.action.count));
        before = match page.last() {
            Some(last) => Some(last.id),
            None => break,
        };
    }
    assert_eq!(counts, [4, 3, 2, 1, 0]);
}

async fn actions_are_selected_by_every_condition(mut fixture: Fixture) {
    let orders = instance(service("orders"), "a:1");
    let orders_eu = instance(service("orders-eu"), "a:1");
    let held = action("ada", ActionKind::Hold, Subject::Instance(orders.clone()));
    let declared = action(
        "bob",
        ActionKind::Declare,
        Subject::Scope(service("orders")),
    );
    let enabled = action("ada", ActionKind::Enable, Subject::Instance(orders_eu));
    let released = action("bob", ActionKind::Release, Subject::Registry);
    let all = [&held, &declared, &enabled, &released];
    for (seconds, action) in (0..).zip(all) {
        fixture
            .record(now() + TimeDelta::seconds(seconds), action)
            .await;
    }
    let within = |key: &str, any_end| ActionSelection {
        within: Some((ScopeKind::Service, key.to_owned(), any_end)),
        ..ActionSelection::default()
    };
    let any = ActionSelection::default;
    for (selection, expected) in [
        (
            ActionSelection {
                scope: Some(service("orders")),
                ..any()
            },
            vec![&declared, &held],
        ),
        (
            ActionSelection {
                address: Some(orders.address.clone()),
                ..any()
            },
            vec![&enabled, &held],
        ),
        (
            ActionSelection {
                token: Some("bob".into()),
                ..any()
            },
            vec![&released, &declared],
        ),
        (
            ActionSelection {
                kind: Some(ActionKind::Enable),
                ..any()
            },
            vec![&enabled],
        ),
        (
            ActionSelection {
                since: Some(now() + TimeDelta::seconds(2)),
                ..any()
            },
            vec![&released, &enabled],
        ),
        (
            ActionSelection {
                until: Some(now() + TimeDelta::seconds(1)),
                ..any()
            },
            vec![&held],
        ),
        (within("orders", false), vec![&declared, &held]),
        (within("orders", true), vec![&enabled, &declared, &held]),
        (within("order", false), vec![]),
    ] {
        let listed = fixture.actions(&selection).await;
        let listed: Vec<&Action> = listed.iter().map(|record| &record.action).collect();
        assert_eq!(listed, expected, "{selection:?}");
    }
}

async fn old_actions_are_deleted_up_to_the_limit(mut fixture: Fixture) {
    for day in 0..4 {
        let action = action("ada", ActionKind::Release, Subject::Registry);
        fixture.record(now() + TimeDelta::days(day), &action).await;
    }
    let before = now() + TimeDelta::days(3);
    let purge = async |tx: &mut dyn RegistryTransaction| tx.purge_actions(before, 2).await.unwrap();
    assert_eq!(fixture.write(purge).await, 2);
    assert_eq!(fixture.write(purge).await, 1);
    assert_eq!(fixture.write(purge).await, 0);
    let [left] = fixture
        .actions(&ActionSelection::default())
        .await
        .try_into()
        .unwrap();
    assert_eq!(left.at, before);
}
