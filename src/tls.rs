//! HTTPS: the certificate of the daemon, and the authorities of client certificates.
//!
//! Both can be reloaded while the daemon runs: new connections use the new files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
};

/// The paths of the certificates and the key, all in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// The certificate chain of the daemon, its own certificate first.
    pub(crate) certificate: PathBuf,
    /// The key of the daemon's certificate.
    pub(crate) key: PathBuf,
    /// The authorities of client certificates; `None` if clients need no certificate.
    pub(crate) client_ca: Option<PathBuf>,
}

/// Why the certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{setting} {path}: {reason}")]
pub struct TlsError {
    setting: &'static str,
    path: String,
    reason: String,
}

impl TlsError {
    fn new(setting: &'static str, path: &Path, reason: impl fmt::Display) -> Self {
        Self {
            setting,
            path: path.display().to_string(),
            reason: reason.to_string(),
        }
    }
}

/// The current certificates.
pub(crate) struct Tls {
    files: TlsFiles,
    server: Arc<ServerCertificate>,
    clients: Option<Arc<ClientVerifier>>,
}

impl Tls {
    /// Reads the files.
    pub(crate) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let server = ServerCertificate(ArcSwap::from_pointee(files.certified_key(&provider)?));
        let clients = match &files.client_ca {
            Some(path) => Some(Arc::new(ClientVerifier {
                current: ArcSwap::from_pointee(verifier(path, &provider)?),
                schemes: provider
                    .signature_verification_algorithms
                    .supported_schemes(),
            })),
            None => None,
        };
        Ok(Self {
            files,
            server: Arc::new(server),
            clients,
        })
    }

    /// Reads the files again. If that fails, the previous certificates stay in use.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let provider = Arc::new(ring::default_provider());
        let certified_key = self.files.certified_key(&provider)?;
        if let (Some(clients), Some(path)) = (&self.clients, &self.files.client_ca) {
            let verifier = verifier(path, &provider)?;
            clients.current.store(Arc::new(verifier));
        }
        self.server.0.store(Arc::new(certified_key));
        Ok(())
    }

    /// Returns whether clients must have a certificate. The handshake also accepts clients that
    /// send none, because health probes have none.
    pub(crate) fn asks_clients(&self) -> bool {
        self.clients.is_some()
    }

    /// Returns the configuration of a server. Each handshake uses the current certificates.
    pub(crate) fn server_config(&self) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::new("--tls-cert", &self.files.certificate, error))?;
        let builder = match &self.clients {
            Some(clients) => {
                let clients: Arc<dyn ClientCertVerifier> = Arc::clone(clients) as _;
                builder.with_client_cert_verifier(clients)
            }
            None => builder.with_no_client_auth(),
        };
        let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(&self.server) as _;
        let mut config = builder.with_cert_resolver(resolver);
        // A resumed session would use the certificates from its beginning.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

impl TlsFiles {
    fn certified_key(&self, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
        let chain = certificates("--tls-cert", &self.certificate)?;
        let error = |reason| TlsError::new("--tls-key", &self.key, reason);
        let key =
            PrivateKeyDer::from_pem_file(&self.key).map_err(|reason| error(reason.to_string()))?;
        CertifiedKey::from_der(chain, key, provider).map_err(|reason| error(reason.to_string()))
    }
}

fn certificates(
    setting: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |reason: &dyn fmt::Display| TlsError::new(setting, path, reason);
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|reason| error(&reason))?;
    if certificates.is_empty() {
        return Err(error(&"contains no PEM certificate"));
    }
    Ok(certificates)
}

type Verifier = Arc<dyn ClientCertVerifier>;

fn verifier(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Verifier, TlsError> {
    const SETTING: &str = "--tls-client-ca";
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(SETTING, path)? {
        let added = authorities.add(certificate);
        added.map_err(|reason| TlsError::new(SETTING, path, reason))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(provider))
        .allow_unauthenticated()
        .build()
        .map_err(|reason| TlsError::new(SETTING, path, reason))
}

/// The current certificate and key of the daemon.
#[derive(Debug)]
struct ServerCertificate(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// Delegates to the current verifier of client certificates, because rustls keeps the same
/// verifier for the lifetime of the server.
#[derive(Debug)]
struct ClientVerifier {
    current: ArcSwap<Verifier>,
    schemes: Vec<SignatureScheme>,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// Returns no hints: clients work without them, and a reload could not replace a slice that
    /// is borrowed from `self`.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let current = self.current.load();
        current.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let current = self.current.load();
        current.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let current = self.current.load();
        current.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
