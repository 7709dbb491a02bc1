//! Several replicas over one Redis and one PostgreSQL, and what an instance costs: the
//! coefficients of the model for large fleets.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use rollcalld::clock::SystemClock;
use rollcalld::lease;
use tokio::time::{Instant, sleep};

use crate::comparison::{Contestant, ROUND, compare};
use crate::fleet::{BATCH, Registry, Store, address_of, batches};
use crate::load::{self, Connection};
use crate::requests::{id_of, renewals};
use crate::servers::{Server, processor_time, request};
use crate::support::daemon::BINARY;
use crate::support::postgres::connect;
use crate::support::redis::Redis;

/// The number of replicas.
const REPLICAS: usize = 4;

/// The number of instances, and of services.
const INSTANCES: usize = 100_000;
const SERVICES: usize = 100;

/// The number of connections that send batches.
const CONNECTIONS: usize = 16;

/// The statement that compares the Directory with the registry store.
const DIGEST: &str = include_str!("../../sql/postgres/queries/digest.sql");

/// The number of changes whose costs are measured.
const CHANGES: usize = 4_000;

/// Compares four replicas with one, each over their own Redis and PostgreSQL, and prints what an
/// instance, a heartbeat and a change cost.
pub(crate) async fn run() {
    println!("\n{INSTANCES} instances in {SERVICES} services");
    let (many, one) = (Fleet::of(REPLICAS).await, Fleet::of(1).await);
    let contestants = vec![
        many.contestant("four replicas").await,
        one.contestant("one replica").await,
    ];
    let case = format!("batch of {BATCH} heartbeats, {CONNECTIONS} connections");
    compare(&case, BATCH, contestants).await;
    println!("\nwhat an instance, a heartbeat in a batch and a change cost");
    one.print_cost_of_an_instance().await;
    one.print_cost_of_a_heartbeat().await;
    many.print_cost_of_a_change().await;
}

/// Replicas over the same backends.
struct Fleet {
    registry: Registry<'static>,
    replicas: Vec<Server>,
}

impl Fleet {
    /// Starts replicas whose instances are all online.
    async fn of(count: usize) -> Self {
        let registry = Registry::with(BINARY, Store::Postgres, INSTANCES, SERVICES).await;
        let mut replicas = Vec::new();
        for _ in 0..count {
            replicas.push(registry.start().await);
        }
        let begin = Instant::now();
        let mut connection = Connection::open(replicas[0].address).await.unwrap();
        for batch in batches(INSTANCES, SERVICES).iter() {
            assert_eq!(connection.ask(batch).await.unwrap(), 200);
        }
        join_all(replicas.iter().map(|replica| registry.all_online(replica))).await;
        println!(
            "  online at each of {count} replicas {:.1} s after the first heartbeat",
            begin.elapsed().as_secs_f64(),
        );
        Self { registry, replicas }
    }

