//! Three Sentinels that watch a master.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;

use super::eventually;
use super::process::{Process, free_port, spawn};
use super::redis::Redis;

/// The name of the master.
pub(crate) const MASTER: &str = "main";

/// Three Sentinels. Two of them decide.
pub(crate) struct Sentinels {
    ports: Vec<u16>,
    processes: Vec<Process>,
    _dirs: Vec<TempDir>,
}

impl Sentinels {
    /// Returns when they know each other, the master and its replicas.
    pub(crate) async fn start(master: &Redis, replicas: usize) -> Self {
        let (mut ports, mut processes, mut dirs) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..3 {
            let (port, dir) = (free_port(), TempDir::new().unwrap());
            let path = dir.path().join("sentinel.conf");
            let settings = format!(
                "port {port}\nbind 127.0.0.1\n\
                 sentinel monitor {MASTER} 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds {MASTER} 2000\n\
                 sentinel failover-timeout {MASTER} 6000\n",
                master.port()
            );
            fs::write(&path, settings).unwrap();
            let child = spawn("redis-server", None, |command| {
                command
                    .arg(&path)
                    .arg("--sentinel")
                    .current_dir(dir.path())
                    .stdout(Stdio::null());
            });
            ports.push(port);
            processes.push(Process::new(child));
            dirs.push(dir);
        }
        let sentinels = Self {
            ports,
            processes,
            _dirs: dirs,
        };
        for port in &sentinels.ports {
            eventually(Duration::from_secs(40), "the sentinels agree", || async {
                let known = format!("slaves={replicas},sentinels=3");
                let info: Option<String> = ask(*port, redis::cmd("INFO").arg("sentinel")).await;
                info?.contains(&known).then_some(())
            })
            .await;
        }
        sentinels
    }

    pub(crate) fn url(&self) -> String {
        let hosts: Vec<String> = self
            .ports
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        format!("redis+sentinel://{}/{MASTER}", hosts.join(","))
    }

    /// The port of the master, as most of them say.
    pub(crate) async fn master(&self) -> Option<u16> {
        let mut named = Vec::new();
        for port in &self.ports {
            let mut which = redis::cmd("SENTINEL");
            which.arg("GET-MASTER-ADDR-BY-NAME").arg(MASTER);
            let address: Option<(String, u16)> = ask(*port, &which).await;
            named.extend(address.map(|(_, port)| port));
        }
        named.sort_unstable();
        named.get(named.len() / 2).copied()
    }

    /// Ends one of them.
    pub(crate) fn kill_one(&mut self) {
        self.processes.pop().unwrap().kill();
    }
}

async fn ask<T: redis::FromRedisValue>(port: u16, command: &redis::Cmd) -> Option<T> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).ok()?;
    let mut connection = client.get_multiplexed_async_connection().await.ok()?;
    command.query_async(&mut connection).await.ok()
}
