//! How the daemon starts, what it logs, and how it fails to start.

use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::daemon::{BINARY, Daemon};
use crate::support::eventually;
use crate::support::postgres::{self, Postgres};
use crate::support::process::free_port;
use crate::support::redis::Redis;

/// Runs the command to its end, in a folder of its own.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let dir = TempDir::new().unwrap();
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(BINARY)
        .args(arguments)
        .envs(variables.iter().copied())
        .current_dir(dir.path())
        .output()
        .unwrap();
    let text = [stdout, stderr]
        .map(|bytes| String::from_utf8(bytes).unwrap())
        .concat();
    assert!(!text.contains("panicked"), "{text}");
    (status.code().unwrap(), text)
}

#[test]
fn a_bad_setting_exits_2_and_names_itself() {
    for (arguments, variables, says) in [
        (
            &["--listen", "nowhere"][..],
            &[][..],
            "'--listen <IP:PORT>'",
        ),
        (
            &["--store", "mysql://h/db"],
            &[],
            "'--store <URL>': must be sqlite:PATH",
        ),
        (
            &["--leases", "redis://"],
            &[],
            "'--leases <URL>': a host is missing",
        ),
        (
            &["--lease-ttl", "3s"],
            &[],
            "'--lease-ttl <DURATION>': must be from 5 to 3600",
        ),
        (&["migrate", "--store", "x"], &[], "'--store <URL>'"),
        (&["--no-such-flag"], &[], "'--no-such-flag'"),
        (&[], &[("ROLLCALL_WORKERS", "many")], "'--workers <COUNT>'"),
        (&[], &[("ROLLCALL_LEASE_TLL", "30s")], "ROLLCALL_LEASE_TLL"),
    ] {
        let (code, text) = run(arguments, variables);
        assert_eq!(code, 2, "{arguments:?} {text}");
        assert!(text.contains(says), "{arguments:?} says {text}");
    }
}

