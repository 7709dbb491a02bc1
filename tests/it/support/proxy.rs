//! A TCP proxy that goes wrong on purpose.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

/// The fault of the connections, new ones included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Data is silently dropped.
    BlackHole,
    /// Data arrives this much later, in both directions.
    Delay(Duration),
    /// Connections are reset as soon as something is sent.
    Reset,
    /// The server closes its direction, and the client may continue.
    HalfClose,
}

/// Stands between a daemon and a server.
pub(crate) struct Proxy {
    address: SocketAddr,
    target: Arc<watch::Sender<u16>>,
    fault: Arc<watch::Sender<Fault>>,
}

impl Proxy {
    pub(crate) async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(watch::Sender::new(port));
        let fault = Arc::new(watch::Sender::new(Fault::None));
        let (targets, faults) = (Arc::clone(&target), Arc::clone(&fault));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (mut targets, faults) = (targets.subscribe(), faults.subscribe());
                tokio::spawn(async move {
                    let port = *targets.borrow_and_update();
                    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
                        return;
                    };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    let both = async {
                        tokio::join!(
                            pass(from_client, to_server, faults.clone(), false),
                            pass(from_server, to_client, faults, true),
                        )
                    };
                    tokio::select! {
                        _ = both => {}
                        _ = targets.changed() => {}
                    }
                });
            }
        });
        Self {
            address,
            target,
            fault,
        }
    }

    /// Connects to another server from now on, and closes the open connections.
    pub(crate) fn lead_to(&self, port: u16) {
        self.target.send_replace(port);
    }

    /// Connects new connections to another server, and keeps the open ones.
    pub(crate) fn lead_new_to(&self, port: u16) {
        self.target.send_if_modified(|target| {
            *target = port;
            false
        });
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on this happens.
    pub(crate) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

/// Forwards data until either side ends or a fault ends it.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut faults: watch::Receiver<Fault>,
    of_server: bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let fault = *faults.borrow_and_update();
        let read = match fault {
            Fault::HalfClose if of_server => break,
            // Nothing is read: the sender fills the buffers of the system, and waits.
            Fault::BlackHole => None,
            _ => Some(from.read(&mut buffer)),
        };
        let read = async {
            match read {
                Some(read) => read.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = faults.changed() => if changed.is_err() { return },
            count = read => match count {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    let fault = *faults.borrow();
                    match fault {
                        Fault::Reset => {
                            // Without anything left to send, the system answers with a reset.
                            let _ = to.as_ref().set_zero_linger();
                            let _ = from.as_ref().set_zero_linger();
                            return;
                        }
                        Fault::Delay(delay) => sleep(delay).await,
                        _ => {}
                    }
                    if to.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            },
        }
    }
    let _ = to.shutdown().await;
    if of_server {
        // The other direction continues until the client ends it.
        let mut rest = Vec::new();
        let _ = from.read_to_end(&mut rest).await;
    }
}
