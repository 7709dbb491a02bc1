//! `/v1/events`, and the message on which gateways of the original refresh.

use std::time::Duration;

use futures_util::StreamExt;
use redis::AsyncCommands;
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::support::backends::{Backends, Embedded, Setup, Shared, on_both_backends};
use crate::support::daemon::Daemon;
use crate::support::sse::{Event, Subscriber};
use crate::support::{addresses, eventually, postgres};

on_both_backends! {
    each_change_is_an_event,
    a_subscriber_receives_events_of_its_scope_and_of_the_whole_registry,
    a_subscriber_that_reconnects_receives_what_it_missed,
    an_id_that_is_not_known_is_answered_with_resync,
    a_slow_subscriber_is_dropped_with_a_resync,
    a_stream_ends_with_the_daemon,
}

const ORDERS: &str = "/v1/services/orders/instances/10.0.0.5:8080";
const SOON: Duration = Duration::from_secs(10);

async fn each_change_is_an_event<B: Backends>() {
    let daemon = Setup::<B>::start_with(&["--roll-call-interval", "1s"]).await;
    let mut subscriber = Subscriber::new(&daemon, "").await;
    let same = json!({"weight": 3, "ttl_seconds": 5});
    daemon.put(ORDERS, same.clone()).await;
    let declared = subscriber.expect("scope.declared", SOON).await;
    assert_eq!(declared.data["service"], json!("orders"));
    let mut event = subscriber.expect("instance.registered", SOON).await;
    let id = daemon.get(ORDERS).await.1["id"].clone();
    let at = event.data.as_object_mut().unwrap().remove("at").unwrap();
    assert!(at.as_str().unwrap().ends_with('Z'), "{at}");
    assert_eq!(
        event.data,
        json!({
            "service": "orders", "address": "10.0.0.5:8080", "id": id, "weight": 3,
            "status": "enabled", "online": false, "available": false,
            "by": {"token": "anonymous", "peer": "127.0.0.1"},
        })
    );
    // A registration without a difference is no event; the next event is that of the heartbeat.
    assert_eq!(daemon.put(ORDERS, same).await.0, 200);
    let beaten = Instant::now();
    daemon
        .send_heartbeats("orders", &["10.0.0.5:8080".to_owned()])
        .await;
    let event = loop {
        let event = subscriber.next(SOON).await.unwrap();
        if event.name != "roll.call" {
            break event;
        }
    };
    assert_eq!(
        (event.name.as_str(), &event.data["available"]),
        ("instance.online", &json!(true))
    );
    daemon.patch(ORDERS, json!({"status": "held"})).await;
    let event = subscriber.expect("instance.changed", SOON).await;
    assert_eq!(
        (
            &event.data["status"],
            &event.data["online"],
            &event.data["available"]
        ),
        (&json!("held"), &json!(true), &json!(false))
    );
    assert_eq!(event.data["by"]["token"], json!("anonymous"));
    let event = subscriber.expect("instance.offline", SOON).await;
    assert!(event.data.get("by").is_none(), "the lease ended by itself");
    assert!(beaten.elapsed() >= Duration::from_secs(5));
    assert_eq!(
        (&event.data["id"], &event.data["online"]),
        (&id, &json!(false))
    );
    daemon.delete(ORDERS).await;
    let event = subscriber.expect("instance.deregistered", SOON).await;
    assert_eq!(event.data["id"], id);
    assert_eq!(event.data["by"]["peer"], json!("127.0.0.1"));
    daemon.delete("/v1/services/orders").await;
    assert_eq!(
        subscriber.expect("scope.removed", SOON).await.data["service"],
        json!("orders")
    );
    subscriber.expect("roll.call", SOON).await;
}

