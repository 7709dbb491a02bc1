//! A primary of PostgreSQL with a synchronous standby.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::failover::Failover;
use crate::support::postgres::Postgres;
use crate::support::redis::Redis;

#[tokio::test]
async fn a_promoted_standby_has_all_that_was_acknowledged_and_no_instance_goes_offline() {
    let (mut primary, standby) = Postgres::with_standby().await;
    let redis = Redis::start().await;
    let arguments = [
        "--store",
        &Postgres::url_of(&[&primary, &standby], "postgres"),
        "--leases",
        &redis.url(),
    ]
    .map(str::to_owned);
    let failover = Failover::start(&[arguments.to_vec(), arguments.to_vec()]).await;
    failover
        .survives(async {
            sleep(Duration::from_secs(3)).await;
            primary.kill().await;
            sleep(Duration::from_secs(3)).await;
            standby.run("postgres", "SELECT pg_promote()").await;
        })
        .await;
}

#[tokio::test]
async fn what_the_synchronous_standby_has_not_is_not_acknowledged() {
    let (primary, mut standby) = Postgres::with_standby().await;
    let redis = Redis::start().await;
    let arguments = [
        "--store",
        &primary.url("postgres"),
        "--leases",
        &redis.url(),
    ]
    .map(str::to_owned);
    let daemon = Daemon::start(&arguments).await;
    let register = async |address: &str| {
        let path = format!("/v1/services/orders/instances/{address}");
        daemon.put(&path, json!({})).await
    };
    assert_eq!(register("a:1").await.0, 201);
    standby.kill().await;
    let (status, body) = register("b:1").await;
    assert_eq!(status, 504, "{body}");
    assert_eq!(body["code"], "outcome_unknown");
    standby.restart().await;
    eventually(Duration::from_secs(20), "it is acknowledged", || async {
        let (status, _) = register("b:1").await;
        status.is_success().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_daemon_that_is_started_against_a_standby_waits_for_its_promotion() {
    let primary = Postgres::start().await;
    let redis = Redis::start().await;
    let leases = redis.url();
    let arguments = |postgres: &Postgres| {
        ["--store", &postgres.url("postgres"), "--leases", &leases].map(str::to_owned)
    };
    drop(Daemon::start(&arguments(&primary)).await);
    let standby = primary.standby().await;
    let dir = Arc::new(TempDir::new().unwrap());
    let daemon = Daemon::launch(&arguments(&standby), dir);
    eventually(
        Duration::from_secs(10),
        "it says what it waits for",
        || async {
            daemon
                .log()
                .contains("PostgreSQL is read-only")
                .then_some(())
        },
    )
    .await;
    assert_eq!(daemon.get("/readyz").await.0, 503);
    drop(primary);
    standby.run("postgres", "SELECT pg_promote()").await;
    daemon.ready().await;
}
