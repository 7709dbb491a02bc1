//! Decisions of operators: no graceful stop, restart, registration, import or agent token ends
//! one. The numbers are those of `docs/complaints.md`.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use rollcalld::clock::{Clock, SystemClock};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::backends::{Backends, Setup, on_both_backends};
use crate::support::command::Agent;
use crate::support::daemon::Daemon;
use crate::support::sse::Subscriber;
use crate::support::{addresses, eventually};
use rustix::process::Signal;

on_both_backends! {
    an_instance_that_leaves_is_removed_with_one_event,
    a_held_instance_that_leaves_is_offline_at_once_and_stays_held,
    an_approved_gateway_that_leaves_stays_approved,
    an_override_outlives_leaving_and_registrations,
    a_long_poll_sees_an_instance_leave,
    leaving_twice_or_unknown_changes_nothing,
    complaint_3_a_new_process_on_an_old_address_starts_clean,
    complaint_27_a_registration_does_not_undo_an_operators_values,
    a_hold_with_an_end_enables_the_instance_by_itself,
    what_an_operator_did_is_recorded_with_the_state_before_and_after,
    a_change_of_many_instances_is_one_action,
}

const ORDERS: &str = "/v1/services/orders/instances/10.0.0.5:8080";
const EDGE: &str = "/v1/groups/edge/instances/10.0.0.5:443";
const SOON: Duration = Duration::from_secs(10);

async fn heartbeat(daemon: &Daemon, instance: &str) {
    let path = format!("{instance}/heartbeat");
    let (status, body) = daemon.put(&path, json!({})).await;
    assert_eq!(status, 200, "{body}");
}

async fn leave(daemon: &Daemon, instance: &str) -> StatusCode {
    let path = format!("{instance}/leave");
    let left = daemon.try_send(Method::POST, &path, None).await;
    left.unwrap().0
}

async fn hold(daemon: &Daemon, instance: &str) {
    let body = json!({"status": "held", "reason": "disk is failing"});
    assert_eq!(daemon.patch(instance, body).await.0, 200);
}

async fn has_no_lease(daemon: &Daemon, scope: &str) {
    let (_, leases) = daemon.get(&format!("/v1/{scope}/leases")).await;
    assert_eq!(leases["leases"], json!([]), "{leases}");
}

async fn a_hold_with_an_end_enables_the_instance_by_itself<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put(ORDERS, json!({})).await;
    let mut subscriber = Subscriber::new(&daemon, "").await;
    let until = SystemClock.now() + Duration::from_secs(2);
    let until = until.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let body = json!({"status": "held", "held_until": until});
    let (_, held) = daemon.patch(ORDERS, body).await;
    assert_eq!(held["held_until"], json!(until));
    let event = subscriber.expect("instance.changed", SOON).await;
    assert_eq!(event.data["status"], json!("held"));
    let event = subscriber.expect("instance.changed", SOON).await;
    assert_eq!(event.data["status"], json!("enabled"));
    assert!(event.data.get("by").is_none(), "{}", event.data);
    let (_, instance) = daemon.get(ORDERS).await;
    assert_eq!(instance["status"], json!("enabled"));
    assert!(instance.get("held_until").is_none(), "{instance}");

    let past = json!({"status": "held", "held_until": "2026-01-01T00:00:00Z"});
    assert_eq!(daemon.patch(ORDERS, past).await.0, 400);
    let without_hold = json!({"status": "enabled", "held_until": until});
    assert_eq!(daemon.patch(ORDERS, without_hold).await.0, 400);
}

/// What the actions have in common is left out.
fn actions(list: &Value) -> Vec<Value> {
    let mut actions = list["actions"].as_array().unwrap().clone();
    for action in &mut actions {
        let members = action.as_object_mut().unwrap();
        assert_eq!(members.remove("by").unwrap()["token"], json!("anonymous"));
        for time in ["id", "at"] {
            assert!(members.remove(time).is_some_and(|it| it.is_string()));
        }
    }
    actions
}

