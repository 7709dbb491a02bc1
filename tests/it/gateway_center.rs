//! The original's API, row by row: exact messages, one row an address, and in Redis
//! exactly the original's keys and fields.

use std::collections::HashMap;
use std::time::Duration;

use redis::AsyncCommands;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Digest;

use crate::support::backends::{Backends, Setup, Shared, on_both_backends};
use crate::support::daemon::Daemon;
use crate::support::{eventually, postgres};

on_both_backends! {
    create_needs_a_group_that_exists,
    create_returns_the_id_of_a_disabled_gateway_every_time,
    creating_a_known_gateway_changes_nothing,
    register_adds_an_enabled_instance_once,
    register_enables_a_disabled_instance_and_inserts_nothing,
    register_takes_the_id_or_the_key_of_a_service,
    register_fails_with_its_message,
    offline_disables_until_the_next_registration,
    keep_alive_takes_an_address_that_never_registered,
    keep_alive_brings_a_registered_instance_online,
    sixty_four_at_once_leave_one_row,
    wrong_bodies_are_failures_with_status_200,
}

const CREATE: &str = "/gateway-group-detail/create";
const REGISTER: &str = "/gateway-server-detail/register";
const KEEP_SERVER: &str = "/gateway-server-detail/keep-alive";
const KEEP_GATEWAY: &str = "/gateway-group-detail/keep-alive";

async fn post(daemon: &Daemon, path: &str, body: Value) -> Value {
    let (status, body) = daemon.post(path, body).await;
    assert_eq!(status, 200);
    body
}

async fn put(daemon: &Daemon, path: &str, body: Value) -> Value {
    let (status, body) = daemon.put(path, body).await;
    assert_eq!(status, 200);
    body
}

async fn offline(daemon: &Daemon, query: &str) -> Value {
    let path = format!("/gateway-server-detail/offline{query}");
    let (status, body) = daemon.try_send(Method::PUT, &path, None).await.unwrap();
    assert_eq!(status, 200);
    body
}

fn success(data: impl Into<Value>) -> Value {
    json!({"code": 1, "msg": "success", "data": data.into()})
}

fn failure(msg: &str) -> Value {
    json!({"code": 0, "msg": msg, "data": null})
}

async fn instances(daemon: &Daemon, scope: &str) -> Vec<Value> {
    let (_, body) = daemon.get(&format!("/v1/{scope}/instances")).await;
    body["instances"].as_array().unwrap().clone()
}

async fn create_needs_a_group_that_exists<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    for blank in [json!(null), json!(""), json!("  ")] {
        let body = json!({"groupKey": blank, "name": "gw", "address": "10.0.0.1:80", "weight": 1});
        assert_eq!(
            post(&daemon, CREATE, body).await,
            failure("请选择所属网关实例")
        );
    }
    let body = json!({"address": "10.0.0.1:80"});
    assert_eq!(
        post(&daemon, CREATE, body).await,
        failure("请选择所属网关实例")
    );
    for unknown in ["edge", "a:b", "网关"] {
        let body =
            json!({"groupKey": unknown, "name": "gw", "address": "10.0.0.1:80", "weight": 1});
        assert_eq!(post(&daemon, CREATE, body).await, failure("网关实例不存在"));
    }
    assert_eq!(daemon.get("/v1/groups").await.1, json!({"groups": []}));
}

async fn create_returns_the_id_of_a_disabled_gateway_every_time<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put("/v1/groups/edge", json!({})).await;
    let body = json!({"groupKey": "edge", "name": "gw", "address": "10.0.0.1:80", "weight": 3});
    let first = post(&daemon, CREATE, body.clone()).await;
    let id = first["data"].as_i64().unwrap();
    assert_eq!(first, success(id));
    assert_eq!(post(&daemon, CREATE, body).await, success(id));
    let listed = instances(&daemon, "groups/edge").await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["id"], json!(id.to_string()));
    assert_eq!(
        (&listed[0]["status"], &listed[0]["name"]),
        (&json!("disabled"), &json!("gw"))
    );
    assert_eq!(listed[0]["weight"], json!(3));
}

