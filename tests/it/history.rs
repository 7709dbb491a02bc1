//! What happened: the history, the numbers of instances, and what needs attention.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::backends::{Backends, Setup, on_both_backends};
use crate::support::daemon::Daemon;
use crate::support::{addresses, eventually};

on_both_backends! {
    the_history_says_what_happened_and_who_requested_it,
    the_history_is_selected_by_scope_address_event_time_and_caller,
    the_history_is_read_page_by_page_without_a_gap,
    the_history_outlives_a_restart_as_far_as_the_event_log_does,
    the_numbers_of_instances_are_sampled,
    what_needs_attention_is_listed_with_the_worst_first,
}

const ORDERS: &str = "/v1/services/orders/instances/10.0.0.5:8080";

async fn history(daemon: &Daemon, query: &str) -> Value {
    let (status, body) = daemon.get(&format!("/v1/history{query}")).await;
    assert_eq!(status, 200, "{query}: {body}");
    body
}

fn names(history: &Value) -> Vec<&str> {
    let events = history["events"].as_array().unwrap().iter();
    events
        .map(|event| event["event"].as_str().unwrap())
        .collect()
}

/// Waits until the history has so many events.
async fn until_events(daemon: &Daemon, count: usize) -> Value {
    let enough = async || {
        let history = history(daemon, "").await;
        (names(&history).len() >= count).then_some(history)
    };
    eventually(
        Duration::from_secs(10),
        "the history is long enough",
        enough,
    )
    .await
}

async fn the_history_says_what_happened_and_who_requested_it<B: Backends>() {
    let daemon = Setup::<B>::start_with(&["--roll-call-interval", "1s"]).await;
    daemon.put(ORDERS, json!({"weight": 3})).await;
    daemon.put(&format!("{ORDERS}/heartbeat"), json!({})).await;
    let hold = json!({"status": "held", "reason": "disk is failing"});
    daemon.patch(ORDERS, hold).await;
    daemon.post(&format!("{ORDERS}/leave"), json!({})).await;
    daemon.delete(ORDERS).await;
    let history = until_events(&daemon, 7).await;
    assert_eq!(
        names(&history),
        [
            "scope.removed",
            "instance.deregistered",
            "instance.offline",
            "instance.changed",
            "instance.online",
            "instance.registered",
            "scope.declared"
        ],
        "the latest first, and no roll call"
    );
    let event = |index: usize| &history["events"][index];
    let held = event(3);
    assert_eq!(held["service"], json!("orders"));
    assert_eq!(held["address"], json!("10.0.0.5:8080"));
    assert_eq!(held["changed"], json!(["status", "reason", "held_by"]));
    assert_eq!(held["reason"], json!("disk is failing"));
    assert_eq!(held["status"], json!("held"));
    assert_eq!(held["by"]["token"], json!("anonymous"));
    assert_eq!(event(2)["by"]["token"], json!("anonymous"), "it left");
    assert!(event(4).get("by").is_none(), "its lease began");
    assert!(
        history["known_since"]
            .as_str()
            .is_some_and(|it| it.ends_with('Z'))
    );
}

async fn the_history_is_selected_by_scope_address_event_time_and_caller<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put("/v1/groups/edge", json!({})).await;
    daemon.put("/v1/groups/edge/instances/g:1", json!({})).await;
    daemon.put(ORDERS, json!({})).await;
    daemon
        .put("/v1/services/orders/instances/10.0.0.5:81", json!({}))
        .await;
    until_events(&daemon, 5).await;
    for (query, expected) in [
        ("?group=edge", 2),
        ("?service=orders", 3),
        ("?service=orders&group=edge", 5),
        ("?service=unknown", 0),
        ("?address=10.0.0.5:81", 1),
        ("?address=10.0.0.5", 2),
        ("?event=instance.registered", 3),
        ("?event=instance.registered&event=scope.declared", 5),
        ("?by=anonymous", 5),
        ("?by=another", 0),
        ("?since=1h", 5),
        ("?until=1h", 0),
        ("?since=2020-01-01T00:00:00Z&until=2020-01-02T00:00:00Z", 0),
    ] {
        let history = history(&daemon, query).await;
        assert_eq!(names(&history).len(), expected, "{query}: {history}");
    }
    for bad in [
        "?event=instance.exploded",
        "?since=yesterday",
        "?limit=1001",
        "?cursor=x",
        "?kind=x",
        "?service=a%20b",
        "?since=1h&since=2h",
    ] {
        assert_eq!(
            daemon.get(&format!("/v1/history{bad}")).await.0,
            400,
            "{bad}"
        );
    }
}

