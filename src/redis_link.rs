//! One connection to Redis that heals itself, for the Redis backends of the lease
//! store and the bus.
//!
//! Every use has a deadline. A connection that failed or did not answer in time is
//! dropped, and the next use makes a new one: a black-holed connection is never
//! waited for twice, and nothing is queued for a Redis that is away.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError,
    RedisResult, Script, ScriptInvocation, ServerErrorKind, TlsCertificates, ToRedisArgs,
};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::timeout;
use url::Url;

use crate::error::{BackendUrl, OpenError, UrlError};

/// Making a connection, login included.
const CONNECT: Duration = Duration::from_millis(500);
/// All of it, from the question to the answer, a new connection included.
const ANSWER: Duration = Duration::from_millis(800);

/// The parameter of a URL that names the file with the authorities of a `rediss://` server,
/// PEM; without it the system's are asked. The word is PostgreSQL's.
const ROOT_CERT: &str = "sslrootcert";
/// The parameter that the driver knows.
const PROTOCOL: &str = "protocol";

/// Why Redis gave no answer. Whatever was asked may or may not have happened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    /// It cannot be reached, or did not answer in time.
    #[error("{0}")]
    Unavailable(String),
    /// It answered with an error.
    #[error("{0}")]
    Refused(String),
}

/// A `redis://` or `rediss://` URL that the driver understands.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(BackendUrl);

impl FromStr for RedisUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let url = Url::parse(text).map_err(UrlError::new)?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err(UrlError::new("a host is missing"));
        }
        for (name, _) in url.query_pairs() {
            match &*name {
                ROOT_CERT if url.scheme() == "rediss" => {}
                ROOT_CERT => return Err(UrlError::new("sslrootcert goes with rediss://")),
                PROTOCOL => {}
                other => {
                    let reason = format!("{other} is not known: {PROTOCOL} and {ROOT_CERT} are");
                    return Err(UrlError::new(reason));
                }
            }
        }
        url.clone()
            .into_connection_info()
            .map_err(|error| UrlError::new(reason(&error)))?;
        Ok(Self(BackendUrl::new(url)))
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

impl RedisUrl {
    /// The driver's client. Connects to nothing.
    pub(crate) fn client(&self) -> Result<Client, OpenError> {
        // Without TCP_NODELAY a small request waits for the acknowledgement of the last one.
        let settings = TcpSettings::default().set_nodelay(true);
        let fail = |reason: String| OpenError {
            backend: self.to_string(),
            reason,
        };
        let url = self.0.expose();
        let info = url.clone().into_connection_info();
        let info = info.map(|info| info.set_tcp_settings(settings));
        let info = info.map_err(|error| fail(reason(&error)))?;
        let path = url.query_pairs().find(|(name, _)| name == ROOT_CERT);
        let client = match path {
            None => Client::open(info),
            Some((_, path)) => {
                let certificates = std::fs::read(&*path)
                    .map_err(|error| fail(format!("{ROOT_CERT} {path}: {error}")))?;
                let certificates = TlsCertificates {
                    client_tls: None,
                    root_cert: Some(certificates),
                };
                Client::build_with_tls(info, certificates)
            }
        };
        client.map_err(|error| fail(reason(&error)))
    }
}

/// What Redis can be asked.
pub(crate) trait Question: Sync {
    /// Sends it and waits for the answer.
    fn put<T: FromRedisValue + Send>(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> impl Future<Output = RedisResult<T>> + Send;
}

impl Question for Cmd {
    async fn put<T: FromRedisValue + Send>(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<T> {
        self.query_async(connection).await
    }
}

impl Question for ScriptInvocation<'_> {
    async fn put<T: FromRedisValue + Send>(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<T> {
        self.invoke_async(connection).await
    }
}

/// A call of a script that has thousands of arguments: all of them in one buffer.
pub(crate) struct PackedCall<'a> {
    script: &'a Script,
    command: Cmd,
}

impl<'a> PackedCall<'a> {
    /// With so many keys, which are the first of its arguments.
    pub(crate) fn new(script: &'a Script, keys: usize) -> Self {
        let mut command = redis::cmd("EVALSHA");
        command.arg(script.get_hash()).arg(keys);
        Self { script, command }
    }