async fn creating_a_known_gateway_changes_nothing<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put("/v1/groups/edge", json!({})).await;
    let body = json!({"groupKey": "edge", "name": "gw", "address": "10.0.0.1:80", "weight": 3});
    post(&daemon, CREATE, body).await;
    let before = instances(&daemon, "groups/edge").await;
    let body = json!({"groupKey": "edge", "name": "other", "address": "10.0.0.1:80", "weight": 9});
    post(&daemon, CREATE, body).await;
    assert_eq!(instances(&daemon, "groups/edge").await, before);
}

async fn register_adds_an_enabled_instance_once<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let body = json!({"serverId": "orders", "serverAddress": "10.0.0.5:8080"});
    assert_eq!(post(&daemon, REGISTER, body.clone()).await, success(true));
    assert_eq!(post(&daemon, REGISTER, body).await, success(true));
    let listed = instances(&daemon, "services/orders").await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["status"], json!("enabled"));
}

async fn register_enables_a_disabled_instance_and_inserts_nothing<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let body = json!({"serverId": "orders", "serverAddress": "10.0.0.5:8080"});
    post(&daemon, REGISTER, body.clone()).await;
    let id = instances(&daemon, "services/orders").await[0]["id"].clone();
    offline(&daemon, &format!("?id={}", id.as_str().unwrap())).await;
    assert_eq!(
        instances(&daemon, "services/orders").await[0]["status"],
        json!("disabled")
    );
    assert_eq!(post(&daemon, REGISTER, body).await, success(true));
    let listed = instances(&daemon, "services/orders").await;
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0]["status"], &listed[0]["id"]),
        (&json!("enabled"), &id)
    );
}

async fn register_takes_the_id_or_the_key_of_a_service<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put("/v1/groups/edge", json!({})).await;
    let (_, group) = daemon.get("/v1/groups/edge").await;
    let (_, service) = daemon.put("/v1/services/orders", json!({})).await;
    let id = service["id"].as_str().unwrap();
    let number: i64 = id.parse().unwrap();
    for (i, server_id) in [json!(number), json!(id), json!("orders")]
        .into_iter()
        .enumerate()
    {
        let body = json!({"serverId": server_id, "serverAddress": format!("host-{i}:80")});
        assert_eq!(post(&daemon, REGISTER, body).await, success(true));
    }
    assert_eq!(instances(&daemon, "services/orders").await.len(), 3);
    // An ID of the original's database is none of a service here, and makes none; a declared key
    // may be a number.
    daemon.put("/v1/services/987654", json!({})).await;
    let next = (number + 1000).to_string();
    for (server_id, expected) in [
        (next.as_str(), failure("注册创建失败")),
        ("1834567890123456789", failure("注册创建失败")),
        ("987654", success(true)),
        ("007", success(true)),
        ("+7", failure("注册创建失败")),
    ] {
        let body = json!({"serverId": server_id, "serverAddress": "a:1"});
        assert_eq!(post(&daemon, REGISTER, body.clone()).await, expected);
        assert_eq!(post(&daemon, REGISTER, body).await, expected);
    }
    for (key, count) in [("987654", 1), (next.as_str(), 0), ("007", 1)] {
        let registered = instances(&daemon, &format!("services/{key}")).await;
        assert_eq!(registered.len(), count, "{key}");
    }
    let group_id: i64 = group["id"].as_str().unwrap().parse().unwrap();
    for id in [876_543, group_id] {
        let body = json!({"serverId": id, "serverAddress": "a:1"});
        assert_eq!(post(&daemon, REGISTER, body).await, failure("注册创建失败"));
    }
}

async fn register_fails_with_its_message<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    for body in [
        json!({}),
        json!({"serverId": "orders"}),
        json!({"serverId": "orders", "serverAddress": "no-port"}),
        json!({"serverId": "a:b", "serverAddress": "a:1"}),
        json!({"serverId": "", "serverAddress": "a:1"}),
        json!({"serverId": true, "serverAddress": "a:1"}),
    ] {
        assert_eq!(post(&daemon, REGISTER, body).await, failure("注册创建失败"));
    }
    assert_eq!(daemon.get("/v1/services").await.1, json!({"services": []}));
}

