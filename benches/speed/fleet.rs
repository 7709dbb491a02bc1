//! A registry with a large fleet: its backends, its instances and their heartbeats.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};

use crate::load::{Connection, Round, micros};
use crate::requests::id_of;
use crate::servers::{Server, memory, processor_time, request};
use crate::support::postgres::{Postgres, connect};
use crate::support::redis::Redis;

/// The number of instances, and of services.
pub(crate) const INSTANCES: usize = 1_000_000;
pub(crate) const SERVICES: usize = 1_000;

/// The number of leases in one request, and the interval of each.
pub(crate) const BATCH: usize = 500;
pub(crate) const INTERVAL: Duration = Duration::from_secs(15);

/// The number of requests per interval, for any number of instances.
const BATCHES: usize = INSTANCES / BATCH;

/// Returns the number of instances that are online.
pub(crate) async fn online(daemon: &Server) -> f64 {
    daemon
        .figure("rollcall_instances{kind=\"service\",state=\"online\"}")
        .await
}

/// Returns the number of times that an instance was marked offline.
pub(crate) async fn offline(daemon: &Server) -> f64 {
    daemon
        .figure("rollcall_transitions_total{to=\"offline\"}")
        .await
}

/// Where the instances are registered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Store {
    Postgres,
    Sqlite,
}

/// A build of the daemon with its backends.
pub(crate) struct Registry<'a> {
    program: &'a str,
    /// The PostgreSQL with the URL of its database; without one, a SQLite file in the folder.
    pub(crate) postgres: Option<(Postgres, String)>,
    pub(crate) redis: Redis,
    pub(crate) folder: TempDir,
    pub(crate) instances: usize,
    /// The memory of a daemon without instances, in bytes.
    idle: u64,
}

impl<'a> Registry<'a> {
    /// Starts with this many instances, which were registered before.
    pub(crate) async fn with(
        program: &'a str,
        store: Store,
        instances: usize,
        services: usize,
    ) -> Self {
        let postgres = match store {
            Store::Sqlite => None,
            Store::Postgres => {
                let postgres = Postgres::start().await;
                let url = postgres.create_database().await;
                Some((postgres, url))
            }
        };
        let mut registry = Self {
            program,
            postgres,
            redis: Redis::start().await,
            folder: TempDir::new().unwrap(),
            instances,
            idle: 0,
        };
        let daemon = registry.start().await;
        sleep(Duration::from_secs(2)).await;
        registry.idle = memory(daemon.id());
        drop(daemon);
        registry.fill(services).await;
        registry
    }

    /// Inserts the instances, a part of them in each of the services.
    async fn fill(&self, services: usize) {
        let (series, now) = match self.postgres {
            Some(_) => ("SELECT i FROM generate_series(0, LAST) AS i", "now()"),
            None => (
                "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < LAST) SELECT i FROM n",
                "1790000000000",
            ),
        };
        let up_to = |count: usize| series.replace("LAST", &(count - 1).to_string());
        let (instances, each) = (up_to(self.instances), self.instances / services);
        let services = up_to(services);
        let rows = format!(
            "INSERT INTO scope (kind, key, created_at)
                SELECT 'service', 'service-' || n.i, {now} FROM ({services}) AS n;
             INSERT INTO instance (scope_id, address, weight, metadata, status, registered_at, updated_at)
                SELECT scope.id, '10.' || (n.i / 65536) || '.' || (n.i / 256 % 256) || '.' || (n.i % 256) || ':8080',
                       1, '{{\"zone\":\"a\",\"version\":\"1.2.3\"}}', 'enabled', {now}, {now}
                FROM ({instances}) AS n JOIN scope ON scope.key = 'service-' || (n.i / {each});"
        );
        match &self.postgres {
            Some((_, url)) => {
                let client = connect(url).await.unwrap();
                client.batch_execute(&rows).await.unwrap();
                client.batch_execute("ANALYZE").await.unwrap();
            }
            None => {
                let file = self.folder.path().join("rollcall.db");
                let database = rusqlite::Connection::open(file).unwrap();
                let all = format!("BEGIN; {rows} COMMIT");
                database.execute_batch(&all).unwrap();
            }
        }
    }

    pub(crate) async fn start(&self) -> Server {
        self.start_at("127.0.0.1:0").await
    }

    pub(crate) async fn start_at(&self, listen: &str) -> Server {
        let redis = self.redis.url();
        let mut arguments = vec!["--leases", &redis, "--listen", listen];
        if let Some((_, url)) = &self.postgres {
            arguments.extend(["--store", url]);
        }
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        Server::daemon_of(self.program, self.folder.path(), &arguments).await
    }

