//! A link to Redis: one connection to each master, made at its first use and made again after
//! it failed.
//!
//! Every call has a deadline. A connection that failed or did not answer in time is dropped,
//! and the next call makes a new one: no second call waits for a black-holed connection, and
//! no call is queued while Redis is unavailable.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex as StdMutex;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, Script, ServerErrorKind, ToRedisArgs};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::RedisBackend;
use super::cluster::{Cluster, Master, SlotMap};
use super::error::{Fault, LinkError, code};
use super::node::Node;
use super::url::Address;

/// The time limit for a call, including a new connection.
pub(crate) const ANSWER: Duration = Duration::from_millis(800);

/// The wait before a call is repeated whose keys are being moved.
const MOVING: Duration = Duration::from_millis(20);
/// How often a cluster may redirect a call.
const REDIRECTS: usize = 8;

/// A command or a script with its arguments, in one buffer.
pub(crate) struct Call<'a> {
    script: Option<&'a Script>,
    command: Cmd,
}

impl<'a> Call<'a> {
    pub(crate) fn command(name: &str) -> Self {
        Self {
            script: None,
            command: redis::cmd(name),
        }
    }

    /// A script whose first arguments are so many keys.
    pub(crate) fn script(script: &'a Script, keys: usize) -> Self {
        let mut command = redis::cmd("EVALSHA");
        command.arg(script.get_hash()).arg(keys);
        Self {
            script: Some(script),
            command,
        }
    }

    pub(crate) fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Self {
        self.command.arg(argument);
        self
    }

    async fn put<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
        asking: bool,
    ) -> RedisResult<T> {
        let unknown = ErrorKind::Server(ServerErrorKind::NoScript);
        match (self.send(connection, asking).await, self.script) {
            (Err(error), Some(script)) if error.kind() == unknown => {
                script.load_async(connection).await?;
                self.send(connection, asking).await
            }
            (answer, _) => answer,
        }
    }

    async fn send<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
        asking: bool,
    ) -> RedisResult<T> {
        if !asking {
            return self.command.query_async(connection).await;
        }
        let mut pipeline = redis::pipe();
        pipeline.cmd("ASKING").add_command(self.command.clone());
        let answers = connection.req_packed_commands(&pipeline, 1, 1).await?;
        let answer = answers.into_iter().next().unwrap_or(redis::Value::Nil);
        Ok(T::from_redis_value(answer.extract_error()?)?)
    }
}

/// A link whose connections live on the runtime that it was created on.
pub(crate) struct RedisConnection {
    backend: Arc<RedisBackend>,
    home: Handle,
    /// By address. Without a cluster, the key of the one master is `None`.
    servers: StdMutex<HashMap<Option<Address>, Arc<Server>>>,
}

/// The connection to one master.
struct Server {
    node: Arc<Node>,
    address: Option<Address>,
    held: Mutex<Option<Held>>,
}

#[derive(Clone)]
struct Held {
    connection: MultiplexedConnection,
    address: Address,
    generation: u64,
}

impl Server {
    fn new(node: Arc<Node>, address: Option<Address>) -> Self {
        Self {
            node,
            address,
            held: Mutex::default(),
        }
    }

    /// Makes the next call connect again, unless that has happened already. The lock is held
    /// while a connection is being made.
    fn give_up(&self, generation: u64) {
        if let Ok(mut held) = self.held.try_lock()
            && held
                .as_ref()
                .is_some_and(|held| held.generation == generation)
        {
            *held = None;
        }
    }
}

/// Gives up a connection when its caller stops waiting for the answer.
struct Waiting<'a> {
    server: &'a Server,
    generation: u64,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.server.give_up(self.generation);
        }
    }
}

impl RedisConnection {
    pub(super) fn new(backend: Arc<RedisBackend>) -> Self {
        Self {
            backend,
            home: Handle::current(),
            servers: StdMutex::default(),
        }
    }

    /// Calls the server that holds `key` and waits at most [`ANSWER`]. If an idle connection
    /// turns out to be closed it calls again, so the call must be idempotent.
    pub(crate) async fn ask<T: FromRedisValue>(
        &self,
        key: &str,
        call: &Call<'_>,
    ) -> Result<T, LinkError> {
        self.ask_within(ANSWER, key, call).await
    }

    /// The same with another time limit.
    pub(crate) async fn ask_within<T: FromRedisValue>(
        &self,
        limit: Duration,
        key: &str,
        call: &Call<'_>,
    ) -> Result<T, LinkError> {
        let asked = async {
            match &self.backend.cluster {
                Some(cluster) => self.ask_cluster(cluster, key, call).await,
                None => {
                    let asked = self.ask_server(&self.server(None), call, false).await;
                    asked.map_err(Fault::into_error)
                }
            }
        };
        within(limit, asked).await
    }

