//! Discovery: the same bytes everywhere, unchanged answers without a body, and answers that
//! wait for a change.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::StatusCode;
use rollcalld::directory::{Directory, InstanceFilter};
use rollcalld::model::{EventKind, InstanceKey, Registration, ScopeKind};
use rollcalld::store::{self, StoreUrl};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::backends::{Backends, Setup, Shared, on_both_backends};
use crate::support::daemon::Daemon;
use crate::support::{addresses, eventually};

on_both_backends! {
    an_answer_that_the_client_has_is_304,
    a_tag_is_of_the_content_alone,
    a_long_poll_is_answered_by_the_change,
    a_long_poll_without_a_change_is_answered_304,
    a_long_poll_for_an_unknown_service_is_answered_when_it_is_declared,
    waiting_ends_with_the_daemon,
    a_wait_that_is_none_is_400,
    held_disabled_and_deregistered_is_not_available_at_once,
}

const ORDERS: &str = "/v1/services/orders/instances/10.0.0.5:8080";
const AVAILABLE: &str = "/v1/services/orders/instances?available=true";
const ADDRESS: &str = "10.0.0.5:8080";

/// An answer with its tag.
struct InstanceEntry {
    status: StatusCode,
    etag: Option<String>,
    body: Value,
}

async fn list(daemon: &Daemon, path: &str, known: Option<&str>) -> InstanceEntry {
    let mut request = daemon.client().get(format!("{}{path}", daemon.url()));
    if let Some(known) = known {
        request = request.header("If-None-Match", known);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let etag = answer.headers().get("etag");
    let etag = etag.map(|etag| etag.to_str().unwrap().to_owned());
    assert_eq!(answer.headers()["cache-control"], "no-cache");
    let body = answer.bytes().await.unwrap();
    if status == 304 {
        assert!(body.is_empty());
    }
    InstanceEntry {
        status,
        etag,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    }
}

async fn tag(daemon: &Daemon) -> String {
    let listed = list(daemon, AVAILABLE, None).await;
    assert_eq!(listed.status, 200);
    listed.etag.unwrap()
}

async fn an_answer_that_the_client_has_is_304<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put(ORDERS, json!({})).await;
    daemon
        .send_heartbeats("orders", &[ADDRESS.to_owned()])
        .await;
    let known = tag(&daemon).await;
    for header in [known.clone(), format!("\"x\", W/{known}"), "*".to_owned()] {
        let answer = list(&daemon, AVAILABLE, Some(&header)).await;
        assert_eq!(answer.status, 304, "{header}");
    }
    for header in ["\"x\"", "", "garbage"] {
        assert_eq!(
            list(&daemon, AVAILABLE, Some(header)).await.status,
            200,
            "{header}"
        );
    }
    daemon.patch(ORDERS, json!({"weight": 5})).await;
    let changed = list(&daemon, AVAILABLE, Some(&known)).await;
    assert_eq!(changed.status, 200);
    assert_eq!(changed.body["instances"][0]["weight"], json!(5));
    assert_ne!(changed.etag.unwrap(), known);
}

async fn a_tag_is_of_the_content_alone<B: Backends>() {
    let setup = Setup::<B>::start().await;
    let second = setup.replica(&[]).await;
    let second = second.as_ref().unwrap_or(&setup.daemon);
    setup.put(ORDERS, json!({})).await;
    setup.send_heartbeats("orders", &[ADDRESS.to_owned()]).await;
    let known = tag(&setup).await;
    // An instance outside of the filter does not change the list, nor does a registration without
    // a difference.
    setup
        .put("/v1/services/orders/instances/idle:1", json!({}))
        .await;
    setup.put(ORDERS, json!({})).await;
    setup.send_heartbeats("orders", &[ADDRESS.to_owned()]).await;
    assert_eq!(tag(&setup).await, known);
    eventually(
        Duration::from_secs(10),
        "the other has the same",
        || async { (tag(second).await == known).then_some(()) },
    )
    .await;
    // There and back again is the same, but for the time of the change.
    let everything = "/v1/services/orders/instances";
    let mine = list(&setup, everything, None).await;
    eventually(Duration::from_secs(10), "so is the whole list", || async {
        let theirs = list(second, everything, None).await;
        (theirs.etag == mine.etag && theirs.body == mine.body).then_some(())
    })
    .await;
}

