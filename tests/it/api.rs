//! The v1 API, on both sets of backends with the same answers.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::backends::{Backends, Setup, on_both_backends};
use crate::support::daemon::Daemon;
use crate::support::eventually;

on_both_backends! {
    a_scope_is_declared_shown_listed_and_removed,
    every_running_replica_is_listed_with_what_it_knows,
    a_service_instance_registers_sends_a_heartbeat_and_is_listed,
    a_gateway_needs_its_group_and_an_operator,
    an_instance_registered_again_is_the_same_one,
    an_unknown_instance_is_404_and_its_heartbeat_creates_nothing,
    a_heartbeat_answers_when_the_next_one_is_due,
    leases_say_how_long_they_live,
    an_instance_that_stops_sending_heartbeats_is_not_available,
    an_instance_may_have_a_time_to_live_of_its_own,
    a_batch_counts_each_lease_once,
    a_batch_of_ten_thousand_is_taken,
    a_batch_may_have_escapes,
    a_deregistered_instance_is_not_resurrected_by_a_heartbeat,
    a_heartbeat_in_flight_never_resurrects,
    a_held_instance_stays_held_and_online,
    an_operator_changes_weight_and_metadata,
    registrations_at_once_leave_one_row,
    the_order_of_a_list_is_that_of_bytes,
    names_and_addresses_may_be_percent_encoded,
    a_probe_answers_and_names_each_check,
    every_answer_forbids_sniffing,
}

const ORDERS: &str = "/v1/services/orders/instances/10.0.0.5:8080";

/// Removes the fields that differ from run to run.
fn stable(mut body: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(members) => {
                for time in [
                    "registered_at",
                    "updated_at",
                    "created_at",
                    "online_changed_at",
                    "changed_at",
                ] {
                    if let Some(text) = members.remove(time) {
                        let text = text.as_str().unwrap();
                        assert!(text.len() == 24 && text.ends_with('Z'), "{time}: {text}");
                    }
                }
                if let Some(by) = members.remove("registered_by") {
                    assert_eq!(by, json!({"token": "anonymous", "peer": "127.0.0.1"}));
                }
                if let Some(id) = members.remove("id") {
                    assert!(id.as_str().unwrap().parse::<i64>().unwrap() > 0);
                }
                members.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut body);
    body
}

async fn send_heartbeats(daemon: &Daemon, instance: &str) -> (StatusCode, Value) {
    let path = format!("{instance}/heartbeat");
    daemon.try_send(Method::PUT, &path, None).await.unwrap()
}

fn code(answer: &(StatusCode, Value)) -> (u16, &str) {
    (
        answer.0.as_u16(),
        answer.1["code"].as_str().unwrap_or_default(),
    )
}

async fn every_running_replica_is_listed_with_what_it_knows<B: Backends>() {
    let setup = Setup::<B>::start().await;
    setup.put(ORDERS, json!({})).await;
    let other = setup.replica(&[]).await;
    let expected = if B::SHARED { 2 } else { 1 };
    let listed = async || {
        let (_, body) = setup.get("/v1/replicas").await;
        let replicas = body["replicas"].as_array().unwrap().clone();
        let know = replicas
            .iter()
            .filter(|it| it["state"]["instances"] == json!(1));
        (know.count() == expected).then_some(replicas)
    };
    let replicas = eventually(Duration::from_secs(20), "all are listed", listed).await;
    assert_eq!(replicas.len(), expected);
    let this: Vec<_> = replicas
        .iter()
        .filter(|it| it["answers"] == json!(true))
        .collect();
    let [this] = this.as_slice() else {
        panic!("{replicas:?}");
    };
    assert_eq!(this["state"]["version"], json!(env!("CARGO_PKG_VERSION")));
    let (_, overview) = setup.get("/v1/overview").await;
    assert_eq!(this["host"], overview["replica"]);
    drop(other);
    let alone = async || {
        let (_, body) = setup.get("/v1/replicas").await;
        (body["replicas"].as_array().unwrap().len() == 1).then_some(())
    };
    eventually(
        Duration::from_secs(20),
        "one that ended is not listed",
        alone,
    )
    .await;
}