    pub(crate) fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Self {
        self.command.arg(argument);
        self
    }
}

impl Question for PackedCall<'_> {
    async fn put<T: FromRedisValue + Send>(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<T> {
        let unknown = ErrorKind::Server(ServerErrorKind::NoScript);
        match self.command.query_async(connection).await {
            Err(error) if error.kind() == unknown => {
                self.script.load_async(connection).await?;
                self.command.query_async(connection).await
            }
            answer => answer,
        }
    }
}

/// A connection that is made when it is first used, on the runtime it was created
/// on, and made again after it failed.
pub(crate) struct RedisLink {
    client: Client,
    home: Handle,
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    connection: Option<MultiplexedConnection>,
    /// How many connections there were, so that a late failure of an old one does not
    /// cost the one that followed it.
    generation: u64,
}

impl RedisLink {
    /// A link whose connection will live on the current runtime.
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            home: Handle::current(),
            slot: Mutex::default(),
        }
    }

    /// Asks Redis something and waits at most [`ANSWER`]. It is asked again where an idle
    /// connection turns out to have been closed, so it must bear being asked twice.
    pub(crate) async fn ask<T: FromRedisValue + Send>(
        &self,
        question: &impl Question,
    ) -> Result<T, LinkError> {
        self.ask_within(ANSWER, question).await
    }

    /// Asks Redis something that it may answer late: within `limit`.
    pub(crate) async fn ask_within<T: FromRedisValue + Send>(
        &self,
        limit: Duration,
        question: &impl Question,
    ) -> Result<T, LinkError> {
        let mut used = None;
        let asked = async {
            let (mut connection, generation) = self.connection().await?;
            used = Some(generation);
            let error = match question.put(&mut connection).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !error.is_connection_dropped() {
                return Err(link_error(error));
            }
            self.give_up(generation);
            let (mut connection, generation) = self.connection().await?;
            used = Some(generation);
            question.put(&mut connection).await.map_err(link_error)
        };
        let outcome = timeout(limit, asked).await.unwrap_or_else(|_| {
            Err(LinkError::Unavailable(format!(
                "no answer from Redis within {limit:?}"
            )))
        });
        if let (Err(LinkError::Unavailable(_)), Some(generation)) = (&outcome, used) {
            self.give_up(generation);
        }
        outcome
    }

    /// The connection and its generation. Whoever comes while one is being made waits for
    /// it, and tries once more if it was not.
    async fn connection(&self) -> Result<(MultiplexedConnection, u64), LinkError> {
        let mut slot = self.slot.lock().await;
        if let Some(connection) = &slot.connection {
            return Ok((connection.clone(), slot.generation));
        }
        let client = self.client.clone();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(None);
        let connecting = self.home.spawn(async move {
            let connect = client.get_multiplexed_async_connection_with_config(&config);
            timeout(CONNECT, connect).await
        });
        match connecting.await {
            Ok(Ok(Ok(connection))) => {
                slot.generation += 1;
                slot.connection = Some(connection.clone());
                Ok((connection, slot.generation))
            }
            Ok(Ok(Err(error))) => Err(LinkError::Unavailable(reason(&error))),
            Ok(Err(_)) => Err(LinkError::Unavailable(format!(
                "no connection to Redis within {CONNECT:?}"
            ))),
            Err(_) => Err(LinkError::Unavailable("the runtime is stopping".into())),
        }
    }

    /// Has the next question make a new connection, unless one was made meanwhile. Whoever
    /// holds the slot is making one.
    fn give_up(&self, generation: u64) {
        if let Ok(mut slot) = self.slot.try_lock()
            && slot.generation == generation
        {
            slot.connection = None;
        }
    }
}

/// An error that Redis itself answered leaves the connection usable, except those by
/// which it says that it cannot serve now.
pub(crate) fn link_error(error: RedisError) -> LinkError {
    let away = matches!(
        error.code(),
        Some(
            "BUSY"
                | "NOREPLICAS"
                | "LOADING"
                | "MASTERDOWN"
                | "READONLY"
                | "CLUSTERDOWN"
                | "TRYAGAIN"
                | "OOM"
                | "MISCONF"
        )
    );
    match error.code() {
        Some(_) if !away => LinkError::Refused(reason(&error)),
        _ => LinkError::Unavailable(reason(&error)),
    }
}

fn reason(error: &RedisError) -> String {
    match error.detail() {
        Some(detail) => format!(
            "{}: {detail}",
            error.to_string().trim_end_matches(&format!(": {detail}"))
        ),
        None => error.to_string(),
    }
}
