//! The health of the lease store, shared by the whole process: it decides whether a missing
//! lease proves that its instance has stopped.
//!
//! Every call of every connection reports here. A failed call makes the store unavailable for
//! the whole process, and only a successful write makes it available again: a store that
//! answers reads but refuses writes shows leases as missing that it could not renew.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Identity;
use crate::backend::BackendError;

/// Whether the lease store works, which servers it consists of, and since when.
#[derive(Default)]
pub struct Health {
    state: Mutex<State>,
    /// Mirrors `state.failure`, so that a successful renewal takes no lock.
    failing: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Why the store is unavailable; `None` while it works.
    failure: Option<String>,
    /// The servers that the last probe reached; `None` until the first probe, and after an
    /// unknown server replied.
    identity: Option<Identity>,
    /// Whether a probe has ever succeeded.
    has_worked: bool,
    /// When the store last recovered or was replaced, or heartbeats were rejected, and which of
    /// these happened.
    interrupted: Option<(Instant, &'static str)>,
    /// When this replica last rejected a heartbeat.
    rejected_at: Option<Instant>,
}

/// The time for which a replica that rejected heartbeats counts as one that cannot renew leases:
/// longer than the time between two attestations.
const REJECTING: Duration = Duration::from_secs(3);

impl Health {
    /// Records that a call failed, on any connection.
    pub(crate) fn failed(&self, error: &BackendError) {
        let mut state = self.state.lock();
        if state.failure.is_none() {
            log::warn!("{error}; no instance is marked offline until a write succeeds again");
        }
        state.failure = Some(error.to_string());
        self.failing.store(true, Ordering::Release);
    }

    /// Records that a write succeeded: leases were renewed or a probe was written.
    pub(crate) fn wrote(&self) {
        if self.failing.load(Ordering::Acquire) {
            self.state.lock().recover(&self.failing);
        }
    }

    /// Records the servers that a successful probe reached, which are all servers of the store.
    pub(crate) fn probed(&self, identity: Identity) {
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

    /// Records that this replica rejected a heartbeat because it had too many: its lease may end
    /// although its instance is alive.
    pub(crate) fn rejected(&self) {
        let (mut state, now) = (self.state.lock(), Instant::now());
        let before = state.rejected_at.replace(now);
        if before.is_none_or(|before| now - before > REJECTING) {
            log::warn!(
                "heartbeats are rejected; no instance is marked offline until one TTL after that"
            );
        }
        state.interrupted = Some((now, "heartbeats were rejected"));
    }

    /// Returns whether leases that are missing on `servers` are evidence. Call it after the
    /// reply of these servers arrived.
    pub(crate) fn proves(&self, servers: &Identity) -> bool {
        let mut state = self.state.lock();
        match &state.identity {
            Some(identity) if !identity.contains(servers) => {
                // The next probe finds the current servers.
                state.identity = None;
                state.interrupt("the lease store was restarted, flushed or replaced");
                false
            }
            Some(_) => state.failure.is_none(),
            None => false,
        }
    }

    /// Returns whether the last write succeeded and no call has failed since.
    pub(crate) fn is_working(&self) -> bool {
        !self.failing.load(Ordering::Acquire)
    }

    /// Returns whether a probe has ever succeeded.
    pub(crate) fn has_worked(&self) -> bool {
        self.state.lock().has_worked
    }

    /// Returns the identity of the store's servers as text; `None` while the store is
    /// unavailable, or this replica rejects heartbeats.
    pub(crate) fn identity(&self) -> Option<String> {
        let state = self.state.lock();
        let identity = state.identity.as_ref().map(ToString::to_string);
        let is_rejecting = state
            .rejected_at
            .is_some_and(|at| at.elapsed() <= REJECTING);
        identity.filter(|_| state.failure.is_none() && !is_rejecting)
    }

    /// Returns why the store is unavailable; `None` while it works.
    pub(crate) fn failure(&self) -> Option<String> {
        self.state.lock().failure.clone()
    }

    /// Returns when the store last recovered or was replaced, or heartbeats were rejected, and the
    /// reason why missing leases prove nothing for one TTL after it; `None` if none of these
    /// happened.
    pub(crate) fn interrupted(&self) -> Option<(Instant, &'static str)> {
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

    fn failure() -> BackendError {
        BackendError::Refused("OOM command not allowed".into())
    }

    #[tokio::test]
    async fn only_a_successful_write_ends_a_failure() {
        let health = Health::default();
        health.probed(identity("a"));
        assert!(health.is_working() && health.proves(&identity("a")));
        assert_eq!(health.interrupted(), None);
        health.failed(&failure());
        assert!(
            !health.proves(&identity("a")),
            "a successful read does not end the failure"
        );
        assert!(!health.is_working());
        assert_eq!(health.identity(), None);
        health.wrote();
        assert!(health.is_working() && health.proves(&identity("a")));
        let (_, reason) = health.interrupted().unwrap();
        assert_eq!(reason, "the lease store was unavailable");
    }

    #[tokio::test(start_paused = true)]
    async fn while_heartbeats_are_rejected_the_replica_attests_no_lease_store() {
        let health = Health::default();
        health.probed(identity("a"));
        health.rejected();
        assert_eq!(
            health.identity(),
            None,
            "other replicas must not mark instances offline either"
        );
        let (at, reason) = health.interrupted().unwrap();
        assert_eq!((at, reason), (Instant::now(), "heartbeats were rejected"));
        assert!(health.is_working());
        tokio::time::advance(REJECTING + Duration::from_millis(1)).await;
        assert_eq!(health.identity().as_deref(), Some("a"));
    }

    #[tokio::test]
    async fn an_unknown_server_proves_nothing_until_a_probe_finds_it() {
        let health = Health::default();
        assert!(
            !health.proves(&identity("a")),
            "no server is known before the first probe"
        );
        health.probed(Identity::of(["a".to_owned(), "b".to_owned()]));
        assert!(health.proves(&identity("a")) && health.proves(&identity("b")));
        assert!(!health.proves(&identity("c")));
        let (at, reason) = health.interrupted().unwrap();
        assert_eq!(reason, "the lease store was restarted, flushed or replaced");
        assert!(!health.proves(&identity("a")), "a new probe is required");
        health.probed(identity("c"));
        assert!(health.proves(&identity("c")));
        assert_eq!(health.interrupted().unwrap().0, at);
        health.probed(identity("a"));
        assert!(health.interrupted().unwrap().0 >= at);
        assert!(!health.proves(&identity("c")));
    }
}
