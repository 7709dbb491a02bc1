//! Asks a daemon on this machine whether it is ready, for containers without curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// The time limit for an answer: shorter than that of a container's health check.
const ANSWER: Duration = Duration::from_secs(5);

/// Why the daemon is not ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReady {
    /// It does not answer.
    #[error("{0}: {1}")]
    NoAnswer(String, reqwest::Error),
    /// It answers that it is not ready.
    #[error("{0} says {1}: {2}")]
    Refused(String, reqwest::StatusCode, String),
}

/// Asks `/readyz` of the daemon with this `--listen`.
///
/// It connects only to this machine and asks for public information, so with TLS it does not
/// verify the name in the certificate.
pub(crate) async fn ask(listen: SocketAddr, tls: bool) -> Result<(), NotReady> {
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{}/readyz", reachable(listen));
    let failed = |error: reqwest::Error| NotReady::NoAnswer(url.clone(), error.without_url());
    // reqwest has no default cryptography provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_danger_accept_invalid_certs(true)
        .timeout(ANSWER)
        .build()
        .map_err(failed)?;
    let answer = client.get(&url).send().await.map_err(failed)?;
    let status = answer.status();
    if status.is_success() {
        Ok(())
    } else {
        let body = answer.text().await.map_err(failed)?;
        Err(NotReady::Refused(url, status, body))
    }
}

/// Returns the loopback address for an unspecified address.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    SocketAddr::new(address, listen.port())
}
