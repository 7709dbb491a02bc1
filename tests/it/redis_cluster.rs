//! A Redis Cluster as the lease store and for the event log.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;

use crate::support::daemon::Daemon;
use crate::support::failover::Failover;
use crate::support::redis_cluster::RedisCluster;
use crate::support::{addresses, eventually, postgres};

#[tokio::test]
async fn a_cluster_that_moves_slots_and_loses_a_master_marks_no_instance_offline() {
    let mut cluster = RedisCluster::start().await;
    let store = postgres::shared().await.create_database().await;
    let url = cluster.url();
    let arguments = ["--store", &store, "--leases", &url].map(str::to_owned);
    let failover = Failover::start(&[arguments.to_vec(), arguments.to_vec()]).await;
    failover
        .survives(async {
            cluster.move_slots(2000, 0, 1).await;
            cluster.kill(0).await;
        })
        .await;
}

#[tokio::test]
async fn leases_are_spread_over_the_masters_and_the_rest_is_in_one_slot() {
    let cluster = RedisCluster::start().await;
    let store = postgres::shared().await.create_database().await;
    let arguments = ["--store", &store, "--leases", &cluster.url()].map(str::to_owned);
    let daemon = Daemon::start(&arguments).await;
    let addresses = addresses(300);
    daemon.register("orders", &addresses, &json!({})).await;
    daemon.send_heartbeats("orders", &addresses).await;
    let mut others = HashSet::new();
    let mut leases = Vec::new();
    for node in &cluster.nodes()[..3] {
        let keys: Vec<String> = node.run(redis::cmd("KEYS").arg("*")).await;
        let (of_leases, rest): (Vec<_>, Vec<_>) = keys
            .into_iter()
            .partition(|key| key.starts_with("heartbeat:"));
        leases.push(of_leases.len());
        others.extend(rest);
    }
    assert_eq!(leases.iter().sum::<usize>(), 300);
    assert!(leases.iter().all(|count| *count > 50), "{leases:?}");
    // Each master has a mark and its last probe; everything else is in one slot.
    assert!(others.contains("{rollcall}:events"), "{others:?}");
    let tags: HashSet<&str> = others
        .iter()
        .filter(|key| !key.ends_with(":mark") && !key.ends_with(":probe"))
        .map(|key| key.split_once('}').unwrap().0)
        .collect();
    assert_eq!(tags, HashSet::from(["{rollcall"]));
    for node in &cluster.nodes()[..3] {
        node.run::<()>(redis::cmd("CONFIG").arg("RESETSTAT")).await;
    }
    daemon.send_heartbeats("orders", &addresses).await;
    for node in &cluster.nodes()[..3] {
        let stats: String = node.run(redis::cmd("INFO").arg("commandstats")).await;
        let (_, calls) = stats.split_once("cmdstat_evalsha:calls=").unwrap();
        let calls: usize = calls.split_once(',').unwrap().0.parse().unwrap();
        // One call renews the leases of a master; a few others look and probe.
        assert!((1..20).contains(&calls), "{stats}");
    }
    daemon.delete("/v1/services/orders/instances/h-0:1").await;
    eventually(
        Duration::from_secs(10),
        "a deregistered instance has no lease",
        || async {
            let mut count = 0;
            for node in &cluster.nodes()[..3] {
                let keys: Vec<String> = node.run(redis::cmd("KEYS").arg("heartbeat:*")).await;
                count += keys.len();
            }
            (count == 299).then_some(())
        },
    )
    .await;
}
