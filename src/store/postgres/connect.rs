//! From a URL to a pool: TLS by `sslmode`, timeouts everywhere, and connections that live on
//! one runtime.

use std::str::FromStr;
use std::time::Duration;

use deadpool_postgres::{Connect, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Config, SslMode, TargetSessionAttrs};
use tokio_postgres::{Client, Error};
use tokio_postgres_rustls::MakeRustlsConnect;
use url::form_urlencoded;

use super::tls::{Files, Tls, tls_config};
use crate::backend::{BackendUrl, UrlError};

/// The longest wait for a free connection.
const POOL_WAIT: Duration = Duration::from_millis(500);
/// The time limit for making a connection, including TLS and login.
const CONNECT: Duration = Duration::from_secs(2);
/// How long sent bytes may stay unacknowledged before the kernel closes the connection.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// The time limit for one answer; longer than the limit at the server, so that the server
/// reports first.
pub(super) const ANSWER: Duration = Duration::from_secs(3);
/// A parsed `postgres://` URL: the settings of the driver, and those that the driver does not
/// know.
struct Settings {
    driver: Config,
    files: Files,
}

fn settings(url: &BackendUrl) -> Result<Settings, UrlError> {
    let (mut tls, mut root_cert) = (None, None);
    let (mut cert, mut key, mut password_file, mut target) = (None, None, None, None);
    let mut rest = Vec::new();
    let (base, query) = match url.expose().split_once('?') {
        Some((base, query)) => (base, query),
        None => (url.expose(), ""),
    };
    // The driver's own parameters are passed on unchanged: encoding them again could alter them.
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = form_urlencoded::parse(part.as_bytes())
            .next()
            .unwrap_or_default();
        match &*name {
            "sslmode" => tls = Some(value.parse()?),
            "sslrootcert" => root_cert = Some(value.into_owned()),
            "sslcert" => cert = Some(value.into_owned()),
            "sslkey" => key = Some(value.into_owned()),
            "password_file" => password_file = Some(value.into_owned()),
            "target_session_attrs" => target = Some(value.parse::<Target>()?),
            _ => rest.push(part),
        }
    }
    let client_cert = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => return Err(UrlError::new("sslcert and sslkey must be given together")),
    };
    let tls = match (tls, &root_cert) {
        (Some(Tls::Disable | Tls::Prefer), Some(_)) => {
            return Err(UrlError::new(
                "sslrootcert needs sslmode=verify-full or require: the other modes may connect without TLS",
            ));
        }
        (Some(tls), _) => tls,
        (None, Some(_)) => Tls::VerifyFull,
        (None, None) => Tls::Prefer,
    };
    if client_cert.is_some() && matches!(tls, Tls::Disable | Tls::Prefer) {
        return Err(UrlError::new(
            "sslcert needs sslmode=verify-full or require: the other modes may connect without TLS",
        ));
    }
    let mut driver: Config = format!("{base}?{}", rest.join("&"))
        .trim_end_matches('?')
        .parse()
        .map_err(|error: Error| {
            // The driver's error is two levels deep, and neither shows the URL.
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            UrlError::new(cause.map_or(error.to_string(), |cause| format!("{error}: {cause}")))
        })?;
    if driver.get_hosts().is_empty() {
        return Err(UrlError::new("a host is missing"));
    }
    if driver.get_password().is_some() && password_file.is_some() {
        return Err(UrlError::new(
            "password and password_file cannot be combined",
        ));
    }
    // Of several servers, use the one that accepts writes, whichever that is now.
    let several = driver.get_hosts().len() > 1;
    driver.target_session_attrs(match target {
        Some(Target(target)) => target,
        None if several => TargetSessionAttrs::ReadWrite,
        None => TargetSessionAttrs::Any,
    });
    driver
        .ssl_mode(match tls {
            Tls::Disable => SslMode::Disable,
            Tls::Prefer => SslMode::Prefer,
            Tls::Require | Tls::VerifyFull => SslMode::Require,
        })
        .connect_timeout(CONNECT)
        .tcp_user_timeout(TCP_USER_TIMEOUT)
        .keepalives_idle(KEEPALIVE_IDLE);
    if driver.get_application_name().is_none() {
        driver.application_name("rollcalld");
    }
    Ok(Settings {
        driver,
        files: Files {
            tls,
            root_cert,
            client_cert,
            password_file,
        },
    })
}

