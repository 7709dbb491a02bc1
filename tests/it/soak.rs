//! Random faults for a long time, by `tests/soak`: Redis behind Sentinel with PostgreSQL behind
//! PgBouncer, and a Redis Cluster with a PostgreSQL that has a standby. Throughout, no instance
//! that sends heartbeats is marked offline, no acknowledged write is lost, and all replicas
//! publish the same events.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::{join_all, try_join_all};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::support::daemon::{Daemon, client_builder};
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::Postgres;
use crate::support::process::free_port;
use crate::support::redis::Redis;
use crate::support::redis_cluster::RedisCluster;
use crate::support::sentinels::Sentinels;
use crate::support::sse::{Event, Subscriber};
use crate::support::{addresses, eventually};

const INTERVAL: Duration = Duration::from_secs(5);
/// The number of instances that send heartbeats throughout.
const LIVING: usize = 300;
/// The number of instances that stop and start again at random.
const MORTAL: usize = 60;
/// After the last fault everything is as it should be within this.
const SETTLED: Duration = Duration::from_secs(90);

/// A daemon that always comes back to its port.
struct Replica {
    listen: String,
    arguments: Vec<String>,
    daemon: RefCell<Option<Daemon>>,
    /// The received events, in order.
    received: RefCell<Vec<Event>>,
    first_memory: Cell<u64>,
}

impl Replica {
    async fn start(store: &str, leases: &str) -> Self {
        let arguments = format!(
            "--store {store} --leases {leases} --lease-ttl 15s --roll-call-interval 5s \
             --protection-max-duration 5s --start-timeout 10m"
        );
        let replica = Self {
            listen: format!("127.0.0.1:{}", free_port()),
            arguments: arguments.split(' ').map(str::to_owned).collect(),
            daemon: RefCell::default(),
            received: RefCell::default(),
            first_memory: Cell::new(0),
        };
        replica.launch();
        replica.ready().await;
        replica
    }

    fn launch(&self) {
        let dir = Arc::new(TempDir::new().unwrap());
        let daemon = Daemon::launch_on(&self.listen, &self.arguments, dir, &[]);
        self.daemon.replace(Some(daemon));
    }

    async fn ready(&self) {
        let limit = Duration::from_secs(60);
        eventually(limit, "the replica is ready", || async {
            (self.get("/readyz").await?.0 == 200).then_some(())
        })
        .await;
    }

    fn signal(&self, signal: Signal) {
        let daemon = self.daemon.borrow();
        daemon.as_ref().unwrap().signal(signal);
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    async fn get(&self, path: &str) -> Option<(u16, Value)> {
        let client = client_builder().timeout(Duration::from_secs(5));
        let answer = client.build().unwrap().get(self.url(path)).send().await;
        let answer = answer.ok()?;
        Some((answer.status().as_u16(), answer.json().await.ok()?))
    }

    /// Records all events, and reconnects after an interruption.
    async fn listen(&self) {
        let mut last_id: Option<String> = None;
        loop {
            let subscriber =
                Subscriber::try_open(&format!("http://{}", self.listen), last_id.as_deref()).await;
            let Some(mut subscriber) = subscriber else {
                sleep(Duration::from_millis(300)).await;
                continue;
            };
            while let Some(event) = subscriber.next(Duration::from_secs(60)).await {
                self.received.borrow_mut().push(event);
            }
            last_id = subscriber.last_id.or(last_id);
        }
    }
}

/// Replicas and their clients.
struct Stack {
    name: &'static str,
    replicas: [Replica; 2],
    client: reqwest::Client,
    rng: RefCell<Rng>,
    requests: Cell<u64>,
    refused: Cell<u64>,
    /// The registrations that were acknowledged.
    registered: RefCell<Vec<String>>,
    /// The instances of the second kind that send heartbeats now.
    alive: RefCell<HashSet<String>>,
    faults: RefCell<BTreeMap<&'static str, usize>>,
    /// From now on no instance stops, starts or registers.
    settled: Cell<bool>,
    ended: Cell<bool>,
}

impl Stack {
    async fn start(name: &'static str, store: &str, leases: &str, seed: u64) -> Rc<Self> {
        let replicas = [
            Replica::start(store, leases).await,
            Replica::start(store, leases).await,
        ];
        let stack = Rc::new(Self {
            name,
            replicas,
            client: client_builder()
                .timeout(Duration::from_secs(3))
                .build()
                .unwrap(),
            rng: RefCell::new(Rng::with_seed(seed)),
            requests: Cell::default(),
            refused: Cell::default(),
            registered: RefCell::default(),
            alive: RefCell::default(),
            faults: RefCell::default(),
            settled: Cell::default(),
            ended: Cell::default(),
        });
        for address in addresses(LIVING + MORTAL) {
            let path = format!("/v1/services/orders/instances/{address}");
            stack.put(&path, json!({})).await;
        }
        stack
    }

