//! Consul's HTTP API, in what clients rely on.

use std::time::Duration;

use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{By, register_at_consul, send, try_send};
use crate::support::backends::{Backends, Setup, Shared, on_both_backends};
use crate::support::daemon::Daemon;
use crate::support::eventually;

const FLAGS: [&str; 1] = ["--facades=consul"];

on_both_backends! {
    a_blocking_query_is_held_until_its_service_changes,
    a_check_that_is_not_a_ttl_check_is_refused_with_what_to_do,
    the_same_id_on_two_machines_is_two_services,
    a_service_without_a_check_stays_passing,
    what_is_not_supported_is_refused_in_words,
}

fn orders(id: &str, ip: &str) -> Value {
    json!({
        "Name": "orders", "ID": id, "Address": ip, "Port": 80,
        "Check": {"TTL": "60s", "Status": "passing"},
    })
}

/// Returns the index and the body of a list.
async fn list(daemon: &Daemon, path: &str) -> (u64, Value) {
    let url = format!("{}{path}", daemon.url());
    let answer = daemon.client().get(url).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("x-consul-knownleader"), "true");
    assert_eq!(header("x-consul-lastcontact"), "0");
    let index = header("x-consul-index").parse().unwrap();
    (index, answer.json().await.unwrap())
}

async fn a_blocking_query_is_held_until_its_service_changes<B: Backends>() {
    let setup = Setup::<B>::start_with(&FLAGS).await;
    let daemon = &setup.daemon;
    register_at_consul(daemon, orders("o1", "10.0.0.1")).await;
    let (index, _) = list(daemon, "/v1/health/service/orders").await;
    assert!(
        (1..10_u64.pow(14)).contains(&index),
        "Lua reads it exactly: {index}"
    );
    let begin = Instant::now();
    let path = format!("/v1/health/service/orders?index={index}&wait=1s");
    assert_eq!(list(daemon, &path).await.0, index);
    assert!(begin.elapsed() >= Duration::from_secs(1));

    let path = format!("/v1/health/service/orders?index={index}&wait=30s");
    let (changed, ()) = tokio::join!(list(daemon, &path), async {
        // Until the query is held: an answer at once would not be one after a wait.
        let is_held = "rollcall_http_in_flight{work=\"wait\"} 1";
        eventually(Duration::from_secs(10), "the query is held", || async {
            let (_, metrics) = try_send(daemon, Method::GET, "/metrics", None).await;
            metrics.contains(is_held).then_some(())
        })
        .await;
        let other = json!({"Name": "other", "Address": "10.0.0.9", "Port": 80});
        register_at_consul(daemon, other).await;
        register_at_consul(daemon, orders("o2", "10.0.0.2")).await;
    });
    assert!(changed.0 > index);
    assert_eq!(changed.1.as_array().unwrap().len(), 2, "{}", changed.1);
    // A renewal changes nothing.
    let (index, _) = list(daemon, "/v1/health/service/orders").await;
    send(daemon, Method::PUT, "/v1/agent/check/pass/service:o1", None).await;
    assert_eq!(list(daemon, "/v1/health/service/orders").await.0, index);
    // A service that is gone keeps an index.
    for id in ["o1", "o2"] {
        let path = format!("/v1/agent/service/deregister/{id}");
        send(daemon, Method::PUT, &path, None).await;
    }
    let (gone, body) = list(daemon, "/v1/health/service/orders").await;
    assert!(gone > index && body == json!([]), "{gone}: {body}");
    assert!(list(daemon, "/v1/health/service/unknown").await.0 > 0);
}

async fn a_check_that_is_not_a_ttl_check_is_refused_with_what_to_do<B: Backends>() {
    let setup = Setup::<B>::start_with(&FLAGS).await;
    for check in [
        json!({"HTTP": "http://10.0.0.1/", "Interval": "10s"}),
        json!({"tcp": "10.0.0.1:80", "interval": "10s"}),
        json!({"GRPC": "10.0.0.1:80"}),
        json!({"Args": ["/bin/check"]}),
    ] {
        let body = json!({"Name": "orders", "Address": "10.0.0.1", "Port": 80, "Check": check});
        let path = "/v1/agent/service/register";
        let (status, text) = try_send(&setup.daemon, Method::PUT, path, Some(body)).await;
        assert_eq!(status, 400, "{check}");
        assert!(text.contains("heartbeat.enabled=true"), "{text}");
    }
}

