//! A backend fails, or the daemon itself: no instance is marked offline because of it,
//! everything that can continue does, and everything recovers.

use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::support::backends::{Backends, Embedded, Shared};
use crate::support::daemon::Daemon;
use crate::support::postgres::Postgres;
use crate::support::proxy::{Fault, Proxy};
use crate::support::redis::Redis;
use crate::support::sse::{Subscriber, offline};
use crate::support::{addresses, eventually, postgres};

const TTL: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(10);

/// Forty instances that send heartbeats to a daemon whose Redis is about to fail.
struct Beating {
    daemon: Daemon,
    addresses: Vec<String>,
    subscriber: Subscriber,
}

impl Beating {
    async fn start(arguments: &[String]) -> Self {
        let daemon = Daemon::start(arguments).await;
        let addresses = addresses(40);
        daemon.register("orders", &addresses, &json!({})).await;
        daemon.send_heartbeats("orders", &addresses).await;
        let subscriber = Subscriber::new(&daemon, "").await;
        Self {
            daemon,
            addresses,
            subscriber,
        }
    }

    async fn list(&self) -> serde_json::Value {
        let (status, body) = self
            .daemon
            .get("/v1/services/orders/instances?available=true")
            .await;
        assert_eq!(status, 200);
        body
    }

    /// While Redis is unavailable: heartbeats are rejected within a second, lists continue and say
    /// that they are stale, and memory stays bounded under any load.
    async fn endure(&self, time: Duration) {
        let begin = Instant::now();
        eventually(SOON, "it is noticed", || async {
            (self.list().await["stale"] == json!(true)).then_some(())
        })
        .await;
        let before = self.daemon.memory();
        let mut waits = Vec::new();
        while begin.elapsed() < time {
            let beats = (0..200).map(|i| async move {
                let begin = Instant::now();
                let own = &self.addresses[i % 40..=i % 40];
                let (status, body) = self.daemon.try_send_heartbeats("orders", own).await;
                assert_eq!(
                    (status.as_u16(), &body["code"]),
                    (503, &json!("leases_unavailable"))
                );
                begin.elapsed()
            });
            waits.extend(join_all(beats).await);
            let body = self.list().await;
            assert_eq!(body["stale"], json!(true));
            assert_eq!(body["instances"].as_array().unwrap().len(), 40);
            sleep(Duration::from_millis(500)).await;
        }
        waits.sort();
        let p90 = waits[waits.len() * 9 / 10];
        assert!(p90 <= Duration::from_secs(1), "{p90:?}");
        let grown = self.daemon.memory().saturating_sub(before);
        assert!(grown < 32 << 20, "{grown} bytes more");
    }

    /// After Redis is back: an instance that sends heartbeats within one TTL was never offline, and
    /// a silent one is detected as usual.
    async fn recover(&mut self) {
        let back = Instant::now();
        let (dead, alive) = self.addresses.split_at(3);
        // Late, but within a time to live.
        sleep(TTL - Duration::from_secs(8)).await;
        while back.elapsed() < 2 * TTL + Duration::from_secs(20) {
            let (status, body) = self.daemon.try_send_heartbeats("orders", alive).await;
            assert_eq!(status, 200, "{body}");
            sleep(Duration::from_secs(2)).await;
        }
        let events = self
            .subscriber
            .until_quiet(Duration::from_millis(500))
            .await;
        let mut gone = offline(&events);
        gone.sort_unstable();
        assert_eq!(gone, dead, "{events:?}");
        assert!(
            !events
                .iter()
                .any(|event| event.name == "protection.entered")
        );
        let body = self.list().await;
        assert_eq!(body.get("stale"), None);
        assert_eq!(body["instances"].as_array().unwrap().len(), 37);
    }
}

const AWAY: Duration = Duration::from_secs(45);

