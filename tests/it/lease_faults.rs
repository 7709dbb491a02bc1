//! No fault of Redis marks a living instance offline, and detection works again afterwards:
//! two replicas with one PostgreSQL, each with its own way to Redis.

use std::time::Duration;

use futures_util::future::join_all;
use redis::Cmd;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::metrics::Samples;
use crate::support::daemon::Daemon;
use crate::support::proxy::Proxy;
use crate::support::redis::Redis;
use crate::support::sse::{Subscriber, offline};
use crate::support::{addresses, eventually, postgres};

const TTL: Duration = Duration::from_secs(6);
/// The time between reconciles.
const RECONCILE: Duration = Duration::from_secs(15);
/// Within which a silent instance is detected, once the fault is over.
const DETECTION: Duration = Duration::from_secs(6 + 16);
const SOON: Duration = Duration::from_secs(10);

/// Two replicas, and the instances that send heartbeats to them.
struct Pair {
    replicas: [Daemon; 2],
    proxies: [Proxy; 2],
    store: String,
    /// The instances that send heartbeats to each replica.
    shares: [Vec<String>; 2],
    events: Subscriber,
}

impl Pair {
    /// Starts with these numbers of instances at the first and the second replica.
    async fn start(redis: &Redis, shares: [usize; 2]) -> Self {
        let store = postgres::shared().await.create_database().await;
        let proxies = [
            Proxy::before(redis.port()).await,
            Proxy::before(redis.port()).await,
        ];
        let mut replicas = Vec::new();
        for proxy in &proxies {
            // Protection alone would keep instances online for no longer than a second.
            let arguments = format!(
                "--store {store} --leases redis://127.0.0.1:{} --lease-ttl {}s --roll-call-interval 5s \
                 --protection-max-duration 1s",
                proxy.port(),
                TTL.as_secs()
            );
            let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
            replicas.push(Daemon::start(&arguments).await);
        }
        let replicas: [Daemon; 2] = replicas.try_into().ok().unwrap();
        let mut first = addresses(shares.iter().sum());
        let second = first.split_off(shares[0]);
        let pair = Self {
            events: Subscriber::new(&replicas[0], "").await,
            replicas,
            proxies,
            store,
            shares: [first, second],
        };
        for (replica, share) in pair.replicas.iter().zip(&pair.shares) {
            replica.register("orders", share, &json!({})).await;
        }
        // Until a missing lease is evidence.
        pair.send_heartbeats_for(TTL + Duration::from_secs(6), 200)
            .await;
        for replica in &pair.replicas {
            let (_, overview) = replica.get("/v1/overview").await;
            assert_eq!(overview["protection"].get("reason"), None, "{overview}");
        }
        pair
    }

    fn count(&self) -> usize {
        self.shares.iter().map(Vec::len).sum()
    }

    /// Sends the heartbeats of all instances, each to its replica, which must answer `status`.
    async fn send_heartbeats(&self, status: u16) {
        for (replica, share) in self.replicas.iter().zip(&self.shares) {
            if !share.is_empty() {
                let (answered, body) = replica.try_send_heartbeats("orders", share).await;
                assert_eq!(answered, status, "{body}");
                assert_eq!(
                    status == 503,
                    body["code"] == "leases_unavailable",
                    "{body}"
                );
            }
        }
    }

    async fn online(&self) -> [u64; 2] {
        let [first, second] = &self.replicas;
        let ([_, first, _], [_, second, _]) =
            tokio::join!(first.counts("orders"), second.counts("orders"));
        [first, second]
    }

    /// Sends heartbeats for `time`; no replica ever lists an instance as offline.
    async fn send_heartbeats_for(&self, time: Duration, status: u16) {
        let begin = Instant::now();
        eventually(SOON, "all instances are online", || async {
            self.send_heartbeats(status).await;
            (self.online().await == [self.count() as u64; 2]).then_some(())
        })
        .await;
        while begin.elapsed() < time {
            sleep(Duration::from_secs(1)).await;
            self.send_heartbeats(status).await;
            assert_eq!(self.online().await, [self.count() as u64; 2]);
        }
    }

    /// Has one instance stop, which both replicas notice in time; all others stayed online
    /// through everything.
    async fn notices_who_stops(mut self) {
        let stopped = self.shares[0].pop().unwrap();
        let begin = Instant::now();
        eventually(DETECTION, "both replicas notice the silent one", || async {
            self.send_heartbeats(200).await;
            (self.online().await == [self.count() as u64; 2]).then_some(())
        })
        .await;
        assert!(begin.elapsed() > TTL / 2, "its lease had to expire");
        let events = self.events.until_quiet(Duration::from_secs(1)).await;
        assert_eq!(offline(&events), [stopped], "{events:?}");
    }
}

/// One replica of Redis is promoted, and a replica of the registry stays at the old master
/// for longer than a TTL and a reconcile.
async fn split(shares: [usize; 2]) {
    let old = Redis::start().await;
    let new = old.replica().await;
    let pair = Pair::start(&old, shares).await;
    new.run::<()>(redis::cmd("REPLICAOF").arg("NO").arg("ONE"))
        .await;
    pair.proxies[0].lead_to(new.port());
    pair.send_heartbeats_for(TTL + RECONCILE + Duration::from_secs(4), 200)
        .await;
    let (_, overview) = pair.replicas[1].get("/v1/overview").await;
    let reason = overview["protection"]["reason"].as_str().unwrap();
    assert!(
        reason.contains("uses another lease store than this one"),
        "{reason}"
    );
    old.run::<()>(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(new.port()))
        .await;
    pair.proxies[1].lead_to(new.port());
    // The first heartbeats at the new master begin new leases for those that only the old master
    // has.
    pair.notices_who_stops().await;
}

