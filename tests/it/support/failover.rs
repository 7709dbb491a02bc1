//! A thousand instances that send heartbeats to two replicas while a backend fails over.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::daemon::Daemon;
use super::sse::{Subscriber, offline};
use super::{addresses, eventually};

const TTL: Duration = Duration::from_secs(15);
const INTERVAL: Duration = Duration::from_secs(5);
const COUNT: usize = 1000;
/// Within which a silent instance is detected once the backend works again.
const DETECTION: Duration = Duration::from_secs(15 + 16);

/// Two replicas, their instances, and the received events.
pub(crate) struct Failover {
    replicas: Vec<Daemon>,
    /// One part for each replica.
    addresses: Vec<Vec<String>>,
    events: Subscriber,
    /// The instances whose registration was acknowledged during the failover.
    registered: RefCell<Vec<String>>,
    /// How many registrations were tried.
    tried: Cell<usize>,
}

impl Failover {
    /// Replicas with these flags, on which a missing lease is evidence already.
    pub(crate) async fn start(arguments: &[Vec<String>; 2]) -> Self {
        let own = format!(
            "--lease-ttl {}s --roll-call-interval {}s --protection-max-duration 1s",
            TTL.as_secs(),
            INTERVAL.as_secs()
        );
        let mut replicas = Vec::new();
        for arguments in arguments {
            let mut arguments = arguments.clone();
            arguments.extend(own.split(' ').map(str::to_owned));
            replicas.push(Daemon::start(&arguments).await);
        }
        let all = addresses(COUNT);
        replicas[0].register("orders", &all, &json!({})).await;
        let begun = Self {
            addresses: all.chunks(COUNT / 2).map(<[String]>::to_vec).collect(),
            events: Subscriber::new(&replicas[0], "").await,
            replicas,
            registered: RefCell::default(),
            tried: Cell::default(),
        };
        begun.heartbeats_until(sleep(TTL + INTERVAL)).await;
        for replica in &begun.replicas {
            let (_, overview) = replica.get("/v1/overview").await;
            assert_eq!(overview["protection"].get("reason"), None, "{overview}");
        }
        begun
    }

    /// Sends the heartbeats of all instances, each until it is accepted, until `end`.
    async fn heartbeats_until<T>(&self, end: impl Future<Output = T>) -> T {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let heartbeats = async {
            loop {
                ticks.tick().await;
                let each = self.replicas.iter().zip(&self.addresses);
                join_all(each.map(|(replica, part)| async move {
                    while replica.try_send_heartbeats("orders", part).await.0 != 200 {
                        sleep(Duration::from_secs(1)).await;
                    }
                }))
                .await;
            }
        };
        tokio::select! {
            ended = end => ended,
            () = heartbeats => unreachable!("it goes on"),
        }
    }

    /// Every replica lists all but one as online, all the while.
    async fn none_is_offline(&self) {
        loop {
            for replica in &self.replicas {
                let [_, online, _] = replica.counts("orders").await;
                assert!(online as usize >= COUNT - 1, "{online} are online");
            }
            sleep(Duration::from_millis(300)).await;
        }
    }

    async fn registrations(&self) {
        loop {
            let number = self.tried.replace(self.tried.get() + 1);
            let address = format!("late-{number}:1");
            let replica = &self.replicas[number % 2];
            let path = format!("/v1/services/late/instances/{address}");
            if replica.put(&path, json!({})).await.0 == 201 {
                self.registered.borrow_mut().push(address);
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Runs `fail`, which returns when the backend serves again, while one instance is silent. No
    /// other instance is marked offline, acknowledged writes are kept, and the silent instance is
    /// detected in time.
    pub(crate) async fn survives(mut self, fail: impl Future<Output = ()>) {
        let silent = self.addresses[1].pop().unwrap();
        let body = async {
            fail.await;
            for (replica, part) in self.replicas.iter().zip(&self.addresses) {
                eventually(
                    Duration::from_secs(30),
                    "heartbeats are accepted",
                    || async {
                        let (status, _) = replica.try_send_heartbeats("orders", &part[..1]).await;
                        (status == 200).then_some(())
                    },
                )
                .await;
            }
            let back = Instant::now();
            for replica in &self.replicas {
                eventually(DETECTION, "the silent instance is detected", || async {
                    let [_, online, _] = replica.counts("orders").await;
                    (online as usize == COUNT - 1 && back.elapsed() < DETECTION).then_some(())
                })
                .await;
            }
            // An instance marked offline by mistake would be by now.
            sleep(TTL).await;
        };
        self.heartbeats_until(async {
            tokio::select! {
                () = body => {}
                () = self.none_is_offline() => {}
                () = self.registrations() => {}
            }
        })
        .await;
        let events = self.events.until_quiet(Duration::from_secs(1)).await;
        let offline = offline(&events);
        assert!(
            offline.iter().all(|address| *address == silent),
            "{offline:?}"
        );
        let registered = self.registered.take();
        let count = registered.len();
        assert!(count > 100, "{count} registrations");
        for replica in &self.replicas {
            let (_, list) = replica.get("/v1/services/late/instances").await;
            let listed: Vec<&str> = list["instances"]
                .as_array()
                .unwrap()
                .iter()
                .map(|instance| instance["address"].as_str().unwrap())
                .collect();
            let lost = registered
                .iter()
                .filter(|address| !listed.contains(&address.as_str()));
            assert_eq!(lost.count(), 0);
        }
    }
}