async fn the_history_is_read_page_by_page_without_a_gap<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.register("orders", &addresses(20), &json!({})).await;
    let all = until_events(&daemon, 21).await;
    let (mut read, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = history(&daemon, &format!("?limit=4{cursor}")).await;
        read.extend(page["events"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(Value::Array(read), all["events"]);
}

async fn the_history_outlives_a_restart_as_far_as_the_event_log_does<B: Backends>() {
    let backends = B::new().await;
    let mut daemon = Daemon::start(&backends.arguments()).await;
    daemon.put(ORDERS, json!({})).await;
    let before = until_events(&daemon, 2).await;
    daemon.signal(Signal::TERM);
    daemon.ended().await;
    let daemon = daemon.restart().await;
    if B::SHARED {
        let after = until_events(&daemon, 2).await;
        assert_eq!(after["events"], before["events"]);
    } else {
        // The log was in the memory of the process.
        assert_eq!(history(&daemon, "").await["events"], json!([]));
    }
}

async fn the_numbers_of_instances_are_sampled<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let (_, counts) = daemon.get("/v1/counts").await;
    let numbers = counts["instances"].as_array().unwrap();
    assert!(
        !numbers.is_empty() && numbers.iter().all(|it| *it == json!(0)),
        "{counts}"
    );
    assert_eq!(counts["step_seconds"], json!(10));
    daemon.put(ORDERS, json!({})).await;
    daemon.put(&format!("{ORDERS}/heartbeat"), json!({})).await;
    let sampled = async || {
        let (_, counts) = daemon.get("/v1/counts?since=1h").await;
        let last = |name: &str| counts[name].as_array().unwrap().last().cloned();
        let one = Some(json!(1));
        (last("instances") == one && last("available") == one).then_some(())
    };
    eventually(Duration::from_secs(30), "the instance is sampled", sampled).await;
    let (status, of_scope) = daemon.get("/v1/counts?service=orders").await;
    assert_eq!(status, 200, "{of_scope}");
    assert_eq!(daemon.get("/v1/counts?service=unknown").await.0, 404);
    for bad in ["?since=x", "?service=a&group=b", "?x=1"] {
        assert_eq!(
            daemon.get(&format!("/v1/counts{bad}")).await.0,
            400,
            "{bad}"
        );
    }
}

async fn what_needs_attention_is_listed_with_the_worst_first<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put("/v1/groups/edge", json!({})).await;
    daemon.put("/v1/groups/edge/instances/g:1", json!({})).await;
    daemon.register("orders", &addresses(3), &json!({})).await;
    daemon
        .put("/v1/services/web/instances/w:1", json!({}))
        .await;
    let web = "/v1/services/web/instances/w:1/heartbeat";
    for _ in 0..3 {
        daemon.put(web, json!({})).await;
        daemon.delete(web).await;
    }
    daemon.put(web, json!({})).await;
    let flapping = async || {
        let (_, attention) = daemon.get("/v1/attention").await;
        let transitions = &attention["flapping"]["first"][0]["transitions"];
        (*transitions == json!(7)).then_some(attention)
    };
    let attention = eventually(
        Duration::from_secs(10),
        "the instance is flapping",
        flapping,
    )
    .await;
    let unavailable = attention["unavailable"]["first"].as_array().unwrap();
    let scopes: Vec<_> = unavailable
        .iter()
        .map(|it| (&it["service"], &it["group"], &it["instances"]))
        .collect();
    assert_eq!(
        scopes,
        [
            (&json!("orders"), &json!(null), &json!(3)),
            (&json!(null), &json!("edge"), &json!(1))
        ]
    );
    assert!(unavailable[0]["since"].is_string());
    let waiting = &attention["waiting"]["first"][0];
    assert_eq!(
        (&waiting["group"], &waiting["address"]),
        (&json!("edge"), &json!("g:1"))
    );
    let flapping = &attention["flapping"]["first"][0];
    assert_eq!(
        flapping,
        &json!({"service": "web", "address": "w:1", "transitions": 7})
    );
    assert_eq!(attention["old_holds"], json!({"total": 0, "first": []}));
}
