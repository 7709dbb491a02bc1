//! The process's one verdict about the lease store: whether a lease that is missing there
//! proves that its instance has stopped.
//!
//! Every call of every connection reports here. A call that failed makes the store
//! unavailable for the whole process, and only a write that succeeded makes it available
//! again: a store that answers reads and refuses writes cannot renew the leases that it
//! shows to be missing.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Identity, LeaseError};

/// Whether the lease store works, which servers it is, and since when.
#[derive(Default)]
pub struct Health {
    state: Mutex<State>,
    /// The same as `state.failure`, so that a renewal that succeeds takes no lock.
    failing: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Why the store is unavailable; `None` while it works.
    failure: Option<String>,
    /// The servers that the last probe reached; `None` until one is told.
    identity: Option<Identity>,
    /// Whether a probe has ever succeeded.
    has_worked: bool,
    /// When the store last began to work again or became another one, and which of them.
    interrupted: Option<(Instant, &'static str)>,
}

impl Health {
    /// A call failed, on any connection.
    pub fn failed(&self, error: &LeaseError) {
        let mut state = self.state.lock();
        if state.failure.is_none() {
            log::warn!("{error}; no instance is marked offline until a write succeeds again");
        }
        state.failure = Some(error.to_string());
        self.failing.store(true, Ordering::Release);
    }

    /// Leases were renewed or a probe was written.
    pub fn wrote(&self) {
        if self.failing.load(Ordering::Acquire) {
            self.state.lock().recover(&self.failing);
        }
    }

    /// A probe reached these servers, all there are.
    pub fn probed(&self, identity: Identity) {
        let mut state = self.state.lock();
        state.recover(&self.failing);
        state.has_worked = true;
        if state.identity.as_ref() == Some(&identity) {
            return;
        }
        if state.identity.replace(identity).is_some() {
            state.interrupt("the lease store was restarted, flushed or replaced");
        }
    }

    /// Whether leases that are missing on these servers are evidence. The caller must ask
    /// after the answer came.
    pub fn proves(&self, asked: &Identity) -> bool {
        let mut state = self.state.lock();
        match &state.identity {
            Some(identity) if !identity.contains(asked) => {
                // The next probe tells which servers there are now.
                state.identity = None;
                state.interrupt("the lease store was restarted, flushed or replaced");
                false
            }
            Some(_) => state.failure.is_none(),
            None => false,
        }
    }

    /// Whether the last write succeeded and no call has failed since.
    pub fn is_working(&self) -> bool {
        !self.failing.load(Ordering::Acquire)
    }

    /// Whether a probe has ever succeeded.
    pub fn has_worked(&self) -> bool {
        self.state.lock().has_worked
    }

    /// The servers of the store as one text; `None` while it does not work.
    pub fn identity(&self) -> Option<String> {
        let state = self.state.lock();
        let identity = state.identity.as_ref().map(ToString::to_string);
        identity.filter(|_| state.failure.is_none())
    }

    /// Why the store is unavailable; `None` while it works.
    pub fn failure(&self) -> Option<String> {
        self.state.lock().failure.clone()
    }

    /// When the store last began to work again or became another one, and why leases that
    /// were missing before prove nothing; `None` if neither happened.
    pub fn interrupted(&self) -> Option<(Instant, &'static str)> {
        self.state.lock().interrupted
    }
}

impl State {
    fn recover(&mut self, failing: &AtomicBool) {
        if self.failure.take().is_some() {
            failing.store(false, Ordering::Release);
            self.interrupt("the lease store was unavailable");
        }
    }

    fn interrupt(&mut self, reason: &'static str) {
        log::warn!("{reason}; no instance is marked offline for one TTL");
        self.interrupted = Some((Instant::now(), reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(server: &str) -> Identity {
        Identity::of([server.to_owned()])
    }

    fn failure() -> LeaseError {
        LeaseError::Refused("OOM command not allowed".into())
    }

    #[tokio::test]
    async fn only_a_write_ends_a_failure() {
        let health = Health::default();
        health.probed(identity("a"));
        assert!(health.is_working() && health.proves(&identity("a")));
        assert_eq!(health.interrupted(), None);
        health.failed(&failure());
        assert!(
            !health.proves(&identity("a")),
            "a read that succeeds proves nothing"
        );
        assert!(!health.is_working());
        assert_eq!(health.identity(), None);
        health.wrote();
        assert!(health.is_working() && health.proves(&identity("a")));
        let (_, reason) = health.interrupted().unwrap();
        assert_eq!(reason, "the lease store was unavailable");
    }

    #[tokio::test]
    async fn another_server_proves_nothing_until_a_probe_names_it() {
        let health = Health::default();
        assert!(
            !health.proves(&identity("a")),
            "before the first probe nothing is known"
        );
        health.probed(Identity::of(["a".to_owned(), "b".to_owned()]));
        assert!(health.proves(&identity("a")) && health.proves(&identity("b")));
        assert!(!health.proves(&identity("c")));
        let (at, reason) = health.interrupted().unwrap();
        assert_eq!(reason, "the lease store was restarted, flushed or replaced");
        assert!(!health.proves(&identity("a")), "the servers must be probed");
        health.probed(identity("c"));
        assert!(health.proves(&identity("c")));
        assert_eq!(health.interrupted().unwrap().0, at);
        health.probed(identity("a"));
        assert!(health.interrupted().unwrap().0 >= at);
        assert!(!health.proves(&identity("c")));
    }
}
