//! How much may be under way at once: permits for each kind of work.
//!
//! The HTTP side takes a permit before it begins, and answers 503 where there is none.
//! Heartbeats have the most, so that they are the last to be refused. Nobody waits here.

use std::collections::HashMap;
use std::hash::Hash;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// How many bodies may be on their way at once. Those that arrive with their head are not.
const BODIES: usize = 1024;

/// How much memory large bodies may have together, in KiB.
const BODY_MEMORY: usize = 32 * 1024;

/// How many leases batches may renew at once, for each permit of [`RequestClass::Heartbeat`]. What is
/// beyond would wait longer than it takes to come again.
const LEASES: usize = 4;

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestClass {
    /// Answers from memory, mostly.
    Read,
    /// Waits for a commit.
    Write,
    /// Waits for the lease store.
    Heartbeat,
    /// Waits for a change.
    Wait,
    /// Waits for as long as the client likes.
    Stream,
    /// Waits for the rest of a body.
    Body,
}

impl RequestClass {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Read,
        Self::Write,
        Self::Heartbeat,
        Self::Wait,
        Self::Stream,
        Self::Body,
    ];

    /// As metrics and messages name it.
    pub fn as_str(self) -> &'static str {
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

/// How many permits there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For [`RequestClass::Heartbeat`].
    pub heartbeats: usize,
    /// For [`RequestClass::Read`].
    pub reads: usize,
    /// For [`RequestClass::Write`].
    pub writes: usize,
    /// For [`RequestClass::Wait`].
    pub waits: usize,
    /// For [`RequestClass::Stream`].
    pub streams: usize,
    /// Of these, for one client.
    pub streams_per_client: usize,
}

impl Limits {
    /// How many permits there are for a kind of work.
    pub fn of(&self, work: RequestClass) -> usize {
        match work {
            RequestClass::Read => self.reads,
            RequestClass::Write => self.writes,
            RequestClass::Heartbeat => self.heartbeats,
            RequestClass::Wait => self.waits,
            RequestClass::Stream => self.streams,
            RequestClass::Body => BODIES,
        }
    }
}

/// There is no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitExceeded {
    /// For this kind of work.
    #[error("as many requests of the kind \"{}\" are under way as may be", .0.as_str())]
    RequestClass(RequestClass),
    /// For another stream of this client.
    #[error("this client has as many streams as it may have")]
    Client,
    /// In memory, for such a large body.
    #[error("too many large bodies are on their way")]
    Memory,
}

/// How many of something are taken.
#[derive(Debug, Clone, Default)]
struct Taken(Arc<AtomicUsize>);