#[tokio::test]
async fn replicas_at_two_masters_mark_no_living_instance_offline() {
    tokio::join!(split([8, 0]), split([16, 0]), split([20, 20]));
}

/// A master is demoted, and no connection to it is cut. It remains where new connections lead
/// for a while, and then these lead to the new master.
async fn demoted(remains: Duration) {
    let old = Redis::start().await;
    let new = old.replica().await;
    let pair = Pair::start(&old, [20, 20]).await;
    new.run::<()>(redis::cmd("REPLICAOF").arg("NO").arg("ONE"))
        .await;
    old.run::<()>(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(new.port()))
        .await;
    if !remains.is_zero() {
        pair.send_heartbeats_for(remains, 503).await;
    }
    for proxy in &pair.proxies {
        proxy.lead_new_to(new.port());
    }
    for (replica, share) in pair.replicas.iter().zip(&pair.shares) {
        eventually(SOON, "heartbeats are accepted", || async {
            let (status, _) = replica.try_send_heartbeats("orders", share).await;
            (status == 200).then_some(())
        })
        .await;
    }
    pair.notices_who_stops().await;
}

#[tokio::test]
async fn a_demoted_master_holds_no_connection_of_a_replica() {
    let remains = [Duration::ZERO, Duration::from_millis(1500), 2 * TTL];
    join_all(remains.map(demoted)).await;
}

/// Makes Redis refuse writes and go on to answer reads, and makes it accept them again.
struct Refusal {
    name: &'static str,
    begin: Vec<Cmd>,
    end: Vec<Cmd>,
}

fn refusals() -> [Refusal; 5] {
    let command = |text: &str| {
        let mut words = text.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        command.arg(words.collect::<Vec<_>>());
        command
    };
    let refusal = |name, begin: &[&str], end: &[&str]| Refusal {
        name,
        begin: begin.iter().copied().map(command).collect(),
        end: end.iter().copied().map(command).collect(),
    };
    [
        refusal(
            "OOM",
            &["CONFIG SET maxmemory 1"],
            &["CONFIG SET maxmemory 0"],
        ),
        refusal(
            "NOREPLICAS",
            &["CONFIG SET min-replicas-to-write 1"],
            &["CONFIG SET min-replicas-to-write 0"],
        ),
        refusal(
            "MISCONF",
            // Nothing can be saved there.
            &["CONFIG SET dir /proc", "BGSAVE"],
            &["CONFIG SET stop-writes-on-bgsave-error no"],
        ),
        refusal(
            "READONLY",
            &["REPLICAOF 127.0.0.1 1"],
            &["REPLICAOF NO ONE"],
        ),
        refusal(
            "NOPERM",
            &["ACL SETUSER default -@write"],
            &["ACL SETUSER default +@all"],
        ),
    ]
}

async fn refuses_writes(refusal: &Refusal, count: usize) {
    let redis = Redis::start_with(|_| {
        ["--enable-protected-configs", "yes", "--save", "3600000 1"]
            .map(str::to_owned)
            .into()
    })
    .await;
    let pair = Pair::start(&redis, [count / 2, count - count / 2]).await;
    for command in &refusal.begin {
        redis.run::<()>(command).await;
    }
    let name = refusal.name;
    for replica in &pair.replicas {
        eventually(SOON, name, || async {
            let (ready, _) = replica.get("/readyz?backends=required").await;
            let (_, list) = replica.get("/v1/services/orders/instances").await;
            let (_, overview) = replica.get("/v1/overview").await;
            let samples = Samples::of(replica).await;
            let unavailable = ready == 503
                && list["stale"] == true
                && overview["backends"]["leases"] == false
                && samples.get("rollcall_backend_up{backend=\"leases\"}") == 0.0;
            unavailable.then_some(())
        })
        .await;
    }
    pair.send_heartbeats_for(TTL + RECONCILE, 503).await;
    for command in &refusal.end {
        redis.run::<()>(command).await;
    }
    for replica in &pair.replicas {
        replica.ready().await;
    }
    pair.notices_who_stops().await;
}

#[tokio::test]
async fn a_redis_that_refuses_writes_marks_no_instance_offline() {
    let refusals = refusals();
    let all = refusals
        .iter()
        .flat_map(|refusal| [8, 30].map(|count| refuses_writes(refusal, count)));
    join_all(all).await;
}

#[tokio::test]
async fn an_instance_that_sends_heartbeats_is_online_whatever_was_recorded() {
    let redis = Redis::start().await;
    let pair = Pair::start(&redis, [4, 4]).await;
    let store = postgres::connect(&pair.store).await.unwrap();
    // As after a restore, or written by a replica whose clock or lease store was ahead.
    for epoch in [
        "lease_epoch",
        "lease_epoch + 31536000000",
        "lease_epoch - 1",
    ] {
        let wrong = format!(
            "UPDATE instance SET online = false, lease_epoch = {epoch}, \
             revision = revision + 1"
        );
        store.execute(&wrong, &[]).await.unwrap();
        eventually(2 * RECONCILE + SOON, epoch, || async {
            pair.send_heartbeats(200).await;
            sleep(Duration::from_secs(1)).await;
            let row = "SELECT count(*) FROM instance WHERE online";
            let online: i64 = store.query_one(row, &[]).await.unwrap().get(0);
            (online == 8 && pair.online().await == [8, 8]).then_some(())
        })
        .await;
    }
}