async fn a_subscriber_receives_events_of_its_scope_and_of_the_whole_registry<B: Backends>() {
    let daemon = Setup::<B>::start_with(&["--roll-call-interval", "1s"]).await;
    daemon.put("/v1/groups/edge", json!({})).await;
    let mut of_service = Subscriber::new(&daemon, "?service=orders").await;
    let mut of_group = Subscriber::new(&daemon, "?group=edge").await;
    let mut of_both = Subscriber::new(&daemon, "?group=edge&service=orders").await;
    for path in [
        "/v1/services/other/instances/a:1",
        "/v1/services/edge/instances/a:1",
        "/v1/services/orders/instances/a:1",
        "/v1/groups/edge/instances/a:1",
        "/v1/services/last/instances/a:1",
    ] {
        daemon.put(path, json!({})).await;
    }
    for (subscriber, expected) in [
        (&mut of_service, vec!["service orders"]),
        (&mut of_group, vec!["group edge"]),
        (&mut of_both, vec!["service orders", "group edge"]),
    ] {
        subscriber.expect("roll.call", SOON).await;
        let mut heard = Vec::new();
        // Two roll calls later everything that was to come has come.
        for _ in 0..2 {
            loop {
                let event = subscriber.next(SOON).await.unwrap();
                match event.name.as_str() {
                    "roll.call" => break,
                    "instance.registered" => heard.push(event),
                    _ => {}
                }
            }
        }
        // Events before the first roll call were skipped by `expect`.
        let scopes: Vec<String> = heard
            .iter()
            .map(|event| match event.data["service"].as_str() {
                Some(service) => format!("service {service}"),
                None => format!("group {}", event.data["group"].as_str().unwrap()),
            })
            .collect();
        assert!(
            scopes
                .iter()
                .all(|scope| expected.contains(&scope.as_str())),
            "{scopes:?}"
        );
    }
    daemon
        .put("/v1/services/orders/instances/b:1", json!({}))
        .await;
    let event = of_service.expect("instance.registered", SOON).await;
    assert_eq!(event.address(), "b:1");
    for wrong in ["?service=a:b", "?scope=x"] {
        let (status, body) = daemon.get(&format!("/v1/events{wrong}")).await;
        assert_eq!(
            (status.as_u16(), &body["code"]),
            (400, &json!("invalid_field")),
            "{wrong}"
        );
    }
}

async fn a_subscriber_that_reconnects_receives_what_it_missed<B: Backends>() {
    let setup = Setup::<B>::start().await;
    let other = setup.replica(&[]).await;
    let other = other.as_ref().unwrap_or(&setup.daemon);
    let mut subscriber = Subscriber::new(&setup, "").await;
    let addresses = addresses(40);
    setup.register("orders", &addresses[..20], &json!({})).await;
    let mut heard = Vec::new();
    while heard
        .iter()
        .filter(|event: &&Event| event.name == "instance.registered")
        .count()
        < 10
    {
        heard.push(subscriber.next(SOON).await.unwrap());
    }
    let last_id = heard.last().unwrap().id.clone().unwrap();
    drop(subscriber);
    setup
        .register("orders", &addresses[20..30], &json!({}))
        .await;
    other.register("orders", &addresses[30..], &json!({})).await;
    other.send_heartbeats("orders", &addresses).await;
    let mut subscriber = Subscriber::resume(other, &last_id).await;
    heard.extend(subscriber.until_quiet(Duration::from_secs(2)).await);
    // Live again, after the missed events.
    setup.put(ORDERS, json!({})).await;
    heard.extend(subscriber.until_quiet(Duration::from_secs(2)).await);
    heard.retain(|event| event.name.starts_with("instance."));
    let mut ids: Vec<(u64, u64)> = Vec::new();
    for event in &heard {
        let (log, place) = event.id.as_ref().unwrap().split_once('-').unwrap();
        ids.push((log.parse().unwrap(), place.parse().unwrap()));
    }
    assert!(
        ids.windows(2)
            .all(|pair| pair[0].0 == pair[1].0 && pair[0].1 < pair[1].1),
        "in order"
    );
    let count = |name: &str| heard.iter().filter(|event| event.name == name).count();
    assert_eq!(
        (count("instance.registered"), count("instance.online")),
        (41, 40)
    );
    let mut published: Vec<(&str, &str)> = heard
        .iter()
        .map(|event| (event.name.as_str(), event.address()))
        .collect();
    published.sort_unstable();
    published.dedup();
    assert_eq!(published.len(), 81, "each once");
}

async fn an_id_that_is_not_known_is_answered_with_resync<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    daemon.put(ORDERS, json!({})).await;
    for unknown in [
        "1763805600000-17",
        "0-99999999999999999999",
        "x",
        "5-18446744073709551615",
    ] {
        let mut subscriber = Subscriber::resume(&daemon, unknown).await;
        let event = subscriber.next(SOON).await.unwrap();
        assert_eq!(event.name, "resync", "{unknown}");
        // From here it hears everything, and may resume.
        let resumed = event.id.unwrap();
        daemon.patch(ORDERS, json!({"weight": 9})).await;
        subscriber.expect("instance.changed", SOON).await;
        let mut subscriber = Subscriber::resume(&daemon, &resumed).await;
        subscriber.expect("instance.changed", SOON).await;
    }
}

