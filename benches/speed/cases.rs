//! The cases.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use rollcalld::clock::SystemClock;
use rollcalld::lease;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::comparison::{Contestant, compare, over_http};
use crate::load::Connection;
use crate::requests::{
    BATCH, INSTANCES, LIST, SERVICES, fill, fill_at_once, id_of, made_once, registration,
    send_heartbeats,
};
use crate::servers::{Server, memory, processor_time, request};
use crate::support::daemon::BINARY;
use crate::support::postgres::{Postgres, connect};
use crate::support::redis::Redis;
use crate::{
    Options, bulk, facades, million, overload, peers, renewal, scale_out, start, watchers,
};

/// A case: its name, what it measures, and how it is run.
type Case = (
    &'static str,
    &'static str,
    fn(&Options) -> LocalBoxFuture<'_, ()>,
);

const CASES: [Case; 21] = [
    (
        "heartbeat-redis",
        "single heartbeats through Redis, against a server with a constant answer",
        |options| heartbeat_redis(options).boxed_local(),
    ),
    (
        "heartbeat-memory",
        "single heartbeats with leases in memory",
        |options| heartbeat_memory(options).boxed_local(),
    ),
    (
        "batch",
        "batches of 500 heartbeats, against Redis alone",
        |options| batch(options).boxed_local(),
    ),
    (
        "renewal",
        "renewals without HTTP, on one Redis and on three masters of a cluster",
        |_| renewal::run().boxed_local(),
    ),
    (
        "registration-postgres",
        "registrations on PostgreSQL, against one transaction each",
        |options| registration_postgres(options).boxed_local(),
    ),
    (
        "registration-sqlite",
        "registrations on SQLite, against one transaction each",
        |options| registration_sqlite(options).boxed_local(),
    ),
    (
        "bulk-postgres",
        "registrations of 2,000 instances in one request, against plain INSERT statements",
        |_| bulk::postgres().boxed_local(),
    ),
    ("bulk-sqlite", "the same on SQLite", |_| {
        bulk::sqlite().boxed_local()
    }),
    (
        "discovery",
        "lists of 100 instances, against the same bytes from memory",
        |options| discovery(options).boxed_local(),
    ),
    (
        "facades-renewal",
        "renewals of Eureka and Nacos, against a heartbeat",
        |_| facades::renewals().boxed_local(),
    ),
    (
        "facades-list",
        "lists of Consul, Eureka and Nacos, against the same bytes from memory",
        |_| facades::lists().boxed_local(),
    ),
    (
        "idle",
        "memory and processor time of an idle daemon",
        |_| idle().boxed_local(),
    ),
    (
        "watchers",
        "a change on its way to 1,000 event streams and 1,000 long polls",
        |_| watchers::run().boxed_local(),
    ),
    (
        "large-watch",
        "1,000 watchers of a service of 10,000 that changes 10 times a second",
        |_| watchers::large().boxed_local(),
    ),
    (
        "large-list",
        "a list of 5,000 instances, plain and compressed",
        |_| large_list().boxed_local(),
    ),
    (
        "overload",
        "three times the load that the daemon can serve",
        |_| overload::run().boxed_local(),
    ),
    (
        "start",
        "ready with a million instances on PostgreSQL and on SQLite",
        |options| start::start(options).boxed_local(),
    ),
    (
        "begin-at-once",
        "a million leases that begin together (2 to 5 minutes)",
        |options| start::begin_at_once(options).boxed_local(),
    ),
    (
        "scale-out",
        "batches of heartbeats over four replicas, and what an instance costs",
        |_| scale_out::run().boxed_local(),
    ),
    (
        "million",
        "a million instances at their real rate (6 minutes)",
        |_| million::run().boxed_local(),
    ),
    (
        "peers",
        "heartbeats, lists and registrations in turn with the server at --nacos",
        |options| peers(options).boxed_local(),
    ),
];

/// Returns the cases as text.
pub(crate) fn list() -> String {
    let lines = CASES.map(|(name, about, _)| format!("  {name:<22} {about}"));
    format!("Cases:\n{}", lines.join("\n"))
}

/// Runs the cases whose names contain one of the words; all cases without a word.
pub(crate) async fn run(options: Options) {
    let words = &options.cases;
    let has_one = |name: &str| words.iter().any(|word| name.contains(word.as_str()));
    let is_wanted = |(name, ..): &&Case| words.is_empty() || has_one(name);
    let wanted: Vec<&Case> = CASES.iter().filter(is_wanted).collect();
    assert!(!wanted.is_empty(), "no case has such a name\n{}", list());
    for (_, _, case) in wanted {
        case(&options).await;
    }
}

async fn peers(options: &Options) {
    match &options.nacos {
        Some(peer) => peers::run(peer).await,
        None => println!("\npeers: not run, because it needs --nacos URL"),
    }
}

/// A build of the daemon with its own files and lease store.
struct Daemon {
    name: &'static str,
    server: Server,
    /// Its Redis, with the ID of the process.
    redis: Option<(u32, Redis)>,
    _own: TempDir,
}

