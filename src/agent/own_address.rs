//! The address `auto:PORT`: the local address from which the registry is reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{UdpSocket, lookup_host};
use tokio::time::sleep;
use url::Url;

use crate::model::{Address, Registration};

/// The time between attempts to find the registry.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The host that stands for the local address.
const AUTO: &str = "auto";

/// Replaces `auto` in the addresses. Retries until a server's name is resolved and a route to it
/// is known.
pub(super) async fn resolve(instances: &mut [Registration], servers: &[Url]) {
    if !instances.iter().any(|one| one.key.address.host() == AUTO) {
        return;
    }
    let mut said = String::new();
    let own = loop {
        match local_address(servers).await {
            Ok(own) => break own,
            Err(error) => {
                let why = error.to_string();
                if why != said {
                    log::warn!("cannot find the local address for --address auto, retrying: {why}");
                    said = why;
                }
                sleep(RETRY_DELAY).await;
            }
        }
    };
    log::info!("the local address that reaches the registry is {own}");
    for instance in instances {
        let address = &mut instance.key.address;
        if address.host() == AUTO {
            *address = Address::from(SocketAddr::new(own, address.port()));
        }
    }
}

/// Returns the local address of the route to the first server that has one. Sends nothing.
async fn local_address(servers: &[Url]) -> std::io::Result<IpAddr> {
    let mut outcome = Err(std::io::Error::other("no server has a host"));
    for server in servers {
        outcome = route(server).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn route(server: &Url) -> std::io::Result<IpAddr> {
    let host = server.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = server.port_or_known_default().unwrap_or_default();
    let mut outcome = Err(std::io::Error::other("the name has no address"));
    for remote in lookup_host((host, port)).await? {
        let any: IpAddr = match remote {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        outcome = match socket.connect(remote).await {
            Ok(()) => return Ok(socket.local_addr()?.ip().to_canonical()),
            Err(error) => Err(error),
        };
    }
    outcome
}
