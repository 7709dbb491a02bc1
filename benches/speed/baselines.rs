//! The baselines, each a server of its own: `speed --serve NAME …`.
//!
//! They have the daemon's server settings and read requests as it does, and do only what their
//! names say.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use actix::{Actor, Addr, Arbiter, Context, Handler, Message, ResponseFuture};
use actix_web::http::header::ETAG;
use actix_web::{App, HttpResponse, HttpServer, web};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, Client};
use serde::Deserialize;
use tokio::sync::OnceCell;

const BEAT: &str = "/v1/{kind:groups|services}/{key}/instances/{address}/heartbeat";
const INSTANCE: &str = "/v1/{kind:groups|services}/{key}/instances/{address}";
const INSTANCES: &str = "/v1/{kind:groups|services}/{key}/instances";

type Instance = web::Path<(String, String, String)>;

#[derive(Deserialize)]
struct Batch {
    leases: Vec<Lease>,
}

#[derive(Deserialize)]
struct Lease {
    service: String,
    address: String,
}

#[derive(Deserialize)]
struct Registration {
    weight: Option<i32>,
    #[serde(default)]
    metadata: HashMap<String, String>,
}

/// Serves a baseline until the process ends, and prints its address.
pub(crate) fn serve(arguments: &[String]) {
    let [name, argument] = arguments else {
        panic!("--serve NAME ARGUMENT");
    };
    let (name, argument) = (name.clone(), argument.clone());
    actix_web::rt::System::new().block_on(async move {
        let server = HttpServer::new(move || {
            let app = App::new();
            let argument = argument.clone();
            match name.as_str() {
                "floor" => app.configure(floor),
                "seed" => app.configure(|app| seed_shaped(app, &argument)),
                "seed-direct" => app.configure(|app| seed_direct(app, &argument)),
                "static" => app.configure(|app| fixed(app, &argument)),
                "one-postgres" => app.configure(|app| one_postgres(app, &argument)),
                "one-sqlite" => app.configure(|app| one_sqlite(app, &argument)),
                other => panic!("no baseline {other}"),
            }
        });
        let server = server
            .workers(std::thread::available_parallelism().unwrap().get())
            .keep_alive(Duration::from_secs(75))
            .bind("127.0.0.1:0")
            .unwrap();
        let mut out = std::io::stdout();
        writeln!(out, "listening on http://{}", server.addrs()[0]).unwrap();
        out.flush().unwrap();
        server.run().await.unwrap();
    });
}

/// Reads the request and returns a constant answer.
fn floor(app: &mut web::ServiceConfig) {
    let send_heartbeats = web::put().to(async |instance: Instance| {
        assert!(!instance.2.is_empty());
        json("{\"created\":false,\"ttl_seconds\":30,\"next_heartbeat_in_ms\":12345}")
    });
    let batch = web::post().to(async |batch: web::Json<Batch>| {
        let named = |lease: &Lease| !lease.service.is_empty() && !lease.address.is_empty();
        assert!(batch.leases.iter().all(named));
        json("{\"renewed\":500,\"created\":0,\"unknown\":[]}")
    });
    app.route(BEAT, send_heartbeats);
    app.route("/v1/heartbeats", batch);
    let unchanged = async || HttpResponse::NotModified().finish();
    app.route(INSTANCES, web::get().to(unchanged));
}

fn json(body: &'static str) -> HttpResponse {
    let mut answer = HttpResponse::Ok();
    answer.content_type("application/json").body(body)
}

/// The three calls of the original, one after another.
async fn three_calls(
    connection: &mut MultiplexedConnection,
    server: &str,
    address: &str,
) -> redis::RedisResult<()> {
    let key = format!("heartbeat:server:{server}:{address}");
    let now = chrono::DateTime::<chrono::Utc>::UNIX_EPOCH.to_rfc3339();
    let known: HashMap<String, String> = connection.hgetall(&key).await?;
    let fields: &[(&str, &str)] = if known.is_empty() {
        &[
            ("lastTime", &now),
            ("startTime", &now),
            ("url", address),
            ("weight", "1"),
        ]
    } else {
        &[("lastTime", &now)]
    };
    let () = connection.hset_multiple(&key, fields).await?;
    connection.expire(&key, 30).await
}

/// A connection that is made and kept on the thread of its first use.
#[derive(Clone)]
struct Redis {
    client: Client,
    connection: Arc<OnceCell<MultiplexedConnection>>,
}

impl Redis {
    fn new(url: &str) -> Self {
        Self {
            client: Client::open(url).unwrap(),
            connection: Arc::default(),
        }
    }

    async fn send_heartbeats(&self, server: &str, address: &str) {
        let connect = || async { self.client.get_multiplexed_async_connection().await };
        let connection = self.connection.get_or_try_init(connect).await;
        let mut connection = connection.unwrap().clone();
        three_calls(&mut connection, server, address).await.unwrap();
    }
}

/// One actor on a thread of its own that makes the three calls.
struct SeedActor(Redis);

impl Actor for SeedActor {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "()")]
struct SeedBeat(Instance);

impl Handler<SeedBeat> for SeedActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, SeedBeat(instance): SeedBeat, _: &mut Context<Self>) -> Self::Result {
        let redis = self.0.clone();
        Box::pin(async move { redis.send_heartbeats(&instance.1, &instance.2).await })
    }
}

