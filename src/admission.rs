//! Concurrency limits: permits for each class of requests.
//!
//! The HTTP server takes a permit for each request, and answers 503 if there is none: no
//! request waits for a permit. Heartbeats have the most permits, so that they are the last to
//! be rejected.

use std::collections::HashMap;
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// The number of bodies that may be received at once. A body that arrives together with the
/// request head does not count.
const MAX_BODIES: usize = 1024;

/// The memory for all large bodies together, in KiB.
const MAX_BODY_MEMORY: usize = 32 * 1024;

/// The number of leases that batches may renew at once, for each permit of
/// [`RequestClass::Heartbeat`]. More leases would wait longer than a client takes to retry.
const LEASES_PER_PERMIT: usize = 4;

/// A client: the name of its token, and its address.
pub(crate) type Client = (String, IpAddr);

/// A class of requests, or a part of a request, with its own permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestClass {
    /// A request that is mostly answered from memory.
    Read,
    /// A request that waits for a commit.
    Write,
    /// A request that waits for the lease store.
    Heartbeat,
    /// A long poll, which waits for a change.
    Wait,
    /// An event stream, which lasts until the client closes it.
    Stream,
    /// The wait for the rest of a request body.
    Body,
}

impl RequestClass {
    /// All classes.
    pub(crate) const ALL: [Self; 6] = [
        Self::Read,
        Self::Write,
        Self::Heartbeat,
        Self::Wait,
        Self::Stream,
        Self::Body,
    ];

    /// Returns the name in metrics and messages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Heartbeat => "heartbeat",
            Self::Wait => "wait",
            Self::Stream => "stream",
            Self::Body => "body",
        }
    }
}

/// The number of permits of each class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// For [`RequestClass::Heartbeat`].
    pub(crate) heartbeats: usize,
    /// For [`RequestClass::Read`].
    pub(crate) reads: usize,
    /// For [`RequestClass::Write`].
    pub(crate) writes: usize,
    /// For [`RequestClass::Wait`].
    pub(crate) waits: usize,
    /// For [`RequestClass::Stream`].
    pub(crate) streams: usize,
    /// The number of streams that one client may have.
    pub(crate) streams_per_client: usize,
}

impl Limits {
    /// Returns the number of permits of a class.
    pub(crate) fn of(&self, class: RequestClass) -> usize {
        match class {
            RequestClass::Read => self.reads,
            RequestClass::Write => self.writes,
            RequestClass::Heartbeat => self.heartbeats,
            RequestClass::Wait => self.waits,
            RequestClass::Stream => self.streams,
            RequestClass::Body => MAX_BODIES,
        }
    }
}

/// The limit that a request exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LimitExceeded {
    /// All permits of this class are taken.
    #[error("too many concurrent \"{}\" requests", .0.as_str())]
    RequestClass(RequestClass),
    /// This client has the maximum number of streams.
    #[error("this client already has the maximum number of event streams")]
    Client,
    /// The memory for large bodies does not suffice.
    #[error("too many concurrent requests with large bodies")]
    Memory,
}

/// Counts the units of a limit that are in use.
#[derive(Debug, Clone, Default)]
struct Counter(Arc<AtomicUsize>);

impl Counter {
    /// Adds `count` if `allows` returns true for the number of units in use.
    fn take(&self, count: usize, allows: impl Fn(usize) -> bool) -> Option<Permit> {
        let add = |before| allows(before).then_some(before + count);
        let taken = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        taken.is_ok().then(|| Permit {
            count,
            counter: self.clone(),
        })
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// Units of a limit; dropping it returns them.
#[derive(Debug)]
pub(crate) struct Permit {
    count: usize,
    counter: Counter,
}

impl Permit {
    /// Adds the units of `other`, which are of the same limit.
    pub(crate) fn merge(&mut self, mut other: Self) {
        self.count += mem::take(&mut other.count);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.counter.0.fetch_sub(self.count, Ordering::AcqRel);
    }
}

/// Gives out permits; shared by all worker threads.
pub(crate) struct ConcurrencyLimits {
    limits: Limits,
    permits: [Counter; RequestClass::ALL.len()],
    /// Leases that are being renewed by batches.
    leases: Counter,
    /// Memory of large bodies, in KiB.
    memory: Counter,
    /// The number of streams of each client.
    streams: Arc<Mutex<HashMap<Client, usize>>>,
}

impl ConcurrencyLimits {
    /// Creates the limits with all permits free.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            permits: Default::default(),
            leases: Counter::default(),
            memory: Counter::default(),
            streams: Arc::default(),
        }
    }

    /// Returns a permit of a class, if one is free.
    pub(crate) fn acquire(&self, class: RequestClass) -> Result<Permit, LimitExceeded> {
        // A batch is rejected here, before its body is read, if no leases are free.
        if class == RequestClass::Heartbeat && self.leases.count() >= self.max_leases() {
            return Err(LimitExceeded::RequestClass(class));
        }
        let limit = self.limits.of(class);
        self.permits[class as usize]
            .take(1, |taken| taken < limit)
            .ok_or(LimitExceeded::RequestClass(class))
    }