    /// Returns it as a contestant whose processes are the replicas and Redis.
    async fn contestant(&self, name: &'static str) -> Contestant<'static> {
        let addresses: Vec<_> = self
            .replicas
            .iter()
            .map(|replica| replica.address)
            .collect();
        let mut processes: Vec<u32> = self.replicas.iter().map(Server::id).collect();
        processes.push(id_of(&self.registry.redis).await);
        let batches = batches(INSTANCES, SERVICES);
        let batch = move |connection: usize, n: usize| {
            batches[(connection * 31 + n) % batches.len()].clone()
        };
        Contestant {
            name,
            processes,
            round: Box::new(move || {
                let (addresses, batch) = (addresses.clone(), batch.clone());
                async move { load::run(&addresses, CONNECTIONS, ROUND, 200, batch).await }
                    .boxed_local()
            }),
        }
    }

    async fn print_cost_of_an_instance(&self) {
        let redis = Redis::start().await;
        let leases = lease::open(&redis.url().parse().unwrap(), Arc::new(SystemClock)).unwrap();
        let leases = leases.connect();
        let before = figure(&redis, "memory", "used_memory").await;
        for batch in 0..INSTANCES / BATCH {
            leases.renew(&renewals(batch, INSTANCES)).await.unwrap();
        }
        let lease = figure(&redis, "memory", "used_memory").await - before;
        let (_, url) = self.registry.postgres.as_ref().unwrap();
        let client = connect(url).await.unwrap();
        let size = "SELECT pg_total_relation_size('instance')";
        let row: i64 = client.query_one(size, &[]).await.unwrap().get(0);
        let begin = Instant::now();
        client.query_one(DIGEST, &[]).await.unwrap();
        let compared = begin.elapsed();
        println!(
            "  an instance: {:.0} bytes in Redis, {:.0} in PostgreSQL; {:.2} us of PostgreSQL in each comparison with the Directory",
            lease / INSTANCES as f64,
            row as f64 / INSTANCES as f64,
            compared.as_secs_f64() * 1e6 / INSTANCES as f64,
        );
    }

    async fn print_cost_of_a_heartbeat(&self) {
        let batches = batches(INSTANCES, SERVICES);
        let mut connection = Connection::open(self.replicas[0].address).await.unwrap();
        let before = self.traffic().await;
        let (mut sent, mut received) = (0, 0);
        for batch in batches.iter() {
            assert_eq!(connection.ask(batch).await.unwrap(), 200);
            sent += batch.len();
            received += connection.received();
        }
        let after = self.traffic().await;
        let each = |bytes: f64| bytes / INSTANCES as f64;
        let path = format!(
            "/v1/services/service-0/instances/{}/heartbeat",
            address_of(0)
        );
        let single = request("PUT", &path, "", "");
        assert_eq!(connection.ask(&single).await.unwrap(), 200);
        println!(
            "  a single heartbeat: {} + {} bytes between the client and the daemon",
            single.len(),
            connection.received(),
        );
        println!(
            "  a heartbeat in a batch: {:.0} + {:.1} bytes between the client and the daemon, {:.0} + {:.0} between the daemon and Redis",
            each(sent as f64),
            each(received as f64),
            each(after.0 - before.0),
            each(after.1 - before.1),
        );
    }

    /// Changes weights through the first replica.
    async fn print_cost_of_a_change(&self) {
        let spent = || -> Vec<Duration> {
            let ids = self.replicas.iter().map(Server::id);
            ids.map(processor_time).collect()
        };
        let mut connection = Connection::open(self.replicas[0].address).await.unwrap();
        let (before, traffic, begin) = (spent(), self.traffic().await, Instant::now());
        for change in 0..CHANGES {
            let i = change % INSTANCES;
            let service = i / (INSTANCES / SERVICES);
            let path = format!("/v1/services/service-{service}/instances/{}", address_of(i));
            let body = format!("{{\"weight\":{}}}", 2 + change / INSTANCES);
            let changed = connection.ask(&request("PATCH", &path, "", &body)).await;
            assert_eq!(changed.unwrap(), 200);
        }
        let took = begin.elapsed();
        // The other replicas apply the last one.
        sleep(Duration::from_secs(1)).await;
        let (after, traffic_after) = (spent(), self.traffic().await);
        let costs: Vec<f64> = after
            .iter()
            .zip(before)
            .map(|(after, before)| (*after - before).as_secs_f64() * 1e6 / CHANGES as f64)
            .collect();
        println!(
            "  a change: {:.0} us of the replica that writes it, {:.0} us of each of the others; {:.0} + {:.0} bytes between {REPLICAS} replicas and Redis; \
             {:.0} a second one after another",
            costs[0],
            costs[1..].iter().sum::<f64>() / (costs.len() - 1) as f64,
            (traffic_after.0 - traffic.0) / CHANGES as f64,
            (traffic_after.1 - traffic.1) / CHANGES as f64,
            CHANGES as f64 / took.as_secs_f64(),
        );
    }

    /// Returns how many bytes Redis has received and sent.
    async fn traffic(&self) -> (f64, f64) {
        let redis = &self.registry.redis;
        (
            figure(redis, "stats", "total_net_input_bytes").await,
            figure(redis, "stats", "total_net_output_bytes").await,
        )
    }
}

/// Returns a figure of a section of the INFO of Redis.
async fn figure(redis: &Redis, section: &str, name: &str) -> f64 {
    let mut connection = redis.connect().await;
    let mut info = redis::cmd("INFO");
    let text: String = info
        .arg(section)
        .query_async(&mut connection)
        .await
        .unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().parse().unwrap()
}