async fn a_slow_subscriber_is_dropped_with_a_resync<B: Backends>() {
    let daemon = Setup::<B>::start().await;
    let long = format!(
        "/v1/services/{}/instances/{}:1",
        "s".repeat(100),
        "a.".repeat(48) + "a"
    );
    assert_eq!(daemon.put(&long, json!({})).await.0, 201);
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(65_536).unwrap();
    let address = daemon.address().parse().unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    stream
        .write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut other = Subscriber::new(&daemon, "").await;
    // Far more than the buffers between hold.
    for round in 0..200 {
        let changes = (0..100).map(|i| {
            let weight = json!({"weight": (round * 100 + i) % 60_000});
            let daemon = &daemon;
            let long = &long;
            async move { daemon.patch(long, weight).await.0 }
        });
        let answers = futures_util::future::join_all(changes).await;
        assert!(answers.iter().all(|status| *status == 200));
        // Readers are not disturbed.
        for _ in 0..100 {
            other.expect("instance.changed", SOON).await;
        }
    }
    let mut text = Vec::new();
    timeout(Duration::from_secs(60), stream.read_to_end(&mut text))
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("event: resync\ndata: {\"reason\":\"too slow\"}\n\n"),
        "{} bytes",
        text.len()
    );
}

async fn a_stream_ends_with_the_daemon<B: Backends>() {
    let mut setup = Setup::<B>::start().await;
    let mut subscriber = Subscriber::new(&setup, "").await;
    let begin = Instant::now();
    setup.signal(Signal::TERM);
    while subscriber.next(SOON).await.is_some() {}
    assert!(setup.daemon.ended().await.success());
    assert!(
        begin.elapsed() < Duration::from_secs(8),
        "the stop did not wait for the stream"
    );
}

#[tokio::test]
async fn a_redis_that_was_killed_gives_resync_and_then_everything_is_there() {
    let mut setup = Setup::<Shared>::start().await;
    let second = Daemon::start(&setup.backends.arguments()).await;
    let addresses = addresses(20);
    setup.register("orders", &addresses[..10], &json!({})).await;
    setup.send_heartbeats("orders", &addresses[..10]).await;
    let mut subscriber = Subscriber::new(&second, "").await;
    setup.backends.redis.kill();
    // PostgreSQL works: this registration cannot be published yet.
    setup.register("orders", &addresses[10..], &json!({})).await;
    setup.backends.redis.restart().await;
    subscriber.expect("resync", Duration::from_secs(20)).await;
    // A re-read is complete.
    assert_eq!(second.counts("orders").await[0], 20);
    eventually(SOON, "beats are taken again", || async {
        (setup.try_send_heartbeats("orders", &addresses).await.0 == 200).then_some(())
    })
    .await;
    eventually(SOON, "the second knows", || async {
        (second.counts("orders").await == [20, 20, 20]).then_some(())
    })
    .await;
    assert!(
        !subscriber
            .until_quiet(Duration::from_secs(1))
            .await
            .iter()
            .any(|event| event.name == "instance.offline")
    );
}

#[tokio::test]
async fn a_change_made_in_the_database_is_found_and_published() {
    let setup = Setup::<Shared>::start_with(&["--lease-ttl", "600s"]).await;
    let addresses = addresses(3);
    setup.register("orders", &addresses, &json!({})).await;
    setup.send_heartbeats("orders", &addresses).await;
    let mut subscriber = Subscriber::new(&setup, "").await;
    let client = postgres::connect(&setup.backends.store).await.unwrap();
    // As if a replica had committed this and died before it was published.
    let change =
        "UPDATE instance SET online = false, online_changed_at = now(), revision = revision + 1
                  WHERE address = 'h-1:1'";
    client.batch_execute(change).await.unwrap();
    let event = subscriber
        .expect("instance.offline", Duration::from_secs(40))
        .await;
    assert_eq!(event.address(), "h-1:1");
    // Its lease is alive, so the next reconcile records that it is online.
    let event = subscriber
        .expect("instance.online", Duration::from_secs(40))
        .await;
    assert_eq!(event.address(), "h-1:1");
    client
        .batch_execute("DELETE FROM instance WHERE address = 'h-2:1'")
        .await
        .unwrap();
    subscriber.expect("resync", Duration::from_secs(40)).await;
    assert_eq!(setup.counts("orders").await, [2, 2, 2]);
}