async fn a_scope_is_declared_shown_listed_and_removed<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let (status, body) = daemon.put("/v1/groups/edge", json!({"name": "Edge"})).await;
    assert_eq!(status, 201);
    assert_eq!(stable(body.clone()), json!({"key": "edge", "name": "Edge"}));
    let (status, again) = daemon.put("/v1/groups/edge", json!({})).await;
    assert_eq!((status, &again), (StatusCode::OK, &body));
    let (_, shown) = daemon.get("/v1/groups/edge").await;
    let counted = json!({
        "key": "edge", "name": "Edge", "instances": 0, "online": 0, "available": 0,
        "suspect": 0, "held": 0, "disabled": 0
    });
    assert_eq!(stable(shown), counted);
    let (_, listed) = daemon.get("/v1/groups").await;
    assert_eq!(stable(listed), json!({"groups": [counted]}));
    let (_, services) = daemon.get("/v1/services").await;
    assert_eq!(services, json!({"services": []}));
    assert_eq!(daemon.delete("/v1/groups/edge").await.0, 204);
    assert_eq!(
        code(&daemon.delete("/v1/groups/edge").await),
        (404, "group_not_found")
    );
    assert_eq!(
        code(&daemon.get("/v1/groups/edge").await),
        (404, "group_not_found")
    );
    assert_eq!(
        code(&daemon.get("/v1/services/x").await),
        (404, "service_not_found")
    );
}

async fn a_service_instance_registers_sends_a_heartbeat_and_is_listed<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let body = json!({"name": "one", "weight": 5, "metadata": {"zone": "a"}, "ttl_seconds": 45});
    let (status, registered) = daemon.put(ORDERS, body).await;
    assert_eq!(status, 201);
    let mut expected = json!({
        "service": "orders", "address": "10.0.0.5:8080", "name": "one", "weight": 5,
        "metadata": {"zone": "a"}, "status": "enabled", "ttl_seconds": 45,
    });
    assert_eq!(stable(registered), expected);

    let list = "/v1/services/orders/instances";
    expected["online"] = json!(false);
    expected["available"] = json!(false);
    assert_eq!(
        stable(daemon.get(list).await.1),
        json!({"instances": [expected]})
    );
    let none = json!({"instances": []});
    assert_eq!(daemon.get(&format!("{list}?available=true")).await.1, none);

    let (status, beaten) = send_heartbeats(&daemon, ORDERS).await;
    assert_eq!(
        (status.as_u16(), &beaten["created"], &beaten["ttl_seconds"]),
        (200, &json!(true), &json!(45))
    );
    assert_eq!(
        send_heartbeats(&daemon, ORDERS).await.1["created"],
        json!(false)
    );

    expected["online"] = json!(true);
    expected["available"] = json!(true);
    for query in [
        "",
        "?available=true",
        "?online=true",
        "?available=true&online=true",
    ] {
        let (_, listed) = daemon.get(&format!("{list}{query}")).await;
        assert_eq!(stable(listed), json!({"instances": [expected]}), "{query}");
    }
    assert_eq!(stable(daemon.get(ORDERS).await.1), expected);
    let (_, service) = daemon.get("/v1/services/orders").await;
    assert_eq!(
        stable(service),
        json!({
            "key": "orders", "name": "orders", "instances": 1, "online": 1, "available": 1,
            "suspect": 0, "held": 0, "disabled": 0
        })
    );
    assert_eq!(
        code(&daemon.delete("/v1/services/orders").await),
        (409, "scope_not_empty")
    );
}

async fn a_gateway_needs_its_group_and_an_operator<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let gateway = "/v1/groups/edge/instances/gw-1:80";
    assert_eq!(
        code(&daemon.put(gateway, json!({})).await),
        (404, "group_not_found")
    );
    let list = "/v1/groups/edge/instances";
    assert_eq!(code(&daemon.get(list).await), (404, "group_not_found"));
    daemon.put("/v1/groups/edge", json!({})).await;
    assert_eq!(daemon.get(list).await.1, json!({"instances": []}));
    let (status, body) = daemon.put(gateway, json!({})).await;
    assert_eq!(
        (status.as_u16(), &body["status"]),
        (201, &json!("disabled"))
    );
    assert_eq!(send_heartbeats(&daemon, gateway).await.0, 200);
    let (_, shown) = daemon.get(gateway).await;
    assert_eq!(
        (&shown["online"], &shown["available"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(
        daemon.patch(gateway, json!({"status": "enabled"})).await.0,
        200
    );
    assert_eq!(daemon.get(gateway).await.1["available"], json!(true));
    assert_eq!(
        daemon.put(gateway, json!({})).await.1["status"],
        json!("enabled")
    );
}

async fn an_instance_registered_again_is_the_same_one<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let (first_status, first) = daemon.put(ORDERS, json!({"weight": 3})).await;
    send_heartbeats(&daemon, ORDERS).await;
    let (second_status, second) = daemon.put(ORDERS, json!({"name": "renamed"})).await;
    assert_eq!((first_status.as_u16(), second_status.as_u16()), (201, 200));
    assert_eq!(first["id"], second["id"]);
    assert_eq!(
        (&second["weight"], &second["name"]),
        (&json!(3), &json!("renamed"))
    );
    // Without any body it is a registration, too.
    let (status, third) = daemon.try_send(Method::PUT, ORDERS, None).await.unwrap();
    assert_eq!((status.as_u16(), &third["name"]), (200, &json!("renamed")));
}

async fn an_unknown_instance_is_404_and_its_heartbeat_creates_nothing<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    for _ in 0..2 {
        assert_eq!(
            code(&send_heartbeats(&daemon, ORDERS).await),
            (404, "instance_not_found")
        );
    }
    assert_eq!(code(&daemon.get(ORDERS).await), (404, "instance_not_found"));
    assert_eq!(
        code(&daemon.patch(ORDERS, json!({"weight": 1})).await),
        (404, "instance_not_found")
    );
    assert_eq!(
        code(&daemon.delete(ORDERS).await),
        (404, "instance_not_found")
    );
    assert_eq!(daemon.get("/v1/services").await.1, json!({"services": []}));
    daemon.put(ORDERS, json!({})).await;
    assert_eq!(
        daemon.get(ORDERS).await.1["online"],
        json!(false),
        "no lease was left"
    );
    assert_eq!(
        send_heartbeats(&daemon, ORDERS).await.1["created"],
        json!(true)
    );
}

