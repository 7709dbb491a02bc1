//! The state that all connections of the process to one master share.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::address::Address;

/// One master, for the whole process. Every connection belongs to a generation. Evidence that
/// the server is no longer the master begins the next generation, and then each
/// [`RedisConnection`](super::RedisConnection) connects again at its next call.
pub(super) struct Node {
    generation: AtomicU64,
    server: Mutex<Server>,
}

/// The server that the latest connection reached.
#[derive(Default)]
struct Server {
    address: Option<Address>,
    /// The run ID of the server.
    run: Option<String>,
}

impl Node {
    pub(super) fn new() -> Self {
        Self {
            generation: AtomicU64::new(1),
            server: Mutex::default(),
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Begins the next generation, if `generation` is still the current one.
    pub(super) fn end_generation(&self, generation: u64) {
        let (next, order) = (generation + 1, Ordering::AcqRel);
        // This fails if another connection has already ended the generation.
        let _ = (self.generation).compare_exchange(generation, next, order, Ordering::Acquire);
    }

    /// Records the server that a new connection reached, and returns the generation of that
    /// connection. `generation` is the one in which the connection attempt began. The next
    /// generation begins if the server differs from the previous one or has restarted since.
    pub(super) fn record_server(
        &self,
        address: &Address,
        run: Option<&str>,
        generation: u64,
    ) -> u64 {
        let mut server = self.server.lock();
        let moved = server
            .address
            .as_ref()
            .is_some_and(|known| known != address);
        let restarted = matches!((&server.run, run), (Some(known), Some(run)) if known != run);
        server.address = Some(address.clone());
        if run.is_some() {
            server.run = run.map(str::to_owned);
        }
        if !moved && !restarted {
            return generation;
        }
        log::info!("the Redis server at {address} was restarted, or replaced another server");
        self.generation.fetch_add(1, Ordering::AcqRel) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Address {
        Address::Tcp("h".to_owned(), port)
    }

    #[test]
    fn a_new_run_id_or_a_new_address_ends_the_generation() {
        let node = Node::new();
        assert_eq!(node.record_server(&address(1), Some("a"), 1), 1);
        assert_eq!(node.record_server(&address(1), Some("a"), 1), 1);
        assert_eq!(
            node.record_server(&address(1), None, 1),
            1,
            "a server with an unknown run ID"
        );
        assert_eq!(node.record_server(&address(1), Some("b"), 1), 2);
        assert_eq!(node.record_server(&address(2), Some("b"), 2), 3);
        assert_eq!(node.generation(), 3);
    }

    #[test]
    fn late_evidence_does_not_end_a_later_generation() {
        let node = Node::new();
        node.end_generation(1);
        node.end_generation(1);
        assert_eq!(node.generation(), 2);
    }

    #[test]
    fn a_connection_attempt_from_an_ended_generation_does_not_join_the_next_one() {
        let node = Node::new();
        node.record_server(&address(1), Some("a"), 1);
        node.end_generation(1);
        assert_eq!(node.record_server(&address(1), Some("a"), 1), 1);
    }
}