/// So many requests wait for a change: whatever happens now happens to them.
async fn are_waiting(daemon: &Daemon, count: usize) {
    eventually(Duration::from_secs(10), "they wait", || async {
        let (_, overview) = daemon.get("/v1/overview").await;
        (overview["events"]["waiting"] == json!(count)).then_some(())
    })
    .await;
}

async fn a_long_poll_is_answered_by_the_change<B: Backends>() {
    let setup = Setup::<B>::start().await;
    let second = setup.replica(&[]).await;
    let second = second.as_ref().unwrap_or(&setup.daemon);
    setup.put(ORDERS, json!({})).await;
    let known = tag(&setup).await;
    let begin = Instant::now();
    let path = format!("{AVAILABLE}&wait=30s");
    let waiting = (0..100).map(|i| {
        let daemon = if i % 2 == 0 { &setup.daemon } else { second };
        list(daemon, &path, Some(&known))
    });
    let (answers, ()) = tokio::join!(join_all(waiting), async {
        let each = if B::SHARED { 50 } else { 100 };
        are_waiting(&setup, each).await;
        are_waiting(second, each).await;
        setup.send_heartbeats("orders", &[ADDRESS.to_owned()]).await;
    });
    assert!(begin.elapsed() < Duration::from_secs(10), "by the change");
    for answer in answers {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body["instances"][0]["address"], json!(ADDRESS));
    }
    // A list that the client does not have is answered at once.
    let begin = Instant::now();
    assert_eq!(list(&setup, &path, Some(&known)).await.status, 200);
    assert_eq!(list(&setup, &path, None).await.status, 200);
    assert!(begin.elapsed() < Duration::from_secs(5));
}

async fn a_long_poll_without_a_change_is_answered_304<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put(ORDERS, json!({})).await;
    let known = tag(&daemon).await;
    let begin = Instant::now();
    let path = format!("{AVAILABLE}&wait=2s");
    let (answer, ()) = tokio::join!(list(&daemon, &path, Some(&known)), async {
        // This change wakes the request, but is not in its list.
        are_waiting(&daemon, 1).await;
        daemon.patch(ORDERS, json!({"weight": 7})).await;
    });
    assert_eq!(answer.status, 304);
    assert!(begin.elapsed() >= Duration::from_secs(2));
}

async fn a_long_poll_for_an_unknown_service_is_answered_when_it_is_declared<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let empty = list(&daemon, AVAILABLE, None).await;
    assert_eq!(empty.body, json!({"instances": []}));
    let known = empty.etag.unwrap();
    let path = format!("{AVAILABLE}&wait=30s");
    let (answer, ()) = tokio::join!(list(&daemon, &path, Some(&known)), async {
        are_waiting(&daemon, 1).await;
        daemon
            .put("/v1/services/other/instances/a:1", json!({}))
            .await;
        daemon.put(ORDERS, json!({})).await;
        daemon
            .send_heartbeats("orders", &[ADDRESS.to_owned()])
            .await;
    });
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body["instances"][0]["address"], json!(ADDRESS));
    // It goes and comes back as another one.
    let known = answer.etag.unwrap();
    let (answer, ()) = tokio::join!(list(&daemon, &path, Some(&known)), async {
        daemon.delete(ORDERS).await;
        daemon.delete("/v1/services/orders").await;
    });
    assert_eq!(answer.body, json!({"instances": []}));
}

async fn waiting_ends_with_the_daemon<B: Backends>() {
    let mut setup = Setup::<B>::start().await;
    let known = tag(&setup).await;
    let begin = Instant::now();
    let path = format!("{AVAILABLE}&wait=60s");
    let (answer, ()) = tokio::join!(list(&setup, &path, Some(&known)), async {
        are_waiting(&setup, 1).await;
        setup.signal(Signal::TERM);
    });
    assert_eq!(answer.status, 304);
    assert!(setup.daemon.ended().await.success());
    assert!(begin.elapsed() < Duration::from_secs(8));
}

async fn a_wait_that_is_none_is_400<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    for wait in ["", "30", "soon", "-1s"] {
        let (status, body) = daemon.get(&format!("{AVAILABLE}&wait={wait}")).await;
        assert_eq!(
            (status.as_u16(), &body["code"]),
            (400, &json!("invalid_field")),
            "{wait:?}"
        );
        let detail = body["detail"].as_str().unwrap();
        assert!(
            detail.contains("wait must be a duration such as 30s"),
            "{detail}"
        );
    }
}