async fn offline_disables_until_the_next_registration<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon
        .put("/v1/services/orders/instances/a:1", json!({}))
        .await;
    daemon.put("/v1/groups/edge", json!({})).await;
    let (_, gateway) = daemon.put("/v1/groups/edge/instances/g:1", json!({})).await;
    let id = instances(&daemon, "services/orders").await[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(offline(&daemon, &format!("?id={id}")).await, success(true));
    assert_eq!(offline(&daemon, &format!("?id={id}")).await, success(true));
    assert_eq!(
        instances(&daemon, "services/orders").await[0]["status"],
        json!("disabled")
    );
    let gateway_id = format!("?id={}", gateway["id"].as_str().unwrap());
    for unknown in ["?id=987654", "?id=x", "?id=", "", &gateway_id] {
        assert_eq!(
            offline(&daemon, unknown).await,
            failure("服务不存在"),
            "{unknown}"
        );
    }
}

async fn keep_alive_takes_an_address_that_never_registered<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let heartbeat = json!({"server": "orders", "addr": "10.0.0.5:8080"});
    assert_eq!(
        put(&daemon, KEEP_SERVER, heartbeat.clone()).await,
        success(true)
    );
    assert_eq!(put(&daemon, KEEP_SERVER, heartbeat).await, success(true));
    let heartbeat = json!({"groupKey": "edge", "addr": "10.0.0.1:80", "weight": 3});
    assert_eq!(put(&daemon, KEEP_GATEWAY, heartbeat).await, success(true));
    assert_eq!(
        daemon.get("/v1/services").await.1,
        json!({"services": []}),
        "it is not listed"
    );
    // Once it has registered, the next heartbeat makes it online.
    let body = json!({"serverId": "orders", "serverAddress": "10.0.0.5:8080"});
    post(&daemon, REGISTER, body).await;
    let heartbeat = json!({"server": "orders", "addr": "10.0.0.5:8080"});
    put(&daemon, KEEP_SERVER, heartbeat).await;
    eventually(Duration::from_secs(10), "it is available", || async {
        let listed = instances(&daemon, "services/orders").await;
        (listed[0]["available"] == json!(true)).then_some(())
    })
    .await;
}

async fn keep_alive_brings_a_registered_instance_online<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon
        .put("/v1/services/orders/instances/a:1", json!({}))
        .await;
    assert_eq!(
        instances(&daemon, "services/orders").await[0]["online"],
        json!(false)
    );
    put(
        &daemon,
        KEEP_SERVER,
        json!({"server": "orders", "addr": "a:1"}),
    )
    .await;
    assert_eq!(
        instances(&daemon, "services/orders").await[0]["available"],
        json!(true)
    );
}

async fn sixty_four_at_once_leave_one_row<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put("/v1/groups/edge", json!({})).await;
    let create = json!({"groupKey": "edge", "name": "gw", "address": "10.0.0.1:80", "weight": 1});
    let register = json!({"serverId": "orders", "serverAddress": "10.0.0.5:8080"});
    let creations = (0..64).map(|_| post(&daemon, CREATE, create.clone()));
    let registrations = (0..64).map(|_| post(&daemon, REGISTER, register.clone()));
    let (created, registered) = tokio::join!(
        futures_util::future::join_all(creations),
        futures_util::future::join_all(registrations),
    );
    assert_eq!(created[0]["code"], json!(1));
    assert!(created.iter().all(|answer| *answer == created[0]));
    assert!(registered.iter().all(|answer| *answer == success(true)));
    assert_eq!(instances(&daemon, "groups/edge").await.len(), 1);
    assert_eq!(instances(&daemon, "services/orders").await.len(), 1);
}