async fn what_an_operator_did_is_recorded_with_the_state_before_and_after<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put("/v1/groups/edge", json!({})).await;
    daemon.put(ORDERS, json!({"weight": 3})).await;
    hold(&daemon, ORDERS).await;
    daemon.patch(ORDERS, json!({"weight": 7})).await;
    daemon.patch(ORDERS, json!({"status": "enabled"})).await;
    daemon.delete(ORDERS).await;
    daemon.delete("/v1/groups/edge").await;
    assert_eq!(daemon.delete(ORDERS).await.0, 404, "nothing was done");
    let on = |action: &str, before: Value, after: Value| {
        json!({
            "service": "orders", "address": "10.0.0.5:8080", "action": action,
            "before": before, "after": after, "instances": 1
        })
    };
    let mut held = on(
        "hold",
        json!({"status": "enabled", "held_by": null}),
        json!({"status": "held", "held_by": "anonymous"}),
    );
    held["reason"] = json!("disk is failing");
    let expected = [
        json!({"group": "edge", "action": "remove", "before": {}, "after": {}, "instances": 0}),
        on("deregister", json!({}), json!({})),
        on(
            "enable",
            json!({"status": "held", "held_by": "anonymous"}),
            json!({"status": "enabled", "held_by": null}),
        ),
        on("override", json!({"weight": 3}), json!({"weight": 7})),
        held,
        json!({"group": "edge", "action": "declare", "before": {}, "after": {}, "instances": 0}),
    ];
    let (_, listed) = daemon.get("/v1/actions").await;
    assert_eq!(actions(&listed), expected);
    for (query, count) in [
        ("?service=orders&limit=2", 2),
        ("?group=edge", 2),
        ("?address=10.0.0.5:8080", 4),
        ("?action=hold", 1),
        ("?by=anonymous&since=1h", 6),
        ("?by=another", 0),
        ("?until=1h", 0),
    ] {
        let (_, listed) = daemon.get(&format!("/v1/actions{query}")).await;
        assert_eq!(actions(&listed).len(), count, "{query}");
    }
    let (_, first) = daemon.get("/v1/actions?limit=4").await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let (_, rest) = daemon.get(&format!("/v1/actions?cursor={cursor}")).await;
    assert_eq!(actions(&rest), expected[4..]);
    assert!(rest.get("next_cursor").is_none());
    for bad in [
        "?since=yesterday",
        "?limit=0",
        "?action=fire",
        "?x=1",
        "?cursor=x",
    ] {
        assert_eq!(
            daemon.get(&format!("/v1/actions{bad}")).await.0,
            400,
            "{bad}"
        );
    }
}

async fn a_change_of_many_instances_is_one_action<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let addresses = addresses(5);
    daemon.register("orders", &addresses, &json!({})).await;
    let body = json!({
        "selection": {"service": ["orders"]},
        "change": {"status": "held", "reason": "drain"}
    });
    assert_eq!(daemon.patch("/v1/instances", body).await.0, 200);
    let (_, listed) = daemon.get("/v1/actions").await;
    let expected = json!({
        "service": "orders", "action": "hold", "before": {},
        "after": {"status": "held", "held_by": "anonymous", "held_until": null},
        "reason": "drain", "instances": 5
    });
    assert_eq!(actions(&listed), [expected]);
}

async fn an_instance_that_leaves_is_removed_with_one_event<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let mut subscriber = Subscriber::new(&daemon, "").await;
    daemon.put(ORDERS, json!({})).await;
    heartbeat(&daemon, ORDERS).await;
    subscriber.expect("instance.online", SOON).await;
    assert_eq!(leave(&daemon, ORDERS).await, 204);
    assert_eq!(daemon.get(ORDERS).await.0, 404);
    assert_eq!(
        subscriber.next(SOON).await.unwrap().name,
        "instance.deregistered"
    );
    // The service was declared by this instance alone.
    assert_eq!(subscriber.next(SOON).await.unwrap().name, "scope.removed");
    daemon.put("/v1/groups/mark", json!({})).await;
    assert_eq!(subscriber.next(SOON).await.unwrap().name, "scope.declared");
}

