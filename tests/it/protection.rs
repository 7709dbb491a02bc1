//! Protection: when too many go at once they are suspects, until they return, an operator
//! confirms, or it has lasted long enough.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::backends::{Backends, Setup, Shared, on_both_backends};
use crate::support::daemon::Daemon;
use crate::support::sse::{Event, Subscriber, offline};
use crate::support::{addresses, eventually};

on_both_backends! {
    sixty_of_a_hundred_that_return_were_never_offline,
    sixty_of_a_hundred_that_do_not_return_are_marked_offline_when_protection_ends,
    an_operator_releases_the_suspects,
    three_of_a_hundred_go_as_ever,
    all_of_nine_go_as_ever,
}

const TTL: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(10);

/// One daemon, or two that share the heartbeats of a hundred instances.
struct Fleet<B> {
    setup: Setup<B>,
    second: Option<Daemon>,
    addresses: Vec<String>,
    subscriber: Subscriber,
}

impl<B: Backends> Fleet<B> {
    async fn start(count: usize, protection_max_duration: &str) -> Self {
        let arguments = [
            "--lease-ttl",
            "5s",
            "--roll-call-interval",
            "2s",
            "--protection-max-duration",
            protection_max_duration,
        ];
        let setup = Setup::<B>::start_with(&arguments).await;
        let second = setup.replica(&arguments).await;
        let addresses = addresses(count);
        setup.register("orders", &addresses, &json!({})).await;
        let subscriber = Subscriber::new(&setup, "").await;
        let fleet = Self {
            setup,
            second,
            addresses,
            subscriber,
        };
        // Until a missing lease is evidence.
        fleet
            .send_heartbeats_for(0, TTL + Duration::from_secs(1))
            .await;
        fleet
    }

    /// Sends a heartbeat for each instance from `first` on, half of them to each daemon.
    async fn send_heartbeats(&self, first: usize) {
        let second = self.second.as_ref().unwrap_or(&self.setup.daemon);
        let (own, other): (Vec<_>, Vec<_>) = self.addresses[first..]
            .iter()
            .cloned()
            .enumerate()
            .partition(|(i, _)| i % 2 == 0);
        let addresses = |part: Vec<(usize, String)>| -> Vec<String> {
            part.into_iter().map(|(_, address)| address).collect()
        };
        let (own, other) = (addresses(own), addresses(other));
        tokio::join!(
            self.setup.send_heartbeats("orders", &own),
            second.send_heartbeats("orders", &other)
        );
    }