async fn a_heartbeat_answers_when_the_next_one_is_due<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put(ORDERS, json!({})).await;
    let (_, body) = send_heartbeats(&daemon, ORDERS).await;
    let next = body["next_heartbeat_in_ms"].as_u64().unwrap();
    assert!((1_500..=16_500).contains(&next), "{next}");
    assert_eq!(body["ttl_seconds"], json!(30));
}

async fn an_instance_that_stops_sending_heartbeats_is_not_available<B: Backends>() {
    let arguments = ["--lease-ttl", "5s", "--roll-call-interval", "2s"];
    let daemon = Setup::<B>::start_with(&arguments).await;
    daemon.put(ORDERS, json!({})).await;
    send_heartbeats(&daemon, ORDERS).await;
    assert_eq!(daemon.get(ORDERS).await.1["available"], json!(true));
    eventually(Duration::from_secs(15), "it is offline", || async {
        (daemon.get(ORDERS).await.1["online"] == json!(false)).then_some(())
    })
    .await;
    assert_eq!(
        send_heartbeats(&daemon, ORDERS).await.1["created"],
        json!(true)
    );
    assert_eq!(daemon.get(ORDERS).await.1["available"], json!(true));
}

async fn an_instance_may_have_a_time_to_live_of_its_own<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put(ORDERS, json!({"ttl_seconds": 5})).await;
    assert_eq!(
        send_heartbeats(&daemon, ORDERS).await.1["ttl_seconds"],
        json!(5)
    );
    eventually(Duration::from_secs(15), "it is offline", || async {
        (daemon.get(ORDERS).await.1["online"] == json!(false)).then_some(())
    })
    .await;
}

async fn a_batch_counts_each_lease_once<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put("/v1/groups/edge", json!({})).await;
    for path in [
        "/v1/services/orders/instances/a:1",
        "/v1/services/orders/instances/b:1",
        "/v1/groups/edge/instances/a:1",
    ] {
        daemon.put(path, json!({})).await;
    }
    send_heartbeats(&daemon, "/v1/services/orders/instances/b:1").await;
    let batch = json!({"leases": [
        {"service": "orders", "address": "a:1"},
        {"service": "orders", "address": "b:1"},
        {"group": "edge", "address": "a:1"},
        {"service": "orders", "address": "a:1"},
        {"service": "orders", "address": "c:1"},
        {"group": "orders", "address": "a:1"},
        {"service": "orders", "address": "c:1"},
    ]});
    let (status, mut body) = daemon.post("/v1/heartbeats", batch).await;
    assert_eq!(status, 200);
    let next = body.as_object_mut().unwrap().remove("next_heartbeat_in_ms");
    let next = next.unwrap().as_u64().unwrap();
    assert!((250..=16_500).contains(&next), "{next}");
    let unknown =
        json!([{"service": "orders", "address": "c:1"}, {"group": "orders", "address": "a:1"}]);
    assert_eq!(
        body,
        json!({"renewed": 1, "created": 2, "unknown": unknown})
    );
    let (_, empty) = daemon.post("/v1/heartbeats", json!({"leases": []})).await;
    assert_eq!(empty, json!({"renewed": 0, "created": 0, "unknown": []}));
}

