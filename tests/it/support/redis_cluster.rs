//! A Redis Cluster.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::eventually;
use super::process::free_port;
use super::redis::Redis;

/// Three masters, and their replicas.
pub(crate) struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Each master with a replica.
    pub(crate) async fn start() -> Self {
        Self::start_with(1).await
    }

    /// With so many replicas of each master. Returns when all nodes say that all slots are
    /// served.
    pub(crate) async fn start_with(replicas: usize) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..3 * (1 + replicas) {
            let settings = format!(
                "--cluster-enabled yes --cluster-node-timeout 2000 --cluster-port {}",
                free_port()
            );
            let arguments = settings.split(' ').map(str::to_owned).collect();
            nodes.push(Redis::start_with(|_| arguments).await);
        }
        let cluster = Self { nodes };
        let mut create = vec!["create".to_owned()];
        create.extend(cluster.hosts());
        create.extend(["--cluster-replicas".to_owned(), replicas.to_string()]);
        cluster.manage(create).await;
        cluster.serves().await;
        for node in &cluster.nodes {
            eventually(Duration::from_secs(30), "the replicas follow", || async {
                let info: String = node.run(redis::cmd("INFO").arg("replication")).await;
                let follows = info.contains("master_link_status:up");
                let followed = info.contains(&format!("connected_slaves:{replicas}"));
                (follows || followed).then_some(())
            })
            .await;
        }
        cluster
    }

    /// Returns when all nodes say that all slots are served.
    pub(crate) async fn serves(&self) {
        for node in &self.nodes {
            eventually(Duration::from_secs(30), "the cluster serves", || async {
                let info: String = node.run(redis::cmd("CLUSTER").arg("INFO")).await;
                info.contains("cluster_state:ok").then_some(())
            })
            .await;
        }
    }

    fn hosts(&self) -> impl Iterator<Item = String> {
        let ports = self.nodes.iter().map(Redis::port);
        ports.map(|port| format!("127.0.0.1:{port}"))
    }

    pub(crate) fn url(&self) -> String {
        let hosts: Vec<String> = self.hosts().take(3).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    pub(crate) fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    pub(crate) fn nodes_mut(&mut self) -> &mut [Redis] {
        &mut self.nodes
    }

    /// A master by its index: the first three nodes are masters at the start.
    pub(crate) async fn id(&self, index: usize) -> String {
        let mut id = redis::cmd("CLUSTER");
        self.nodes[index].run(id.arg("MYID")).await
    }

    /// Ends a node as a crash would, and returns when its replica serves its slots.
    pub(crate) async fn kill(&mut self, index: usize) {
        self.nodes.remove(index).kill();
        // Until then the other nodes consider it alive.
        for state in ["cluster_state:fail", "cluster_state:ok"] {
            eventually(Duration::from_secs(30), state, || async {
                let info: String = self.nodes[0].run(redis::cmd("CLUSTER").arg("INFO")).await;
                info.contains(state).then_some(())
            })
            .await;
        }
    }

    /// Moves slots from one master to another one.
    pub(crate) async fn move_slots(&self, count: u16, from: usize, to: usize) {
        let host = self.hosts().nth(from).unwrap();
        let (from, to, count) = (self.id(from).await, self.id(to).await, count.to_string());
        let arguments = [
            "reshard",
            &host,
            "--cluster-from",
            &from,
            "--cluster-to",
            &to,
            "--cluster-slots",
            &count,
        ];
        self.manage(arguments.map(str::to_owned).into()).await;
    }

    /// Begins to move the slot of an existing key; the key itself stays. Returns the master that
    /// has it and the one that will get it.
    pub(crate) async fn begin_to_move(&self, key: &str) -> (&Redis, &Redis) {
        let mut source = None;
        for (index, master) in self.nodes[..3].iter().enumerate() {
            let keys: Vec<String> = master.run(redis::cmd("KEYS").arg(key)).await;
            source = source.or((!keys.is_empty()).then_some(index));
        }
        let source = source.unwrap();
        let target = (source + 1) % 3;
        let mut which = redis::cmd("CLUSTER");
        let slot: u16 = self.nodes[0].run(which.arg("KEYSLOT").arg(key)).await;
        for (node, state, other) in [(target, "IMPORTING", source), (source, "MIGRATING", target)] {
            let mut set = redis::cmd("CLUSTER");
            set.arg("SETSLOT").arg(slot).arg(state);
            let set = set.arg(self.id(other).await);
            self.nodes[node].run::<()>(set).await;
        }
        (&self.nodes[source], &self.nodes[target])
    }

    /// Moves a key from one master to another one.
    pub(crate) async fn move_key(key: &str, source: &Redis, target: &Redis) {
        let mut migrate = redis::cmd("MIGRATE");
        migrate.arg("127.0.0.1").arg(target.port());
        source.run::<()>(migrate.arg(key).arg(0).arg(5000)).await;
    }

    /// Moves some slots to a master, from all others, where the cluster is in a state for it.
    pub(crate) async fn try_move_slots(&self, count: u16) {
        let host = self.hosts().next().unwrap();
        let nodes: String = self.nodes[0].run(redis::cmd("CLUSTER").arg("NODES")).await;
        let is_master = |line: &&str| line.contains("master") && !line.contains("fail");
        let Some(master) = nodes.lines().find(is_master) else {
            return;
        };
        let (to, count) = (master.split(' ').next().unwrap(), count.to_string());
        let reshard = [
            "reshard",
            &host,
            "--cluster-from",
            "all",
            "--cluster-to",
            to,
        ];
        let reshard = reshard.into_iter().chain(["--cluster-slots", &count]);
        let moved = Self::try_manage(reshard.map(str::to_owned).collect()).await;
        if !moved.status.success() {
            // Completes a half-finished migration.
            Self::try_manage(["fix", &host].map(str::to_owned).into()).await;
        }
    }

    /// Runs `redis-cli --cluster`.
    async fn manage(&self, arguments: Vec<String>) {
        let output = Self::try_manage(arguments).await;
        assert!(output.status.success(), "{output:?}");
    }

    async fn try_manage(arguments: Vec<String>) -> Output {
        let managed = tokio::task::spawn_blocking(|| {
            let mut command = Command::new("redis-cli");
            command
                .arg("--cluster")
                .args(arguments)
                .arg("--cluster-yes")
                .stdin(Stdio::null())
                .output()
                .unwrap()
        });
        managed.await.unwrap()
    }
}