#[tokio::test]
async fn a_redis_that_is_frozen_or_black_holed_for_long_marks_no_instance_offline() {
    let freeze = async {
        let setup = Shared::new().await;
        let mut beating = Beating::start(&setup.arguments()).await;
        setup.redis.freeze();
        beating.endure(AWAY).await;
        setup.redis.thaw();
        beating.recover().await;
    };
    let black_hole = async {
        let redis = Redis::start().await;
        let proxy = Proxy::before(redis.port()).await;
        let database = postgres::shared().await.create_database().await;
        let leases = format!("redis://127.0.0.1:{}", proxy.port());
        let arguments = ["--store".into(), database, "--leases".into(), leases];
        let mut beating = Beating::start(&arguments).await;
        proxy.set(Fault::BlackHole);
        beating.endure(AWAY).await;
        proxy.set(Fault::None);
        beating.recover().await;
    };
    tokio::join!(freeze, black_hole);
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_or_is_flushed_marks_no_instance_offline() {
    let restart = async {
        let mut setup = Shared::new().await;
        let mut beating = Beating::start(&setup.arguments()).await;
        // Until a missing lease is evidence.
        beating.believed().await;
        setup.redis.kill();
        sleep(Duration::from_secs(3)).await;
        setup.redis.restart().await;
        beating.recover().await;
    };
    let flush = async {
        let setup = Shared::new().await;
        let mut beating = Beating::start(&setup.arguments()).await;
        beating.believed().await;
        let mut connection = setup.redis.connect().await;
        let _: () = redis::cmd("FLUSHALL")
            .query_async(&mut connection)
            .await
            .unwrap();
        beating.recover().await;
    };
    tokio::join!(restart, flush);
}

impl Beating {
    async fn believed(&self) {
        let begin = Instant::now();
        while begin.elapsed() < TTL + Duration::from_secs(1) {
            self.daemon.send_heartbeats("orders", &self.addresses).await;
            sleep(Duration::from_secs(2)).await;
        }
        let (_, overview) = self.daemon.get("/v1/overview").await;
        assert_eq!(overview["protection"].get("reason"), None, "{overview}");
    }
}

async fn stopped_and_continued<B: Backends>() {
    let backends = B::new().await;
    let mut beating = Beating::start(&backends.arguments()).await;
    beating.believed().await;
    beating.daemon.signal(Signal::STOP);
    sleep(Duration::from_secs(60)).await;
    beating.daemon.signal(Signal::CONT);
    beating.recover().await;
    drop(backends);
}

#[tokio::test]
async fn a_daemon_suspended_for_a_minute_marks_no_instance_offline() {
    tokio::join!(
        stopped_and_continued::<Embedded>(),
        stopped_and_continued::<Shared>()
    );
}

#[tokio::test]
async fn a_postgres_that_restarts_under_load_loses_no_acknowledged_registration() {
    let mut server = Postgres::start().await;
    let redis = Redis::start().await;
    let arguments = [
        "--store".into(),
        server.url("postgres"),
        "--leases".into(),
        redis.url(),
    ];
    let daemon = Daemon::start(&arguments).await;
    let beaten = addresses(50);
    daemon.register("orders", &beaten, &json!({})).await;
    let begin = Instant::now();
    let time = Duration::from_secs(15);
    let register = async {
        let (mut acknowledged, mut refused, mut last) = (Vec::new(), 0, 0);
        for i in 0.. {
            if begin.elapsed() > time {
                break;
            }
            let address = format!("new-{i}:1");
            let path = format!("/v1/services/new/instances/{address}");
            match daemon.put(&path, json!({})).await.0.as_u16() {
                200 | 201 => {
                    acknowledged.push(address);
                    last = 201;
                }
                status @ (503 | 504) => {
                    refused += 1;
                    last = status;
                }
                status => panic!("{status}"),
            }
        }
        (acknowledged, refused, last)
    };
    let heartbeat = async {
        while begin.elapsed() < time {
            daemon.send_heartbeats("orders", &beaten).await;
            let (_, body) = daemon
                .get("/v1/services/orders/instances?available=true")
                .await;
            assert_eq!(body["instances"].as_array().unwrap().len(), 50);
            assert_eq!(
                body.get("stale"),
                None,
                "presence does not depend on Postgres"
            );
            sleep(Duration::from_millis(20)).await;
        }
    };
    let restart = async {
        sleep(Duration::from_secs(3)).await;
        server.kill().await;
        sleep(Duration::from_secs(3)).await;
        server.restart().await;
    };
    let ((acknowledged, refused, last), (), ()) = tokio::join!(register, heartbeat, restart);
    assert!(refused > 0 && last == 201, "{refused} refused, then {last}");
    let client = postgres::connect(&server.url("postgres")).await.unwrap();
    let rows = client
        .query("SELECT address FROM instance", &[])
        .await
        .unwrap();
    let stored: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    for address in &acknowledged {
        assert!(stored.contains(address), "{address} was acknowledged");
    }
    // Registrations that may have been committed without an answer are found and listed.
    eventually(
        Duration::from_secs(40),
        "all that is stored is listed",
        || async {
            let (_, body) = daemon.get("/v1/overview").await;
            (body["instances"] == json!(stored.len())).then_some(())
        },
    )
    .await;
}

/// Makes the connection to Redis, or to Postgres, fail in each way, and heal.
#[tokio::test]
async fn whatever_a_connection_does_it_heals() {
    let (server, redis) = (Postgres::start().await, Redis::start().await);
    let before_redis = Proxy::before(redis.port()).await;
    let before_postgres = Proxy::before(server.port()).await;
    let arguments = [
        "--store".into(),
        format!(
            "postgres://postgres@127.0.0.1:{}/postgres",
            before_postgres.port()
        ),
        "--leases".into(),
        format!("redis://127.0.0.1:{}", before_redis.port()),
    ];
    let daemon = Daemon::start(&arguments).await;
    let address = ["a:1".to_owned()];
    let path = "/v1/services/orders/instances/a:1";
    assert_eq!(daemon.put(path, json!({})).await.0, 201);
    daemon.send_heartbeats("orders", &address).await;
    let slow = Fault::Delay(Duration::from_millis(150));
    for (proxy, is_redis) in [(&before_redis, true), (&before_postgres, false)] {
        for fault in [slow, Fault::Reset, Fault::HalfClose, Fault::BlackHole] {
            proxy.set(fault);
            for weight in 0..3 {
                let begin = Instant::now();
                let (heartbeat, _) = daemon.try_send_heartbeats("orders", &address).await;
                let (written, _) = daemon.put(path, json!({"weight": weight})).await;
                // Requests that do not need the backend are not affected; the others are slow or
                // fail with a reason.
                let (needs, does_not) = if is_redis {
                    (heartbeat, written)
                } else {
                    (written, heartbeat)
                };
                assert_eq!(does_not, 200, "{fault:?}");
                assert!(
                    [200, 503, 504].contains(&needs.as_u16()),
                    "{fault:?}: {needs}"
                );
                if fault == slow {
                    assert_eq!(needs, 200);
                }
                assert!(begin.elapsed() < SOON, "{fault:?}");
            }
            proxy.set(Fault::None);
            eventually(SOON, "it heals", || async {
                let (heartbeat, _) = daemon.try_send_heartbeats("orders", &address).await;
                let (written, _) = daemon.put(path, json!({"weight": 77})).await;
                (heartbeat == 200 && written == 200).then_some(())
            })
            .await;
        }
    }
    eventually(SOON, "it is not stale", || async {
        let (_, body) = daemon.get("/v1/overview").await;
        (body["stale"] == json!(false)).then_some(())
    })
    .await;
}