/// Checks that the URL is complete and understood, without reading any file.
pub(crate) fn check_url(url: &BackendUrl) -> Result<(), UrlError> {
    settings(url).map(drop)
}

/// Returns a pool whose connections live on the current runtime: a caller on another runtime
/// may end without closing a connection.
pub(super) fn pool(url: &BackendUrl, connections: usize) -> Result<Pool, String> {
    let settings = settings(url).map_err(|error| error.to_string())?;
    // A host that does not answer delays the attempt at the next one.
    let limit = CONNECT * u32::try_from(settings.driver.get_hosts().len()).unwrap_or(1);
    let credentials = Mutex::new(Credentials::read(&settings.files)?);
    let connect = HomeConnect {
        files: settings.files,
        credentials,
        limit,
        home: Handle::current(),
    };
    let manager = Manager::from_connect(
        settings.driver,
        connect,
        ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        },
    );
    Pool::builder(manager)
        .max_size(connections)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(POOL_WAIT))
        .create_timeout(Some(limit + Duration::from_millis(500)))
        .recycle_timeout(Some(Duration::from_secs(1)))
        .build()
        .map_err(|error| error.to_string())
}

/// Parses the `target_session_attrs` of libpq.
struct Target(TargetSessionAttrs);

impl FromStr for Target {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        match text {
            "any" => Ok(Self(TargetSessionAttrs::Any)),
            "read-write" | "primary" => Ok(Self(TargetSessionAttrs::ReadWrite)),
            other => Err(UrlError::new(format!(
                "target_session_attrs must be any, read-write or primary, not '{other}'"
            ))),
        }
    }
}

/// The contents of the files of a URL.
#[derive(Clone)]
struct Credentials {
    tls: MakeRustlsConnect,
    password: Option<String>,
}

impl Credentials {
    fn read(files: &Files) -> Result<Self, String> {
        let password = match &files.password_file {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|error| format!("password_file {path}: {error}"))?;
                Some(text.trim_end_matches(['\r', '\n']).to_owned())
            }
            None => None,
        };
        Ok(Self {
            tls: MakeRustlsConnect::new(tls_config(files)?),
            password,
        })
    }
}

struct HomeConnect {
    files: Files,
    /// The contents that could be read last.
    credentials: Mutex<Credentials>,
    limit: Duration,
    home: Handle,
}

impl HomeConnect {
    fn credentials(&self) -> Credentials {
        let mut last = self.credentials.lock();
        match Credentials::read(&self.files) {
            Ok(read) => *last = read,
            Err(reason) => log::warn!("{reason}; the previous credentials are used"),
        }
        last.clone()
    }
}

impl Connect for HomeConnect {
    fn connect(
        &self,
        config: &Config,
    ) -> futures_util::future::BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>> {
        let mut config = config.clone();
        let Credentials { tls, password } = self.credentials();
        if let Some(password) = password {
            config.password(password);
        }
        let limit = self.limit;
        let task = self.home.spawn(async move {
            // The driver's own limit ends with the TCP handshake.
            let connected = timeout(limit, config.connect(tls)).await.ok()?;
            Some(connected.map(|(client, connection)| {
                let driver = tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        log::debug!("a Postgres connection ended: {error}");
                    }
                });
                (client, driver)
            }))
        });
        Box::pin(async move {
            match task.await {
                Ok(Some(result)) => result,
                // Too late, or the home runtime is stopping: the driver has no error for either, so
                // the pool's own limit, a little later, reports it.
                Ok(None) | Err(_) => std::future::pending().await,
            }
        })
    }
}