async fn a_held_instance_that_leaves_is_offline_at_once_and_stays_held<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let (_, first) = daemon.put(ORDERS, json!({"weight": 7})).await;
    heartbeat(&daemon, ORDERS).await;
    hold(&daemon, ORDERS).await;
    let mut subscriber = Subscriber::new(&daemon, "").await;
    assert_eq!(leave(&daemon, ORDERS).await, 204);
    let (_, left) = daemon.get(ORDERS).await;
    assert_eq!(left["online"], json!(false));
    assert_eq!(left["status"], json!("held"));
    has_no_lease(&daemon, "services/orders").await;
    assert_eq!(
        subscriber.next(SOON).await.unwrap().name,
        "instance.offline"
    );

    // The next process finds the hold, and nothing else of its predecessor.
    let (status, again) = daemon.put(ORDERS, json!({})).await;
    assert_eq!((status.as_u16(), &again["id"]), (200, &first["id"]));
    assert_eq!(again["reason"], json!("disk is failing"));
    assert_eq!(again["weight"], json!(1));
    heartbeat(&daemon, ORDERS).await;
    assert_eq!(daemon.counts("orders").await, [1, 1, 0]);
}

async fn an_approved_gateway_that_leaves_stays_approved<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put("/v1/groups/edge", json!({})).await;
    daemon.put(EDGE, json!({})).await;
    assert_eq!(leave(&daemon, EDGE).await, 204);
    assert_eq!(daemon.get(EDGE).await.0, 404, "it was not approved");
    daemon.put(EDGE, json!({})).await;
    daemon.patch(EDGE, json!({"status": "enabled"})).await;
    heartbeat(&daemon, EDGE).await;
    assert_eq!(leave(&daemon, EDGE).await, 204);
    assert_eq!(daemon.get(EDGE).await.1["online"], json!(false));
    let (_, again) = daemon.put(EDGE, json!({})).await;
    assert_eq!(again["status"], json!("enabled"));
}

async fn an_override_outlives_leaving_and_registrations<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    for override_ in [json!({"weight": 0}), json!({"metadata": {"lane": "b"}})] {
        daemon
            .put(ORDERS, json!({"weight": 5, "metadata": {"lane": "a"}}))
            .await;
        heartbeat(&daemon, ORDERS).await;
        let (_, changed) = daemon.patch(ORDERS, override_.clone()).await;
        assert_eq!(changed["overrides"], override_);
        assert_eq!(leave(&daemon, ORDERS).await, 204);
        let (_, again) = daemon.put(ORDERS, json!({"weight": 9})).await;
        assert_eq!(again["overrides"], override_);
        assert_eq!(daemon.delete(ORDERS).await.0, 204);
        assert_eq!(daemon.get(ORDERS).await.0, 404);
    }
}

async fn a_long_poll_sees_an_instance_leave<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put(ORDERS, json!({})).await;
    heartbeat(&daemon, ORDERS).await;
    hold(&daemon, ORDERS).await;
    let list = format!("{}/v1/services/orders/instances", daemon.url());
    let first = daemon.client().get(&list).send().await.unwrap();
    let etag = first.headers()["etag"].to_str().unwrap().to_owned();
    let waiting = daemon
        .client()
        .get(format!("{list}?wait=15s"))
        .header("if-none-match", etag);
    let waiting = tokio::spawn(waiting.send());
    assert_eq!(leave(&daemon, ORDERS).await, 204);
    let changed = waiting.await.unwrap().unwrap();
    assert_eq!(changed.status(), 200);
    let body: Value = changed.json().await.unwrap();
    assert_eq!(body["instances"][0]["online"], json!(false));
}

async fn leaving_twice_or_unknown_changes_nothing<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    assert_eq!(leave(&daemon, ORDERS).await, 404);
    daemon.put(ORDERS, json!({})).await;
    hold(&daemon, ORDERS).await;
    let (_, before) = daemon.get(ORDERS).await;
    for _ in 0..2 {
        assert_eq!(leave(&daemon, ORDERS).await, 204);
        assert_eq!(daemon.get(ORDERS).await.1, before);
    }
}

