//! The suite of the event bus.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use rollcalld::bus::{self, BusUrl, EventBus, Subscription};
use tokio::time::timeout;

use super::suite;
use crate::support::eventually;
use crate::support::redis::Redis;

pub(super) struct Fixture {
    bus: Arc<dyn EventBus>,
    _redis: Option<Redis>,
}

async fn memory() -> Fixture {
    Fixture {
        bus: bus::open(&BusUrl::Memory).unwrap(),
        _redis: None,
    }
}

async fn redis() -> Fixture {
    let redis = Redis::start().await;
    Fixture {
        bus: bus::open(&BusUrl::Redis(redis.url().parse().unwrap())).unwrap(),
        _redis: Some(redis),
    }
}

suite! {
    backends:
        in_memory => super::memory(),
        on_redis => super::redis();
    tests: {
        everyone_who_subscribed_hears_a_message,
        a_message_stays_on_its_channel,
        a_message_that_nobody_hears_is_gone,
        messages_of_a_publisher_come_in_order,
        a_claim_publishes_once_until_it_is_forgotten,
        of_many_claims_at_once_one_publishes,
        a_claim_is_one_daemons_until_it_is_forgotten,
    }
}

async fn hears(subscription: &mut Subscription) -> String {
    timeout(Duration::from_secs(10), subscription.next())
        .await
        .expect("no message")
        .expect("the subscription ended")
}

async fn everyone_who_subscribed_hears_a_message(fixture: Fixture) {
    let mut first = fixture.bus.subscribe("heartBeat").await.unwrap();
    let mut second = fixture.bus.subscribe("heartBeat").await.unwrap();
    fixture
        .bus
        .publish("heartBeat", "来自网关中心的心跳请求")
        .await
        .unwrap();
    assert_eq!(hears(&mut first).await, "来自网关中心的心跳请求");
    assert_eq!(hears(&mut second).await, "来自网关中心的心跳请求");
}

async fn a_message_stays_on_its_channel(fixture: Fixture) {
    let mut subscription = fixture.bus.subscribe("one").await.unwrap();
    fixture.bus.publish("other", "not for one").await.unwrap();
    fixture.bus.publish("one", "for one").await.unwrap();
    assert_eq!(hears(&mut subscription).await, "for one");
}

async fn a_message_that_nobody_hears_is_gone(fixture: Fixture) {
    fixture.bus.publish("channel", "early").await.unwrap();
    let mut subscription = fixture.bus.subscribe("channel").await.unwrap();
    fixture.bus.publish("channel", "late").await.unwrap();
    assert_eq!(hears(&mut subscription).await, "late");
}

async fn messages_of_a_publisher_come_in_order(fixture: Fixture) {
    let mut subscription = fixture.bus.subscribe("channel").await.unwrap();
    for i in 0..500 {
        fixture
            .bus
            .publish("channel", &i.to_string())
            .await
            .unwrap();
    }
    for i in 0..500 {
        assert_eq!(hears(&mut subscription).await, i.to_string());
    }
}

async fn a_claim_publishes_once_until_it_is_forgotten(fixture: Fixture) {
    let mut subscription = fixture.bus.subscribe("channel").await.unwrap();
    let publish = async |message: &'static str, claim: &'static str| {
        let remember = Duration::from_millis(400);
        let bus = &fixture.bus;
        bus.publish_once("channel", message, claim, remember)
            .await
            .unwrap()
    };
    assert!(publish("a", "tick-1").await);
    assert!(!publish("b", "tick-1").await);
    assert!(publish("c", "tick-2").await);
    eventually(
        Duration::from_secs(10),
        "the claim is forgotten",
        || async { publish("d", "tick-1").await.then_some(()) },
    )
    .await;
    assert_eq!(hears(&mut subscription).await, "a");
    assert_eq!(hears(&mut subscription).await, "c");
    assert_eq!(hears(&mut subscription).await, "d");
}

async fn of_many_claims_at_once_one_publishes(fixture: Fixture) {
    let claims = (0..64).map(|_| {
        let bus = Arc::clone(&fixture.bus);
        tokio::spawn(async move {
            let remember = Duration::from_secs(60);
            bus.publish_once("channel", "message", "tick", remember)
                .await
                .unwrap()
        })
    });
    let mut published = 0;
    for claim in claims.collect::<Vec<_>>() {
        published += usize::from(claim.await.unwrap());
    }
    assert_eq!(published, 1);
}

async fn a_claim_is_one_daemons_until_it_is_forgotten(fixture: Fixture) {
    let remember = Duration::from_millis(400);
    assert!(fixture.bus.claim("chore", remember).await.unwrap());
    assert!(!fixture.bus.claim("chore", remember).await.unwrap());
    assert!(fixture.bus.claim("other", remember).await.unwrap());
    let publish = fixture.bus.publish_once("c", "m", "chore", remember).await;
    assert!(!publish.unwrap(), "a claim is a claim");
    eventually(
        Duration::from_secs(10),
        "the claim is forgotten",
        || async {
            fixture
                .bus
                .claim("chore", remember)
                .await
                .unwrap()
                .then_some(())
        },
    )
    .await;
}
