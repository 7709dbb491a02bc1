//! The connections of clients: how many are open, and what becomes of those on which no
//! request can be read.
//!
//! The library keeps a connection open for the client's next request, and accepts none
//! beyond its limit. So that idle connections do not keep probes out, the last tenth of the
//! limit is a reserve: while it is in use each answer ends its connection, and requests that
//! would hold one for long are refused.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;

use super::{gate, malformed};

/// The connections of all workers.
pub struct Connections {
    open: AtomicUsize,
    limit: usize,
    /// The limit was nearly reached, and the log says so.
    full: AtomicBool,
}

impl Connections {
    /// None yet, and at most that many.
    pub fn new(limit: usize) -> Self {
        Self {
            open: AtomicUsize::new(0),
            limit,
            full: AtomicBool::new(false),
        }
    }

    /// How many are open. During a handshake of TLS one is not counted yet.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// How many may be open.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether the reserve is in use.
    pub(super) fn are_scarce(&self) -> bool {
        self.open() > self.limit - self.reserve()
    }

    fn reserve(&self) -> usize {
        (self.limit / 10).max(1).min(self.limit)
    }

    /// Counts a connection until it ends, and notes with it what the gate needs to know.
    pub fn opened(self: &Arc<Self>, connection: &dyn Any, data: &mut Extensions) {
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        if self.are_scarce() && !self.full.swap(true, Ordering::Relaxed) {
            let limit = self.limit;
            log::warn!(
                "{open} of {limit} connections are open (--max-connections): until fewer are, each answer ends its connection"
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
        gate::note_client_certificate(tls, data);
    }
}

/// NewLeases as long as a connection.
struct Connection {
    connections: Arc<Connections>,
    peer: Option<SocketAddr>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let all = &self.connections;
        let open = all.open.fetch_sub(1, Ordering::Relaxed) - 1;
        // Not at once, or a number about the reserve would be a line each time.
        if open + 2 * all.reserve() < all.limit {
            all.full.store(false, Ordering::Relaxed);
        }
        malformed::ended(self.peer);
    }
}
