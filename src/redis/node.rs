//! The state that all connections of the process to one master share.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::url::Address;

/// One master as the whole process sees it. Every connection belongs to a generation. Evidence
/// that the server is not the master any more begins the next generation, and then each link
/// makes a new connection at its next call.
pub(super) struct Node {
    generation: AtomicU64,
    agreed: Mutex<Agreed>,
}

#[derive(Default)]
struct Agreed {
    address: Option<Address>,
    /// The run ID of the server.
    run: Option<String>,
}

impl Node {
    pub(super) fn new() -> Self {
        Self {
            generation: AtomicU64::new(1),
            agreed: Mutex::default(),
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Begins the next generation, unless the generation `witness` is over already.
    pub(super) fn distrust(&self, witness: u64) {
        let (before, order) = (witness, Ordering::AcqRel);
        // It fails if another connection was the first witness.
        let _ = (self.generation).compare_exchange(before, before + 1, order, Ordering::Acquire);
    }

    /// Records the server that a new connection reached, and returns the generation of that
    /// connection, which was begun in the generation `begun`. If it reached another server than
    /// the connections before, or another run of it, the next generation begins.
    pub(super) fn agree(&self, address: &Address, run: Option<&str>, begun: u64) -> u64 {
        let mut agreed = self.agreed.lock();
        let moved = agreed
            .address
            .as_ref()
            .is_some_and(|known| known != address);
        let restarted = matches!((&agreed.run, run), (Some(known), Some(run)) if known != run);
        agreed.address = Some(address.clone());
        if run.is_some() {
            agreed.run = run.map(str::to_owned);
        }
        if !moved && !restarted {
            return begun;
        }
        log::info!("the Redis at {address} is another server or another run than before");
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
    fn another_run_or_another_address_ends_the_generation() {
        let node = Node::new();
        assert_eq!(node.agree(&address(1), Some("a"), 1), 1);
        assert_eq!(node.agree(&address(1), Some("a"), 1), 1);
        assert_eq!(
            node.agree(&address(1), None, 1),
            1,
            "a server that does not say"
        );
        assert_eq!(node.agree(&address(1), Some("b"), 1), 2);
        assert_eq!(node.agree(&address(2), Some("b"), 2), 3);
        assert_eq!(node.generation(), 3);
    }

    #[test]
    fn a_late_witness_does_not_end_a_later_generation() {
        let node = Node::new();
        node.distrust(1);
        node.distrust(1);
        assert_eq!(node.generation(), 2);
    }

    #[test]
    fn a_connection_that_was_begun_before_the_distrust_is_not_of_the_next_generation() {
        let node = Node::new();
        node.agree(&address(1), Some("a"), 1);
        node.distrust(1);
        assert_eq!(node.agree(&address(1), Some("a"), 1), 1);
    }
}