async fn the_same_id_on_two_machines_is_two_services<B: Backends>() {
    let setup = Setup::<B>::start_with(&["--facades=consul", "--trusted-proxy=127.0.0.0/8"]).await;
    let daemon = &setup.daemon;
    let from = async |peer: &str, method: Method, path: &str, body: Option<Value>| {
        let request = daemon
            .client()
            .request(method, format!("{}{path}", daemon.url()))
            .header("x-forwarded-for", peer);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        request.send().await.unwrap().status().as_u16()
    };
    for peer in ["10.0.0.1", "10.0.0.2"] {
        let body =
            json!({"Name": "redis", "Port": 6379, "Check": {"TTL": "60s", "Status": "passing"}});
        let path = "/v1/agent/service/register";
        assert_eq!(from(peer, Method::PUT, path, Some(body)).await, 200);
    }
    let both = ["10.0.0.1".to_owned(), "10.0.0.2".to_owned()];
    assert_eq!(
        By::Consul.available(daemon, "redis").await,
        both.clone().into()
    );
    // An ID means that of the caller's machine.
    let fail = "/v1/agent/check/fail/service:redis";
    assert_eq!(from("10.0.0.3", Method::PUT, fail, None).await, 400);
    assert_eq!(from("10.0.0.1", Method::PUT, fail, None).await, 200);
    let left = By::Consul.available(daemon, "redis").await;
    assert_eq!(left, [both[1].clone()].into());
}

async fn a_service_without_a_check_stays_passing<B: Backends>() {
    let setup = Setup::<B>::start_with(&FLAGS).await;
    let daemon = &setup.daemon;
    let body = json!({"Name": "orders", "Address": "10.0.0.1", "Port": 80});
    register_at_consul(daemon, body).await;
    let remaining = async || {
        let leases = daemon.get("/v1/services/orders/leases").await.1;
        leases["leases"][0]["remaining_ms"].as_u64().unwrap()
    };
    let (first, begin) = (remaining().await, Instant::now());
    assert!(first > 55_000, "{first}");
    let renewed = || async {
        let without = Duration::from_millis(first).saturating_sub(begin.elapsed());
        let now = Duration::from_millis(remaining().await);
        (now > without + Duration::from_secs(1)).then_some(())
    };
    eventually(Duration::from_secs(20), "the lease was renewed", renewed).await;
    let checks = &list(daemon, "/v1/health/service/orders?passing").await.1[0]["Checks"];
    assert_eq!(*checks, json!([]));
    // Until it leaves, also while a decision keeps its registration.
    let path = "/v1/services/orders/instances/10.0.0.1:80";
    daemon.patch(path, json!({"weight": 5})).await;
    send(
        daemon,
        Method::PUT,
        "/v1/agent/service/deregister/orders",
        None,
    )
    .await;
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert_eq!(daemon.get(path).await.1["online"], json!(false));
}

async fn what_is_not_supported_is_refused_in_words<B: Backends>() {
    let setup = Setup::<B>::start_with(&FLAGS).await;
    for (path, word) in [
        ("/v1/health/service/orders?index=-1", "index"),
        ("/v1/health/service/orders?index=1&wait=soon", "wait"),
        ("/v1/health/service/orders?dc=dc2", "No path to datacenter"),
        ("/v1/health/service/orders?filter=a", "filter"),
        ("/v1/health/state/good", "state"),
    ] {
        let (status, text) = try_send(&setup.daemon, Method::GET, path, None).await;
        assert_eq!(status, 400, "{path}");
        assert!(text.contains(word), "{path}: {text}");
    }
    let (status, text) = try_send(&setup.daemon, Method::GET, "/v1/kv/config/a/b", None).await;
    assert_eq!((status, text.as_str()), (404, ""));
}

#[tokio::test]
async fn the_index_of_a_service_is_equal_on_all_replicas_and_outlives_them() {
    let setup = Setup::<Shared>::start_with(&FLAGS).await;
    let first = &setup.daemon;
    let mut second = setup.replica(&FLAGS).await.unwrap();
    for at in 0..5 {
        let service = format!("orders-{at}");
        By::Native.register(first, &service, "10.0.0.1").await;
    }
    let paths = (0..5).map(|at| format!("/v1/health/service/orders-{at}"));
    let paths: Vec<String> = paths
        .chain([
            "/v1/health/service/unknown".to_owned(),
            "/v1/catalog/services".to_owned(),
        ])
        .collect();
    let indexes = async |daemon: &Daemon| {
        let mut indexes = Vec::new();
        for path in &paths {
            indexes.push(list(daemon, path).await.0);
        }
        indexes
    };
    let before = indexes(first).await;
    assert_eq!(indexes(&second).await, before);
    second.signal(Signal::TERM);
    second.ended().await;
    let restarted = second.restart().await;
    assert_eq!(indexes(&restarted).await, before);
    By::Native.register(first, "orders-1", "10.0.0.2").await;
    let after = indexes(&restarted).await;
    assert_eq!(indexes(first).await, after);
    for (at, (before, after)) in before.iter().zip(&after).enumerate() {
        let has_changed = at == 1 || at == 6;
        assert_eq!(
            after > before,
            has_changed,
            "{}: {before} {after}",
            paths[at]
        );
    }
}