async fn wrong_bodies_are_failures_with_status_200<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put("/v1/groups/edge", json!({})).await;
    for (path, body, msg) in [
        (
            CREATE,
            json!({"groupKey": "edge", "address": "a"}),
            "invalid_field: address must be host:port, unlike \"a\"",
        ),
        (
            CREATE,
            json!({"groupKey": "edge", "address": "a:1", "weight": -1}),
            "invalid_field: weight must be a whole number from 0 to 65535, not -1",
        ),
        (
            CREATE,
            json!({"groupKey": "edge"}),
            "invalid_field: body has the wrong form: missing field `address`",
        ),
    ] {
        assert_eq!(post(&daemon, path, body).await, failure(msg));
    }
    let msg = "invalid_field: server must begin with a letter or digit and hold only letters, digits, '.', '_' and '-', unlike \"a:b\"";
    let heartbeat = json!({"server": "a:b", "addr": "a:1"});
    assert_eq!(put(&daemon, KEEP_SERVER, heartbeat).await, failure(msg));
    let heartbeat = json!({"groupKey": "edge"});
    assert_eq!(
        put(&daemon, KEEP_GATEWAY, heartbeat).await,
        failure("invalid_field: body has the wrong form: missing field `addr`")
    );
}

#[tokio::test]
async fn a_heartbeat_leaves_exactly_the_originals_hash_with_30_seconds_to_live() {
    let setup = Setup::<Shared>::start().await;
    let mut redis = setup.backends.redis.connect().await;
    let heartbeat = json!({"server": "orders", "addr": "10.0.0.5:8080"});
    put(&setup, KEEP_SERVER, heartbeat.clone()).await;

    let keys: Vec<String> = redis.keys("heartbeat:*").await.unwrap();
    assert_eq!(keys, ["heartbeat:server:orders:10.0.0.5:8080"]);
    let first: HashMap<String, String> = redis.hgetall(&keys[0]).await.unwrap();
    let mut fields: Vec<&str> = first.keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["lastTime", "startTime", "url", "weight"]);
    assert_eq!(
        (first["url"].as_str(), first["weight"].as_str()),
        ("10.0.0.5:8080", "1")
    );
    assert_eq!(first["lastTime"], first["startTime"]);
    chrono::DateTime::parse_from_rfc3339(&first["lastTime"]).unwrap();
    assert_eq!(first["lastTime"].len(), "2026-11-22T10:00:00.000Z".len());
    let left: i64 = redis.pttl(&keys[0]).await.unwrap();
    assert!((25_000..=30_000).contains(&left), "{left}");

    eventually(Duration::from_secs(10), "time passes", || async {
        let mut redis = redis.clone();
        (redis.pttl::<_, i64>(&keys[0]).await.unwrap() < 28_500).then_some(())
    })
    .await;
    put(&setup, KEEP_SERVER, heartbeat).await;
    let second: HashMap<String, String> = redis.hgetall(&keys[0]).await.unwrap();
    assert_eq!(second["startTime"], first["startTime"]);
    assert!(second["lastTime"] > first["lastTime"]);
    assert_eq!(second.len(), 4);
    let left: i64 = redis.pttl(&keys[0]).await.unwrap();
    assert!(left > 28_500, "{left}");
}

#[tokio::test]
async fn a_gateways_lease_has_the_weight_it_says_or_is_registered_with() {
    let setup = Setup::<Shared>::start().await;
    let mut redis = setup.backends.redis.connect().await;
    let key = "heartbeat:group:edge:10.0.0.1:80";
    let mut weight_after = async |heartbeat: Value| -> String {
        put(&setup, KEEP_GATEWAY, heartbeat).await;
        redis.hget(key, "weight").await.unwrap()
    };
    let plain = json!({"groupKey": "edge", "addr": "10.0.0.1:80"});
    let own = json!({"groupKey": "edge", "addr": "10.0.0.1:80", "weight": 3});
    assert_eq!(weight_after(plain.clone()).await, "1");
    assert_eq!(weight_after(own.clone()).await, "3");
    setup.put("/v1/groups/edge", json!({})).await;
    setup
        .put(
            "/v1/groups/edge/instances/10.0.0.1:80",
            json!({"weight": 7}),
        )
        .await;
    // A new gateway is disabled, and its lease hidden until an operator enables it.
    setup
        .patch(
            "/v1/groups/edge/instances/10.0.0.1:80",
            json!({"status": "enabled"}),
        )
        .await;
    assert_eq!(weight_after(plain).await, "7");
    assert_eq!(weight_after(own).await, "3");
}