    /// Returns the masters of a cluster; `None` if there is one master that has all keys.
    pub(crate) async fn masters(&self) -> Result<Option<Arc<SlotMap>>, LinkError> {
        match &self.backend.cluster {
            None => Ok(None),
            Some(cluster) => cluster.map(&self.backend.connector).await.map(Some),
        }
    }

    /// Calls one master of a cluster. Returns `None` if it does not hold all keys of the call,
    /// which then has written nothing.
    pub(crate) async fn ask_master<T: FromRedisValue>(
        &self,
        master: &Master,
        call: &Call<'_>,
    ) -> Result<Option<T>, LinkError> {
        let server = self.server(Some(master.address.clone()));
        match self.ask_server(&server, call, false).await {
            Ok(answer) => Ok(Some(answer)),
            Err(fault) => {
                self.backend.outdate(&fault);
                match fault {
                    Fault::Moved(_) | Fault::Ask(_) | Fault::TryAgain(_) | Fault::NonLocal(_) => {
                        Ok(None)
                    }
                    other => Err(other.into_error()),
                }
            }
        }
    }

    async fn ask_cluster<T: FromRedisValue>(
        &self,
        cluster: &Cluster,
        key: &str,
        call: &Call<'_>,
    ) -> Result<T, LinkError> {
        let mut elsewhere = None;
        for _ in 0..REDIRECTS {
            let (address, asking) = match elsewhere.take() {
                Some(elsewhere) => elsewhere,
                None => {
                    let map = cluster.map(&self.backend.connector).await?;
                    (map.master(key)?.address.clone(), false)
                }
            };
            let server = self.server(Some(address));
            let fault = match self.ask_server(&server, call, asking).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            self.backend.outdate(&fault);
            match fault {
                Fault::Moved(Some(to)) => elsewhere = Some((to, false)),
                Fault::Ask(Some(to)) => elsewhere = Some((to, true)),
                Fault::TryAgain(_) => sleep(MOVING).await,
                other => return Err(other.into_error()),
            }
        }
        Err(Fault::Moved(None).into_error())
    }

    fn server(&self, address: Option<Address>) -> Arc<Server> {
        let node = self.backend.node(&address);
        let mut servers = self.servers.lock();
        if let Some(server) = servers.get(&address)
            && Arc::ptr_eq(&server.node, &node)
        {
            return Arc::clone(server);
        }
        servers.retain(|address, _| self.backend.has(address));
        let server = Arc::new(Server::new(node, address.clone()));
        servers.insert(address, Arc::clone(&server));
        server
    }

    async fn ask_server<T: FromRedisValue>(
        &self,
        server: &Server,
        call: &Call<'_>,
        asking: bool,
    ) -> Result<T, Fault> {
        let mut first = true;
        loop {
            let held = self.connection(server).await?;
            let mut waiting = Waiting {
                server,
                generation: held.generation,
                answered: false,
            };
            let mut connection = held.connection;
            let answer = call.put(&mut connection, asking).await;
            waiting.answered = true;
            let error = match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let fault = Fault::of(&error, &held.address);
            if matches!(fault, Fault::Broken(_) | Fault::NotMaster(_)) {
                server.node.distrust(held.generation);
                server.give_up(held.generation);
            }
            // The call took no effect: the connection was closed before, or the server refused.
            let undone = error.is_connection_dropped() || code(&error) == Some("READONLY");
            if !first || !undone {
                return Err(fault);
            }
            first = false;
        }
    }

    /// Returns the connection. A caller that comes while it is being made waits for it, and
    /// makes another attempt if that failed.
    async fn connection(&self, server: &Server) -> Result<Held, Fault> {
        let mut slot = server.held.lock().await;
        if let Some(held) = &*slot
            && held.generation == server.node.generation()
        {
            return Ok(held.clone());
        }
        *slot = None;
        let begun = server.node.generation();
        let (backend, address) = (Arc::clone(&self.backend), server.address.clone());
        let connecting = self.home.spawn(async move { backend.reach(address).await });
        let stopping = |_| Fault::Broken(LinkError::Unavailable("the runtime is stopping".into()));
        let (address, connected) = connecting.await.map_err(stopping)??;
        let run = connected.run.as_deref();
        let held = Held {
            generation: server.node.agree(&address, run, begun),
            connection: connected.connection,
            address,
        };
        *slot = Some(held.clone());
        Ok(held)
    }
}

/// Waits for an answer for at most `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    asked: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    timeout(limit, asked).await.unwrap_or_else(|_| {
        Err(LinkError::Unavailable(format!(
            "no answer from Redis within {limit:?}"
        )))
    })
}
