//! Targets for Prometheus: the format of its HTTP service discovery, and a real Prometheus that
//! scrapes the listed targets.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::support::backends::{Backends, Embedded, Setup, on_both_backends};
use crate::support::daemon::{BINARY, Daemon};
use crate::support::eventually;
use crate::support::prometheus::{Exporter, Prometheus};

on_both_backends! {
    every_instance_is_a_target_with_what_is_known_of_it,
    a_list_has_the_requested_instances,
    without_instances_the_list_is_empty,
    complaint_29_metadata_becomes_labels_that_prometheus_takes,
    a_query_that_is_none_is_400,
}

const TARGETS: &str = "/v1/prometheus/targets";

/// How long Prometheus may take to follow: it asks every second, but applies the list every
/// five.
const FOLLOWS: Duration = Duration::from_secs(60);

/// Returns the raw list, and asserts what Prometheus requires of any answer.
async fn text(daemon: &Daemon, query: &str) -> String {
    let url = format!("{}{TARGETS}{query}", daemon.url());
    let answer = daemon.client().get(url).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{query}");
    assert_eq!(answer.headers()[CONTENT_TYPE], "application/json");
    String::from_utf8(answer.bytes().await.unwrap().into()).unwrap()
}

/// The targets of the list, in its order.
async fn addresses(daemon: &Daemon, query: &str) -> Vec<String> {
    let list: Vec<Value> = serde_json::from_str(&text(daemon, query).await).unwrap();
    let address = |element: &Value| element["targets"][0].as_str().unwrap().to_owned();
    list.iter().map(address).collect()
}

/// Services `billing` and `orders` and a group `edge`, registered in another order than they
/// are listed in.
async fn fill(daemon: &Daemon) {
    daemon.put("/v1/groups/edge", json!({})).await;
    for (path, body) in [
        ("groups/edge/instances/gw:9", json!({"name": "网关"})),
        ("services/orders/instances/b:2", json!({"weight": 5})),
        ("services/orders/instances/a:1", json!({})),
        (
            "services/billing/instances/[::1]:3",
            json!({"metadata": {"zone": "eu"}}),
        ),
    ] {
        assert_eq!(daemon.put(&format!("/v1/{path}"), body).await.0, 201);
    }
    daemon
        .send_heartbeats("orders", &["a:1".to_owned(), "b:2".to_owned()])
        .await;
    let (status, _) = daemon
        .patch(
            "/v1/services/orders/instances/b:2",
            json!({"status": "held"}),
        )
        .await;
    assert_eq!(status, 200);
}

async fn every_instance_is_a_target_with_what_is_known_of_it<B: Backends>() {
    let setup = Setup::<B>::start().await;
    fill(&setup).await;
    let labels = |more: Value| {
        let mut labels = json!({
            "__meta_rollcall_status": "enabled",
            "__meta_rollcall_online": "false",
            "__meta_rollcall_weight": "1",
        });
        let more = more.as_object().unwrap().clone();
        labels.as_object_mut().unwrap().extend(more);
        labels
    };
    let mut expected = json!([
        {"targets": ["[::1]:3"], "labels": labels(json!({
            "__meta_rollcall_service": "billing",
            "__meta_rollcall_address": "[::1]:3",
            "__meta_rollcall_name": "[::1]:3",
            "__meta_rollcall_metadata_zone": "eu",
        }))},
        {"targets": ["a:1"], "labels": labels(json!({
            "__meta_rollcall_service": "orders",
            "__meta_rollcall_address": "a:1",
            "__meta_rollcall_name": "a:1",
            "__meta_rollcall_online": "true",
        }))},
        {"targets": ["b:2"], "labels": labels(json!({
            "__meta_rollcall_service": "orders",
            "__meta_rollcall_address": "b:2",
            "__meta_rollcall_name": "b:2",
            "__meta_rollcall_status": "held",
            "__meta_rollcall_online": "true",
            "__meta_rollcall_weight": "5",
        }))},
        {"targets": ["gw:9"], "labels": labels(json!({
            "__meta_rollcall_group": "edge",
            "__meta_rollcall_address": "gw:9",
            "__meta_rollcall_name": "网关",
            "__meta_rollcall_status": "disabled",
        }))},
    ]);
    let paths = [
        "services/billing",
        "services/orders",
        "services/orders",
        "groups/edge",
    ];
    for (path, element) in paths.iter().zip(expected.as_array_mut().unwrap()) {
        let address = element["targets"][0].as_str().unwrap();
        let (_, shown) = setup.get(&format!("/v1/{path}/instances/{address}")).await;
        element["labels"]["__meta_rollcall_id"] = shown["id"].clone();
    }
    let mine = text(&setup, "").await;
    assert_eq!(serde_json::from_str::<Value>(&mine).unwrap(), expected);
    assert_eq!(text(&setup, "").await, mine, "the same again");
    if let Some(second) = setup.replica(&[]).await {
        eventually(
            Duration::from_secs(10),
            "the other has the same",
            || async { (text(&second, "").await == mine).then_some(()) },
        )
        .await;
    }
}

