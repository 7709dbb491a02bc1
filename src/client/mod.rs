//! A client of the API v1, for the agent and the commands for operators.
//!
//! It knows only what the API document says, nothing of the daemon's internals. Every request
//! may be repeated, so it is sent to the next server if one does not answer.

mod events;
pub(crate) mod readiness;
mod registrations;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use reqwest::{Certificate, Method, Response, StatusCode, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

pub(crate) use self::events::{EventStream, ServerEvent};
pub(crate) use self::registrations::{Fields, RegistrationEntry};
use crate::auth::Token;
use crate::settings::ClientSettings;

/// The time limit for connecting.
const CONNECT: Duration = Duration::from_secs(2);

/// The longest silence of a live stream: a ping comes every 15 s.
const SILENCE: Duration = Duration::from_secs(40);

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The settings are invalid.
    #[error("{0}")]
    Settings(String),
    /// No server could be reached.
    #[error("no answer from {server}: {reason}")]
    Unreachable {
        /// The last server that was tried.
        server: String,
        /// The reason of the failure.
        reason: String,
    },
    /// The server answered with an error.
    #[error("{server} says {status}: {detail}")]
    Refused {
        /// The server.
        server: String,
        /// The status.
        status: StatusCode,
        /// The `code`, for programs.
        code: String,
        /// The `detail`, for people.
        detail: String,
    },
    /// The answer is not one of a Rollcall daemon.
    #[error("{server} is not a Rollcall daemon: {reason}")]
    Strange {
        /// The server.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ClientError {
    /// Returns whether the scope or instance does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        // Not a path that an earlier version of the daemon does not have.
        matches!(self, Self::Refused { status, code, .. }
            if *status == StatusCode::NOT_FOUND && code != "route_not_found")
    }

    /// Returns whether another server, or a retry, may succeed.
    fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => status.is_server_error(),
            Self::Settings(_) | Self::Strange { .. } => false,
        }
    }
}

/// The fields of a problem document that are used.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    code: String,
    detail: String,
}

/// A client, which keeps its connections open.
pub(crate) struct Client {
    http: reqwest::Client,
    servers: Vec<Url>,
    token: Mutex<Option<Token>>,
    /// From which the token is read again.
    token_file: Option<PathBuf>,
    /// The time limit for an answer.
    timeout: Duration,
    /// The index of the server that answered last.
    current: AtomicUsize,
}

impl Client {
    /// Returns a client that has connected to no server yet.
    pub(crate) fn new(settings: &ClientSettings) -> Result<Self, ClientError> {
        // reqwest has no default cryptography provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .tcp_nodelay(true);
        let plain = settings.server.iter().all(|url| url.scheme() == "http");
        let builder = match &settings.ca_file {
            Some(path) => builder.tls_certs_only(authorities(path)?),
            // Loading the system's many authorities would be useless.
            None if plain => builder.tls_certs_only([]),
            None => builder,
        };
        let http = builder
            .build()
            .map_err(|error| ClientError::Settings(text(&error)))?;
        Ok(Self {
            http,
            servers: settings.server.clone(),
            token: Mutex::new(settings.token.clone()),
            token_file: settings.token_file.clone(),
            timeout: *settings.timeout,
            current: AtomicUsize::new(0),
        })
    }

    /// Reads the token again from its file, if it has one. An unusable file leaves the token as it
    /// is.
    pub(crate) fn reload_token(&self) {
        let Some(path) = &self.token_file else { return };
        let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
        let parsed: Result<Token, String> = read.and_then(|text| text.parse());
        let mut token = self.token.lock();
        match parsed {
            Ok(new) if token.as_ref() != Some(&new) => {
                *token = Some(new);
                log::info!("read the token again from {}", path.display());
            }
            Ok(_) => {}
            Err(reason) => log::debug!("kept the token, because {}: {reason}", path.display()),
        }
    }

    /// Sends a request to the first server that answers. `path` begins with a slash. Body and
    /// answer are JSON; an empty answer is `Null`.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ClientError> {
        let body = body.map(ToString::to_string);
        let (server, answer) = self.exchange(method, path, body).await?;
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer).map_err(|error| strange(&server, &error))
    }

    /// Sends a request with a JSON body to the first server that answers, and returns it with the
    /// body of its answer.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<(Url, Bytes), ClientError> {
        let body = body.map(Bytes::from);
        self.at_a_server(async |server| {
            let mut request = self
                .request(method.clone(), server, path)
                .timeout(self.timeout);
            if let Some(body) = &body {
                let json = ("Content-Type", "application/json");
                request = request.header(json.0, json.1).body(body.clone());
            }
            let answer = accepted(server, request.send().await).await?;
            let bytes = answer.bytes().await;
            let bytes = bytes.map_err(|error| unreachable(server, &error))?;
            Ok((server.clone(), bytes))
        })
        .await
    }

    /// Gets the document at a path.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.read(self.send(Method::GET, path, None).await?)
    }

    /// Gets the document at a path and its entity tag, unless the tag is `known`. The registry may hold
    /// the request.
    pub(crate) async fn get_if_changed(
        &self,
        path: &str,
        known: Option<&str>,
    ) -> Result<Option<(Bytes, String)>, ClientError> {
        self.at_a_server(async |server| {
            let mut request = self.request(Method::GET, server, path);
            if let Some(known) = known {
                request = request.header("If-None-Match", known);
            }
            let answer = match request.send().await {
                Ok(answer) if answer.status() == StatusCode::NOT_MODIFIED => return Ok(None),
                answer => accepted(server, answer).await?,
            };
            let etag = answer.headers().get("ETag");
            let etag = etag.and_then(|etag| etag.to_str().ok()).unwrap_or_default();
            let etag = etag.to_owned();
            let bytes = answer.bytes().await;
            Ok(Some((
                bytes.map_err(|error| unreachable(server, &error))?,
                etag,
            )))
        })
        .await
    }

    /// Parses an answer.
    pub(crate) fn read<T: DeserializeOwned>(&self, answer: Value) -> Result<T, ClientError> {
        serde_json::from_value(answer).map_err(|error| strange(self.server(), &error))
    }

    /// Subscribes to `/v1/events` with a query, after the event `last` if there is one.
    pub(crate) async fn events(
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
        match &*self.token.lock() {
            Some(token) => request.bearer_auth(token.reveal()),
            None => request,
        }
    }

    /// Tries each server once, starting with the one that answered last.
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

/// Returns a successful answer, or its error.
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
    let detail = if detail.is_empty() {
        "nothing more".to_owned()
    } else {
        detail
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
    if certificates.is_empty() {
        Err(failed("contains no PEM certificate".to_owned()))
    } else {
        Ok(certificates)
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

/// Returns the innermost cause, which says most, for example "Connection refused".
pub(crate) fn text(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