#[tokio::test]
async fn one_row_an_address_is_what_the_database_holds() {
    let setup = Setup::<Shared>::start().await;
    let body = json!({"serverId": "orders", "serverAddress": "10.0.0.5:8080"});
    let registrations = (0..64).map(|_| post(&setup, REGISTER, body.clone()));
    futures_util::future::join_all(registrations).await;
    let client = postgres::connect(&setup.backends.store).await.unwrap();
    let count = async |table: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM {table}");
        client.query_one(&sql, &[]).await.unwrap().get(0)
    };
    assert_eq!((count("scope").await, count("instance").await), (1, 1));
}

/// A daemon that knows the safeKey of a service as a token limited to it, and a token of its own.
async fn with_safe_key() -> (Daemon, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("tokens");
    // The SHA-256 of "safeKey", a secret of the original.
    let hash = hex::encode(sha2::Sha256::digest("safeKey"));
    let wide = hex::encode(sha2::Sha256::digest("wideKey"));
    let lines = format!(
        "agent test-provider {hash} services/test-provider\nagent wide {wide} services/test*\n"
    );
    std::fs::write(&list, lines).unwrap();
    let flags = ["--tokens-file", list.to_str().unwrap()].map(str::to_owned);
    (Daemon::start(&flags).await, folder)
}

