//! From a URL to a pool: TLS by `sslmode`, every timeout set, and connections that
//! live on one runtime.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Connect, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Config, SslMode};
use tokio_postgres::{Client, Error};
use tokio_postgres_rustls::MakeRustlsConnect;
use url::{Url, form_urlencoded};

use crate::error::UrlError;

/// Waiting for a free connection.
const POOL_WAIT: Duration = Duration::from_millis(500);
/// Making a connection, TLS and login included.
const CONNECT: Duration = Duration::from_secs(2);
/// How long sent bytes may stay unacknowledged before the kernel gives up.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// Waiting for one answer; longer than the server's own limit, so that the server
/// speaks first.
pub(super) const ANSWER: Duration = Duration::from_secs(3);
/// The server's limits on a session, in milliseconds.
const SESSION: &str =
    "-c statement_timeout=2500 -c lock_timeout=2000 -c idle_in_transaction_session_timeout=10000";

/// How `sslmode` asks for the connection to be protected, in libpq's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tls {
    /// Never.
    Disable,
    /// Encrypted where the server can; the server is not identified.
    Prefer,
    /// Encrypted or not at all; the server is identified only with `sslrootcert`, and
    /// then as by `verify-full`.
    Require,
    /// Encrypted, and the certificate is for this host and signed by a known authority.
    /// The default where there is an `sslrootcert`.
    VerifyFull,
}

impl FromStr for Tls {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        match text {
            "disable" => Ok(Self::Disable),
            "prefer" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            "verify-full" => Ok(Self::VerifyFull),
            other => Err(UrlError::new(format!(
                "sslmode must be disable, prefer, require or verify-full, not '{other}'"
            ))),
        }
    }
}

/// What a `postgres://` URL says: the driver's own settings, and those of TLS,
/// which the driver does not read.
struct Settings {
    driver: Config,
    tls: Tls,
    root_cert: Option<String>,
}

fn settings(url: &Url) -> Result<Settings, UrlError> {
    let (mut tls, mut root_cert) = (None, None);
    let mut rest = Vec::new();
    // What is the driver's stays as it is written: encoding it again would not be the same.
    for part in url.query().unwrap_or_default().split('&') {
        match form_urlencoded::parse(part.as_bytes()).next() {
            Some((name, value)) if name == "sslmode" => tls = Some(value.parse()?),
            Some((name, value)) if name == "sslrootcert" => root_cert = Some(value.into_owned()),
            _ => rest.push(part),
        }
    }
    let tls = match (tls, &root_cert) {
        (Some(Tls::Disable | Tls::Prefer), Some(_)) => {
            return Err(UrlError::new(
                "sslrootcert needs sslmode=verify-full or require: the others may not use TLS at all",
            ));
        }
        (Some(tls), _) => tls,
        (None, Some(_)) => Tls::VerifyFull,
        (None, None) => Tls::Prefer,
    };
    let mut url = url.clone();
    let rest = rest.join("&");
    url.set_query((!rest.is_empty()).then_some(rest.as_str()));
    let mut driver: Config = url.as_str().parse().map_err(|error: Error| {
        // The driver's error is two lines deep, and neither shows the URL.
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        UrlError::new(cause.map_or(error.to_string(), |cause| format!("{error}: {cause}")))
    })?;
    if driver.get_hosts().is_empty() {
        return Err(UrlError::new("a host is missing"));
    }
    let options = match driver.get_options() {
        Some(own) => format!("{SESSION} {own}"),
        None => SESSION.to_owned(),
    };
    driver
        .ssl_mode(match tls {
            Tls::Disable => SslMode::Disable,
            Tls::Prefer => SslMode::Prefer,
            Tls::Require | Tls::VerifyFull => SslMode::Require,
        })
        .connect_timeout(CONNECT)
        .tcp_user_timeout(TCP_USER_TIMEOUT)
        .keepalives_idle(KEEPALIVE_IDLE)
        .options(options);
    if driver.get_application_name().is_none() {
        driver.application_name("rollcalld");
    }
    Ok(Settings {
        driver,
        tls,
        root_cert,
    })
}

/// Whether the URL is complete and understood, without reading any file.
pub(crate) fn check_url(url: &Url) -> Result<(), UrlError> {
    settings(url).map(drop)
}

/// A pool whose connections are made, and live, on the runtime this is called on:
/// a caller on another runtime may end without taking a connection with it.
pub(super) fn pool(url: &Url, connections: usize) -> Result<Pool, String> {
    let settings = settings(url).map_err(|error| error.to_string())?;
    let connect = HomeConnect {
        tls: MakeRustlsConnect::new(tls_config(settings.tls, settings.root_cert.as_deref())?),
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
        .create_timeout(Some(CONNECT + Duration::from_millis(500)))
        .recycle_timeout(Some(Duration::from_secs(1)))
        .build()
        .map_err(|error| error.to_string())
}

struct HomeConnect {
    tls: MakeRustlsConnect,
    home: Handle,
}

impl Connect for HomeConnect {
    fn connect(
        &self,
        config: &Config,
    ) -> futures_util::future::BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>> {
        let (config, tls) = (config.clone(), self.tls.clone());
        let task = self.home.spawn(async move {
            // The driver's own limit ends with the TCP handshake.
            let connected = timeout(CONNECT, config.connect(tls)).await.ok()?;
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
                // Too late, or the home runtime is stopping: the driver has no error for
                // either, so the pool's own limit, a little later, says it.
                Ok(None) | Err(_) => std::future::pending().await,
            }
        })
    }
}

fn tls_config(tls: Tls, root_cert: Option<&str>) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    if tls != Tls::VerifyFull && root_cert.is_none() {
        return Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
            .with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    match root_cert {
        Some(path) => {
            let fail = |error: &dyn fmt::Display| format!("sslrootcert {path}: {error}");
            for cert in CertificateDer::pem_file_iter(path).map_err(|error| fail(&error))? {
                let cert = cert.map_err(|error| fail(&error))?;
                roots.add(cert).map_err(|error| fail(&error))?;
            }
            if roots.is_empty() {
                return Err(fail(&"holds no certificate"));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(
                    "sslmode=verify-full found no certificate authorities on this system; name a file with sslrootcert=PATH".into(),
                );
            }
        }
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Accepts any certificate, for the modes that encrypt without identifying the
/// server. The handshake's signatures are still checked.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