async fn a_list_has_the_requested_instances<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    fill(&daemon).await;
    for (query, expected) in [
        ("", &["[::1]:3", "a:1", "b:2", "gw:9"][..]),
        ("?available=false&online=false", &["[::1]:3", "gw:9"]),
        ("?service=orders&group=edge", &["a:1", "b:2", "gw:9"]),
        ("?online=true", &["a:1", "b:2"]),
        ("?available=true", &["a:1"]),
        ("?available=true&online=true", &["a:1"]),
        ("?service=orders", &["a:1", "b:2"]),
        ("?service=orders&available=true", &["a:1"]),
        ("?service=billing", &["[::1]:3"]),
        ("?service=billing&online=true", &[]),
        ("?group=edge", &["gw:9"]),
        ("?group=edge&available=true", &[]),
        // A group is not a service, whatever its key.
        ("?service=edge", &[]),
    ] {
        assert_eq!(addresses(&daemon, query).await, expected, "{query}");
    }
}

async fn without_instances_the_list_is_empty<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    for query in ["", "?available=true", "?service=unknown", "?group=unknown"] {
        assert_eq!(text(&daemon, query).await, "[]", "{query}");
    }
    let path = "/v1/services/orders/instances/a:1";
    daemon.put(path, json!({})).await;
    assert_eq!(addresses(&daemon, "").await, ["a:1"]);
    daemon.delete(path).await;
    // The service is still declared.
    for query in ["", "?service=orders"] {
        assert_eq!(text(&daemon, query).await, "[]", "{query}");
    }
}

/// Texts that would end a string, a line or a list, were they not escaped.
fn hostile() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([
        ("quote", r#""},"labels":{"job":"forged"#),
        ("backslash", r"\"),
        ("lines", "one\r\ntwo\u{2028}three\ttab"),
        ("control", "\u{1}\u{7f}\u{85}"),
        ("script", "</script><!-- 😀 名"),
        ("template", "${1} $1 {{ .Value }}"),
    ])
}

async fn complaint_29_metadata_becomes_labels_that_prometheus_takes<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let mut metadata = hostile();
    metadata.extend([
        ("app.kubernetes.io/name", "dots and slashes"),
        ("9 lives", "begins with a digit"),
        ("名", "one for each character"),
        ("UPPER_case_1", "as it is"),
        ("empty", ""),
        ("same_key", "third"),
        ("same-key", "first"),
        ("same.key", "second"),
        ("__address__", "not one of Prometheus' own"),
        ("\"\\\n", "three"),
    ]);
    let path = "/v1/services/orders/instances/a:1";
    let (status, body) = daemon.put(path, json!({"metadata": metadata})).await;
    assert_eq!(status, 201, "{body}");
    let list: Value = serde_json::from_str(&text(&daemon, "").await).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1);
    let labels: BTreeMap<String, String> =
        serde_json::from_value(list[0]["labels"].clone()).unwrap();
    let prefix = "__meta_rollcall_metadata_";
    let given: BTreeMap<&str, &str> = labels
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value.as_str())))
        .collect();
    let mut expected = hostile();
    expected.extend([
        ("app_kubernetes_io_name", "dots and slashes"),
        ("9_lives", "begins with a digit"),
        ("_", "one for each character"),
        ("UPPER_case_1", "as it is"),
        ("empty", ""),
        ("same_key", "first"),
        ("__address__", "not one of Prometheus' own"),
        ("___", "three"),
    ]);
    assert_eq!(given, expected);
}

async fn a_query_that_is_none_is_400<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    for (query, code, field, detail) in [
        (
            "availabl=true",
            "invalid_field",
            "availabl",
            "availabl is not a parameter of this route; it has service, group, q, status, online, available, metadata.KEY, address, wait",
        ),
        (
            "available=yes",
            "invalid_field",
            "available",
            "available must be true or false",
        ),
        (
            "group=",
            "invalid_field",
            "group",
            "group must not be empty",
        ),
        (
            "service=a:b",
            "invalid_field",
            "service",
            "service must begin with a letter or digit and hold only letters, digits, '.', '_' and '-', unlike \"a:b\"",
        ),
    ] {
        let (status, problem) = daemon.get(&format!("{TARGETS}?{query}")).await;
        assert_eq!(status, 400, "{query}");
        let expected = json!({
            "title": "Bad Request", "status": 400, "code": code, "field": field, "detail": detail,
        });
        assert_eq!(problem, expected);
    }
}

/// Registers an instance that can be scraped, and sends a heartbeat.
async fn join(daemon: &Daemon, exporter: &Exporter, ttl_seconds: u16, metadata: Value) -> String {
    let address = exporter.address();
    let path = format!("/v1/services/orders/instances/{address}");
    let body = json!({"ttl_seconds": ttl_seconds, "metadata": metadata});
    assert_eq!(daemon.put(&path, body).await.0, 201);
    daemon
        .send_heartbeats("orders", std::slice::from_ref(&address))
        .await;
    path
}

