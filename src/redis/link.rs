//! [`RedisConnection`]: one connection to each master, opened at its first use and reopened
//! after a failure.
//!
//! Every call has a deadline. A connection that failed or did not reply in time is dropped, and
//! the next call opens a new one: no second call waits for a black-holed connection, and no
//! call is queued while Redis is unavailable.

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
use super::address::Address;
use super::cluster::{Cluster, Master, SlotMap};
use super::error::{Fault, code};
use super::node::Node;
use crate::backend::BackendError;

/// The time limit for a call, including the time to connect.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_millis(800);

/// The pause before a call is retried whose keys are being moved.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// The number of times that a cluster may redirect a call.
const MAX_REDIRECTS: usize = 8;

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

    /// Creates a call of a script; its first `key_count` arguments are keys.
    pub(crate) fn script(script: &'a Script, key_count: usize) -> Self {
        let mut command = redis::cmd("EVALSHA");
        command.arg(script.get_hash()).arg(key_count);
        Self {
            script: Some(script),
            command,
        }
    }

    pub(crate) fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Self {
        self.command.arg(argument);
        self
    }

    /// Sends the call. If the server does not know the script, loads it and sends the call
    /// again.
    async fn send<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
        asking: bool,
    ) -> RedisResult<T> {
        let unknown = ErrorKind::Server(ServerErrorKind::NoScript);
        match (self.send_once(connection, asking).await, self.script) {
            (Err(error), Some(script)) if error.kind() == unknown => {
                script.load_async(connection).await?;
                self.send_once(connection, asking).await
            }
            (reply, _) => reply,
        }
    }

    async fn send_once<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
        asking: bool,
    ) -> RedisResult<T> {
        if !asking {
            return self.command.query_async(connection).await;
        }
        let mut pipeline = redis::pipe();
        pipeline.cmd("ASKING").add_command(self.command.clone());
        let replies = connection.req_packed_commands(&pipeline, 1, 1).await?;
        let reply = replies.into_iter().next().unwrap_or(redis::Value::Nil);
        Ok(T::from_redis_value(reply.extract_error()?)?)
    }
}

/// One connection to each master. They run on the runtime on which this was created.
pub(crate) struct RedisConnection {
    backend: Arc<RedisBackend>,
    runtime: Handle,
    /// By address; without a cluster, the key of the only master is `None`.
    servers: StdMutex<HashMap<Option<Address>, Arc<Server>>>,
}

/// The connection to one master.
struct Server {
    node: Arc<Node>,
    address: Option<Address>,
    open: Mutex<Option<OpenConnection>>,
}

#[derive(Clone)]
struct OpenConnection {
    connection: MultiplexedConnection,
    address: Address,
    generation: u64,
}

impl Server {
    fn new(node: Arc<Node>, address: Option<Address>) -> Self {
        Self {
            node,
            address,
            open: Mutex::default(),
        }
    }

    /// Drops the connection of this generation, so that the next call opens a new one. Does
    /// nothing if the lock is held, because then a connection is being opened already.
    fn drop_connection(&self, generation: u64) {
        if let Ok(mut open) = self.open.try_lock()
            && open
                .as_ref()
                .is_some_and(|open| open.generation == generation)
        {
            *open = None;
        }
    }
}

/// Drops the connection if the caller stops waiting for the reply.
struct PendingCall<'a> {
    server: &'a Server,
    generation: u64,
    has_reply: bool,
}

impl Drop for PendingCall<'_> {
    fn drop(&mut self) {
        if !self.has_reply {
            self.server.drop_connection(self.generation);
        }
    }
}

impl RedisConnection {
    pub(super) fn new(backend: Arc<RedisBackend>) -> Self {
        Self {
            backend,
            runtime: Handle::current(),
            servers: StdMutex::default(),
        }
    }

    /// Calls the server that holds `key` and waits at most [`CALL_TIMEOUT`]. The call must be
    /// idempotent: it is sent again if an idle connection turns out to be closed.
    pub(crate) async fn query<T: FromRedisValue>(
        &self,
        key: &str,
        call: &Call<'_>,
    ) -> Result<T, BackendError> {
        self.query_within(CALL_TIMEOUT, key, call).await
    }

    /// Does the same as [`Self::query`], with the given time limit.
    pub(crate) async fn query_within<T: FromRedisValue>(
        &self,
        limit: Duration,
        key: &str,
        call: &Call<'_>,
    ) -> Result<T, BackendError> {
        let query = async {
            match &self.backend.cluster {
                Some(cluster) => self.query_cluster(cluster, key, call).await,
                None => self
                    .query_server(&self.server(None), call, false)
                    .await
                    .map_err(Fault::into_error),
            }
        };
        within(limit, query).await
    }

