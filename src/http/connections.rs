//! The connections of clients: how many are open, and malformed requests on them.
//!
//! actix-web keeps a connection open for the client's next request, and accepts none beyond its
//! limit. So that idle connections do not keep probes out, the last tenth of the limit is a
//! reserve: while it is in use, each response closes its connection, and requests that would
//! hold a connection for long are rejected.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;

use super::{access, malformed};

/// The connections of all workers.
pub(crate) struct Connections {
    open: AtomicUsize,
    limit: usize,
    /// The reserve is in use, and this was logged.
    full: AtomicBool,
}

impl Connections {
    /// Creates the count of at most `limit` connections.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            open: AtomicUsize::new(0),
            limit,
            full: AtomicBool::new(false),
        }
    }

    /// Returns the number of open connections. A connection counts after its TLS handshake.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns the limit.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Returns whether the reserve is in use.
    pub(super) fn are_scarce(&self) -> bool {
        self.open() > self.limit - self.reserve()
    }

    fn reserve(&self) -> usize {
        (self.limit / 10).max(1).min(self.limit)
    }

    /// Counts a connection until it ends, and stores with it what the guard needs.
    pub(crate) fn opened(self: &Arc<Self>, connection: &dyn Any, data: &mut Extensions) {
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        if self.are_scarce() && !self.full.swap(true, Ordering::Relaxed) {
            let limit = self.limit;
            log::warn!(
                "{open} of {limit} connections are open (--max-connections): each response now closes its connection"
            );
        }
        let tls = connection.downcast_ref::<TlsStream<TcpStream>>();
        let tcp = match tls {
            Some(tls) => Some(tls.get_ref().0),
            None => connection.downcast_ref::<TcpStream>(),
        };
        data.insert(Connection {
            connections: Arc::clone(self),
            peer: tcp.and_then(|tcp| tcp.peer_addr().ok()),
        });
        access::note_client_certificate(tls, data);
    }
}

/// The data of a connection, dropped with it.
struct Connection {
    connections: Arc<Connections>,
    peer: Option<SocketAddr>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let all = &self.connections;
        let open = all.open.fetch_sub(1, Ordering::Relaxed) - 1;
        // Not at the limit: a number that varies around it would be logged each time.
        if open + 2 * all.reserve() < all.limit {
            all.full.store(false, Ordering::Relaxed);
        }
        malformed::ended(self.peer);
    }
}