impl Daemon {
    /// Starts each of the builds, with or without a Redis, and with these instances.
    async fn all(options: &Options, on_redis: bool, arguments: &[&str], count: usize) -> Vec<Self> {
        let mut daemons = Vec::new();
        for (name, program) in options.builds() {
            let own = TempDir::new().unwrap();
            let mut arguments: Vec<String> =
                arguments.iter().map(|&text| text.to_owned()).collect();
            let mut redis = None;
            if on_redis {
                let started = Redis::start().await;
                arguments.extend(["--leases".to_owned(), started.url()]);
                redis = Some((id_of(&started).await, started));
            }
            let server = Server::daemon_of(program, own.path(), &arguments).await;
            fill(server.address, count).await;
            daemons.push(Self {
                name,
                server,
                redis,
                _own: own,
            });
        }
        daemons
    }

    /// Returns it as a contestant that receives these requests.
    fn receiving(
        &self,
        connections: usize,
        status: u16,
        request: impl Fn(usize, usize) -> Vec<u8> + Clone + 'static,
    ) -> Contestant<'static> {
        let contestant = over_http(self.name, &self.server, connections, status, request);
        match &self.redis {
            Some((id, _)) => contestant.with(*id),
            None => contestant,
        }
    }
}

async fn heartbeat_redis(options: &Options) {
    let daemons = Daemon::all(options, true, &[], INSTANCES).await;
    let other = Redis::start().await;
    let floor = Server::baseline("floor", "");
    let seed = Server::baseline("seed", &other.url());
    let direct = Server::baseline("seed-direct", &other.url());
    for connections in [64, 256] {
        let own = daemons.iter();
        let own = own.map(|daemon| daemon.receiving(connections, 200, send_heartbeats));
        let mut contestants: Vec<Contestant<'_>> = own.collect();
        contestants.extend([
            over_http("floor", &floor, connections, 200, send_heartbeats),
            over_http(
                "seed-shaped + Redis",
                &seed,
                connections,
                200,
                send_heartbeats,
            )
            .with(id_of(&other).await),
            over_http(
                "without its actor",
                &direct,
                connections,
                200,
                send_heartbeats,
            )
            .with(id_of(&other).await),
        ]);
        let case = format!("heartbeat, leases on Redis, {connections} connections");
        compare(&case, 1, contestants).await;
    }
}

async fn heartbeat_memory(options: &Options) {
    let daemons = Daemon::all(options, false, &[], INSTANCES).await;
    let floor = Server::baseline("floor", "");
    for connections in [64, 256] {
        let own = daemons.iter();
        let own = own.map(|daemon| daemon.receiving(connections, 200, send_heartbeats));
        let mut contestants: Vec<Contestant<'_>> = own.collect();
        contestants.push(over_http(
            "floor",
            &floor,
            connections,
            200,
            send_heartbeats,
        ));
        let case = format!("heartbeat, leases in memory, {connections} connections");
        compare(&case, 1, contestants).await;
    }
}

/// The baseline is Redis itself, called by the daemon's own lease store.
async fn batch(options: &Options) {
    let daemons = Daemon::all(options, true, &[], INSTANCES).await;
    let redis = Redis::start().await;
    let redis_id = id_of(&redis).await;
    let url = redis.url().parse().unwrap();
    let backend = lease::open(&url, Arc::new(SystemClock)).unwrap();
    let stores: Vec<_> = (0..8).map(|_| backend.connect()).collect();
    let own = daemons.iter();
    let own = own.map(|daemon| daemon.receiving(8, 200, made_once()));
    let mut contestants: Vec<Contestant<'_>> = own.collect();
    contestants.push(Contestant {
        name: "Redis alone",
        processes: vec![redis_id],
        round: Box::new(move || renewal::renew_for_a_round(stores.clone()).boxed_local()),
    });
    compare("batch of 500 heartbeats, 8 connections", BATCH, contestants).await;
}

/// Each has a database of its own on one server.
async fn registration_postgres(options: &Options) {
    let postgres = Postgres::start().await;
    let own = TempDir::new().unwrap();
    let start = async |program: &str| {
        let url = postgres.create_database().await;
        let store = ["--store".to_owned(), url.clone()];
        (Server::daemon_of(program, own.path(), &store).await, url)
    };
    // A daemon creates the tables; the statement needs declared services.
    let (daemon, url) = start(BINARY).await;
    drop(daemon);
    let declare = format!(
        "INSERT INTO scope (kind, key, created_at)
         SELECT 'service', 's-' || s, now() FROM generate_series(0, {SERVICES} - 1) AS s"
    );
    let client = connect(&url).await.unwrap();
    client.batch_execute(&declare).await.unwrap();
    let mut daemons = Vec::new();
    for (name, program) in options.builds() {
        daemons.push((name, start(program).await.0));
    }
    daemons.push((
        "one transaction each",
        Server::baseline("one-postgres", &url),
    ));
    let servers: Vec<_> = daemons
        .iter()
        .map(|(name, server)| (*name, server))
        .collect();
    compare_registrations("PostgreSQL, fsync on", &servers).await;
}

