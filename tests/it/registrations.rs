//! Registrations of many instances in one request.

use serde_json::{Value, json};

use crate::support::backends::{Backends, Setup, on_both_backends};
use crate::support::daemon::Daemon;
use crate::support::postgres::Postgres;

on_both_backends! {
    many_are_registered_with_one_result_each,
    one_that_fails_does_not_affect_the_others,
    what_many_registrations_do_is_what_single_ones_do,
    ten_thousand_are_registered_in_one_request,
}

const PATH: &str = "/v1/registrations";

/// Registers, and returns the outcomes: a word, or the code of a failure.
async fn register(daemon: &Daemon, registrations: Value) -> Vec<String> {
    let body = json!({ "registrations": registrations });
    let (status, answer) = daemon.post(PATH, body).await;
    assert_eq!(status, 200, "{answer}");
    let results = answer["results"].as_array().unwrap();
    let failed = |result: &&Value| result["outcome"] == json!("failed");
    assert_eq!(
        answer["failed"],
        json!(results.iter().filter(failed).count())
    );
    let outcome = |result: &Value| {
        let text = result["code"].as_str().or(result["outcome"].as_str());
        text.unwrap().to_owned()
    };
    results.iter().map(outcome).collect()
}

async fn many_are_registered_with_one_result_each<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put("/v1/groups/edge", json!({})).await;
    let registrations = json!([
        {"service": "orders", "address": "10.0.0.5:8080", "weight": 3, "metadata": {"zone": "a"}},
        {"group": "edge", "address": "10.0.0.6:80", "name": "gateway"},
        {"service": "users", "address": "10.0.0.5:8080", "ttl_seconds": 60},
    ]);
    let first = register(&daemon, registrations.clone()).await;
    assert_eq!(first, ["created", "created", "created"]);
    let again = register(&daemon, registrations).await;
    assert_eq!(again, ["unchanged", "unchanged", "unchanged"]);
    let heavier = json!([{"service": "orders", "address": "10.0.0.5:8080", "weight": 4}]);
    assert_eq!(register(&daemon, heavier).await, ["updated"]);
    let (_, orders) = daemon
        .get("/v1/services/orders/instances/10.0.0.5:8080")
        .await;
    assert_eq!(
        (&orders["weight"], &orders["registered_by"]["token"]),
        (&json!(4), &json!("anonymous"))
    );
    let (_, gateway) = daemon.get("/v1/groups/edge/instances/10.0.0.6:80").await;
    assert_eq!(
        (&gateway["name"], &gateway["status"]),
        (&json!("gateway"), &json!("disabled"))
    );
    assert_eq!(register(&daemon, json!([])).await, Vec::<String>::new());
}

async fn one_that_fails_does_not_affect_the_others<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let registrations = json!([
        {"service": "orders", "address": "10.0.0.1:80"},
        {"group": "edge", "address": "10.0.0.2:80"},
        {"service": "orders", "address": "10.0.0.3:80", "weight": -1},
        {"service": "orders", "address": "0.0.0.0:80"},
        {"address": "10.0.0.4:80"},
        {"service": "orders", "address": "10.0.0.5:80", "wight": 1},
        ["orders", null, "10.0.0.6:80"],
        {"service": "orders", "address": "10.0.0.1:80", "weight": 2},
        {"service": "orders", "address": "10.0.0.8:80"},
    ]);
    let body = json!({ "registrations": registrations });
    let (status, answer) = daemon.post(PATH, body).await;
    assert_eq!((status.as_u16(), &answer["failed"]), (200, &json!(7)));
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results[0], json!({"outcome": "created"}));
    assert_eq!(results[8], json!({"outcome": "created"}));
    let failure = |place: usize| {
        let [status, code, detail] = ["status", "code", "detail"].map(|name| &results[place][name]);
        (
            status.as_u64().unwrap(),
            code.as_str().unwrap(),
            detail.as_str().unwrap(),
        )
    };
    for (place, status, code, detail) in [
        (
            1,
            404,
            "group_not_found",
            "no group \"edge\" is declared: PUT /v1/groups/edge declares it",
        ),
        (
            2,
            400,
            "invalid_field",
            "weight must be a whole number from 0 to 65535, not -1",
        ),
        (
            3,
            400,
            "invalid_field",
            "address must be an address that clients can reach, not all addresses of a machine",
        ),
        (
            4,
            400,
            "invalid_field",
            "body must contain either service or group",
        ),
        (
            5,
            400,
            "unknown_field",
            "wight has the wrong form: unknown field `wight`, expected one of `service`, `group`, `address`, `name`, `weight`, `metadata`, `ttl_seconds`",
        ),
        (
            6,
            400,
            "invalid_field",
            "body has the wrong form: invalid type: sequence, expected an object",
        ),
        (
            7,
            400,
            "invalid_field",
            "address is registered by registrations[0] already",
        ),
    ] {
        assert_eq!(failure(place), (status, code, detail));
    }
    let (_, listed) = daemon.get("/v1/services/orders/instances").await;
    assert_eq!(listed["instances"].as_array().unwrap().len(), 2);
}

async fn what_many_registrations_do_is_what_single_ones_do<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let bodies = [
        json!({}),
        json!({"name": "a", "weight": 7, "metadata": {"zone": "a"}, "ttl_seconds": 60}),
        json!({"weight": null, "metadata": {}}),
        json!({"weight": 9}),
    ];
    let mut many = Vec::new();
    for (place, body) in bodies.iter().enumerate() {
        let address = format!("10.0.0.{place}:80");
        daemon
            .put(
                &format!("/v1/services/single/instances/{address}"),
                body.clone(),
            )
            .await;
        let mut entry = body.clone();
        entry["service"] = json!("many");
        entry["address"] = json!(address);
        many.push(entry);
    }
    register(&daemon, json!(many)).await;
    let shown = async |service: &str| {
        let (_, mut body) = daemon
            .get(&format!("/v1/services/{service}/instances"))
            .await;
        for instance in body["instances"].as_array_mut().unwrap() {
            for field in ["id", "service", "registered_at", "updated_at", "revision"] {
                instance.as_object_mut().unwrap().remove(field);
            }
        }
        body
    };
    assert_eq!(shown("many").await, shown("single").await);
}

async fn ten_thousand_are_registered_in_one_request<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let entry =
        |i: usize| json!({"service": format!("s-{}", i % 7), "address": format!("host-{i}:1")});
    let all: Vec<Value> = (0..10_000).map(entry).collect();
    let outcomes = register(&daemon, json!(all)).await;
    assert_eq!(outcomes.len(), 10_000);
    assert!(outcomes.iter().all(|outcome| outcome == "created"));
    let (_, overview) = daemon.get("/v1/overview").await;
    assert_eq!(overview["services"]["instances"], json!(10_000));
}

#[tokio::test]
async fn while_the_store_fails_the_request_fails_as_a_single_one_does() {
    let mut postgres = Postgres::start().await;
    let url = postgres.create_database().await;
    let daemon = Daemon::start(&["--store".to_owned(), url]).await;
    postgres.kill().await;
    let body = json!({"registrations": [{"service": "s", "address": "h:1"}]});
    let (status, answer) = daemon.post(PATH, body).await;
    assert_eq!(
        (status.as_u16(), &answer["code"]),
        (503, &json!("store_unavailable"))
    );
}