/// The original's structure: one HeartbeatActor for all workers.
fn seed_shaped(app: &mut web::ServiceConfig, url: &str) {
    static ACTOR: OnceLock<Addr<SeedActor>> = OnceLock::new();
    let actor = ACTOR.get_or_init(|| {
        let redis = Redis::new(url);
        SeedActor::start_in_arbiter(&Arbiter::new().handle(), |_| SeedActor(redis))
    });
    let send_heartbeats = web::put().to(async |instance: Instance| {
        actor.send(SeedBeat(instance)).await.unwrap();
        json("{\"created\":false,\"ttl_seconds\":30,\"next_heartbeat_in_ms\":12345}")
    });
    app.route(BEAT, send_heartbeats);
}

/// The same three calls without an actor, from a connection per worker.
fn seed_direct(app: &mut web::ServiceConfig, url: &str) {
    let redis = Redis::new(url);
    let send_heartbeats = web::put().to(move |instance: Instance| {
        let redis = redis.clone();
        async move {
            redis.send_heartbeats(&instance.1, &instance.2).await;
            json("{\"created\":false,\"ttl_seconds\":30,\"next_heartbeat_in_ms\":12345}")
        }
    });
    app.route(BEAT, send_heartbeats);
}

/// The bytes of a list response, from memory.
fn fixed(app: &mut web::ServiceConfig, path: &str) {
    let bytes = bytes::Bytes::from(std::fs::read(path).unwrap());
    let answer = move |_: web::Path<(String, String)>| {
        let bytes = bytes.clone();
        async move {
            let mut answer = HttpResponse::Ok();
            answer.insert_header((ETAG, "\"0123456789abcdef\""));
            answer.content_type("application/json").body(bytes)
        }
    };
    app.route(INSTANCES, web::get().to(answer));
}

const POSTGRES: &str = include_str!("../../sql/postgres/queries/register_instances.sql");
const SCOPE: &str = include_str!("../../sql/sqlite/queries/find_scope.sql");
const SQLITE: &str = include_str!("../../sql/sqlite/queries/register_instances.sql");

/// The daemon's statement in a transaction per request.
fn one_postgres(app: &mut web::ServiceConfig, url: &str) {
    let config: tokio_postgres::Config = url.parse().unwrap();
    let manager = deadpool_postgres::Manager::new(config, tokio_postgres::NoTls);
    let pool = deadpool_postgres::Pool::builder(manager)
        .max_size(16)
        .build()
        .unwrap();
    let register = move |instance: Instance, body: web::Json<Registration>| {
        let pool = pool.clone();
        async move {
            let (_, service, address) = instance.into_inner();
            let mut client = pool.get().await.unwrap();
            let statement = client.prepare_cached(POSTGRES).await.unwrap();
            let transaction = client.transaction().await.unwrap();
            let metadata = serde_json::to_value(&body.metadata).unwrap();
            let now = chrono::DateTime::<chrono::Utc>::UNIX_EPOCH;
            let (kinds, names, ttls) = (["service"], [None::<String>], [None::<i32>]);
            let (keys, addresses) = ([service], [address]);
            let (weights, metadata) = ([body.weight], [Some(metadata)]);
            let by = [None::<String>];
            let statuses = ["enabled"];
            let rows = transaction
                .query(
                    &statement,
                    &[
                        &kinds.as_slice(),
                        &keys.as_slice(),
                        &addresses.as_slice(),
                        &names.as_slice(),
                        &weights.as_slice(),
                        &metadata.as_slice(),
                        &ttls.as_slice(),
                        &by.as_slice(),
                        &statuses.as_slice(),
                        &now,
                        &false,
                        &false,
                        &false,
                        &false,
                        &false,
                    ],
                )
                .await
                .unwrap();
            assert_eq!(rows.len(), 1);
            transaction.commit().await.unwrap();
            HttpResponse::Created().finish()
        }
    };
    app.route(INSTANCE, web::put().to(register));
}

/// The same on SQLite, on the pool of blocking threads.
fn one_sqlite(app: &mut web::ServiceConfig, path: &str) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection
        .pragma_update(None, "synchronous", "FULL")
        .unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    let connection = Arc::new(Mutex::new(connection));
    let register = move |instance: Instance, body: web::Json<Registration>| {
        let connection = Arc::clone(&connection);
        async move {
            let (_, service, address) = instance.into_inner();
            let metadata = serde_json::to_string(&body.metadata).unwrap();
            let insert = move || {
                let mut connection = connection.lock().unwrap();
                let kind = rusqlite::TransactionBehavior::Immediate;
                let transaction = connection.transaction_with_behavior(kind).unwrap();
                {
                    let mut find = transaction.prepare_cached(SCOPE).unwrap();
                    let id = |row: &rusqlite::Row<'_>| row.get::<_, i64>("id");
                    let scope_id = find.query_row(("service", &service), id).unwrap();
                    let mut statement = transaction.prepare_cached(SQLITE).unwrap();
                    let row = rusqlite::params![
                        scope_id,
                        "enabled",
                        address,
                        None::<String>,
                        body.weight,
                        metadata,
                        None::<i32>,
                        None::<String>,
                        0_i64,
                        false,
                        false,
                        false,
                        false,
                        false,
                    ];
                    assert_eq!(statement.execute(row).unwrap(), 1);
                }
                transaction.commit().unwrap();
            };
            web::block(insert).await.unwrap();
            HttpResponse::Created().finish()
        }
    };
    app.route(INSTANCE, web::put().to(register));
}