async fn a_batch_of_ten_thousand_is_taken<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    for i in 0..20 {
        daemon
            .put(&format!("/v1/services/s/instances/host-{i}:1"), json!({}))
            .await;
    }
    let leases: Vec<Value> = (0..10_000)
        .map(|i| json!({"service": "s", "address": format!("host-{i}:1")}))
        .collect();
    let (status, body) = daemon
        .post("/v1/heartbeats", json!({"leases": leases}))
        .await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["created"], json!(20));
    assert_eq!(body["unknown"].as_array().unwrap().len(), 9_980);
}

/// A text with escapes does not stand in the body as it is.
async fn a_batch_may_have_escapes<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put(ORDERS, json!({})).await;
    let batch = r#"{"leases": [
        {"service": "\u006frders", "address": "10.0.0.5\u003a8080"},
        {"gr\u006fup": "\u0065dge", "address": "a:1"}
    ]}"#;
    let url = format!("{}/v1/heartbeats", daemon.url());
    let post = daemon.client().post(url).body(batch);
    let post = post.header("Content-Type", "application/json");
    let answer: Value = post.send().await.unwrap().json().await.unwrap();
    assert_eq!(
        (&answer["created"], &answer["unknown"]),
        (&json!(1), &json!([{"group": "edge", "address": "a:1"}]))
    );
}

async fn a_deregistered_instance_is_not_resurrected_by_a_heartbeat<B: Backends>() {
    let setup = Setup::<B>::start().await;
    let daemon = &setup.daemon;
    daemon.put(ORDERS, json!({})).await;
    send_heartbeats(daemon, ORDERS).await;
    assert_eq!(daemon.delete(ORDERS).await.0, 204);
    assert_eq!(
        code(&send_heartbeats(daemon, ORDERS).await),
        (404, "instance_not_found")
    );
    assert_eq!(
        daemon.get("/v1/services/orders/instances").await.1,
        json!({"instances": []})
    );
    daemon.put(ORDERS, json!({})).await;
    assert_eq!(
        daemon.get(ORDERS).await.1["online"],
        json!(false),
        "the lease was revoked"
    );
}

async fn a_heartbeat_in_flight_never_resurrects<B: Backends>() {
    let setup = Setup::<B>::start().await;
    let daemon = &setup.daemon;
    for round in 0..20 {
        daemon.put(ORDERS, json!({})).await;
        let (deleted, ..) = tokio::join!(
            daemon.delete(ORDERS),
            send_heartbeats(daemon, ORDERS),
            send_heartbeats(daemon, ORDERS),
            send_heartbeats(daemon, ORDERS),
        );
        assert_eq!(deleted.0, 204);
        daemon.put(ORDERS, json!({})).await;
        assert_eq!(
            daemon.get(ORDERS).await.1["online"],
            json!(false),
            "round {round}"
        );
        assert_eq!(daemon.delete(ORDERS).await.0, 204);
    }
}

async fn a_held_instance_stays_held_and_online<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put(ORDERS, json!({})).await;
    send_heartbeats(&daemon, ORDERS).await;
    let (status, held) = daemon
        .patch(ORDERS, json!({"status": "held", "reason": "坏盘"}))
        .await;
    assert_eq!(status, 200);
    assert_eq!(
        (&held["status"], &held["reason"]),
        (&json!("held"), &json!("坏盘"))
    );
    assert_eq!(held["held_by"], json!("anonymous"));
    daemon.put(ORDERS, json!({})).await;
    send_heartbeats(&daemon, ORDERS).await;
    let (_, shown) = daemon.get(ORDERS).await;
    assert_eq!(
        (&shown["status"], &shown["online"], &shown["available"]),
        (&json!("held"), &json!(true), &json!(false))
    );
    let (_, enabled) = daemon.patch(ORDERS, json!({"status": "enabled"})).await;
    assert_eq!(
        (&enabled["status"], enabled.get("reason")),
        (&json!("enabled"), None)
    );
    assert_eq!(daemon.get(ORDERS).await.1["available"], json!(true));
}

async fn an_operator_changes_weight_and_metadata<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon
        .put(ORDERS, json!({"weight": 1, "metadata": {"a": "1"}}))
        .await;
    let (_, body) = daemon.patch(ORDERS, json!({"weight": 0})).await;
    assert_eq!(
        (&body["weight"], &body["metadata"]),
        (&json!(0), &json!({"a": "1"}))
    );
    let (_, body) = daemon.patch(ORDERS, json!({"metadata": {}})).await;
    assert_eq!(
        (&body["weight"], &body["metadata"]),
        (&json!(0), &json!({}))
    );
    assert_eq!(
        daemon.put(ORDERS, json!({})).await.1["weight"],
        json!(0),
        "it stays"
    );
}

