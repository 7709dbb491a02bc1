//! Decisions of operators: no graceful stop, restart, registration, import or agent token ends
//! one. The numbers are those of `docs/complaints.md`.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::backends::{Backends, Setup, on_both_backends};
use crate::support::command::Agent;
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::sse::Subscriber;
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

async fn an_instance_that_leaves_is_removed_with_one_event<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put(ORDERS, json!({})).await;
    heartbeat(&daemon, ORDERS).await;
    let mut subscriber = Subscriber::new(&daemon, "").await;
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