#[test]
fn help_names_every_setting_with_its_variable_and_default() {
    let (code, text) = run(
        &["--help"],
        &[("ROLLCALL_STORE", "postgres://u:s3cret@h/db")],
    );
    assert_eq!(code, 0);
    for part in [
        "--listen",
        "ROLLCALL_LISTEN",
        "127.0.0.1:18080",
        "--store",
        "ROLLCALL_STORE",
        "sqlite:rollcall.db",
        "--leases",
        "memory:",
        "--lease-ttl",
        "30s",
        "--roll-call-interval",
        "15s",
        "--roll-call-channel",
        "heartBeat",
        "--roll-call-message",
        "来自网关中心的心跳请求",
        "--workers",
        "--start-timeout",
        "60s",
        "RUST_LOG",
        "migrate",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    assert!(!text.contains("s3cret"));
}

#[tokio::test]
async fn it_says_where_it_listens_and_on_what_without_passwords() {
    let postgres = postgres::shared().await.create_database().await;
    let postgres = postgres.replace("postgres@", "postgres:s3cret@");
    let redis = Redis::start().await;
    let arguments = [
        "--store".into(),
        postgres.clone(),
        "--leases".into(),
        redis.url(),
    ];
    let daemon = Daemon::start(&arguments).await;
    let log = daemon.log();
    let store = postgres.replace("s3cret", "***");
    assert!(
        log.contains(&format!("store {store}, leases {}", redis.url())),
        "{log}"
    );
    assert!(!log.contains("s3cret"), "{log}");
    assert!(!daemon.address().ends_with(":0"));
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let daemon = Daemon::start(&[]).await;
    let (code, text) = run(&["--listen", daemon.address()], &[]);
    assert_eq!(code, 1);
    let says = format!("cannot listen on {} (--listen): ", daemon.address());
    assert!(text.contains(&says), "{text}");
}

#[tokio::test]
async fn a_sqlite_file_has_one_daemon() {
    let daemon = Daemon::start(&[]).await;
    let store = format!("sqlite:{}/rollcall.db", daemon.dir().display());
    for arguments in [&["--store", &store][..], &["migrate", "--store", &store]] {
        let (code, text) = run(arguments, &[("ROLLCALL_LISTEN", "127.0.0.1:0")]);
        assert_eq!(code, 1);
        assert!(text.contains("another rollcalld uses this file"), "{text}");
    }
}

#[test]
fn a_limit_on_open_files_that_is_too_low_stops_the_start() {
    let dir = TempDir::new().unwrap();
    // The shell sets both limits, so the daemon cannot raise its own.
    let Output { status, stderr, .. } = Command::new("sh")
        .args(["-c", "ulimit -n 100 && exec \"$0\" --listen 127.0.0.1:0"])
        .arg(BINARY)
        .current_dir(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("the system allows 100 open files (ulimit -n)"),
        "{said}"
    );
}

#[test]
fn a_sqlite_file_that_cannot_be_is_named() {
    let (code, text) = run(
        &[
            "--store",
            "sqlite:/no/such/folder/r.db",
            "--listen",
            "127.0.0.1:0",
        ],
        &[],
    );
    assert_eq!(code, 1);
    assert!(
        text.contains("cannot open sqlite:/no/such/folder/r.db: "),
        "{text}"
    );
}

#[tokio::test]
async fn a_database_of_a_newer_schema_is_refused_with_what_to_do() {
    let database = postgres::shared().await.create_database().await;
    let dir = TempDir::new().unwrap();
    let sqlite = format!("sqlite:{}/r.db", dir.path().display());
    let newer = "INSERT INTO refinery_schema_history (version, name, applied_on, checksum)
        VALUES (99, 'later', '2030-01-01T00:00:00Z', '1')";
    for store in [&database, &sqlite] {
        assert_eq!(run(&["migrate", "--store", store], &[]).0, 0);
    }
    let client = postgres::connect(&database).await.unwrap();
    client.batch_execute(newer).await.unwrap();
    let connection = rusqlite::Connection::open(dir.path().join("r.db")).unwrap();
    connection.execute_batch(newer).unwrap();
    drop(connection);
    for arguments in [
        ["migrate", "--store", &database],
        ["serve", "--store", &database],
        ["migrate", "--store", &sqlite],
        ["serve", "--store", &sqlite],
    ] {
        let (code, text) = run(&arguments, &[("ROLLCALL_LISTEN", "127.0.0.1:0")]);
        assert_eq!(code, 1);
        // The last migration concerns PostgreSQL alone.
        let newest = if arguments[2] == database { 7 } else { 6 };
        let says = format!(
            "the database has schema version 99, but this rollcalld supports versions up to {newest}: run a newer rollcalld"
        );
        assert!(text.contains(&says), "{arguments:?} says {text}");
    }
}

#[tokio::test]
async fn migrate_says_what_it_did() {
    let database = postgres::shared().await.create_database().await;
    let (code, text) = run(&["migrate"], &[("ROLLCALL_STORE", &database)]);
    let applied = "applied V1__registry\napplied V2__keys_by_bytes\napplied V3__replicas\napplied V4__addresses\napplied V5__decisions\napplied V6__actions\napplied V7__replica_state\n";
    assert_eq!((code, text.as_str()), (0, applied));
    let (code, text) = run(&["migrate", "--store", &database], &[]);
    assert_eq!(
        (code, text),
        (0, format!("the schema of {database} is up to date\n"))
    );
}

#[tokio::test]
async fn daemons_that_start_at_once_migrate_once() {
    let database = postgres::shared().await.create_database().await;
    let redis = Redis::start().await;
    let arguments = ["--store".into(), database, "--leases".into(), redis.url()];
    let daemons = (0..4).map(|_| Daemon::start(&arguments));
    let daemons = futures_util::future::join_all(daemons).await;
    let migrated = daemons
        .iter()
        .filter(|daemon| daemon.log().contains("V1__registry"));
    assert_eq!(migrated.count(), 1);
}

#[tokio::test]
async fn it_waits_for_its_stores_and_says_so() {
    let mut postgres = Postgres::start().await;
    let mut redis = Redis::start().await;
    postgres.kill().await;
    redis.kill();
    let arguments = [
        "--store".into(),
        postgres.url("postgres"),
        "--leases".into(),
        redis.url(),
    ];
    let daemon = Daemon::launch(&arguments, Arc::new(TempDir::new().unwrap()));
    eventually(
        Duration::from_secs(10),
        "it says what it waits for",
        || async {
            let log = daemon.log();
            let waits = log.contains(&format!("waiting for {}", postgres.url("postgres")))
                && log.contains(&format!("waiting for {}", redis.url()));
            waits.then_some(())
        },
    )
    .await;
    assert_eq!(daemon.get("/livez").await.0, 200);
    let (status, body) = daemon.get("/readyz").await;
    assert_eq!(
        (status.as_u16(), &body["status"]),
        (503, &json!("starting"))
    );
    assert_eq!(
        (&body["checks"]["store"], &body["checks"]["leases"]),
        (&json!("unavailable"), &json!("unavailable"))
    );
    let (status, body) = daemon.get("/v1/services").await;
    assert_eq!((status.as_u16(), &body["code"]), (503, &json!("starting")));

    let url = format!("{}/v1/services", daemon.url());
    let answer = daemon.client().get(url).send().await.unwrap();
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    assert_eq!(answer.headers()["retry-after"], "1");

    postgres.restart().await;
    redis.restart().await;
    daemon.ready().await;
    assert_eq!(daemon.get("/v1/services").await.0, StatusCode::OK);
    assert!(!daemon.log().contains("panicked"));
}

#[tokio::test]
async fn a_store_that_does_not_come_in_time_ends_the_start() {
    let nobody = format!("127.0.0.1:{}", free_port());
    for arguments in [
        [
            "--store",
            &format!("postgres://u@{nobody}/db"),
            "--start-timeout",
            "2s",
        ],
        [
            "--leases",
            &format!("redis://{nobody}"),
            "--start-timeout",
            "2s",
        ],
    ] {
        let (code, text) = run(&arguments, &[("ROLLCALL_LISTEN", "127.0.0.1:0")]);
        assert_eq!(code, 1);
        let says = format!(
            "{} could not be reached within 2s (--start-timeout): ",
            arguments[1]
        );
        assert!(text.contains(&says), "{text}");
        assert!(text.contains("Connection refused"), "{text}");
    }
}

#[tokio::test]
async fn a_migration_that_another_daemon_does_not_end_ends_the_start() {
    let database = postgres::shared().await.create_database().await;
    let client = postgres::connect(&database).await.unwrap();
    let lock = format!("SELECT pg_advisory_lock({})", 0x726f_6c6c_6361_6c6c_i64);
    client.batch_execute(&lock).await.unwrap();
    let arguments = [
        "--store",
        &database,
        "--start-timeout",
        "2s",
        "--listen",
        "127.0.0.1:0",
    ];
    let (code, text) = run(&arguments, &[]);
    assert_eq!(code, 1);
    let says = "could not be reached within 2s (--start-timeout): it did not answer, or another daemon is migrating it";
    assert!(text.contains(says), "{text}");
}

/// PostgreSQL refuses a statement that was prepared before a column got another type.
#[tokio::test]
async fn a_migration_by_another_daemon_fails_no_registration() {
    let database = postgres::shared().await.create_database().await;
    let daemon = Daemon::start(&["--store".into(), database.clone()]).await;
    let register = async |address: &str| {
        let path = format!("/v1/services/orders/instances/{address}");
        daemon.put(&path, json!({})).await.0
    };
    assert_eq!(register("a:1").await, 201);
    let client = postgres::connect(&database).await.unwrap();
    let migration = "ALTER TABLE instance ALTER COLUMN address TYPE varchar";
    client.batch_execute(migration).await.unwrap();
    assert_eq!(register("b:1").await, 201);
}

#[tokio::test]
async fn the_log_is_json_if_that_is_asked() {
    let daemon = Daemon::start(&["--log-format", "json"].map(str::to_owned)).await;
    let log = daemon.log();
    assert!(log.lines().count() >= 3, "{log}");
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        for field in ["time", "level", "target", "message"] {
            assert!(line[field].is_string(), "{line}");
        }
    }
    assert!(log.contains("\"message\":\"ready\""), "{log}");
}