    async fn send_heartbeats_for(&self, first: usize, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.send_heartbeats(first).await;
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Sends heartbeats for the instances from `first` on until an event with this name; returns
    /// the event and those before it.
    async fn send_heartbeats_until(
        &mut self,
        first: usize,
        name: &str,
        within: Duration,
    ) -> (Event, Vec<Event>) {
        let end = Instant::now() + within;
        let mut before = Vec::new();
        while Instant::now() < end {
            self.send_heartbeats(first).await;
            while let Some(event) = self.subscriber.next(Duration::from_millis(300)).await {
                if event.name == name {
                    return (event, before);
                }
                before.push(event);
            }
        }
        panic!("no {name} within {within:?}, but {before:?}");
    }

    async fn overview(&self, daemon: &Daemon) -> Value {
        let (status, body) = daemon.get("/v1/overview").await;
        assert_eq!(status, 200);
        let _ = self;
        body
    }

    async fn both(&self) -> Vec<&Daemon> {
        [Some(&self.setup.daemon), self.second.as_ref()]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// Sixty of a hundred have stopped, and are suspects on every daemon.
async fn sixty_stop<B: Backends>(protection_max_duration: &str) -> Fleet<B> {
    let mut fleet = Fleet::<B>::start(100, protection_max_duration).await;
    let (entered, before) = fleet
        .send_heartbeats_until(60, "protection.entered", 2 * TTL)
        .await;
    assert_eq!(offline(&before), Vec::<&str>::new());
    let reason = entered.data["reason"].as_str().unwrap().to_owned();
    assert!(
        reason.contains("of 100 online instances would go offline within 5 s"),
        "{reason}"
    );
    for daemon in fleet.both().await {
        eventually(SOON, "sixty are suspects", || async {
            fleet.send_heartbeats(60).await;
            let overview = fleet.overview(daemon).await;
            (overview["suspect"] == json!(60)).then_some(())
        })
        .await;
        let overview = fleet.overview(daemon).await;
        assert_eq!(overview["online"], json!(100), "{overview}");
        let protection = &overview["protection"];
        assert_eq!(
            (&protection["active"], &protection["reason"]),
            (&json!(true), &json!(reason))
        );
        let (_, body) = daemon
            .get("/v1/services/orders/instances?available=true")
            .await;
        let instances = body["instances"].as_array().unwrap();
        let suspects = instances
            .iter()
            .filter(|instance| instance["suspect"] == json!(true));
        assert_eq!((instances.len(), suspects.count()), (100, 60));
    }
    fleet
}

async fn sixty_of_a_hundred_that_return_were_never_offline<B: Backends>() {
    let mut fleet = sixty_stop::<B>("10m").await;
    let (left, before) = fleet
        .send_heartbeats_until(0, "protection.left", SOON)
        .await;
    assert_eq!(left.data["reason"], json!("all heartbeats have returned"));
    let mut events = before;
    fleet.send_heartbeats_for(0, 2 * TTL).await;
    events.extend(
        fleet
            .subscriber
            .until_quiet(Duration::from_millis(200))
            .await,
    );
    assert!(
        !events.iter().any(|event| event.is_transition()),
        "{events:?}"
    );
    for daemon in fleet.both().await {
        let overview = fleet.overview(daemon).await;
        assert_eq!(overview["protection"]["active"], json!(false), "{overview}");
        assert_eq!(
            (&overview["online"], &overview["suspect"]),
            (&json!(100), &json!(0))
        );
    }
}

async fn gone<B: Backends>(fleet: &mut Fleet<B>) {
    let mut events = Vec::new();
    let end = Instant::now() + SOON;
    while offline(&events).len() < 60 && Instant::now() < end {
        fleet.send_heartbeats(60).await;
        events.extend(
            fleet
                .subscriber
                .until_quiet(Duration::from_millis(300))
                .await,
        );
    }
    fleet.send_heartbeats_for(60, 2 * TTL).await;
    events.extend(
        fleet
            .subscriber
            .until_quiet(Duration::from_millis(200))
            .await,
    );
    let mut gone = offline(&events);
    gone.sort_unstable();
    let mut expected: Vec<&str> = fleet.addresses[..60].iter().map(String::as_str).collect();
    expected.sort_unstable();
    assert_eq!(gone, expected, "each once");
    assert_eq!(fleet.setup.counts("orders").await, [100, 40, 40]);
}

async fn sixty_of_a_hundred_that_do_not_return_are_marked_offline_when_protection_ends<
    B: Backends,
>() {
    let mut fleet = sixty_stop::<B>("12s").await;
    let (left, before) = fleet
        .send_heartbeats_until(60, "protection.left", 3 * TTL)
        .await;
    assert_eq!(offline(&before), Vec::<&str>::new());
    assert_eq!(
        left.data["reason"],
        json!("protection mode has lasted for --protection-max-duration 12s")
    );
    gone(&mut fleet).await;
}

async fn an_operator_releases_the_suspects<B: Backends>() {
    let mut fleet = sixty_stop::<B>("10m").await;
    let confirm = async |daemon: &Daemon| {
        let path = "/v1/protection/release";
        daemon.try_send(Method::POST, path, None).await.unwrap()
    };
    // On any daemon; the last is the second one, where there are two.
    let daemons = fleet.both().await;
    let (status, body) = confirm(daemons.last().unwrap()).await;
    assert_eq!(
        (status.as_u16(), &body["ended"], &body["released"]),
        (200, &json!(true), &json!(60))
    );
    gone(&mut fleet).await;
    for daemon in fleet.both().await {
        let (status, body) = confirm(daemon).await;
        assert_eq!(
            (status.as_u16(), body),
            (200, json!({"ended": false, "released": 0}))
        );
    }
}

async fn three_of_a_hundred_go_as_ever<B: Backends>() {
    let mut fleet = Fleet::<B>::start(100, "10m").await;
    let (_, mut events) = fleet
        .send_heartbeats_until(3, "instance.offline", 2 * TTL)
        .await;
    fleet.send_heartbeats_for(3, TTL).await;
    events.extend(
        fleet
            .subscriber
            .until_quiet(Duration::from_millis(200))
            .await,
    );
    assert_eq!(
        offline(&events).len(),
        2,
        "and one more, for which we waited"
    );
    assert!(
        !events
            .iter()
            .any(|event| event.name.starts_with("protection")),
        "{events:?}"
    );
    assert_eq!(fleet.setup.counts("orders").await, [100, 97, 97]);
}

async fn all_of_nine_go_as_ever<B: Backends>() {
    let mut fleet = Fleet::<B>::start(9, "10m").await;
    let events = fleet
        .subscriber
        .until_quiet(Duration::from_millis(10))
        .await;
    assert!(!offline(&events).contains(&"h-0:1"));
    eventually(2 * TTL, "all are offline", || async {
        (fleet.setup.counts("orders").await == [9, 0, 0]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_release_after_redis_was_flushed_marks_no_living_instance_offline() {
    let mut fleet = sixty_stop::<Shared>("10m").await;
    let redis = &fleet.setup.backends.redis;
    redis.run::<()>(&redis::cmd("FLUSHALL")).await;
    // No instance has a lease until its next heartbeat.
    eventually(SOON, "all are suspects", || async {
        let overview = fleet.overview(&fleet.setup).await;
        (overview["suspect"] == json!(100)).then_some(())
    })
    .await;
    // A confirmation lets no instance go until a missing lease is evidence again. Then the
    // sixty go, on whichever replica is the first to know.
    let end = Instant::now() + 4 * TTL;
    while fleet.setup.counts("orders").await == [100, 100, 100] && Instant::now() < end {
        fleet.send_heartbeats(60).await;
        let (_, body) = fleet
            .setup
            .try_send(Method::POST, "/v1/protection/release", None)
            .await
            .unwrap();
        assert!([json!(0), json!(60)].contains(&body["released"]), "{body}");
        sleep(Duration::from_millis(500)).await;
    }
    gone(&mut fleet).await;
}
