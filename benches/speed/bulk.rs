//! Registrations of many instances in one request, against plain INSERT statements.

use std::cell::Cell;
use std::fmt::Write;
use std::path::PathBuf;
use std::rc::Rc;

use futures_util::FutureExt;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::comparison::{Contestant, ROUND, compare, over_http};
use crate::load::{Round, micros};
use crate::servers::{Server, request};
use crate::support::postgres::{Postgres, connect};

/// The number of registrations in a request.
const BATCH: usize = 2_000;

/// The number of rows in a transaction of the baseline: as many as the daemon commits at once.
const ROWS: usize = 500;

const CONNECTIONS: usize = 4;

/// The number of instances of a service.
const EACH: usize = 1_000;

const METADATA: &str = r#"{"zone":"a","version":"1.2.3"}"#;

pub(crate) async fn postgres() {
    let postgres = Postgres::start().await;
    let (url, other) = (
        postgres.create_database().await,
        postgres.create_database().await,
    );
    let own = TempDir::new().unwrap();
    let daemon = Server::daemon(own.path(), &["--store".to_owned(), url]).await;
    let client = Rc::new(connect(&other).await.unwrap());
    // The table without its foreign key, checks and defaults.
    let table = "CREATE TABLE instance (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, scope_id bigint NOT NULL,
        address text NOT NULL, weight integer, metadata jsonb, status text NOT NULL, online boolean NOT NULL DEFAULT false,
        registered_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, revision bigint NOT NULL DEFAULT 1,
        UNIQUE (scope_id, address))";
    client.batch_execute(table).await.unwrap();
    let number = Rc::new(Cell::new(0));
    let inserts = Contestant {
        name: "INSERT of 500 rows",
        processes: Vec::new(),
        round: Box::new(move || {
            into_postgres(Rc::clone(&client), Rc::clone(&number)).boxed_local()
        }),
    };
    compare_with("PostgreSQL, fsync on", &daemon, inserts).await;
}

pub(crate) async fn sqlite() {
    let (own, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let daemon = Server::daemon(own.path(), &[]).await;
    let file = other.path().join("plain.db");
    let number = Rc::new(Cell::new(0));
    let inserts = Contestant {
        name: "INSERT of 500 rows",
        processes: Vec::new(),
        round: Box::new(move || into_sqlite(file.clone(), Rc::clone(&number)).boxed_local()),
    };
    compare_with("SQLite, synchronous=FULL", &daemon, inserts).await;
}

async fn compare_with(store: &str, daemon: &Server, inserts: Contestant<'_>) {
    let contestants = vec![
        over_http("rollcalld", daemon, CONNECTIONS, 200, registrations()),
        inserts,
    ];
    let case = format!("registrations of {BATCH} instances, {store}, {CONNECTIONS} connections");
    compare(&case, BATCH, contestants).await;
}

/// Requests that register new instances, service by service, as an export has them.
fn registrations() -> impl Fn(usize, usize) -> Vec<u8> + Clone {
    let begin = Instant::now();
    move |connection, n| {
        let moment = begin.elapsed().as_nanos();
        let mut body = String::from(r#"{"registrations":["#);
        for i in 0..BATCH {
            let comma = if i == 0 { "" } else { "," };
            let service = format!("{connection}-{}", (n * BATCH + i) / EACH);
            // Writing to a string cannot fail.
            let _ = write!(
                body,
                r#"{comma}{{"service":"s-{service}","address":"h-{connection}-{n}-{moment}-{i}:80","weight":2,"metadata":{METADATA}}}"#
            );
        }
        body.push_str("]}");
        request("POST", "/v1/registrations", "", &body)
    }
}

async fn into_postgres(client: Rc<Client>, number: Rc<Cell<usize>>) -> Round {
    let insert = "INSERT INTO instance (scope_id, address, weight, metadata, status, registered_at, updated_at)
        SELECT given.scope_id, given.address, 2, $3::text::jsonb, 'enabled', now(), now()
        FROM unnest($1::bigint[], $2::text[]) AS given (scope_id, address)";
    let insert = client.prepare(insert).await.unwrap();
    let (begin, mut latencies) = (Instant::now(), Vec::new());
    while begin.elapsed() < ROUND {
        let sent = Instant::now();
        for _ in 0..BATCH / ROWS {
            let (scopes, addresses): (Vec<i64>, Vec<String>) = rows(&number).unzip();
            let done = client
                .execute(&insert, &[&scopes, &addresses, &METADATA])
                .await;
            assert_eq!(done.unwrap(), ROWS as u64);
        }
        latencies.push(micros(sent.elapsed()));
    }
    Round::of(latencies, begin.elapsed())
}

async fn into_sqlite(file: PathBuf, number: Rc<Cell<usize>>) -> Round {
    let mut database = Connection::open(file).unwrap();
    let table = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
        CREATE TABLE IF NOT EXISTS instance (id INTEGER PRIMARY KEY AUTOINCREMENT, scope_id INTEGER NOT NULL,
        address TEXT NOT NULL, weight INTEGER, metadata TEXT, status TEXT NOT NULL, online INTEGER NOT NULL DEFAULT 0,
        registered_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, revision INTEGER NOT NULL DEFAULT 1,
        UNIQUE (scope_id, address))";
    database.execute_batch(table).unwrap();
    let (begin, mut latencies) = (Instant::now(), Vec::new());
    while begin.elapsed() < ROUND {
        let sent = Instant::now();
        for _ in 0..BATCH / ROWS {
            let transaction = database.transaction().unwrap();
            let insert = "INSERT INTO instance (scope_id, address, weight, metadata, status, registered_at, updated_at)
                VALUES (?1, ?2, 2, ?3, 'enabled', 0, 0)";
            let mut statement = transaction.prepare_cached(insert).unwrap();
            for (scope, address) in rows(&number) {
                statement.execute((scope, address, METADATA)).unwrap();
            }
            drop(statement);
            transaction.commit().unwrap();
        }
        latencies.push(micros(sent.elapsed()));
    }
    Round::of(latencies, begin.elapsed())
}

/// Returns the scopes and addresses of the next rows.
fn rows(number: &Cell<usize>) -> impl Iterator<Item = (i64, String)> {
    let first = number.get();
    number.set(first + ROWS);
    let row = |i: usize| ((i / EACH) as i64, format!("h-{i}-of-the-baseline:80"));
    (first..first + ROWS).map(row)
}
