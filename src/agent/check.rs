//! Whether the instances are able to serve: the result of a health check, or that their ports
//! accept connections.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use reqwest::redirect;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{ClientError, text};
use crate::model::Address;
use crate::settings::{CheckSettings, CheckTarget};

/// The time limit for connecting to a port that may not listen yet.
const CONNECT: Duration = Duration::from_secs(1);

/// The time between attempts to connect.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Whether the instances are able to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Health {
    /// It is not known yet: they are not registered.
    Starting,
    /// They send heartbeats.
    Passing,
    /// They do not send heartbeats, for this reason.
    Failed(String),
}

/// A health check.
pub(super) struct Check {
    target: Target,
    interval: Duration,
    timeout: Duration,
    /// The number of failures one after the other that count.
    failures: u32,
}

enum Target {
    Http(reqwest::Client, url::Url),
    Tcp(Address),
}

impl Check {
    pub(super) fn new(settings: CheckSettings) -> Result<Self, ClientError> {
        let target = match settings.target {
            CheckTarget::Tcp(address) => Target::Tcp(address),
            CheckTarget::Http(url) => {
                // A client of its own: with other authorities than the registry's.
                let builder = reqwest::Client::builder()
                    .no_proxy()
                    .redirect(redirect::Policy::none());
                let client = match url.scheme() {
                    "http" => builder.tls_certs_only([]).build(),
                    _ => builder.build(),
                };
                let client = client.map_err(|error| ClientError::Settings(text(&error)))?;
                Target::Http(client, url)
            }
        };
        Ok(Self {
            target,
            interval: settings.interval,
            timeout: settings.timeout,
            failures: settings.failures,
        })
    }

    /// Checks for ever.
    pub(super) async fn run(&self, health: &watch::Sender<Health>) {
        let mut failed = 0;
        loop {
            let begin = Instant::now();
            let outcome = timeout(self.timeout, self.check()).await;
            let outcome =
                outcome.unwrap_or_else(|_| Err(format!("no answer within {:?}", self.timeout)));
            match outcome {
                Ok(()) => {
                    failed = 0;
                    set(health, Health::Passing);
                }
                Err(reason) => {
                    failed += 1;
                    let was_passing = *health.borrow() == Health::Passing;
                    if was_passing && failed < self.failures {
                        log::warn!(
                            "health check failed, {failed} of {} times: {reason}",
                            self.failures
                        );
                    } else {
                        set(health, Health::Failed(reason));
                    }
                }
            }
            sleep(self.interval.saturating_sub(begin.elapsed())).await;
        }
    }

    async fn check(&self) -> Result<(), String> {
        match &self.target {
            Target::Http(client, url) => {
                let answer = client.get(url.clone()).send().await;
                let status = answer.map_err(|error| text(&error))?.status();
                if status.is_success() {
                    Ok(())
                } else {
                    Err(format!("{url} answers {status}"))
                }
            }
            Target::Tcp(address) => {
                let connected = TcpStream::connect(address.as_str()).await;
                let failed = |error| format!("cannot connect to {address}: {error}");
                connected.map(drop).map_err(failed)
            }
        }
    }
}

/// Waits until each address accepts connections, there or on the loopback interface, at most for
/// `limit`: a program that has no port is able to serve by then.
pub(super) async fn until_listening(
    addresses: impl Iterator<Item = Address>,
    limit: Duration,
    health: &watch::Sender<Health>,
) {
    let listening = async {
        for address in addresses {
            while !accepts(&address).await {
                sleep(RETRY_DELAY).await;
            }
        }
    };
    if timeout(limit, listening).await.is_err() {
        log::info!("the command does not listen after {limit:?} (--start-delay): registering");
    }
    set(health, Health::Passing);
}

async fn accepts(address: &Address) -> bool {
    let connect = async |host: &str| {
        let connected = timeout(CONNECT, TcpStream::connect((host, address.port()))).await;
        matches!(connected, Ok(Ok(_)))
    };
    // A port may be published under another address than the one on which it listens.
    let [ipv4, ipv6] = [
        Ipv4Addr::LOCALHOST.to_string(),
        Ipv6Addr::LOCALHOST.to_string(),
    ];
    connect(&ipv4).await || connect(&ipv6).await || connect(address.host()).await
}

fn set(health: &watch::Sender<Health>, new: Health) {
    health.send_if_modified(|known| {
        let is_new = *known != new;
        *known = new;
        is_new
    });
}
