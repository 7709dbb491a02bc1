//! Renewals by the daemon's own lease store, without HTTP.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use rollcalld::clock::SystemClock;
use rollcalld::lease::{self, LeaseStore, Renewal};
use rollcalld::model::InstanceKey;
use tokio::task::spawn_local;
use tokio::time::Instant;

use crate::comparison::{Contestant, ROUND, compare};
use crate::load::{self, Round};
use crate::requests::{BATCH, INSTANCES, id_of, renewals};
use crate::support::redis::Redis;
use crate::support::redis_cluster::RedisCluster;

/// The daemon's own lease store on one server and on three masters of a cluster, which share
/// the cores, against what any program could do: plain commands in a pipeline.
pub(crate) async fn run() {
    let (redis, other) = (Redis::start().await, Redis::start().await);
    let cluster = RedisCluster::start_with(0).await;
    let stores = |url: String| {
        let backend = lease::open(&url.parse().unwrap(), Arc::new(SystemClock)).unwrap();
        (0..8).map(|_| backend.connect()).collect::<Vec<_>>()
    };
    let (one, three) = (stores(redis.url()), stores(cluster.url()));
    let masters = join_all(cluster.nodes().iter().map(id_of)).await;
    let pipelines: Vec<_> = join_all((0..8).map(|_| other.connect())).await;
    let pipelines: Vec<_> = pipelines.into_iter().map(Pipeline).collect();
    let contestants = vec![
        Contestant {
            name: "one server",
            processes: vec![id_of(&redis).await],
            round: Box::new(move || renew_for_a_round(one.clone()).boxed_local()),
        },
        Contestant {
            name: "three masters",
            processes: masters,
            round: Box::new(move || renew_for_a_round(three.clone()).boxed_local()),
        },
        Contestant {
            name: "a pipeline",
            processes: vec![id_of(&other).await],
            round: Box::new(move || renew_for_a_round(pipelines.clone()).boxed_local()),
        },
    ];
    compare("batch of 500 renewals, 8 connections", BATCH, contestants).await;
}

/// Renews a batch of leases.
pub(crate) trait Renew {
    async fn renew(&self, batch: &[Renewal]);
}

impl Renew for Arc<dyn LeaseStore> {
    async fn renew(&self, batch: &[Renewal]) {
        (**self).renew(batch).await.unwrap();
    }
}

/// Two commands per lease, which do not return the previous state.
#[derive(Clone)]
struct Pipeline(MultiplexedConnection);

impl Renew for Pipeline {
    async fn renew(&self, batch: &[Renewal]) {
        let mut pipeline = redis::pipe();
        for renewal in batch {
            let InstanceKey { scope, address } = &renewal.key;
            let key = format!("heartbeat:server:{}:{address}", scope.key);
            let fields = [
                ("lastTime", "2026-01-01T00:00:00.000Z"),
                ("url", renewal.key.address.as_str()),
                ("weight", "1"),
            ];
            pipeline.hset_multiple(&key, &fields).ignore();
            pipeline.expire(&key, 30).ignore();
        }
        let () = pipeline.query_async(&mut self.0.clone()).await.unwrap();
    }
}

/// The same renewals without HTTP, on several connections.
pub(crate) async fn renew_for_a_round(connections: Vec<impl Renew + 'static>) -> Round {
    let begin = Instant::now();
    let tasks = connections
        .into_iter()
        .enumerate()
        .map(|(number, connection)| {
            let batches: Vec<Vec<Renewal>> = (0..INSTANCES / BATCH)
                .map(|batch| renewals(batch, INSTANCES))
                .collect();
            spawn_local(async move {
                let mut latencies = Vec::new();
                while begin.elapsed() < ROUND {
                    let batch = &batches[(number + latencies.len()) % batches.len()];
                    let sent = Instant::now();
                    connection.renew(batch).await;
                    latencies.push(load::micros(sent.elapsed()));
                }
                latencies
            })
        });
    let latencies = join_all(tasks).await.into_iter().map(Result::unwrap);
    Round::of(latencies.flatten().collect(), begin.elapsed())
}