    /// Returns permits for the leases of a batch, if at least one is free. A batch may take
    /// more permits than are free, so that the limit never excludes the largest batch.
    pub(crate) fn leases(&self, count: usize) -> Result<Permit, LimitExceeded> {
        let share = self.leases.take(count, |taken| taken < self.max_leases());
        share.ok_or(LimitExceeded::RequestClass(RequestClass::Heartbeat))
    }

    fn max_leases(&self) -> usize {
        self.limits.heartbeats.saturating_mul(LEASES_PER_PERMIT)
    }

    /// Returns a permit for a stream of a client.
    pub(crate) fn stream(&self, client: Client) -> Result<StreamPermit, LimitExceeded> {
        let permit = self.acquire(RequestClass::Stream)?;
        let mut streams = self.streams.lock();
        let count = streams.get(&client).copied().unwrap_or_default();
        if count >= self.limits.streams_per_client {
            return Err(LimitExceeded::Client);
        }
        streams.insert(client.clone(), count + 1);
        Ok(StreamPermit {
            client,
            streams: Arc::clone(&self.streams),
            _permit: permit,
        })
    }

    /// Returns memory for `bytes` more bytes of a large body, rounded up to KiB.
    pub(crate) fn memory(&self, bytes: usize) -> Result<Permit, LimitExceeded> {
        let kib = bytes.div_ceil(1024);
        let share = self
            .memory
            .take(kib, |taken| taken + kib <= MAX_BODY_MEMORY);
        share.ok_or(LimitExceeded::Memory)
    }

    /// Returns how many permits of a class are taken, and how many there are.
    pub(crate) fn taken(&self, class: RequestClass) -> (usize, usize) {
        (self.permits[class as usize].count(), self.limits.of(class))
    }
}

/// A permit for a stream; dropping it returns it.
pub(crate) struct StreamPermit {
    client: Client,
    streams: Arc<Mutex<HashMap<Client, usize>>>,
    _permit: Permit,
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut streams = self.streams.lock();
        if let Some(count) = streams.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                streams.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str) -> Client {
        (name.to_owned(), IpAddr::from([127, 0, 0, 1]))
    }

    fn admission() -> ConcurrencyLimits {
        ConcurrencyLimits::new(Limits {
            heartbeats: 4,
            reads: 1,
            writes: 1,
            waits: 1,
            streams: 3,
            streams_per_client: 2,
        })
    }

    #[test]
    fn one_class_does_not_take_the_permits_of_another() {
        let admission = admission();
        let read = admission.acquire(RequestClass::Read).unwrap();
        assert_eq!(
            admission.acquire(RequestClass::Read).unwrap_err(),
            LimitExceeded::RequestClass(RequestClass::Read)
        );
        assert!(admission.acquire(RequestClass::Heartbeat).is_ok());
        assert_eq!(admission.taken(RequestClass::Read), (1, 1));
        drop(read);
        assert_eq!(admission.taken(RequestClass::Read), (0, 1));
    }

    #[test]
    fn a_client_has_a_limited_number_of_streams_and_returns_all_of_them() {
        let admission = admission();
        let streams = [
            admission.stream(client("a")).unwrap(),
            admission.stream(client("a")).unwrap(),
        ];
        assert_eq!(
            admission.stream(client("a")).err(),
            Some(LimitExceeded::Client)
        );
        // The rejected stream has returned its permit.
        let other = admission.stream(client("b")).unwrap();
        assert_eq!(
            admission.stream(client("c")).err(),
            Some(LimitExceeded::RequestClass(RequestClass::Stream))
        );
        drop(streams);
        assert!(admission.stream(client("a")).is_ok());
        drop(other);
        assert!(admission.streams.lock().is_empty());
    }

    #[test]
    fn batches_share_the_leases_and_the_largest_is_accepted_if_one_is_free() {
        let admission = admission();
        let (few, most) = (
            admission.leases(4 * LEASES_PER_PERMIT - 1),
            admission.leases(10_000),
        );
        let (few, most) = (few.unwrap(), most.unwrap());
        let full = LimitExceeded::RequestClass(RequestClass::Heartbeat);
        assert_eq!(admission.leases(1).unwrap_err(), full);
        assert_eq!(
            admission.acquire(RequestClass::Heartbeat).unwrap_err(),
            full
        );
        drop(most);
        assert!(admission.acquire(RequestClass::Heartbeat).is_ok());
        drop(few);
        assert_eq!(admission.leases.count(), 0);
    }

    #[test]
    fn large_bodies_share_a_bounded_memory() {
        let admission = admission();
        let mut all = admission.memory(MAX_BODY_MEMORY * 1024 - 1).unwrap();
        assert_eq!(admission.memory(1).unwrap_err(), LimitExceeded::Memory);
        all.merge(admission.memory(0).unwrap());
        drop(all);
        assert!(admission.memory(1).is_ok());
    }
}
