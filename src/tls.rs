//! HTTPS: the certificate that the daemon shows, and whose clients it believes.
//!
//! Both can be read again while it serves: connections that begin later meet the new ones.

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

/// Where the certificates are; all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The daemon's chain, its own certificate first.
    pub certificate: PathBuf,
    /// The key of that.
    pub key: PathBuf,
    /// Whose certificates clients must have; `None` asks for none.
    pub client_ca: Option<PathBuf>,
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

/// The certificates that are valid now.
pub struct Tls {
    files: TlsFiles,
    shown: Arc<Shown>,
    clients: Option<Arc<Clients>>,
}

impl Tls {
    /// Reads them.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let shown = Shown(ArcSwap::from_pointee(files.shown(&provider)?));
        let clients = match &files.client_ca {
            Some(path) => Some(Arc::new(Clients {
                current: ArcSwap::from_pointee(verifier(path, &provider)?),
                schemes: provider
                    .signature_verification_algorithms
                    .supported_schemes(),
            })),
            None => None,
        };
        Ok(Self {
            files,
            shown: Arc::new(shown),
            clients,
        })
    }

    /// Reads them again. After an error those from before stay valid.
    pub fn reload(&self) -> Result<(), TlsError> {
        let provider = Arc::new(ring::default_provider());
        let shown = self.files.shown(&provider)?;
        if let (Some(clients), Some(path)) = (&self.clients, &self.files.client_ca) {
            let verifier = verifier(path, &provider)?;
            clients.current.store(Arc::new(verifier));
        }
        self.shown.0.store(Arc::new(shown));
        Ok(())
    }

    /// Whether clients must have a certificate. The handshake only checks one that is shown:
    /// probes come without.
    pub fn asks_clients(&self) -> bool {
        self.clients.is_some()
    }

    /// For a server, whose handshakes use what is valid at their time.
    pub fn server_config(&self) -> Result<ServerConfig, TlsError> {
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
        let shown: Arc<dyn ResolvesServerCert> = Arc::clone(&self.shown) as _;
        let mut config = builder.with_cert_resolver(shown);
        // A session that is resumed would go by the certificates of its beginning.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

impl TlsFiles {
    fn shown(&self, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
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
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|reason| error(&reason))?;
    match found.is_empty() {
        true => Err(error(&"contains no PEM certificate")),
        false => Ok(found),
    }
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

/// What the daemon shows.
#[derive(Debug)]
struct Shown(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// Whose clients it believes: rustls keeps a verifier for ever, so this one passes on to
/// the one that is valid now.
#[derive(Debug)]
struct Clients {
    current: ArcSwap<Verifier>,
    schemes: Vec<SignatureScheme>,
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: the hints would have to live as long as this, and clients do without.
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