    /// Sends heartbeats for all instances, and waits until all are online.
    pub(crate) async fn begin_at_once(
        &self,
        name: &str,
        daemon: &Server,
        batches: &Rc<[Vec<u8>]>,
    ) -> Beats {
        let beats = Beats::start(daemon.address, batches);
        let begin = Instant::now();
        let redis = id_of(&self.redis).await;
        let spent = || [daemon.id(), redis].map(processor_time);
        let before = spent();
        self.all_online(daemon).await;
        let took = begin.elapsed();
        let [own, redis] = [0, 1].map(|i| (spent()[i] - before[i]).as_secs_f64());
        let together = Round::of(beats.latencies.take(), took);
        println!(
            "  {name:<22} all are online {:.0} s after the first heartbeat; until then p50 {:.2} ms, p99 {:.2} ms a batch, \
             daemon {own:.1} s of processor time, Redis {redis:.1} s; {} went offline",
            took.as_secs_f64(),
            together.p50.as_secs_f64() * 1e3,
            together.p99.as_secs_f64() * 1e3,
            offline(daemon).await,
        );
        beats
    }

    pub(crate) async fn all_online(&self, daemon: &Server) {
        while online(daemon).await < self.instances as f64 {
            sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) fn above_idle(&self, daemon: &Server) -> f64 {
        (memory(daemon.id()) as f64 - self.idle as f64) / self.instances as f64
    }
}

/// Connections that send the heartbeats of all instances, each batch at its own moment of the
/// interval. A batch without an answer is repeated a second later.
pub(crate) struct Beats {
    tasks: Vec<AbortHandle>,
    pub(crate) latencies: Rc<RefCell<Vec<u32>>>,
    /// The number of batches at the front that are not sent any more.
    silent: Rc<Cell<usize>>,
    /// When one of those was sent last.
    last: Rc<Cell<Instant>>,
}

/// The number of connections.
const CONNECTIONS: usize = 256;

/// Returns the address of an instance.
pub(crate) fn address_of(i: usize) -> String {
    format!("10.{}.{}.{}:8080", i / 65536, i / 256 % 256, i % 256)
}

/// Returns the requests with the heartbeats of all instances.
pub(crate) fn batches(instances: usize, services: usize) -> Rc<[Vec<u8>]> {
    let each = instances / services;
    let batch = |batch: usize| {
        let lease = |i: usize| json!({"service": format!("service-{}", i / each), "address": address_of(i)});
        let leases: Vec<_> = (batch * BATCH..(batch + 1) * BATCH).map(lease).collect();
        let body = json!({ "leases": leases }).to_string();
        request("POST", "/v1/heartbeats", "", &body)
    };
    (0..instances / BATCH).map(batch).collect()
}

impl Beats {
    pub(crate) fn start(address: SocketAddr, batches: &Rc<[Vec<u8>]>) -> Self {
        let mut beats = Self {
            tasks: Vec::new(),
            latencies: Rc::default(),
            silent: Rc::default(),
            last: Rc::new(Cell::new(Instant::now())),
        };
        let begin = Instant::now();
        for connection in 0..CONNECTIONS {
            let (batches, latencies) = (Rc::clone(batches), Rc::clone(&beats.latencies));
            let (silent, last) = (Rc::clone(&beats.silent), Rc::clone(&beats.last));
            let task = spawn_local(async move {
                let mut open = None;
                for n in (connection..).step_by(CONNECTIONS) {
                    sleep_until(begin + INTERVAL * n as u32 / BATCHES as u32).await;
                    let batch = n % batches.len();
                    if batch < silent.get() {
                        continue;
                    }
                    let sent = Instant::now();
                    while !send_heartbeats(address, &mut open, &batches[batch]).await {
                        sleep(Duration::from_secs(1)).await;
                    }
                    latencies.borrow_mut().push(micros(sent.elapsed()));
                    if batch < 2 {
                        last.set(Instant::now());
                    }
                }
            });
            beats.tasks.push(task.abort_handle());
        }
        beats
    }

    /// Stops sending the first batches, and returns when one of them was sent last.
    pub(crate) fn silence(&self, batches: usize) -> Rc<Cell<Instant>> {
        self.silent.set(batches);
        Rc::clone(&self.last)
    }
}

/// Sends a batch, on a new connection if none is open, and returns whether it was accepted.
async fn send_heartbeats(address: SocketAddr, open: &mut Option<Connection>, body: &[u8]) -> bool {
    if open.is_none() {
        *open = Connection::open(address).await.ok();
    }
    let Some(connection) = open else { return false };
    let taken = matches!(connection.ask(body).await, Ok(200));
    if !taken {
        *open = None;
    }
    taken
}

impl Drop for Beats {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