impl Taken {
    /// Takes so many more, if what is taken already leaves `room` for them.
    fn take(&self, count: usize, room: impl Fn(usize) -> bool) -> Option<Share> {
        let more = |before| room(before).then_some(before + count);
        let taken = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.is_ok().then(|| Share {
            count,
            of: self.clone(),
        })
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// So many of them, given back when this is dropped.
#[derive(Debug)]
struct Share {
    count: usize,
    of: Taken,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.0.fetch_sub(self.count, Ordering::AcqRel);
    }
}

/// A permit, given back when this is dropped.
#[derive(Debug)]
pub struct Permit {
    /// For what.
    pub work: RequestClass,
    _share: Share,
}

/// Memory for a body, given back when this is dropped.
#[derive(Debug)]
pub struct Memory(Share);

impl Memory {
    /// One for both.
    pub fn merge(&mut self, mut other: Self) {
        self.0.count += mem::take(&mut other.0.count);
    }
}

/// The leases of a batch, given back when this is dropped.
#[derive(Debug)]
pub struct Leases {
    _share: Share,
}

/// Gives permits out; shared by all workers.
pub struct ConcurrencyLimits<C> {
    limits: Limits,
    permits: [Taken; RequestClass::ALL.len()],
    /// Leases that are being renewed by batches.
    leases: Taken,
    /// In KiB.
    memory: Taken,
    streams: Arc<Mutex<HashMap<C, usize>>>,
}

impl<C: Eq + Hash + Clone> ConcurrencyLimits<C> {
    /// All permits free. `C` tells clients apart.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            permits: Default::default(),
            leases: Taken::default(),
            memory: Taken::default(),
            streams: Arc::default(),
        }
    }

    /// A permit for a kind of work, if one is free.
    pub fn acquire(&self, work: RequestClass) -> Result<Permit, LimitExceeded> {
        // So that no batch is read that is refused then.
        if work == RequestClass::Heartbeat && self.leases.count() >= self.most_leases() {
            return Err(LimitExceeded::RequestClass(work));
        }
        let limit = self.limits.of(work);
        let share = self.permits[work as usize].take(1, |taken| taken < limit);
        share
            .map(|_share| Permit { work, _share })
            .ok_or(LimitExceeded::RequestClass(work))
    }

    /// Permits for the leases of a batch. The last one may take more than there are, so that
    /// the largest fits whatever the limit.
    pub fn leases(&self, count: usize) -> Result<Leases, LimitExceeded> {
        let share = self.leases.take(count, |taken| taken < self.most_leases());
        share
            .map(|_share| Leases { _share })
            .ok_or(LimitExceeded::RequestClass(RequestClass::Heartbeat))
    }

    fn most_leases(&self) -> usize {
        self.limits.heartbeats.saturating_mul(LEASES)
    }

    /// A permit for a stream of a client.
    pub fn stream(&self, client: C) -> Result<StreamPermit<C>, LimitExceeded> {
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
            _place: permit,
        })
    }

    /// Memory for that many more bytes of a large body.
    pub fn memory(&self, bytes: usize) -> Result<Memory, LimitExceeded> {
        let kib = bytes.div_ceil(1024);
        let share = self.memory.take(kib, |taken| taken + kib <= BODY_MEMORY);
        share.map(Memory).ok_or(LimitExceeded::Memory)
    }

    /// How many permits are taken, and how many there are.
    pub fn taken(&self, work: RequestClass) -> (usize, usize) {
        (self.permits[work as usize].count(), self.limits.of(work))
    }
}

/// A permit for a stream, given back when this is dropped.
pub struct StreamPermit<C: Eq + Hash> {
    client: C,
    streams: Arc<Mutex<HashMap<C, usize>>>,
    _place: Permit,
}

impl<C: Eq + Hash> Drop for StreamPermit<C> {
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

    fn admission() -> ConcurrencyLimits<&'static str> {
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
    fn one_kind_of_work_does_not_take_the_places_of_another() {
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
    fn a_client_has_its_share_of_the_streams_and_leaves_nothing_behind() {
        let admission = admission();
        let own = [
            admission.stream("a").unwrap(),
            admission.stream("a").unwrap(),
        ];
        assert_eq!(admission.stream("a").err(), Some(LimitExceeded::Client));
        // The refused one gave its permit back.
        let other = admission.stream("b").unwrap();
        assert_eq!(
            admission.stream("c").err(),
            Some(LimitExceeded::RequestClass(RequestClass::Stream))
        );
        drop(own);
        assert!(admission.stream("a").is_ok());
        drop(other);
        assert!(admission.streams.lock().is_empty());
    }

    #[test]
    fn batches_share_the_leases_and_the_largest_fits_where_one_is_free() {
        let admission = admission();
        let (few, most) = (admission.leases(4 * LEASES - 1), admission.leases(10_000));
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
        let mut all = admission.memory(BODY_MEMORY * 1024 - 1).unwrap();
        assert_eq!(admission.memory(1).unwrap_err(), LimitExceeded::Memory);
        all.merge(admission.memory(0).unwrap());
        drop(all);
        assert!(admission.memory(1).is_ok());
    }
}
