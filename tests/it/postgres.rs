//! PostgreSQL as it is run: roles with few rights, a server that becomes read-only, upgrades
//! beside readers.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::support::backends::{Backends, Shared};
use crate::support::command::run;
use crate::support::daemon::Daemon;
use crate::support::{addresses, eventually, postgres};

/// Runs `rollcalld migrate`, and returns its exit code and output.
async fn migrate(store: String) -> (Option<i32>, String) {
    let output = run(&["migrate", "--store", &store], &[]).await;
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code(), said.concat())
}

#[tokio::test]
async fn a_role_without_create_can_run_the_daemon() {
    let setup = Shared::new().await;
    let owner = postgres::connect(&setup.store).await.unwrap();
    let (server, database) = setup.store.rsplit_once('/').unwrap();
    let role = format!("app_{database}");
    owner
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA public TO {role}"
        ))
        .await
        .unwrap();
    let store = format!(
        "{}/{database}",
        server.replace("postgres@", &format!("{role}@"))
    );
    // Before the tables are there.
    let (code, text) = migrate(store.clone()).await;
    assert_eq!(code, Some(1));
    assert!(
        text.contains("permission denied for schema public")
            && text.contains("run rollcalld migrate as the owner of the tables"),
        "{text}"
    );
    assert_eq!(migrate(setup.store.clone()).await.0, Some(0));
    // As docs/deployment.md lists them.
    let rights = format!(
        "GRANT SELECT ON refinery_schema_history TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON scope, instance, replica, action TO {role}"
    );
    owner.batch_execute(&rights).await.unwrap();
    let leases = setup.redis.url();
    let daemon = Daemon::start(&["--store", &store, "--leases", &leases].map(str::to_owned)).await;
    let addresses = addresses(3);
    daemon.register("orders", &addresses, &json!({})).await;
    daemon.send_heartbeats("orders", &addresses).await;
    assert_eq!(daemon.counts("orders").await, [3, 3, 3]);
    let (status, _) = daemon.delete("/v1/services/orders/instances/h-0:1").await;
    assert_eq!(status, 204);
    let (_, actions) = daemon.get("/v1/actions").await;
    assert_eq!(actions["actions"].as_array().unwrap().len(), 1, "{actions}");
    assert!(!daemon.log().contains("denied"), "{}", daemon.log());
    // Without a right that serving does not need, the daemon reports the effect.
    owner
        .batch_execute(&format!("REVOKE ALL ON replica FROM {role}"))
        .await
        .unwrap();
    eventually(Duration::from_secs(10), "it is said", || async {
        let said = daemon.log().contains(
            "the lease stores of the replicas cannot be compared: the registry store refused a statement: \
             db error: ERROR: permission denied for table replica",
        );
        let (_, overview) = daemon.get("/v1/overview").await;
        let reason = overview["protection"]["reason"].as_str();
        (said && reason.is_some_and(|reason| reason.contains("cannot be compared"))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_database_that_becomes_read_only_is_not_ready_until_it_can_be_written() {
    let setup = Shared::new().await;
    let daemon = Daemon::start(&setup.arguments()).await;
    let owner = postgres::connect(&setup.store).await.unwrap();
    let (_, database) = setup.store.rsplit_once('/').unwrap();
    let read_only = async |value: &str| {
        // It applies to new sessions; open ones are ended, as when a primary is demoted.
        let statements = format!(
            "ALTER DATABASE {database} SET default_transaction_read_only = {value};
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = '{database}' AND pid <> pg_backend_pid()"
        );
        let statements = format!("SET default_transaction_read_only = off; {statements}");
        owner.batch_execute(&statements).await.unwrap();
    };
    let readiness = async |wanted: u16| {
        eventually(Duration::from_secs(10), "its readiness", || async {
            let (status, body) = daemon.get("/readyz?backends=required").await;
            let check = if wanted == 200 { "ok" } else { "unavailable" };
            (status == wanted && body["checks"]["store"] == check).then_some(())
        })
        .await;
    };
    read_only("on").await;
    readiness(503).await;
    read_only("off").await;
    readiness(200).await;
    let (status, body) = daemon
        .put("/v1/services/orders/instances/a:1", json!({}))
        .await;
    assert_eq!(status, 201, "{body}");
}

#[tokio::test]
async fn a_migration_behind_a_long_reader_delays_no_write_for_long() {
    let setup = Shared::new().await;
    let daemon = Daemon::start(&setup.arguments()).await;
    let owner = postgres::connect(&setup.store).await.unwrap();
    // As before an upgrade that alters the tables.
    let older = "DELETE FROM refinery_schema_history WHERE version > 1; DROP TABLE replica";
    owner.batch_execute(older).await.unwrap();
    let reader = postgres::connect(&setup.store).await.unwrap();
    reader
        .batch_execute("BEGIN; SELECT count(*) FROM instance")
        .await
        .unwrap();
    let migrated = tokio::spawn(migrate(setup.store.clone()));
    let begin = Instant::now();
    let mut number = 0;
    while begin.elapsed() < Duration::from_secs(15) {
        let path = format!("/v1/services/orders/instances/h-{number}:1");
        let written = timeout(Duration::from_secs(2), daemon.put(&path, json!({}))).await;
        let (status, body) = written.expect("a write is delayed by the migration");
        assert_eq!(status, 201, "{body}");
        number += 1;
        sleep(Duration::from_millis(50)).await;
    }
    assert!(!migrated.is_finished(), "the reader holds it up");
    reader.batch_execute("COMMIT").await.unwrap();
    let (code, text) = migrated.await.unwrap();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("applied V2__keys_by_bytes"), "{text}");
}

#[tokio::test]
async fn a_registration_finds_its_service_by_an_index_however_few_there_were() {
    let setup = Shared::new().await;
    let leases = setup.redis.url();
    let arguments = ["--store", &setup.store, "--leases", &leases].map(str::to_owned);
    let daemon = Daemon::start(&arguments).await;
    let client = postgres::connect(&setup.store).await.unwrap();
    let register = async |numbers: std::ops::Range<u32>| {
        let entry = |i| json!({"service": format!("s-{i}"), "address": "h:80"});
        let entries: Vec<_> = numbers.map(entry).collect();
        let body = json!({ "registrations": entries });
        let (status, answer) = daemon.post("/v1/registrations", body).await;
        assert_eq!(status, 200);
        assert_eq!(answer["failed"], json!(0));
    };
    // With few rows, to read them all is less work, and the plan of a check is kept.
    register(0..50).await;
    client.batch_execute("ANALYZE scope").await.unwrap();
    register(50..100).await;
    register(100..3_100).await;
    let counted = "SELECT idx_scan, seq_tup_read FROM pg_stat_user_tables WHERE relname = 'scope'";
    let read = eventually(Duration::from_secs(20), "it is counted", || async {
        let row = client.query_one(counted, &[]).await.unwrap();
        (row.get::<_, i64>(0) > 6_000).then(|| row.get::<_, i64>(1))
    });
    let read = read.await;
    assert!(read < 10_000, "{read} rows of services were read");
}
