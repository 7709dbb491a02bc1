//! A million instances that send heartbeats in batches, at the rate of real ones.

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
const INSTANCES: usize = 1_000_000;
const SERVICES: usize = 1_000;

/// The number of leases in one request, and the interval of each.
const BATCH: usize = 500;
const INTERVAL: Duration = Duration::from_secs(15);

/// The default TTL.
const TTL: Duration = Duration::from_secs(30);

/// The duration of the steady state.
const MEASURED: Duration = Duration::from_secs(60);

/// The number of rounds that compare the cost of a heartbeat.
const ROUNDS: usize = 5;

/// The time after which each connection has been used once.
const OPENING: Duration = Duration::from_secs(2);

const ONLINE: &str = "rollcall_instances{kind=\"service\",state=\"online\"}";
const OFFLINE: &str = "rollcall_transitions_total{to=\"offline\"}";

/// The number of requests per interval, for any number of instances.
const BATCHES: usize = INSTANCES / BATCH;

pub(crate) async fn run() {
    println!(
        "\n{INSTANCES} instances in {SERVICES} services, each beats every {INTERVAL:?} in batches of {BATCH}"
    );
    // With a hundredth of the instances, to compare the cost.
    let few = Registry::with(INSTANCES / 100, SERVICES / 100).await;
    let few_daemon = few.start().await;
    let few_batches = batches(few.instances, SERVICES / 100);

    let many = Registry::with(INSTANCES, SERVICES).await;
    let begin = Instant::now();
    let daemon = many.start().await;
    println!(
        "  ready {:.1} s after its start",
        begin.elapsed().as_secs_f64()
    );
    println!(
        "  {:.0} bytes an instance above idle, at first",
        many.above_idle(&daemon)
    );
    let many_batches = batches(INSTANCES, SERVICES);
    let beats = Beats::start(daemon.address, &many_batches);
    let begin = Instant::now();
    let redis = id_of(&many.redis).await;
    many.all_online(&daemon).await;
    let together = Round::of(beats.latencies.take(), begin.elapsed());
    println!(
        "  all instances are online {:.0} s after the first heartbeat; until then p50 {:.2} ms, p99 {:.2} ms a batch, daemon {:.1} s of processor time, \
         Redis {:.1} s; {} went offline",
        begin.elapsed().as_secs_f64(),
        together.p50.as_secs_f64() * 1e3,
        together.p99.as_secs_f64() * 1e3,
        processor_time(daemon.id()).as_secs_f64(),
        processor_time(redis).as_secs_f64(),
        daemon.figure(OFFLINE).await,
    );
    // By then everything that was loaded is recorded.
    sleep(INTERVAL).await;
    many.measure(&daemon, &beats, MEASURED).await;
    // From now on each batch is sent at its own moment, and none is omitted in between.
    let turn = Beats::start(daemon.address, &many_batches);
    sleep(INTERVAL).await;
    drop((beats, turn));

    let mut ratios = Vec::new();
    for round in 0..=ROUNDS {
        // Each instance sends one heartbeat, and the next one before its lease ends.
        let cost = cost_of_a_heartbeat(&daemon, &many_batches, INTERVAL).await;
        let few_cost = cost_of_a_heartbeat(&few_daemon, &few_batches, INTERVAL / 2).await;
        // The first round warms up.
        if round > 0 {
            ratios.push(cost / few_cost);
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "  in turn at the same rate, a beat costs {:.2} ({:.2} to {:.2}) of one of {} instances",
        ratios[ROUNDS / 2],
        ratios[0],
        ratios[ROUNDS - 1],
        few.instances
    );
    drop((few_daemon, few));

    let beats = Beats::start(daemon.address, &many_batches);
    sleep(INTERVAL).await;
    // The daemon is killed, and another one starts on the same port.
    let port = daemon.address.to_string();
    drop(daemon);
    let begin = Instant::now();
    let daemon = many.start_at(&port).await;
    println!(
        "  ready {:.1} s after a restart",
        begin.elapsed().as_secs_f64()
    );
    sleep(TTL + INTERVAL).await;
    println!(
        "  {} s later {} online, {} went offline, {:.0} bytes an instance above idle",
        (TTL + INTERVAL).as_secs(),
        daemon.figure(ONLINE).await,
        daemon.figure(OFFLINE).await,
        many.above_idle(&daemon)
    );

    let last = beats.silence(2);
    while daemon.figure(ONLINE).await > (INSTANCES - 2 * BATCH) as f64 {
        sleep(Duration::from_millis(20)).await;
    }
    let late = last.get().elapsed().saturating_sub(TTL);
    println!(
        "  a thousand that stopped were all found {:.2} s after the TTL of the last",
        late.as_secs_f64()
    );
    println!("  {} went offline", daemon.figure(OFFLINE).await);
}

/// The backends of a daemon.
struct Registry {
    _postgres: Postgres,
    url: String,
    redis: Redis,
    folder: TempDir,
    instances: usize,
    /// The memory of a daemon without instances, in bytes.
    idle: u64,
}

impl Registry {
    /// Starts with this many instances, which were registered before.
    async fn with(instances: usize, services: usize) -> Self {
        let postgres = Postgres::start().await;
        let url = postgres.create_database().await;
        let mut registry = Self {
            _postgres: postgres,
            url,
            redis: Redis::start().await,
            folder: TempDir::new().unwrap(),
            instances,
            idle: 0,
        };
        let daemon = registry.start().await;
        sleep(Duration::from_secs(2)).await;
        registry.idle = memory(daemon.id());
        drop(daemon);
        let each = instances / services;
        let fill = format!(
            "INSERT INTO scope (kind, key, created_at)
                SELECT 'service', 'service-' || s, now() FROM generate_series(0, {services} - 1) AS s;
             INSERT INTO instance (scope_id, address, weight, metadata, status, registered_at, updated_at)
                SELECT scope.id, '10.' || i / 65536 || '.' || i / 256 % 256 || '.' || i % 256 || ':8080',
                       1, '{{\"zone\": \"a\", \"version\": \"1.2.3\"}}', 'enabled', now(), now()
                FROM generate_series(0, {instances} - 1) AS i
                JOIN scope ON scope.key = 'service-' || i / {each};
             ANALYZE"
        );
        let client = connect(&registry.url).await.unwrap();
        client.batch_execute(&fill).await.unwrap();
        registry
    }

    async fn start(&self) -> Server {
        self.start_at("127.0.0.1:0").await
    }

    async fn start_at(&self, listen: &str) -> Server {
        let arguments = [
            "--store",
            &self.url,
            "--leases",
            &self.redis.url(),
            "--listen",
            listen,
        ];
        Server::daemon(self.folder.path(), &arguments.map(str::to_owned)).await
    }

    async fn all_online(&self, daemon: &Server) {
        while daemon.figure(ONLINE).await < self.instances as f64 {
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn above_idle(&self, daemon: &Server) -> f64 {
        (memory(daemon.id()) as f64 - self.idle as f64) / self.instances as f64
    }

    /// Measures for `duration`.
    async fn measure(&self, daemon: &Server, beats: &Beats, duration: Duration) {
        let redis = id_of(&self.redis).await;
        let spent = || [daemon.id(), redis].map(processor_time);
        let (before, gone) = (spent(), daemon.figure(OFFLINE).await);
        beats.latencies.take();
        sleep(duration).await;
        let (after, latencies) = (spent(), beats.latencies.take());
        let round = Round::of(latencies, duration);
        let count = (round.requests * BATCH) as f64;
        let [cost, redis_cost] = [0, 1].map(|i| (after[i] - before[i]).as_secs_f64());
        println!(
            "  {} instances: {:.0} beats/s, p50 {:.2} ms, p99 {:.2} ms a batch; daemon {:.2} of a core, {:.2} us a send_heartbeats, \
             Redis {:.2} us; {:.0} bytes an instance above idle; {} online, {} went offline",
            self.instances,
            round.per_second * BATCH as f64,
            round.p50.as_secs_f64() * 1e3,
            round.p99.as_secs_f64() * 1e3,
            cost / duration.as_secs_f64(),
            cost * 1e6 / count,
            redis_cost * 1e6 / count,
            self.above_idle(daemon),
            daemon.figure(ONLINE).await,
            daemon.figure(OFFLINE).await - gone,
        );
    }
}

/// Returns the processor time of a heartbeat in microseconds, measured over `duration`.
async fn cost_of_a_heartbeat(daemon: &Server, batches: &Rc<[Vec<u8>]>, duration: Duration) -> f64 {
    let beats = Beats::start(daemon.address, batches);
    // By then all connections are open.
    sleep(OPENING).await;
    let before = processor_time(daemon.id());
    beats.latencies.take();
    sleep(duration - OPENING).await;
    let cost = processor_time(daemon.id()) - before;
    cost.as_secs_f64() * 1e6 / (beats.latencies.take().len() * BATCH) as f64
}

/// Connections that send the heartbeats of all instances, each batch at its own moment of the
/// interval. A batch without an answer is repeated a second later.
struct Beats {
    tasks: Vec<AbortHandle>,
    latencies: Rc<RefCell<Vec<u32>>>,
    /// The number of batches at the front that are not sent any more.
    silent: Rc<Cell<usize>>,
    /// When one of those was sent last.
    last: Rc<Cell<Instant>>,
}

const CONNECTIONS: usize = 256;

/// Returns the requests with the heartbeats of all instances.
fn batches(instances: usize, services: usize) -> Rc<[Vec<u8>]> {
    let each = instances / services;
    let batch = |batch: usize| {
        let lease = |i: usize| {
            let address = format!("10.{}.{}.{}:8080", i / 65536, i / 256 % 256, i % 256);
            json!({"service": format!("service-{}", i / each), "address": address})
        };
        let leases: Vec<_> = (batch * BATCH..(batch + 1) * BATCH).map(lease).collect();
        let body = json!({ "leases": leases }).to_string();
        request("POST", "/v1/heartbeats", "", &body)
    };
    (0..instances / BATCH).map(batch).collect()
}

impl Beats {
    fn start(address: SocketAddr, batches: &Rc<[Vec<u8>]>) -> Self {
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
    fn silence(&self, batches: usize) -> Rc<Cell<Instant>> {
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
