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
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisError};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::timeout;
use url::Url;

use crate::error::{BackendUrl, OpenError, UrlError};

/// Making a connection, login included.
const CONNECT: Duration = Duration::from_millis(500);
/// Waiting for the answer to what was sent.
const ANSWER: Duration = Duration::from_millis(750);

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
        let info = self.0.expose().clone().into_connection_info();
        info.and_then(|info| Client::open(info.set_tcp_settings(settings)))
            .map_err(|error| OpenError {
                backend: self.to_string(),
                reason: reason(&error),
            })
    }
}

/// A connection that is made when it is first used, on the runtime it was created
/// on, and made again after it failed.
pub(crate) struct RedisLink {
    client: Client,
    home: Handle,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl RedisLink {
    /// A link whose connection will live on the current runtime.
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            home: Handle::current(),
            connection: Mutex::new(None),
        }
    }

    /// Asks Redis something, within 1.25 s in all.
    pub(crate) async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, LinkError> {
        let mut connection = self.connection().await?;
        match timeout(ANSWER, question(&mut connection)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let error = link_error(error);
                if matches!(error, LinkError::Unavailable(_)) {
                    self.drop_connection().await;
                }
                Err(error)
            }
            Err(_) => {
                self.drop_connection().await;
                Err(LinkError::Unavailable(format!(
                    "no answer from Redis within {ANSWER:?}"
                )))
            }
        }
    }

    async fn connection(&self) -> Result<MultiplexedConnection, LinkError> {
        // Whoever comes while a connection is being made waits for that one, and
        // after a failure tries once itself, each time within the deadline.
        let mut slot = match timeout(CONNECT, self.connection.lock()).await {
            Ok(slot) => slot,
            Err(_) => return Err(LinkError::Unavailable("Redis does not connect".into())),
        };
        if let Some(connection) = &*slot {
            return Ok(connection.clone());
        }
        let client = self.client.clone();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(None);
        let connecting = self.home.spawn(async move {
            client
                .get_multiplexed_async_connection_with_config(&config)
                .await
        });
        match timeout(CONNECT, connecting).await {
            Ok(Ok(Ok(connection))) => {
                *slot = Some(connection.clone());
                Ok(connection)
            }
            Ok(Ok(Err(error))) => Err(LinkError::Unavailable(reason(&error))),
            Ok(Err(_)) => Err(LinkError::Unavailable("the runtime is stopping".into())),
            Err(_) => Err(LinkError::Unavailable(format!(
                "no connection to Redis within {CONNECT:?}"
            ))),
        }
    }

    async fn drop_connection(&self) {
        self.connection.lock().await.take();
    }
}

/// An error that Redis itself answered leaves the connection usable, except those by
/// which it says that it cannot serve now.
pub(crate) fn link_error(error: RedisError) -> LinkError {
    let away = matches!(
        error.code(),
        Some(
            "LOADING" | "MASTERDOWN" | "READONLY" | "CLUSTERDOWN" | "TRYAGAIN" | "OOM" | "MISCONF"
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
