//! A client of the API v1, for the agent and the commands of an operator.
//!
//! Knows paths and answers as a stranger would, from the API document; nothing of the
//! daemon's inside. Every request may be sent again, so it goes to the next server where
//! one does not answer.

mod events;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::{Certificate, Method, Response, StatusCode, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

pub use self::events::{EventStream, ServerEvent};
use crate::auth::Token;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(2);

/// How long an answer may take: longer than the daemon's own deadlines.
const ANSWER: Duration = Duration::from_secs(10);

/// Without a word for so long a stream is dead: a ping comes every 15 s.
const SILENCE: Duration = Duration::from_secs(40);

/// Which daemons to speak to, and as whom.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Replicas of one registry, at least one; the first that answers is asked.
    pub servers: Vec<Url>,
    /// Sent as a bearer token.
    pub token: Option<Token>,
    /// The authorities to trust instead of the system's, PEM.
    pub ca_file: Option<PathBuf>,
}

/// Why there is no answer, or not the one that was wanted.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The settings cannot be used.
    #[error("{0}")]
    Settings(String),
    /// No server could be reached.
    #[error("no answer from {server}: {reason}")]
    Unreachable {
        /// Which one was tried last.
        server: String,
        /// What went wrong.
        reason: String,
    },
    /// The server refused.
    #[error("{server} says {status}: {detail}")]
    Refused {
        /// Which one.
        server: String,
        /// Its status.
        status: StatusCode,
        /// Its `code`, for programs.
        code: String,
        /// Its `detail`, for people.
        detail: String,
    },
    /// The server answered something else than a Rollcall daemon does.
    #[error("{server} does not answer as a Rollcall daemon does: {reason}")]
    Strange {
        /// Which one.
        server: String,
        /// What was odd.
        reason: String,
    },
}

impl ClientError {
    /// Whether the server says that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND)
    }

    /// Whether another server, or the same one later, may well answer.
    fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => status.is_server_error(),
            Self::Settings(_) | Self::Strange { .. } => false,
        }
    }
}

/// A problem document, as far as it matters here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    detail: String,
}

/// A client. Keeps its connections open.
pub struct Client {
    http: reqwest::Client,
    servers: Vec<Url>,
    token: Option<Token>,
    /// The server that answered last.
    current: AtomicUsize,
}

impl Client {
    /// Connects to nothing yet.
    pub fn new(settings: &Settings) -> Result<Self, ClientError> {
        // Without one that was installed before, reqwest has no cryptography.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .tcp_nodelay(true);
        let plain = settings.servers.iter().all(|url| url.scheme() == "http");
        let builder = match &settings.ca_file {
            Some(path) => builder.tls_certs_only(authorities(path)?),
            // The system's authorities are many, and nobody would ask for them.
            None if plain => builder.tls_certs_only([]),
            None => builder,
        };
        let http = builder
            .build()
            .map_err(|error| ClientError::Settings(text(&error)))?;
        Ok(Self {
            http,
            servers: settings.servers.clone(),
            token: settings.token.clone(),
            current: AtomicUsize::new(0),
        })
    }

    /// Sends a request to the first server that answers it. `path` begins with a slash; a
    /// body is JSON, and so is the answer: `Null` where it is empty.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ClientError> {
        let body = body.map(ToString::to_string);
        self.at_a_server(async |server| {
            let mut request = self.request(method.clone(), server, path).timeout(ANSWER);
            if let Some(body) = &body {
                let json = ("Content-Type", "application/json");
                request = request.header(json.0, json.1).body(body.clone());
            }
            let answer = accepted(server, request.send().await).await?;
            let bytes = answer.bytes().await;
            let bytes = bytes.map_err(|error| unreachable(server, &error))?;
            match bytes.is_empty() {
                true => Ok(Value::Null),
                false => serde_json::from_slice(&bytes).map_err(|error| strange(server, &error)),
            }
        })
        .await
    }

    /// What is at a path.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.read(self.send(Method::GET, path, None).await?)
    }

    /// An answer as what it should be.
    pub fn read<T: DeserializeOwned>(&self, answer: Value) -> Result<T, ClientError> {
        serde_json::from_value(answer).map_err(|error| strange(self.server(), &error))
    }

    /// Listens to `/v1/events`, with that query, after that event if there is one.
    pub async fn events(
        &self,
        query: &str,
        last_id: Option<&str>,
    ) -> Result<EventStream, ClientError> {
        self.at_a_server(async |server| {
            let path = format!("/v1/events{query}");
            let mut request = self.request(Method::GET, server, &path);
            if let Some(id) = last_id {
                request = request.header("Last-Event-ID", id);
            }
            let answer = accepted(server, request.send().await).await?;
            Ok(EventStream::new(answer))
        })
        .await
    }

    fn request(&self, method: Method, server: &Url, path: &str) -> reqwest::RequestBuilder {
        let base = server.as_str().trim_end_matches('/');
        let request = self.http.request(method, format!("{base}{path}"));
        match &self.token {
            Some(token) => request.bearer_auth(token.reveal()),
            None => request,
        }
    }

    /// Tries each server once, beginning with the one that answered last.
    async fn at_a_server<T>(
        &self,
        ask: impl AsyncFn(&Url) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let mut outcome = ask(self.server()).await;
        for _ in 1..self.servers.len() {
            match &outcome {
                Err(error) if error.may_pass() => {
                    self.current.fetch_add(1, Ordering::Relaxed);
                    outcome = ask(self.server()).await;
                }
                _ => break,
            }
        }
        outcome
    }

    fn server(&self) -> &Url {
        &self.servers[self.current.load(Ordering::Relaxed) % self.servers.len()]
    }
}

/// The answer, if it is a good one.
async fn accepted(
    server: &Url,
    answer: reqwest::Result<Response>,
) -> Result<Response, ClientError> {
    let answer = answer.map_err(|error| unreachable(server, &error))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let body = answer.bytes().await.unwrap_or_default();
    let Problem { code, detail } = serde_json::from_slice(&body).unwrap_or_default();
    let detail = match detail.is_empty() {
        true => "nothing more".to_owned(),
        false => detail,
    };
    Err(ClientError::Refused {
        server: shown(server),
        status,
        code,
        detail,
    })
}

fn authorities(path: &std::path::Path) -> Result<Vec<Certificate>, ClientError> {
    let failed = |error: String| ClientError::Settings(format!("{}: {error}", path.display()));
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let certificates =
        Certificate::from_pem_bundle(&pem).map_err(|error| failed(error.to_string()))?;
    match certificates.is_empty() {
        true => Err(failed("holds no certificate (PEM)".to_owned())),
        false => Ok(certificates),
    }
}

fn unreachable(server: &Url, error: &reqwest::Error) -> ClientError {
    ClientError::Unreachable {
        server: shown(server),
        reason: text(error),
    }
}

fn strange(server: &Url, error: &serde_json::Error) -> ClientError {
    ClientError::Strange {
        server: shown(server),
        reason: error.to_string(),
    }
}

fn shown(server: &Url) -> String {
    server.as_str().trim_end_matches('/').to_owned()
}

/// The innermost cause says most, such as "Connection refused".
pub(crate) fn text(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
