//! Asks a daemon on this machine whether it is ready, for containers without curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// How long an answer may take: less than a container's own limit.
const ANSWER: Duration = Duration::from_secs(5);

/// Why the daemon is not ready, or could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// There was no answer.
    #[error("{0}: {1}")]
    NoAnswer(String, reqwest::Error),
    /// It says so itself; with what it says.
    #[error("{0} says {1}: {2}")]
    Refused(String, reqwest::StatusCode, String),
}

/// Asks `/readyz` of the daemon whose `--listen` that is.
///
/// It speaks to this machine alone, about what everybody may know, so with TLS it does not
/// check whose certificate that is: it may be any name's.
pub async fn ask(listen: SocketAddr, tls: bool) -> Result<(), NotReady> {
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{}/readyz", reachable(listen));
    let failed = |error: reqwest::Error| NotReady::NoAnswer(url.clone(), error.without_url());
    // Without one that was installed before, reqwest has no cryptography.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_danger_accept_invalid_certs(true)
        .timeout(ANSWER)
        .build()
        .map_err(failed)?;
    let answer = client.get(&url).send().await.map_err(failed)?;
    let status = answer.status();
    match status.is_success() {
        true => Ok(()),
        false => {
            let body = answer.text().await.map_err(failed)?;
            Err(NotReady::Refused(url, status, body))
        }
    }
}

/// An address that stands for all of the machine's is reached on loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    SocketAddr::new(address, listen.port())
}
