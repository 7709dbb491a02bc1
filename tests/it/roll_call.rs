//! The roll call as subscribers receive it: on the quarters of the minute, once over all
//! replicas, and neither late nor in a burst after Redis was unavailable.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use rollcalld::clock::{Clock, SystemClock};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::support::backends::{Backends, Embedded, Setup, Shared};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::redis::Redis;

/// Subscribes to the channel until `end`, and returns the messages with their times.
async fn listen(redis: &Redis, end: Instant) -> Vec<(DateTime<Utc>, String)> {
    let client = redis::Client::open(redis.url()).unwrap();
    let mut subscription = client.get_async_pubsub().await.unwrap();
    subscription.subscribe("heartBeat").await.unwrap();
    let mut messages = subscription.on_message();
    let mut heard = Vec::new();
    while let Ok(message) = timeout_at(end, messages.next()).await {
        heard.push((SystemClock.now(), message.unwrap().get_payload().unwrap()));
    }
    heard
}

/// Asserts that `heard` is one roll call on each of `ticks` quarters in a row.
fn on_each_quarter(heard: &[(DateTime<Utc>, String)], ticks: usize) {
    assert_eq!(heard.len(), ticks, "{heard:?}");
    for (at, message) in heard {
        assert_eq!(message, "来自网关中心的心跳请求");
        let late = at.timestamp_millis().rem_euclid(15_000);
        assert!(late < 2_500, "at {at}: {late} ms after the quarter");
    }
    for pair in heard.windows(2) {
        let gap = (pair[1].0 - pair[0].0).num_milliseconds();
        assert!((12_500..17_500).contains(&gap), "{gap} ms apart");
    }
}

/// The middle between two quarters of the minute, so that a known number of them follow.
async fn between_quarters() -> Instant {
    let into = SystemClock.now().timestamp_millis().rem_euclid(15_000);
    let wait = (7_500 - into).rem_euclid(15_000);
    let middle = Instant::now() + Duration::from_millis(wait.unsigned_abs());
    sleep_until(middle).await;
    middle
}

#[tokio::test]
async fn one_daemon_calls_the_roll_on_each_quarter() {
    let setup = Setup::<Shared>::start().await;
    let begin = between_quarters().await;
    let heard = listen(&setup.backends.redis, begin + Duration::from_secs(45)).await;
    on_each_quarter(&heard, 3);
}

#[tokio::test]
async fn three_daemons_call_the_roll_once_on_each_quarter() {
    let setup = Setup::<Shared>::start().await;
    let arguments = setup.backends.arguments();
    let _others = [
        Daemon::start(&arguments).await,
        Daemon::start(&arguments).await,
    ];
    let begin = between_quarters().await;
    let heard = listen(&setup.backends.redis, begin + Duration::from_secs(45)).await;
    on_each_quarter(&heard, 3);
}

#[tokio::test]
async fn after_redis_was_away_the_next_roll_call_is_on_time_and_alone() {
    let mut setup = Setup::<Shared>::start().await;
    let begin = between_quarters().await;
    setup.backends.redis.kill();
    sleep_until(begin + Duration::from_secs(40)).await;
    setup.backends.redis.restart().await;
    // Quarters at 7.5, 22.5 and 37.5 s are missed; those at 52.5 and 67.5 s arrive.
    let heard = listen(&setup.backends.redis, begin + Duration::from_secs(75)).await;
    on_each_quarter(&heard, 2);
    let missed = setup
        .log()
        .matches("skipped 1 roll call(s): it could not be published")
        .count();
    assert_eq!(missed, 3, "{}", setup.log());
}

#[tokio::test]
async fn the_channel_the_message_and_the_interval_are_settings() {
    let arguments = [
        "--roll-call-interval",
        "1s",
        "--roll-call-channel",
        "roll",
        "--roll-call-message",
        "here?",
    ];
    let setup = Setup::<Shared>::start_with(&arguments).await;
    let client = redis::Client::open(setup.backends.redis.url()).unwrap();
    let mut subscription = client.get_async_pubsub().await.unwrap();
    subscription.subscribe("roll").await.unwrap();
    let mut messages = subscription.on_message();
    for _ in 0..3 {
        let end = Instant::now() + Duration::from_secs(10);
        let message = timeout_at(end, messages.next()).await.unwrap().unwrap();
        assert_eq!(message.get_payload::<String>().unwrap(), "here?");
    }
}

#[tokio::test]
async fn without_redis_the_roll_is_called_within_the_process() {
    let setup = Setup::<Embedded>::start_with(&["--roll-call-interval", "1s"]).await;
    eventually(
        Duration::from_secs(20),
        "three roll calls were sent",
        || async {
            let (_, body) = setup.get("/readyz").await;
            (body["roll_call"]["sent"].as_u64()? >= 3).then_some(())
        },
    )
    .await;
}