async fn compare_registrations(store: &str, servers: &[(&str, &Server)]) {
    for connections in [64, 256] {
        let contestants = servers
            .iter()
            .map(|(name, server)| over_http(name, server, connections, 201, registration()));
        let case = format!("registration, {store}, {connections} connections");
        compare(&case, 1, contestants.collect()).await;
    }
}

async fn registration_sqlite(options: &Options) {
    let daemons = Daemon::all(options, false, &[], 0).await;
    let other = TempDir::new().unwrap();
    drop(Server::daemon(other.path(), &[]).await);
    let file = other.path().join("rollcall.db");
    let declare = format!(
        "WITH RECURSIVE n (s) AS (SELECT 0 UNION ALL SELECT s + 1 FROM n WHERE s + 1 < {SERVICES})
         INSERT INTO scope (kind, key, created_at) SELECT 'service', 's-' || s, 0 FROM n"
    );
    let database = rusqlite::Connection::open(&file).unwrap();
    database.execute_batch(&declare).unwrap();
    drop(database);
    let one = Server::baseline("one-sqlite", file.to_str().unwrap());
    let own = daemons.iter().map(|daemon| (daemon.name, &daemon.server));
    let servers: Vec<(&str, &Server)> = own.chain([("one transaction each", &one)]).collect();
    compare_registrations("SQLite, synchronous=FULL", &servers).await;
}

async fn discovery(options: &Options) {
    // A long TTL, so that the answer stays the same.
    let daemons = Daemon::all(options, false, &["--lease-ttl", "1h"], 100).await;
    let own = TempDir::new().unwrap();
    let client = crate::support::daemon::client_builder().build().unwrap();
    let (mut etags, mut bytes) = (Vec::new(), bytes::Bytes::new());
    for daemon in &daemons {
        let url = format!("http://{}{LIST}", daemon.server.address);
        let answer = client
            .get(url)
            .bearer_auth("0123456789abcdef0123456789abcdef");
        let answer = answer.send().await.unwrap();
        etags.push(answer.headers()["etag"].to_str().unwrap().to_owned());
        bytes = answer.bytes().await.unwrap();
    }
    let file = own.path().join("answer");
    std::fs::write(&file, &bytes).unwrap();
    let fixed = Server::baseline("static", file.to_str().unwrap());
    let floor = Server::baseline("floor", "");
    let list = |_, _| request("GET", LIST, "", "");
    let own = daemons.iter().map(|daemon| daemon.receiving(64, 200, list));
    let mut contestants: Vec<Contestant<'_>> = own.collect();
    contestants.push(over_http("static", &fixed, 64, 200, list));
    let case = format!(
        "discovery of 100 instances, {} bytes, 64 connections",
        bytes.len()
    );
    compare(&case, 1, contestants).await;
    let unchanged = |etag: &String| {
        let known = format!("If-None-Match: {etag}\r\n");
        move |_, _| request("GET", LIST, &known, "")
    };
    let own = daemons.iter().zip(&etags);
    let own = own.map(|(daemon, etag)| daemon.receiving(64, 304, unchanged(etag)));
    let mut contestants: Vec<Contestant<'_>> = own.collect();
    contestants.push(over_http("floor", &floor, 64, 304, unchanged(&etags[0])));
    compare("discovery, not modified, 64 connections", 1, contestants).await;
}

async fn large_list() {
    let own = TempDir::new().unwrap();
    let ttl = ["--lease-ttl", "1h"].map(str::to_owned);
    let daemon = Server::daemon(own.path(), &ttl).await;
    fill_at_once(daemon.address, 5_000).await;
    sleep(Duration::from_secs(2)).await;
    let list = |coding: &str| {
        let header = match coding {
            "" => String::new(),
            coding => format!("Accept-Encoding: {coding}\r\n"),
        };
        move |_, _| request("GET", LIST, &header, "")
    };
    let mut connection = Connection::open(daemon.address).await.unwrap();
    let mut sizes = Vec::new();
    for coding in ["", "gzip", "zstd"] {
        let asked = connection.ask(&list(coding)(0, 0)).await;
        assert_eq!(asked.unwrap(), 200);
        sizes.push(format!("{coding} {}", connection.received()));
    }
    let contestants = vec![
        over_http("zstd", &daemon, 8, 200, list("zstd")),
        over_http("gzip", &daemon, 8, 200, list("gzip")),
        over_http("plain", &daemon, 8, 200, list("")),
    ];
    let case = format!(
        "list of 5,000 instances, 8 connections, bytes: {}",
        sizes.join(", ")
    );
    compare(&case, 1, contestants).await;
}

async fn idle() {
    let own = TempDir::new().unwrap();
    let daemon = Server::daemon(own.path(), &[]).await;
    let (begin, before) = (Instant::now(), processor_time(daemon.id()));
    sleep(Duration::from_secs(15)).await;
    let spent = processor_time(daemon.id()) - before;
    println!(
        "\nidle, nothing registered\n  rollcalld {:.1} MiB, {:.2} % of a core",
        memory(daemon.id()) as f64 / f64::from(1 << 20),
        100.0 * spent.as_secs_f64() / begin.elapsed().as_secs_f64()
    );
}