#[tokio::test]
async fn after_lost_events_the_store_is_read_again_only_if_it_differs() {
    const READ_AGAIN: &str = "the registry store was read again";
    let setup = Setup::<Shared>::start_with(&["--lease-ttl", "600s"]).await;
    let addresses = addresses(3);
    setup.register("orders", &addresses, &json!({})).await;
    setup.send_heartbeats("orders", &addresses).await;
    let mut subscriber = Subscriber::new(&setup, "").await;
    let mut redis = setup.backends.redis.connect().await;
    let _: () = redis.del("{rollcall}:events").await.unwrap();
    subscriber.expect("resync", Duration::from_secs(20)).await;
    assert!(!setup.log().contains(READ_AGAIN), "{}", setup.log());
    setup.register("users", &addresses[..1], &json!({})).await;
    subscriber
        .expect("instance.registered", Duration::from_secs(20))
        .await;
    let client = postgres::connect(&setup.backends.store).await.unwrap();
    let change = "UPDATE instance SET weight = 9, revision = revision + 1 WHERE address = 'h-1:1'";
    client.batch_execute(change).await.unwrap();
    let _: () = redis.del("{rollcall}:events").await.unwrap();
    subscriber.expect("resync", Duration::from_secs(20)).await;
    assert!(setup.log().contains(READ_AGAIN), "{}", setup.log());
    let (_, instance) = setup.get("/v1/services/orders/instances/h-1:1").await;
    assert_eq!(instance["weight"], json!(9));
}

/// Everything that is published on the original's channel from now on, and when.
pub(crate) async fn announcements(
    setup: &Setup<Shared>,
) -> impl StreamExt<Item = String> + Unpin + use<> {
    let client = redis::Client::open(setup.backends.redis.url()).unwrap();
    let mut subscription = client.get_async_pubsub().await.unwrap();
    subscription.subscribe("service-launched").await.unwrap();
    let messages = subscription.into_on_message();
    Box::pin(messages.map(|message| message.get_payload().unwrap()))
}

#[tokio::test]
async fn gateways_are_asked_to_refresh_at_most_twice_a_second_and_after_the_last_change() {
    let setup = Setup::<Shared>::start().await;
    let second = Daemon::start(&setup.backends.arguments()).await;
    let mut messages = announcements(&setup).await;
    let address = ["10.0.0.5:8080".to_owned()];
    setup.put(ORDERS, json!({})).await;
    // Not available yet, and a gateway is no service.
    setup.put("/v1/groups/edge", json!({})).await;
    setup.put("/v1/groups/edge/instances/g:1", json!({})).await;
    setup
        .patch(
            "/v1/groups/edge/instances/g:1",
            json!({"status": "enabled"}),
        )
        .await;
    assert!(
        timeout(Duration::from_secs(2), messages.next())
            .await
            .is_err()
    );
    setup.send_heartbeats("orders", &address).await;
    let message = timeout(SOON, messages.next()).await.unwrap().unwrap();
    assert_eq!(message, "来自网关中心的刷新本地缓存请求");
    let begin = Instant::now();
    let mut changes = 0;
    while begin.elapsed() < Duration::from_secs(4) {
        for (daemon, status) in [(&setup.daemon, "held"), (&second, "enabled")] {
            daemon.patch(ORDERS, json!({"status": status})).await;
            changes += 1;
        }
        sleep(Duration::from_millis(50)).await;
    }
    let last_change = Instant::now();
    let mut count = 0;
    let mut last_message = begin;
    while let Ok(Some(_)) = timeout_at(last_change + Duration::from_secs(3), messages.next()).await
    {
        count += 1;
        last_message = Instant::now();
    }
    assert!(changes > 20, "{changes}");
    assert!(
        (4..=13).contains(&count),
        "{count} messages for {changes} changes"
    );
    assert!(
        last_message + Duration::from_millis(100) > last_change,
        "the last change was announced"
    );
}

#[tokio::test]
async fn gateways_are_not_asked_if_the_setting_says_so() {
    let setup = Setup::<Shared>::start_with(&["--publish-service-changes", "false"]).await;
    let mut messages = announcements(&setup).await;
    setup.put(ORDERS, json!({})).await;
    setup
        .send_heartbeats("orders", &["10.0.0.5:8080".to_owned()])
        .await;
    assert!(
        timeout(Duration::from_secs(3), messages.next())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn without_redis_events_are_told_within_the_process() {
    let setup = Setup::<Embedded>::start().await;
    let mut subscriber = Subscriber::new(&setup, "").await;
    assert_eq!(subscriber.last_id.as_deref(), Some("0-0"));
    setup.put(ORDERS, json!({})).await;
    subscriber.expect("instance.registered", SOON).await;
    // From before the first event on, everything is known.
    let mut again = Subscriber::resume(&setup, "0-0").await;
    again.expect("instance.registered", SOON).await;
}
