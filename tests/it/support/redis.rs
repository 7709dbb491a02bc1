//! A private Redis.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue};
use rustix::process::Signal;
use tempfile::TempDir;

use super::eventually;
use super::process::{Process, free_port, spawn};

/// A Redis server on a port of its own, with nothing in it.
pub(crate) struct Redis {
    program: String,
    port: u16,
    /// Additional arguments.
    arguments: Vec<String>,
    dir: TempDir,
    process: Option<Process>,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| Vec::new()).await
    }

    /// With more arguments, made for its folder.
    pub(crate) async fn start_with(arguments: impl FnOnce(&Path) -> Vec<String>) -> Self {
        Self::start_program("redis-server", arguments).await
    }

    /// Another server that speaks the protocol of Redis and takes the same arguments.
    pub(crate) async fn start_program(
        program: &str,
        arguments: impl FnOnce(&Path) -> Vec<String>,
    ) -> Self {
        let dir = TempDir::new().unwrap();
        let mut redis = Self {
            program: program.to_owned(),
            port: free_port(),
            arguments: arguments(dir.path()),
            dir,
            process: None,
        };
        redis.restart().await;
        redis
    }

    /// Starts it (again), empty, on the same port.
    pub(crate) async fn restart(&mut self) {
        self.process = None;
        let (port, dir) = (self.port.to_string(), self.dir.path());
        let child = spawn(&self.program, None, |command| {
            command
                .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
                .args(["--appendonly", "no", "--dir"])
                .arg(dir)
                .args(&self.arguments)
                .stdout(Stdio::null());
        });
        self.process = Some(Process::new(child));
        eventually(Duration::from_secs(20), "redis answers", || async {
            let mut connection = self.try_connect().await.ok()?;
            redis::cmd("PING")
                .query_async::<String>(&mut connection)
                .await
                .ok()
        })
        .await;
    }

    pub(crate) fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    pub(crate) fn freeze(&self) {
        self.process.as_ref().unwrap().signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.process.as_ref().unwrap().signal(Signal::CONT);
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Starts a replica of this server, and waits until it is in sync.
    pub(crate) async fn replica(&self) -> Self {
        let arguments = ["--replicaof", "127.0.0.1", &self.port.to_string()];
        let replica =
            Self::start_program(&self.program, |_| arguments.map(str::to_owned).into()).await;
        let connected = "it replicates";
        eventually(Duration::from_secs(20), connected, || async {
            let info: String = replica.run(redis::cmd("INFO").arg("replication")).await;
            info.contains("master_link_status:up").then_some(())
        })
        .await;
        replica
    }

    /// Runs a command.
    pub(crate) async fn run<T: FromRedisValue>(&self, command: &Cmd) -> T {
        let mut connection = self.connect().await;
        command.query_async(&mut connection).await.unwrap()
    }

    pub(crate) async fn connect(&self) -> MultiplexedConnection {
        self.try_connect().await.unwrap()
    }

    async fn try_connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        // Longer than the driver's own limits, since the tests share few cores.
        let limit = Some(Duration::from_secs(10));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(limit)
            .set_response_timeout(limit);
        redis::Client::open(self.url())?
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }
}