async fn registrations_at_once_leave_one_row<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let registrations = (0..64).map(|_| daemon.put(ORDERS, json!({})));
    let answers = futures_util::future::join_all(registrations).await;
    let created = answers.iter().filter(|(status, _)| *status == 201).count();
    assert_eq!(created, 1);
    assert!(
        answers
            .iter()
            .all(|(_, body)| body["id"] == answers[0].1["id"])
    );
    let (_, listed) = daemon.get("/v1/services/orders/instances").await;
    assert_eq!(listed["instances"].as_array().unwrap().len(), 1);
}

async fn the_order_of_a_list_is_that_of_bytes<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    for address in ["b:1", "10.0.0.9:1", "a-1:1", "a:1", "a_1:1"] {
        daemon
            .put(&format!("/v1/services/s/instances/{address}"), json!({}))
            .await;
    }
    let (_, listed) = daemon.get("/v1/services/s/instances").await;
    let addresses: Vec<&str> = listed["instances"]
        .as_array()
        .unwrap()
        .iter()
        .map(|instance| instance["address"].as_str().unwrap())
        .collect();
    assert_eq!(addresses, ["10.0.0.9:1", "a-1:1", "a:1", "a_1:1", "b:1"]);
}

async fn names_and_addresses_may_be_percent_encoded<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let encoded = "/v1/services/%6frders/instances/%5B2001%3Adb8%3A%3A1%5D%3A8080";
    let (status, body) = daemon.put(encoded, json!({})).await;
    assert_eq!(status, 201);
    assert_eq!(
        (&body["service"], &body["address"]),
        (&json!("orders"), &json!("[2001:db8::1]:8080"))
    );
    let plain = "/v1/services/orders/instances/[2001:db8::1]:8080";
    assert_eq!(send_heartbeats(&daemon, plain).await.0, 200);
}

async fn a_probe_answers_and_names_each_check<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    assert_eq!(daemon.get("/livez").await.0, 200);
    let (status, body) = daemon.get("/readyz").await;
    assert_eq!((status.as_u16(), &body["status"]), (200, &json!("ready")));
    assert_eq!(
        body["checks"],
        json!({"store": "ok", "leases": "ok", "registry_actor": "ok", "heartbeat_actor": "ok", "scheduler_actor": "ok"})
    );
}

async fn every_answer_forbids_sniffing<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    for (path, content_type) in [
        ("/v1/overview", "application/json"),
        ("/v1/groups/x", "application/problem+json"),
        ("/nothing", "application/problem+json"),
        ("/livez", "text/plain; charset=utf-8"),
    ] {
        let url = format!("{}{path}", daemon.url());
        let answer = daemon.client().get(url).send().await.unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("cache-control"), "no-store", "{path}");
        assert_eq!(header("content-type"), content_type, "{path}");
    }
}

async fn leases_say_how_long_they_live<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let leases = "/v1/services/orders/leases";
    assert_eq!(
        daemon.get(leases).await,
        (StatusCode::OK, json!({"leases": []}))
    );
    daemon.put(ORDERS, json!({"ttl_seconds": 60})).await;
    let silent = "/v1/services/orders/instances/10.0.0.6:8080";
    daemon.put(silent, json!({})).await;
    daemon.put(&format!("{ORDERS}/heartbeat"), json!({})).await;
    let (_, body) = daemon.get(leases).await;
    let all = body["leases"].as_array().unwrap();
    assert_eq!(all.len(), 1, "{body}");
    assert_eq!(all[0]["address"], json!("10.0.0.5:8080"));
    let left = all[0]["remaining_ms"].as_u64().unwrap();
    assert!((40_000..=60_000).contains(&left), "{left}");
    for (query, count) in [
        ("?address=10.0.0.5:8080", 1),
        ("?address=10.0.0.6:8080", 0),
        ("?address=10.0.0.6:8080&address=10.0.0.5:8080", 1),
    ] {
        let (_, some) = daemon.get(&format!("{leases}{query}")).await;
        assert_eq!(some["leases"].as_array().unwrap().len(), count, "{query}");
    }
    let many = "address=h:1&".repeat(101);
    for bad in ["address=x", "x=1", "wait=1s&wait=2s", &many] {
        assert_eq!(daemon.get(&format!("{leases}?{bad}")).await.0, 400, "{bad}");
    }
    let started = all[0]["started_at"].as_str().unwrap();
    assert!(started.len() == 24 && started.ends_with('Z'), "{started}");
}