async fn held_disabled_and_deregistered_is_not_available_at_once<B: Backends>() {
    let setup = Setup::<B>::start().await;
    let second = setup.replica(&[]).await;
    let addresses = addresses(3);
    setup.register("orders", &addresses, &json!({})).await;
    setup.send_heartbeats("orders", &addresses).await;
    let path = |i: usize| format!("/v1/services/orders/instances/{}", addresses[i]);
    assert_eq!(setup.counts("orders").await, [3, 3, 3]);
    setup
        .patch(&path(0), json!({"status": "held", "reason": "disk"}))
        .await;
    assert_eq!(setup.counts("orders").await, [3, 3, 2]);
    setup.patch(&path(1), json!({"status": "disabled"})).await;
    assert_eq!(setup.counts("orders").await, [3, 3, 1]);
    assert_eq!(setup.delete(&path(2)).await.0, 204);
    assert_eq!(setup.counts("orders").await, [2, 2, 0]);
    let begin = Instant::now();
    if let Some(second) = second {
        eventually(Duration::from_secs(5), "everywhere", || async {
            (second.counts("orders").await == [2, 2, 0]).then_some(())
        })
        .await;
        assert!(begin.elapsed() < Duration::from_secs(2));
    }
}

#[tokio::test]
async fn ten_thousand_long_polls_of_a_scope_cost_one_serialisation() {
    let dir = TempDir::new().unwrap();
    let url = format!("sqlite:{}/registry.db", dir.path().display());
    let mut store = store::open(&url.parse::<StoreUrl>().unwrap()).unwrap();
    store.writer.migrate().await.unwrap();
    let scope = ScopeKind::Service.with("orders".parse().unwrap());
    let key = InstanceKey {
        scope: scope.clone(),
        address: "a:1".parse().unwrap(),
    };
    let mut transaction = store
        .writer
        .begin("2026-11-22T10:00:00Z".parse().unwrap())
        .await
        .unwrap();
    let registered = transaction
        .register_instances(&[Registration::of(key)])
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    let instance = registered.instances[0].clone().unwrap().instance;
    let directory = Arc::new(Directory::new(store.reader));
    directory.apply([&EventKind::InstanceRegistered(instance.clone())]);

    let made = AtomicUsize::new(0);
    let answer = |known: Option<String>| {
        let (directory, scope, made) = (&directory, &scope, &made);
        async move {
            let deadline = Instant::now() + Duration::from_secs(30);
            let answer = directory.wait(scope, deadline, |view| {
                let body = view?.body(InstanceFilter::All, false, |view| {
                    made.fetch_add(1, Ordering::SeqCst);
                    view.iter()
                        .next()
                        .unwrap()
                        .instance
                        .weight()
                        .get()
                        .to_string()
                        .into_bytes()
                });
                (Some(body.etag()) != known.as_deref()).then(|| body.clone())
            });
            answer.await.unwrap()
        }
    };
    let first = answer(None).await;
    let waiting = join_all((0..10_000).map(|_| answer(Some(first.etag().to_owned()))));
    let change = async {
        tokio::task::yield_now().await;
        let mut changed = instance.clone();
        changed.revision += 1;
        changed.given_weight = Some(7.try_into().unwrap());
        directory.apply([&EventKind::InstanceChanged(changed)]);
    };
    let (answers, ()) = tokio::join!(waiting, change);
    assert_eq!(answers.len(), 10_000);
    assert!(answers.iter().all(|body| body.bytes() == "7"));
    assert_eq!(made.load(Ordering::SeqCst), 2, "one for each picture");
}

#[tokio::test]
async fn a_late_report_of_another_replica_changes_nothing() {
    let setup = Setup::<Shared>::start().await;
    let second = Daemon::start(&setup.backends.arguments()).await;
    // Written by both at once, again and again, both end with the same.
    for round in 0..30 {
        let weights = (0..4).map(|i| {
            let daemon = if i % 2 == 0 { &setup.daemon } else { &second };
            daemon.put(ORDERS, json!({"weight": round * 4 + i}))
        });
        join_all(weights).await;
    }
    eventually(Duration::from_secs(10), "both show the same", || async {
        let everything = "/v1/services/orders/instances";
        let (mine, theirs) = tokio::join!(
            list(&setup, everything, None),
            list(&second, everything, None)
        );
        (mine.body == theirs.body && mine.etag == theirs.etag).then_some(())
    })
    .await;
}