    /// Returns the masters of the cluster; `None` without a cluster.
    pub(crate) async fn masters(&self) -> Result<Option<Arc<SlotMap>>, BackendError> {
        match &self.backend.cluster {
            None => Ok(None),
            Some(cluster) => cluster.map(&self.backend.connector).await.map(Some),
        }
    }

    /// Calls one master of a cluster. Returns `None` if the master does not hold all keys of
    /// the call; then the call has written nothing.
    pub(crate) async fn query_master<T: FromRedisValue>(
        &self,
        master: &Master,
        call: &Call<'_>,
    ) -> Result<Option<T>, BackendError> {
        let server = self.server(Some(master.address.clone()));
        match self.query_server(&server, call, false).await {
            Ok(reply) => Ok(Some(reply)),
            Err(fault) => {
                self.backend.refresh_if_outdated(&fault);
                match fault {
                    Fault::Moved(_) | Fault::Ask(_) | Fault::TryAgain(_) | Fault::NonLocal(_) => {
                        Ok(None)
                    }
                    other => Err(other.into_error()),
                }
            }
        }
    }

    async fn query_cluster<T: FromRedisValue>(
        &self,
        cluster: &Cluster,
        key: &str,
        call: &Call<'_>,
    ) -> Result<T, BackendError> {
        let mut redirect = None;
        for _ in 0..MAX_REDIRECTS {
            let (address, asking) = match redirect.take() {
                Some(redirect) => redirect,
                None => {
                    let map = cluster.map(&self.backend.connector).await?;
                    (map.master(key)?.address.clone(), false)
                }
            };
            let server = self.server(Some(address));
            let fault = match self.query_server(&server, call, asking).await {
                Ok(reply) => return Ok(reply),
                Err(fault) => fault,
            };
            self.backend.refresh_if_outdated(&fault);
            match fault {
                Fault::Moved(Some(to)) => redirect = Some((to, false)),
                Fault::Ask(Some(to)) => redirect = Some((to, true)),
                Fault::TryAgain(_) => sleep(RETRY_PAUSE).await,
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
        servers.retain(|address, _| self.backend.has_node(address));
        let server = Arc::new(Server::new(node, address.clone()));
        servers.insert(address, Arc::clone(&server));
        server
    }

    async fn query_server<T: FromRedisValue>(
        &self,
        server: &Server,
        call: &Call<'_>,
        asking: bool,
    ) -> Result<T, Fault> {
        let mut is_first_attempt = true;
        loop {
            let open = self.connection(server).await?;
            let mut pending = PendingCall {
                server,
                generation: open.generation,
                has_reply: false,
            };
            let mut connection = open.connection;
            let reply = call.send(&mut connection, asking).await;
            pending.has_reply = true;
            let error = match reply {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let fault = Fault::of(&error, &open.address);
            if matches!(fault, Fault::Broken(_) | Fault::NotMaster(_)) {
                server.node.end_generation(open.generation);
                server.drop_connection(open.generation);
            }
            // The call had no effect if the connection was closed before it, or if the server
            // is read-only.
            let had_no_effect = error.is_connection_dropped() || code(&error) == Some("READONLY");
            if !is_first_attempt || !had_no_effect {
                return Err(fault);
            }
            is_first_attempt = false;
        }
    }

    /// Returns the open connection, or opens one. Concurrent callers wait for the same attempt,
    /// and make another one if it fails.
    async fn connection(&self, server: &Server) -> Result<OpenConnection, Fault> {
        let mut slot = server.open.lock().await;
        if let Some(open) = &*slot
            && open.generation == server.node.generation()
        {
            return Ok(open.clone());
        }
        *slot = None;
        let generation = server.node.generation();
        let (backend, address) = (Arc::clone(&self.backend), server.address.clone());
        let connecting = self
            .runtime
            .spawn(async move { backend.connect(address).await });
        let stopping =
            |_| Fault::Broken(BackendError::Unavailable("the daemon is stopping".into()));
        let (address, connected) = connecting.await.map_err(stopping)??;
        let run = connected.run.as_deref();
        let open = OpenConnection {
            generation: server.node.record_server(&address, run, generation),
            connection: connected.connection,
            address,
        };
        *slot = Some(open.clone());
        Ok(open)
    }
}

/// Waits for a reply for at most `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    query: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    timeout(limit, query).await.unwrap_or_else(|_| {
        Err(BackendError::Unavailable(format!(
            "no reply from Redis within {limit:?}"
        )))
    })
}
