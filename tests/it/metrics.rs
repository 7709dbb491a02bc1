//! The metrics of the daemon: well formed, correct and bounded.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::support::backends::{Backends, Embedded, Setup, Shared, on_both_backends};
use crate::support::daemon::Daemon;
use crate::support::sse::Subscriber;
use crate::support::{addresses, eventually};

on_both_backends! {
    what_happens_is_counted,
}

/// Every sample by its name and labels, as they are written.
pub(crate) struct Samples(BTreeMap<String, f64>);

impl Samples {
    pub(crate) async fn of(daemon: &Daemon) -> Self {
        let text = text(daemon).await;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        });
        Self(samples.collect())
    }

    pub(crate) fn get(&self, name: &str) -> f64 {
        let value = self.0.get(name);
        *value.unwrap_or_else(|| panic!("no {name} in {:#?}", self.0.keys()))
    }
}

async fn text(daemon: &Daemon) -> String {
    let url = format!("{}/metrics", daemon.url());
    let answer = daemon.client().get(url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(
        answer.headers()["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    answer.text().await.unwrap()
}

#[tokio::test]
async fn promtool_finds_nothing_to_complain_of() {
    let setup = Setup::<Shared>::start().await;
    setup.register("orders", &addresses(3), &json!({})).await;
    setup.send_heartbeats("orders", &addresses(2)).await;
    setup.get("/v1/services/none").await;
    setup.get("/nowhere").await;
    let text = text(&setup).await;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is missing; tests/run installs what the tests need");
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{}", said.concat());
    assert_eq!(said.concat(), "");
    let (helps, types): (Vec<_>, Vec<_>) = text
        .lines()
        .filter(|line| line.starts_with("# "))
        .partition(|line| line.starts_with("# HELP "));
    assert_eq!(helps.len(), types.len());
    assert!(types.len() > 40, "{types:?}");
}

async fn what_happens_is_counted<B: Backends>() {
    let setup = Setup::<B>::start_with(&["--lease-ttl", "5s", "--roll-call-interval", "2s"]).await;
    let listener = Subscriber::new(&setup, "").await;
    setup.register("orders", &addresses(30), &json!({})).await;
    setup.send_heartbeats("orders", &addresses(20)).await;
    setup.send_heartbeats("orders", &addresses(20)).await;
    setup
        .try_send_heartbeats("orders", &["unknown:1".to_owned()])
        .await;
    setup.put("/v1/groups/edge", json!({})).await;
    let gateway = "/v1/groups/edge/instances/g:1";
    setup.put(gateway, json!({})).await;
    setup.get("/v1/services/none").await;

    let samples = Samples::of(&setup).await;
    for (name, value) in [
        ("rollcall_heartbeats_total{outcome=\"created\"}", 20.0),
        ("rollcall_heartbeats_total{outcome=\"renewed\"}", 20.0),
        ("rollcall_heartbeats_total{outcome=\"unknown\"}", 1.0),
        ("rollcall_heartbeats_total{outcome=\"rejected\"}", 0.0),
        ("rollcall_lease_batch_size_sum", 40.0),
        (
            "rollcall_instances{kind=\"service\",state=\"registered\"}",
            30.0,
        ),
        (
            "rollcall_instances{kind=\"service\",state=\"online\"}",
            20.0,
        ),
        (
            "rollcall_instances{kind=\"service\",state=\"available\"}",
            20.0,
        ),
        (
            "rollcall_instances{kind=\"group\",state=\"registered\"}",
            1.0,
        ),
        ("rollcall_scopes{kind=\"group\",state=\"unavailable\"}", 1.0),
        ("rollcall_scopes{kind=\"service\",state=\"available\"}", 1.0),
        ("rollcall_scopes{kind=\"service\",state=\"empty\"}", 0.0),
        ("rollcall_transitions_total{to=\"online\"}", 20.0),
        ("rollcall_http_in_flight{work=\"stream\"}", 1.0),
        ("rollcall_http_in_flight{work=\"read\"}", 0.0),
        (
            "rollcall_http_requests_rejected_total{work=\"heartbeat\"}",
            0.0,
        ),
        ("rollcall_backend_up{backend=\"store\"}", 1.0),
        ("rollcall_backend_up{backend=\"leases\"}", 1.0),
        ("rollcall_backend_up{backend=\"event_log\"}", 1.0),
        ("rollcall_lease_store_evicts", 0.0),
        ("rollcall_directory_stale", 0.0),
        ("rollcall_protection_active", 0.0),
        // For one time to live after the start.
        ("rollcall_detection_suspended", 1.0),
        ("rollcall_auth_disabled", 1.0),
        ("rollcall_ready", 1.0),
        (
            "rollcall_http_requests_total{route=\"/v1/heartbeats\",method=\"POST\",status=\"200\"}",
            3.0,
        ),
        (
            "rollcall_http_requests_total{route=\"/v1/{kind}/{key}\",method=\"GET\",status=\"404\"}",
            1.0,
        ),
        (
            "rollcall_http_request_duration_seconds_count{route=\"/v1/heartbeats\",method=\"POST\"}",
            3.0,
        ),
        (
            "rollcall_http_request_duration_seconds_count{route=\"/v1/events\",method=\"GET\"}",
            0.0,
        ),
        ("rollcall_mailbox_pending{actor=\"registry\"}", 0.0),
    ] {
        assert_eq!(samples.get(name), value, "{name}");
    }
    for positive in [
        "rollcall_commit_size_count",
        "rollcall_commit_duration_seconds_sum",
        "rollcall_lease_round_trip_seconds_count{operation=\"renew\"}",
        "rollcall_mailbox_wait_seconds_count{actor=\"registry\"}",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
        "process_threads",
    ] {
        assert!(samples.get(positive) > 0.0, "{positive}");
    }
    if B::SHARED {
        assert!(samples.get("rollcall_store_connections{state=\"open\"}") > 0.0);
    }
    let committed = samples.get("rollcall_commit_size_sum");
    assert!((32.0..=52.0).contains(&committed), "{committed}");

    // Two of twenty stop: too few for protection mode.
    let living = addresses(20).split_off(2);
    eventually(Duration::from_secs(20), "they are gone", || async {
        setup.send_heartbeats("orders", &living).await;
        (setup.counts("orders").await[1] == 18).then_some(())
    })
    .await;
    let samples = eventually(Duration::from_secs(10), "it is counted", || async {
        let samples = Samples::of(&setup).await;
        let called = samples.get("rollcall_roll_calls_total{outcome=\"sent\"}") >= 1.0;
        let events = samples
            .0
            .get("rollcall_events_total{type=\"instance.offline\"}");
        (called && events == Some(&2.0)).then_some(samples)
    })
    .await;
    assert_eq!(
        samples.get("rollcall_transitions_total{to=\"offline\"}"),
        2.0
    );
    assert_eq!(samples.get("rollcall_expiry_lateness_seconds_count"), 2.0);
    assert!(samples.get("rollcall_expiry_lateness_seconds_sum") < 4.0);
    assert!(samples.get("rollcall_event_lag_seconds_count") >= 53.0);
    assert!(samples.get("rollcall_roll_call_last_timestamp_seconds") > 1e9);
    drop(listener);
}

#[tokio::test]
async fn a_backend_that_is_away_is_seen() {
    let mut setup = Setup::<Shared>::start().await;
    setup.register("orders", &addresses(1), &json!({})).await;
    setup.backends.redis.kill();
    eventually(Duration::from_secs(20), "it is down", || async {
        let heartbeat = setup.try_send_heartbeats("orders", &addresses(1)).await;
        assert_eq!(heartbeat.0, 503);
        let samples = Samples::of(&setup.daemon).await;
        let down = |backend| samples.get(backend) == 0.0;
        (down("rollcall_backend_up{backend=\"leases\"}")
            && down("rollcall_backend_up{backend=\"event_log\"}")
            && samples.get("rollcall_lease_errors_total{operation=\"probe\"}") >= 1.0
            && samples.get("rollcall_directory_stale") == 1.0)
            .then_some(())
    })
    .await;
    let samples = Samples::of(&setup.daemon).await;
    assert!(samples.get("rollcall_heartbeats_total{outcome=\"rejected\"}") >= 1.0);
    let (_, overview) = setup.daemon.get("/v1/overview").await;
    assert_eq!(
        overview["backends"],
        json!({"store": true, "leases": false, "event_log": false, "leases_evicted": false})
    );
}

#[tokio::test]
async fn complaint_34_no_label_is_a_clients_choice() {
    let setup = Setup::<Embedded>::start().await;
    let before = text(&setup).await.lines().count();
    for i in 0..200 {
        setup.get(&format!("/unknown/{i}")).await;
        setup.get(&format!("/v1/services/s{i}")).await;
        setup
            .get(&format!("/v1/services/s{i}/instances/h-{i}:1"))
            .await;
        let method = reqwest::Method::from_bytes(format!("X{i}").as_bytes()).unwrap();
        setup.try_send(method, "/v1/services", None).await.unwrap();
    }
    let text = text(&setup).await;
    let after = text.lines().count();
    assert!(after - before < 50, "{before} lines became {after}");
    let none = "rollcall_http_requests_total{route=\"none\",method=\"other\",status=\"404\"} 200";
    assert!(text.contains(none), "{text}");
}

#[tokio::test]
async fn the_overview_counts_what_there_is() {
    let setup = Setup::<Embedded>::start().await;
    setup.register("orders", &addresses(3), &json!({})).await;
    setup.register("payments", &addresses(2), &json!({})).await;
    setup.put("/v1/groups/edge", json!({})).await;
    setup.send_heartbeats("orders", &addresses(2)).await;
    let held = "/v1/services/orders/instances/h-0:1";
    setup.patch(held, json!({"status": "held"})).await;
    let (_, overview) = setup.get("/v1/overview").await;
    let totals = |[
        scopes,
        instances,
        online,
        available,
        held,
        unavailable,
        empty,
    ]: [u32; 7]| {
        json!({
            "scopes": scopes, "instances": instances, "online": online, "available": available,
            "suspect": 0, "held": held, "unavailable_scopes": unavailable, "empty_scopes": empty
        })
    };
    assert_eq!(overview["services"], totals([2, 5, 2, 1, 1, 1, 0]));
    assert_eq!(overview["groups"], totals([1, 0, 0, 0, 0, 0, 1]));
    for (name, value) in totals([3, 5, 2, 1, 1, 1, 1]).as_object().unwrap() {
        assert_eq!(overview[name], *value, "{name}");
    }
    let removed = setup.delete("/v1/services/payments/instances/h-0:1").await;
    assert_eq!(removed.0, 204);
    setup.delete("/v1/groups/edge").await;
    let (_, overview) = setup.get("/v1/overview").await;
    assert_eq!(overview["services"], totals([2, 4, 2, 1, 1, 1, 0]));
    assert_eq!(overview["groups"], totals([0; 7]));
    assert_eq!(overview["version"], json!(env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn complaint_14_the_instances_of_each_scope_are_counted_apart() {
    let daemon = Daemon::start(&[]).await;
    daemon.put("/v1/groups/edge", json!({})).await;
    let addresses = ["a:1", "b:1", "c:1"].map(str::to_owned);
    daemon.register("orders", &addresses, &json!({})).await;
    daemon.send_heartbeats("orders", &addresses[..2]).await;
    let held = "/v1/services/orders/instances/b:1";
    daemon.patch(held, json!({"status": "held"})).await;
    let url = format!("{}/metrics/scopes", daemon.url());
    let answer = daemon.client().get(url).send().await.unwrap();
    let text = answer.text().await.unwrap();
    let count = |kind: &str, scope: &str, state: &str| {
        let series = format!(
            "rollcall_scope_instances{{kind=\"{kind}\",scope=\"{scope}\",state=\"{state}\"}} "
        );
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.unwrap_or_else(|| panic!("no {series} in {text}"))
            .parse::<u32>()
            .unwrap()
    };
    let of_orders = ["registered", "online", "available", "suspect", "held"]
        .map(|state| count("service", "orders", state));
    assert_eq!(of_orders, [3, 2, 1, 0, 1]);
    assert_eq!(count("group", "edge", "registered"), 0);
    assert!(
        !daemon
            .get("/metrics")
            .await
            .1
            .to_string()
            .contains("orders")
    );
    // The totals keep the number of series bounded.
    for (state, scopes) in [("available", 1.0), ("unavailable", 0.0), ("empty", 0.0)] {
        let name = format!("rollcall_scopes{{kind=\"service\",state=\"{state}\"}}");
        assert_eq!(Samples::of(&daemon).await.get(&name), scopes, "{state}");
    }
}
