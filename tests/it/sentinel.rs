//! Redis behind Sentinel.

use std::time::Duration;

use crate::support::failover::Failover;
use crate::support::redis::Redis;
use crate::support::sentinels::Sentinels;
use crate::support::{eventually, postgres};

#[tokio::test]
async fn a_master_behind_sentinels_that_is_killed_marks_no_instance_offline() {
    let mut master = Redis::start().await;
    let replicas = [master.replica().await, master.replica().await];
    let mut sentinels = Sentinels::start(&master, replicas.len()).await;
    let store = postgres::shared().await.create_database().await;
    let url = sentinels.url();
    let arguments = ["--store", &store, "--leases", &url].map(str::to_owned);
    let failover = Failover::start(&[arguments.to_vec(), arguments.to_vec()]).await;
    failover
        .survives(async {
            // Two of three sentinels are enough.
            sentinels.kill_one();
            let old = master.port();
            master.kill();
            eventually(Duration::from_secs(30), "a replica is promoted", || async {
                let master = sentinels.master().await?;
                (master != old).then_some(())
            })
            .await;
        })
        .await;
}
