//! PostgreSQL behind PgBouncer in transaction mode: each transaction may have another session.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use crate::support::daemon::Daemon;
use crate::support::pgbouncer::PgBouncer;
use crate::support::redis::Redis;
use crate::support::{addresses, eventually, postgres};

#[tokio::test]
async fn daemons_share_few_sessions_of_pgbouncer_in_transaction_mode() {
    let server = postgres::shared().await;
    let store = server.create_database().await;
    let bouncer = PgBouncer::before(server.port()).await;
    let (_, database) = store.rsplit_once('/').unwrap();
    let redis = Redis::start().await;
    let arguments =
        ["--store", &bouncer.url(database), "--leases", &redis.url()].map(str::to_owned);
    // They also migrate through it, at once.
    let daemons = join_all((0..3).map(|_| Daemon::start(&arguments))).await;
    let all = addresses(300);
    let parts: Vec<&[String]> = all.chunks(100).collect();
    for _ in 0..3 {
        // Registrations, changes, reads of the store and deregistrations, all at once.
        let each = daemons.iter().zip(&parts).map(|(daemon, part)| async move {
            daemon.register("orders", part, &json!({"weight": 2})).await;
            daemon.send_heartbeats("orders", part).await;
            let changes = part.iter().map(|address| {
                let path = format!("/v1/services/orders/instances/{address}");
                async move { daemon.patch(&path, json!({"weight": 3})).await.0 }
            });
            let statuses = join_all(changes).await;
            assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
            let unknown = (0..20).map(|i| {
                let path = format!("/v1/services/orders/instances/none-{i}:1/heartbeat");
                async move { daemon.put(&path, json!({})).await.0 }
            });
            let statuses = join_all(unknown).await;
            assert!(statuses.iter().all(|status| *status == 404), "{statuses:?}");
        });
        join_all(each).await;
        for daemon in &daemons {
            eventually(Duration::from_secs(10), "all replicas know all", || async {
                (daemon.counts("orders").await == [300, 300, 300]).then_some(())
            })
            .await;
        }
        let each = daemons.iter().zip(&parts).map(|(daemon, part)| async move {
            let removals = part.iter().map(|address| {
                let path = format!("/v1/services/orders/instances/{address}");
                async move { daemon.delete(&path).await.0 }
            });
            let statuses = join_all(removals).await;
            assert!(statuses.iter().all(|status| *status == 204), "{statuses:?}");
        });
        join_all(each).await;
    }
    for daemon in &daemons {
        let log = daemon.log();
        assert!(
            !log.contains("ERROR") && !log.contains("prepared statement"),
            "{log}"
        );
        assert_eq!(daemon.get("/readyz").await.0, 200);
    }
}
