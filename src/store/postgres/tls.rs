//! The TLS of connections, and the files that it needs.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::backend::UrlError;

/// The `sslmode` of libpq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    /// No encryption.
    Disable,
    /// Encryption if the server supports it; the server is not verified.
    Prefer,
    /// Encryption is required; the server is verified only with `sslrootcert`, and then as by
    /// `verify-full`.
    Require,
    /// Encryption is required, and the certificate must be for this host and from a known
    /// authority. The default with `sslrootcert`.
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

/// The files that are read again for each new connection.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) tls: Tls,
    pub(super) root_cert: Option<String>,
    /// The files of the client's certificate and its key.
    pub(super) client_cert: Option<(String, String)>,
    pub(super) password_file: Option<String>,
}

pub(super) fn tls_config(files: &Files) -> Result<ClientConfig, String> {
    let root_cert = files.root_cert.as_deref();
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    if files.tls != Tls::VerifyFull && root_cert.is_none() {
        let any_server = Arc::new(AnyServer(provider));
        let builder = builder
            .dangerous()
            .with_custom_certificate_verifier(any_server);
        return client_auth(builder, files);
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
                return Err(fail(&"contains no PEM certificate"));
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
    client_auth(builder.with_root_certificates(roots), files)
}

fn client_auth(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    files: &Files,
) -> Result<ClientConfig, String> {
    let Some((cert, key)) = &files.client_cert else {
        return Ok(builder.with_no_client_auth());
    };
    let of_cert = |error: &dyn fmt::Display| format!("sslcert {cert}: {error}");
    let certs = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| of_cert(&error))?;
    let of_key = |error: &dyn fmt::Display| format!("sslkey {key}: {error}");
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| of_key(&error))?;
    builder
        .with_client_auth_cert(certs, key)
        .map_err(|error| of_cert(&error))
}

/// Accepts any certificate, for the modes that encrypt without verifying the server. The
/// signatures of the handshake are still checked.
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