    fn below(&self, limit: u64) -> u64 {
        self.rng.borrow_mut().u64(..limit)
    }

    /// As a client does it: at one replica, at the other one, and again after a while.
    async fn put(&self, path: &str, body: Value) {
        let mut at = self.below(2);
        loop {
            let replica = &self.replicas[usize::try_from(at).unwrap()];
            let request = self.client.put(replica.url(path)).json(&body);
            self.requests.set(self.requests.get() + 1);
            match request.send().await {
                Ok(answer) if answer.status().is_success() => return,
                _ => self.refused.set(self.refused.get() + 1),
            }
            at = 1 - at;
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn heartbeats(&self, address: String) {
        let path = format!("/v1/services/orders/instances/{address}/heartbeat");
        sleep(Duration::from_millis(self.below(5000))).await;
        let is_alive = || self.alive.borrow().contains(&address);
        let is_mortal = address[2..address.len() - 2].parse::<usize>().unwrap() >= LIVING;
        while !self.ended.get() {
            let due = Instant::now() + INTERVAL;
            if !is_mortal || is_alive() {
                self.put(&path, json!({})).await;
            }
            tokio::time::sleep_until(due).await;
        }
    }

    /// Stops and starts instances of the second kind.
    async fn lives(&self) {
        let mortal = addresses(LIVING + MORTAL).split_off(LIVING);
        while !self.settled.get() {
            let address = &mortal[usize::try_from(self.below(MORTAL as u64)).unwrap()];
            let stopped = self.alive.borrow_mut().remove(address);
            if !stopped {
                self.alive.borrow_mut().insert(address.clone());
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn registrations(&self) {
        for number in 0.. {
            if self.settled.get() {
                return;
            }
            let address = format!("late-{number}:1");
            let path = format!("/v1/services/late/instances/{address}");
            self.put(&path, json!({"metadata": {"n": number.to_string()}}))
                .await;
            self.registered.borrow_mut().push(address);
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Lists instances throughout; no list shows a living instance as offline.
    async fn discoveries(&self) {
        // Until each instance has sent its first heartbeat.
        sleep(4 * INTERVAL).await;
        while !self.ended.get() {
            for replica in &self.replicas {
                self.requests.set(self.requests.get() + 1);
                match replica.get("/v1/services/orders/instances").await {
                    Some((200, body)) => {
                        let offline: Vec<&str> = body["instances"]
                            .as_array()
                            .unwrap()
                            .iter()
                            .filter(|instance| instance["online"] == false)
                            .map(|instance| instance["address"].as_str().unwrap())
                            .filter(|address| is_living(address))
                            .collect();
                        assert_eq!(offline, [""; 0], "{}", self.name);
                    }
                    _ => self.refused.set(self.refused.get() + 1),
                }
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Runs everything but the faults until it has ended.
    async fn serve(self: Rc<Self>) {
        let heartbeats = addresses(LIVING + MORTAL)
            .into_iter()
            .map(|address| self.heartbeats(address));
        tokio::join!(
            join_all(heartbeats),
            self.lives(),
            self.registrations(),
            self.discoveries(),
        );
    }

    fn count(&self, fault: &'static str) {
        *self.faults.borrow_mut().entry(fault).or_default() += 1;
    }

    fn seconds(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from * 1000 + self.below((to - from) * 1000))
    }

    /// One of the faults that a replica itself can have.
    async fn fault_of_a_replica(&self) {
        let replica = &self.replicas[usize::try_from(self.below(2)).unwrap()];
        if self.below(2) == 0 {
            self.count("a replica is killed");
            replica.signal(Signal::KILL);
            sleep(self.seconds(1, 8)).await;
            replica.launch();
            replica.ready().await;
        } else {
            self.count("a replica stands still");
            replica.signal(Signal::STOP);
            sleep(self.seconds(2, 25)).await;
            replica.signal(Signal::CONT);
        }
    }

    /// Returns what a replica should list differently.
    async fn wrong(&self, replica: &Replica, alive: &HashSet<String>) -> Option<String> {
        let Some((200, body)) = replica.get("/v1/services/orders/instances").await else {
            return Some("it does not answer".to_owned());
        };
        let online = body["instances"].as_array().unwrap().iter();
        let online = online.filter(|instance| instance["online"] == true);
        let online: HashSet<&str> = online
            .filter_map(|instance| instance["address"].as_str())
            .collect();
        addresses(LIVING + MORTAL).into_iter().find_map(|address| {
            let lives = is_living(&address) || alive.contains(&address);
            let listed = online.contains(&*address);
            (listed != lives).then(|| format!("{address} lives: {lives}, is online: {listed}"))
        })
    }

    /// Everything is as it should be, on all replicas.
    async fn settles(&self) -> usize {
        let alive = self.alive.borrow().clone();
        for replica in &self.replicas {
            let begin = Instant::now();
            while let Some(wrong) = self.wrong(replica, &alive).await {
                let overview = replica.get("/v1/overview").await;
                let limit = begin.elapsed() < SETTLED;
                assert!(limit, "{}: {wrong}: {overview:?}", self.name);
                sleep(Duration::from_secs(1)).await;
            }
            let (_, late) = replica.get("/v1/services/late/instances").await.unwrap();
            let late: HashSet<&str> = late["instances"]
                .as_array()
                .unwrap()
                .iter()
                .map(|instance| instance["address"].as_str().unwrap())
                .collect();
            let registered = self.registered.borrow();
            let lost: Vec<&String> = registered
                .iter()
                .filter(|address| !late.contains(address.as_str()))
                .collect();
            assert!(lost.is_empty(), "{}: {lost:?}", self.name);
        }
        self.compare_events()
    }

    /// Checks that each event that both replicas published is the same, that none marks a living
    /// instance offline, and that no transition occurs twice.
    fn compare_events(&self) -> usize {
        let mut by_id: HashMap<String, Event> = HashMap::new();
        let mut compared = 0;
        for replica in &self.replicas {
            let received = replica.received.borrow();
            let mut last: HashMap<&str, (&str, u64)> = HashMap::new();
            let mut ids = HashSet::new();
            for event in received.iter() {
                if event.name == "resync" {
                    last.clear();
                    continue;
                }
                if event.is_transition() {
                    assert!(
                        event.name == "instance.online" || !is_living(event.address()),
                        "{}: {event:?}",
                        self.name
                    );
                    let revision = event.data["revision"].as_u64().unwrap_or_default();
                    let before = last.insert(event.address(), (&event.name, revision));
                    let alternates = before.is_none_or(|(name, _)| name != event.name);
                    assert!(alternates, "{}: {event:?} after {before:?}", self.name);
                }
                let Some(id) = &event.id else { continue };
                assert!(ids.insert(id), "{}: {event:?} twice", self.name);
                match by_id.get(id) {
                    None => {
                        by_id.insert(id.clone(), event.clone());
                    }
                    Some(known) => {
                        assert_eq!(known, event, "{}", self.name);
                        compared += 1;
                    }
                }
            }
        }
        compared
    }

    fn report(&self, compared: usize) {
        let memory: Vec<String> = self
            .replicas
            .iter()
            .map(|replica| {
                let daemon = replica.daemon.borrow();
                let now = daemon.as_ref().unwrap().memory();
                format!("{} -> {} MiB", replica.first_memory.get() >> 20, now >> 20)
            })
            .collect();
        let faults = self.faults.borrow();
        say(&format!(
            "{}: {} requests, {} of them refused or unanswered and sent again; {} faults {:?}; \
             0 false offline; {} registrations acknowledged, 0 lost; {compared} events received by \
             both replicas, all the same; memory of the replicas {}",
            self.name,
            self.requests.get(),
            self.refused.get(),
            faults.values().sum::<usize>(),
            *faults,
            self.registered.borrow().len(),
            memory.join(", "),
        ));
    }
}

fn is_living(address: &str) -> bool {
    let number = address
        .strip_prefix("h-")
        .and_then(|rest| rest.split(':').next());
    number.is_some_and(|number| number.parse::<usize>().unwrap() < LIVING)
}

/// Prints past the test harness, which captures the output of a test.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
}

/// Sentinel and PgBouncer.
async fn with_sentinel(stack: &Stack, redis: &mut [Redis], bouncer: &PgBouncer, end: Instant) {
    while Instant::now() < end {
        sleep(stack.seconds(5, 20)).await;
        match stack.below(6) {
            0 => {
                stack.count("pgbouncer stands still");
                bouncer.freeze();
                sleep(stack.seconds(2, 15)).await;
                bouncer.thaw();
            }
            1 => {
                stack.count("a server of Redis is killed");
                let index = usize::try_from(stack.below(redis.len() as u64)).unwrap();
                redis[index].kill();
                sleep(stack.seconds(1, 12)).await;
                redis[index].restart().await;
            }
            2 => {
                stack.count("a server of Redis stands still");
                let index = usize::try_from(stack.below(redis.len() as u64)).unwrap();
                redis[index].freeze();
                sleep(stack.seconds(1, 20)).await;
                redis[index].thaw();
            }
            3 => refuse_writes(stack, redis).await,
            _ => stack.fault_of_a_replica().await,
        }
    }
}

async fn refuse_writes(stack: &Stack, redis: &[Redis]) {
    stack.count("Redis refuses writes");
    for limit in [1, 0] {
        for server in redis {
            let mut set = redis::cmd("CONFIG");
            server
                .run::<()>(set.arg("SET").arg("maxmemory").arg(limit))
                .await;
        }
        if limit == 1 {
            sleep(stack.seconds(5, 30)).await;
        }
    }
}

/// Redis Cluster, and a primary with a standby that is promoted once.
async fn with_cluster(
    stack: &Stack,
    cluster: &mut RedisCluster,
    primary: &mut Postgres,
    standby: &mut Postgres,
    end: Instant,
) {
    let promotion = Instant::now() + (end - Instant::now()) / 2;
    let mut promoted = false;
    while Instant::now() < end {
        sleep(stack.seconds(5, 20)).await;
        if !promoted && Instant::now() > promotion {
            stack.count("the primary of PostgreSQL is killed and its standby promoted");
            primary.kill().await;
            sleep(stack.seconds(1, 6)).await;
            standby.run("postgres", "SELECT pg_promote()").await;
            promoted = true;
            continue;
        }
        match stack.below(7) {
            0 => {
                stack.count("PostgreSQL crashes and comes back");
                let server = if promoted {
                    &mut *standby
                } else {
                    &mut *primary
                };
                server.kill().await;
                sleep(stack.seconds(1, 10)).await;
                server.restart().await;
            }
            1 => {
                stack.count("a node of the cluster is killed");
                let index = usize::try_from(stack.below(6)).unwrap();
                cluster.nodes_mut()[index].kill();
                sleep(stack.seconds(1, 12)).await;
                cluster.nodes_mut()[index].restart().await;
                sleep(Duration::from_secs(5)).await;
            }
            2 => {
                stack.count("a node of the cluster stands still");
                let index = usize::try_from(stack.below(6)).unwrap();
                cluster.nodes()[index].freeze();
                sleep(stack.seconds(1, 20)).await;
                cluster.nodes()[index].thaw();
            }
            3 => refuse_writes(stack, cluster.nodes()).await,
            4 => {
                stack.count("slots move");
                cluster.try_move_slots(200).await;
            }
            _ => stack.fault_of_a_replica().await,
        }
    }
    cluster.serves().await;
}

#[tokio::test]
#[ignore = "takes half an hour: tests/soak runs it"]
async fn random_faults_mark_no_living_instance_offline() {
    let variable = |name, default| match std::env::var(name) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => default,
    };
    let seed: u64 = variable("SOAK_SEED", fastrand::u64(..));
    let time = Duration::from_secs(60 * variable("SOAK_MINUTES", 30));
    say(&format!("seed {seed}, for {time:?}"));

    let postgres = Postgres::start().await;
    let bouncer = PgBouncer::before(postgres.port()).await;
    let master = Redis::start().await;
    let mut servers = vec![master.replica().await, master.replica().await];
    let sentinels = Sentinels::start(&master, servers.len()).await;
    servers.push(master);
    let store = bouncer.url("postgres");
    let first = Stack::start("Sentinel and PgBouncer", &store, &sentinels.url(), seed).await;

    let (mut primary, mut standby) = Postgres::with_standby().await;
    let mut cluster = RedisCluster::start().await;
    let store = Postgres::url_of(&[&primary, &standby], "postgres");
    let second = Stack::start("cluster and standby", &store, &cluster.url(), seed + 1).await;

    let tasks = tokio::task::LocalSet::new();
    for stack in [&first, &second] {
        for index in 0..2 {
            let stack = Rc::clone(stack);
            tasks.spawn_local(async move { stack.replicas[index].listen().await });
        }
    }
    let serving: Vec<_> = [&first, &second]
        .into_iter()
        .map(|stack| tasks.spawn_local(Rc::clone(stack).serve()))
        .collect();
    tasks
        .run_until(async {
            sleep(Duration::from_secs(30)).await;
            for replica in first.replicas.iter().chain(&second.replicas) {
                let daemon = replica.daemon.borrow();
                replica.first_memory.set(daemon.as_ref().unwrap().memory());
            }
            let end = Instant::now() + time;
            let faults = async {
                tokio::join!(
                    with_sentinel(&first, &mut servers, &bouncer, end),
                    with_cluster(&second, &mut cluster, &mut primary, &mut standby, end),
                )
            };
            // Returns early only if an assertion fails.
            let serve = async {
                try_join_all(serving).await.unwrap();
            };
            let body = async {
                faults.await;
                for stack in [&first, &second] {
                    stack.settled.set(true);
                }
                sleep(Duration::from_secs(40)).await;
                for stack in [&first, &second] {
                    let compared = stack.settles().await;
                    stack.report(compared);
                    stack.ended.set(true);
                }
            };
            tokio::select! {
                () = body => {}
                () = serve => {}
            }
        })
        .await;
}