/// Starts a Prometheus that scrapes the available instances.
async fn scraping(daemon: &Daemon) -> Prometheus {
    let url = format!("{}{TARGETS}?available=true", daemon.url());
    Prometheus::start(&url).await
}

/// Waits until Prometheus scrapes exactly these targets, each successfully.
async fn scrapes(prometheus: &Prometheus, exporters: &[&Exporter]) {
    let mut expected: Vec<_> = exporters
        .iter()
        .map(|exporter| (exporter.address(), "1".to_owned()))
        .collect();
    expected.sort();
    eventually(FOLLOWS, "Prometheus scrapes whom it should", || async {
        let up = prometheus.query(r#"up{service="orders"}"#).await;
        let targets = prometheus.targets().await.len();
        (up == expected && targets == expected.len()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn prometheus_scrapes_registered_instances_until_they_are_deregistered() {
    let daemon = Setup::<Embedded>::start().await;
    let prometheus = scraping(&daemon).await;
    let (stays, goes) = (Exporter::start().await, Exporter::start().await);
    join(&daemon, &stays, 3600, json!({})).await;
    let mut metadata = hostile();
    metadata.insert("app.kubernetes.io/name", "orders");
    let path = join(&daemon, &goes, 3600, json!(metadata)).await;
    scrapes(&prometheus, &[&stays, &goes]).await;

    let targets = prometheus.targets().await;
    let of = |target: &&Value| target["labels"]["instance"] == json!(goes.address());
    let target = targets.iter().find(of).unwrap();
    assert_eq!(target["health"], json!("up"), "{target}");
    for (key, value) in hostile() {
        let label = format!("__meta_rollcall_metadata_{key}");
        assert_eq!(target["discoveredLabels"][label], json!(value));
    }
    let scraped = r#"demo_value{service="orders", app_kubernetes_io_name="orders"}"#;
    let value = (goes.address(), "42".to_owned());
    assert_eq!(prometheus.query(scraped).await, [value]);

    assert_eq!(daemon.delete(&path).await.0, 204);
    scrapes(&prometheus, &[&stays]).await;
    assert_eq!(prometheus.query(scraped).await, []);
}

#[tokio::test]
async fn prometheus_scrapes_no_disabled_or_offline_instance() {
    let daemon = Setup::<Embedded>::start().await;
    let prometheus = scraping(&daemon).await;
    let [stays, disabled, silent] = [
        Exporter::start().await,
        Exporter::start().await,
        Exporter::start().await,
    ];
    join(&daemon, &stays, 3600, json!({})).await;
    let path = join(&daemon, &disabled, 3600, json!({})).await;
    join(&daemon, &silent, 5, json!({})).await;
    let beating = async {
        loop {
            daemon.send_heartbeats("orders", &[silent.address()]).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let all = [&stays, &disabled, &silent];
    tokio::select! {
        () = scrapes(&prometheus, &all) => {}
        () = beating => {}
    }

    daemon.patch(&path, json!({"status": "disabled"})).await;
    scrapes(&prometheus, &[&stays]).await;
    daemon.patch(&path, json!({"status": "enabled"})).await;
    scrapes(&prometheus, &[&stays, &disabled]).await;
}

#[tokio::test]
async fn complaint_5_the_shipped_example_works_with_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("tokens");
    let new_token = |role: &str| {
        let output = std::process::Command::new(BINARY)
            .args([
                "token", "--role", role, "--name", role, "--quiet", "--append",
            ])
            .arg(&list)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let (read, agent) = (new_token("read"), new_token("agent"));
    let flags = ["--tokens-file", list.to_str().unwrap()].map(str::to_owned);
    let daemon = Daemon::start(&flags).await;
    let exporter = Exporter::start().await;
    let instance = format!(
        "{}/v1/services/orders/instances/{}",
        daemon.url(),
        exporter.address()
    );
    let put = async |path: &str, body: Value| {
        let request = daemon.client().put(path).bearer_auth(&agent).json(&body);
        assert!(request.send().await.unwrap().status().is_success());
    };
    put(&instance, json!({"metadata": {"metrics": "true"}})).await;
    put(&format!("{instance}/heartbeat"), json!({})).await;
    let shipped = include_str!("../../deploy/prometheus/prometheus.yaml");
    let mut config = shipped.replace("15s", "1s");
    for replica in 1..=3 {
        let host = format!("rollcall-{replica}.example:18080");
        config = config.replace(&host, daemon.address());
    }
    // The rules stand beside it.
    let config = config
        .lines()
        .filter(|line| !line.contains("alerts.yaml") && !line.contains("rule_files"))
        .collect::<Vec<_>>()
        .join("\n");
    let prometheus = Prometheus::start_with(&config, &read).await;
    eventually(
        FOLLOWS,
        "the daemon and the instance are scraped",
        || async {
            let up = prometheus.query("up == 1").await;
            let scraped = |address: &str| up.iter().any(|(instance, _)| instance == address);
            (scraped(daemon.address()) && scraped(&exporter.address())).then_some(())
        },
    )
    .await;
}
