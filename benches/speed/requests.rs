//! The requests that the cases send.

use std::net::SocketAddr;
use std::sync::Arc;

use rollcalld::lease::Renewal;
use rollcalld::model::{InstanceKey, ScopeKind, Ttl, Weight};
use serde_json::json;
use tokio::task::spawn_local;
use tokio::time::Instant;

use crate::load::Connection;
use crate::servers::request;
use crate::support::redis::Redis;

/// The instances that send heartbeats, over all connections.
pub(crate) const INSTANCES: usize = 2_000;

/// The number of services in registrations.
pub(crate) const SERVICES: usize = 1_000;

pub(crate) const LIST: &str = "/v1/services/orders/instances?available=true";

pub(crate) const BATCH: usize = 500;

pub(crate) fn host(i: usize) -> String {
    format!("10.{}.{}.{}:8080", i >> 16 & 255, i >> 8 & 255, i & 255)
}

pub(crate) fn send_heartbeats(connection: usize, n: usize) -> Vec<u8> {
    let address = host((connection * 31 + n) % INSTANCES);
    let path = format!("/v1/services/orders/instances/{address}/heartbeat");
    request("PUT", &path, "", "")
}

/// Registers the instances, and sends one heartbeat for each.
pub(crate) async fn fill(address: SocketAddr, count: usize) {
    let per_connection = count / 50;
    let tasks: Vec<_> = (0..50)
        .map(|part| {
            spawn_local(async move {
                let client = crate::support::daemon::client_builder().build().unwrap();
                let bearer = "0123456789abcdef0123456789abcdef";
                for i in part * per_connection..(part + 1) * per_connection {
                    let url = format!("http://{address}/v1/services/orders/instances/{}", host(i));
                    let body = json!({"weight": 2, "metadata": {"zone": "a", "version": "1.2.3"}});
                    let put = client.put(&url).bearer_auth(bearer).json(&body);
                    assert!(put.send().await.unwrap().status().is_success());
                    let heartbeat = client.put(format!("{url}/heartbeat")).bearer_auth(bearer);
                    assert_eq!(heartbeat.send().await.unwrap().status(), 200);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Registers many instances in few requests, and sends one heartbeat for each.
pub(crate) async fn fill_at_once(address: SocketAddr, count: usize) {
    let mut connection = Connection::open(address).await.unwrap();
    let all: Vec<usize> = (0..count).collect();
    for part in all.chunks(5_000) {
        let entry = |i: &usize| json!({"service": "orders", "address": host(*i), "weight": 2, "metadata": {"zone": "a", "version": "1.2.3"}});
        let entries: Vec<_> = part.iter().map(entry).collect();
        let body = json!({ "registrations": entries }).to_string();
        let asked = connection
            .ask(&request("POST", "/v1/registrations", "", &body))
            .await;
        assert_eq!(asked.unwrap(), 200);
        let lease = |i: &usize| json!({"service": "orders", "address": host(*i)});
        let leases: Vec<_> = part.iter().map(lease).collect();
        let body = json!({ "leases": leases }).to_string();
        let asked = connection
            .ask(&request("POST", "/v1/heartbeats", "", &body))
            .await;
        assert_eq!(asked.unwrap(), 200);
    }
}

fn batch_of(batch: usize) -> Vec<u8> {
    let lease = |i: usize| json!({"service": "orders", "address": host(batch * BATCH + i)});
    let leases: Vec<_> = (0..BATCH).map(lease).collect();
    request(
        "POST",
        "/v1/heartbeats",
        "",
        &json!({ "leases": leases }).to_string(),
    )
}

/// Returns the renewals of a batch, one of those that have all `count` instances.
pub(crate) fn renewals(batch: usize, count: usize) -> Vec<Renewal> {
    let renewal = |i: usize| Renewal {
        key: InstanceKey {
            scope: ScopeKind::Service.with("orders".parse().unwrap()),
            address: host((batch * BATCH + i) % count).parse().unwrap(),
        },
        weight: Weight::default(),
        ttl: Ttl::try_from(30).unwrap(),
        is_hidden: false,
    };
    (0..BATCH).map(renewal).collect()
}

/// Batches that are made before the measurement.
pub(crate) fn made_once() -> impl Fn(usize, usize) -> Vec<u8> + Clone {
    let batches: Arc<[Vec<u8>]> = (0..INSTANCES / BATCH).map(batch_of).collect();
    move |connection, n| batches[(connection + n) % batches.len()].clone()
}

/// The registration of a new instance in one of many services.
pub(crate) fn registration() -> impl Fn(usize, usize) -> Vec<u8> + Clone {
    let begin = Instant::now();
    move |connection, n| {
        let moment = begin.elapsed().as_nanos();
        let service = (connection * 31 + n) % SERVICES;
        let path = format!("/v1/services/s-{service}/instances/h-{connection}-{n}-{moment}:80");
        request(
            "PUT",
            &path,
            "",
            "{\"weight\":2,\"metadata\":{\"zone\":\"a\"}}",
        )
    }
}

/// Returns the process ID of a Redis.
pub(crate) async fn id_of(redis: &Redis) -> u32 {
    let mut connection = redis.connect().await;
    let info: String = redis::cmd("INFO")
        .arg("server")
        .query_async(&mut connection)
        .await
        .unwrap();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("process_id:"));
    line.unwrap().trim().parse().unwrap()
}