async fn complaint_3_a_new_process_on_an_old_address_starts_clean<B: Backends>() {
    let daemon = Setup::<B>::start_with(&["--lease-ttl", "5s", "--roll-call-interval", "2s"]).await;
    let old =
        json!({"name": "pod-a", "weight": 0, "metadata": {"lane": "canary"}, "ttl_seconds": 5});
    daemon.put(ORDERS, old).await;
    heartbeat(&daemon, ORDERS).await;
    // While it is alive, what is omitted stays.
    let (_, same) = daemon.put(ORDERS, json!({"name": "pod-a2"})).await;
    assert_eq!(same["metadata"], json!({"lane": "canary"}));
    eventually(Duration::from_secs(30), "the lease ends", || async {
        let (_, instance) = daemon.get(ORDERS).await;
        (instance["online"] == json!(false)).then_some(())
    })
    .await;
    let (status, new) = daemon.put(ORDERS, json!({})).await;
    assert_eq!(status, 200);
    let described = [&new["name"], &new["weight"], &new["metadata"]];
    assert_eq!(described, [&json!("10.0.0.5:8080"), &json!(1), &json!({})]);
}

async fn complaint_27_a_registration_does_not_undo_an_operators_values<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let own = json!({"weight": 5, "metadata": {"zone": "a"}});
    daemon.put(ORDERS, own.clone()).await;
    heartbeat(&daemon, ORDERS).await;
    daemon
        .patch(ORDERS, json!({"weight": 0, "metadata": {"zone": "b"}}))
        .await;
    let (_, again) = daemon.put(ORDERS, own).await;
    assert_eq!(
        (&again["weight"], &again["metadata"]["zone"]),
        (&json!(0), &json!("b"))
    );
    assert_eq!(
        again["registered"],
        json!({"weight": 5, "metadata": {"zone": "a"}})
    );
    let (_, cleared) = daemon.patch(ORDERS, json!({"weight": null})).await;
    assert_eq!(cleared["weight"], json!(5));
    assert_eq!(cleared["overrides"], json!({"metadata": {"zone": "b"}}));
    let (_, cleared) = daemon.patch(ORDERS, json!({"metadata": null})).await;
    assert_eq!(cleared["metadata"], json!({"zone": "a"}));
    assert!(cleared.get("overrides").is_none() && cleared.get("registered").is_none());
}

fn under_agent(folder: &TempDir, daemon: &Daemon, instance: [&str; 4]) -> Agent {
    let rest = ["--drain-delay", "0s", "--", "sleep", "60"];
    let arguments = [&instance[..], &rest].concat();
    Agent::start(folder.path(), daemon.url(), &arguments)
}

async fn restarted(agent: &mut Agent) {
    agent.process.signal(Signal::TERM);
    agent.process.ended(SOON).await;
}

#[tokio::test]
async fn complaint_1_a_hold_outlives_a_graceful_restart_under_the_agent() {
    let (daemon, folder) = (Daemon::start(&[]).await, TempDir::new().unwrap());
    let orders = ["--service", "orders", "--address", "10.0.0.5:8080"];
    let mut agent = under_agent(&folder, &daemon, orders);
    let online = async |wanted: [u64; 3]| {
        eventually(SOON, "it is listed", || async {
            (daemon.counts("orders").await == wanted).then_some(())
        })
        .await;
    };
    online([1, 1, 1]).await;
    hold(&daemon, ORDERS).await;
    restarted(&mut agent).await;
    assert_eq!(daemon.counts("orders").await, [1, 0, 0]);
    let _agent = under_agent(&folder, &daemon, orders);
    online([1, 1, 0]).await;
    assert_eq!(
        daemon.get(ORDERS).await.1["reason"],
        json!("disk is failing")
    );
}

#[tokio::test]
async fn complaint_2_an_approval_outlives_a_graceful_restart_under_the_agent() {
    let (daemon, folder) = (Daemon::start(&[]).await, TempDir::new().unwrap());
    daemon.put("/v1/groups/edge", json!({})).await;
    let edge = ["--group", "edge", "--address", "10.0.0.5:443"];
    let mut agent = under_agent(&folder, &daemon, edge);
    let online = async |wanted: bool| {
        eventually(SOON, "it is as online as wanted", || async {
            (daemon.get(EDGE).await.1["online"] == json!(wanted)).then_some(())
        })
        .await;
    };
    online(true).await;
    daemon.patch(EDGE, json!({"status": "enabled"})).await;
    restarted(&mut agent).await;
    online(false).await;
    let _agent = under_agent(&folder, &daemon, edge);
    online(true).await;
    assert_eq!(daemon.get(EDGE).await.1["available"], json!(true));
}