#[tokio::test]
async fn keep_alive_by_safe_key_is_a_token_limited_to_one_service() {
    let (daemon, _folder) = with_safe_key().await;
    let addr = "192.168.74.11:777";
    let send = async |body: Value| put(&daemon, KEEP_SERVER, body).await;
    // Rows 10 and 12: null members count as absent.
    assert_eq!(
        send(json!({"safeKey": "safeKey", "addr": addr})).await,
        success(true)
    );
    let all = json!({"safeKey": "safeKey", "groupKey": null, "server": null, "addr": addr, "weight": null});
    assert_eq!(send(all).await, success(true));
    // Row 11, a token for several services, and none.
    for wrong in [
        json!({"safeKey": "unknown", "addr": addr}),
        json!({"safeKey": "wideKey", "addr": addr}),
    ] {
        assert_eq!(send(wrong).await, failure("安全密钥错误"));
    }
    let without = send(json!({"server": "test-provider", "addr": addr})).await;
    assert!(
        without["msg"].as_str().unwrap().starts_with("unauthorized"),
        "{without}"
    );
    // It is the lease of that service.
    let url = format!(
        "{}/v1/services/test-provider/instances/{addr}",
        daemon.url()
    );
    let registered = daemon.client().put(url).bearer_auth("safeKey").send().await;
    assert_eq!(registered.unwrap().status(), 201);
    assert_eq!(
        send(json!({"safeKey": "safeKey", "addr": addr})).await,
        success(true)
    );
    eventually(Duration::from_secs(10), "it is online", || async {
        let url = format!("{}/v1/services/test-provider/instances", daemon.url());
        let list = daemon.client().get(url).bearer_auth("safeKey").send().await;
        let list: Value = list.unwrap().json().await.unwrap();
        (list["instances"][0]["online"] == json!(true)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_answer_under_the_originals_paths_has_its_form() {
    let (daemon, _folder) = with_safe_key().await;
    let send = async |method: &str, path: &str, token: Option<&str>| {
        let method: Method = method.parse().unwrap();
        let request = daemon
            .client()
            .request(method, format!("{}{path}", daemon.url()));
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let answer = request.json(&json!({})).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(
            (&body["code"], &body["data"]),
            (&json!(0), &Value::Null),
            "{path}"
        );
        body["msg"].as_str().unwrap().to_owned()
    };
    for (method, path, token, says) in [
        ("POST", CREATE, None, "unauthorized"),
        ("POST", CREATE, Some("wrong"), "unauthorized"),
        (
            "PUT",
            "/gateway-server-detail/offline?id=1",
            Some("safeKey"),
            "scope_forbidden",
        ),
        ("GET", CREATE, Some("safeKey"), "method_not_allowed"),
        (
            "POST",
            "/gateway-interface/create",
            Some("safeKey"),
            "route_not_found",
        ),
        (
            "GET",
            "/gateway-group-detail/get/server-name?groupKey=x",
            None,
            "route_not_found",
        ),
    ] {
        let msg = send(method, path, token).await;
        assert!(msg.starts_with(says), "{method} {path}: {msg}");
    }
    // While it starts.
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let unreachable = format!(
        "postgres://u@127.0.0.1:{}/x",
        crate::support::process::free_port()
    );
    let starting = Daemon::launch(&["--store".to_owned(), unreachable], folder);
    let (status, body) = starting
        .put(KEEP_SERVER, json!({"server": "a", "addr": "a:1"}))
        .await;
    assert_eq!(status, 200);
    assert!(
        body["msg"].as_str().unwrap().starts_with("starting"),
        "{body}"
    );
}

#[tokio::test]
async fn gateways_refresh_when_the_lease_of_an_address_that_never_registered_begins_and_ends() {
    let short = ["--lease-ttl", "5s", "--roll-call-interval", "2s"];
    let setup = Setup::<Shared>::start_with(&short).await;
    let mut messages = crate::events::announcements(&setup).await;
    let addr = json!({"server": "orders", "addr": "10.0.0.5:8080"});
    // Until a missing lease is evidence.
    for _ in 0..4 {
        put(&setup, KEEP_SERVER, addr.clone()).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    use futures_util::StreamExt;
    let mut next = async || {
        tokio::time::timeout(Duration::from_secs(20), messages.next())
            .await
            .unwrap()
    };
    assert_eq!(next().await.unwrap(), "来自网关中心的刷新本地缓存请求");
    let begin = tokio::time::Instant::now();
    assert_eq!(next().await.unwrap(), "来自网关中心的刷新本地缓存请求");
    assert!(
        begin.elapsed() > Duration::from_secs(1),
        "it is that of the end"
    );
    let mut redis = setup.backends.redis.connect().await;
    let keys: Vec<String> = redis.keys("heartbeat:*").await.unwrap();
    assert_eq!(keys, Vec::<String>::new(), "a rescan finds it gone");
}

#[tokio::test]
async fn a_hold_really_drains_the_originals_gateways() {
    let setup = Setup::<Shared>::start().await;
    let mut redis = setup.backends.redis.connect().await;
    let instance = "/v1/services/orders/instances/10.0.0.5:8080";
    let mut scan =
        async || -> Vec<String> { redis.keys("heartbeat:server:orders:*").await.unwrap() };
    let visible = ["heartbeat:server:orders:10.0.0.5:8080"];
    let beat = json!({"server": "orders", "addr": "10.0.0.5:8080"});
    setup.put(instance, json!({})).await;
    put(&setup, KEEP_SERVER, beat.clone()).await;
    assert_eq!(scan().await, visible);
    let mut messages = crate::events::announcements(&setup).await;
    use futures_util::StreamExt;
    for status in ["held", "enabled", "disabled", "enabled"] {
        let expected = match status {
            "enabled" => &visible[..],
            _ => &[],
        };
        let (_, changed) = setup.patch(instance, json!({ "status": status })).await;
        assert_eq!(changed["status"], json!(status));
        // At once, and with each heartbeat; the instance stays online.
        assert_eq!(scan().await, expected);
        put(&setup, KEEP_SERVER, beat.clone()).await;
        assert_eq!(scan().await, expected);
        assert_eq!(setup.get(instance).await.1["online"], json!(true));
        // Gateways are asked to scan again, the last time after the change of the key.
        let mut asked = 0;
        while let Ok(Some(_)) =
            tokio::time::timeout(Duration::from_millis(1500), messages.next()).await
        {
            asked += 1;
        }
        assert!(asked >= 1, "{status}");
    }
    // A lease that is lost while it is hidden begins hidden again.
    setup.patch(instance, json!({"status": "held"})).await;
    let mut admin = setup.backends.redis.connect().await;
    let _: () = admin
        .del("rollcall:hidden:{heartbeat:server:orders:10.0.0.5:8080}")
        .await
        .unwrap();
    put(&setup, KEEP_SERVER, beat).await;
    assert_eq!(scan().await, [""; 0]);
    let hidden: Vec<String> = admin.keys("rollcall:hidden:*").await.unwrap();
    assert_eq!(hidden.len(), 1);
}
