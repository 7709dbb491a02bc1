//! How much may be under way at once: places for each kind of work.
//!
//! The HTTP side takes a place before it begins, and answers 503 where there is none.
//! Heartbeats have the most, so that they are the last to be refused. Nobody waits here.

use std::collections::HashMap;
use std::hash::Hash;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many bodies may be on their way at once. Those that arrive with their head are not.
const BODIES: usize = 1024;

/// How much memory large bodies may have together, in KiB.
const BODY_MEMORY: usize = 32 * 1024;

/// How many leases batches may renew at once, for each place of [`Work::Heartbeat`]. What is
/// beyond would wait longer than it takes to come again.
const LEASES: usize = 4;

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
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

impl Work {
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

/// How many places there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For [`Work::Heartbeat`].
    pub heartbeats: usize,
    /// For [`Work::Read`].
    pub reads: usize,
    /// For [`Work::Write`].
    pub writes: usize,
    /// For [`Work::Wait`].
    pub waits: usize,
    /// For [`Work::Stream`].
    pub streams: usize,
    /// Of these, for one client.
    pub streams_per_client: usize,
}

impl Limits {
    /// How many places there are for a kind of work.
    pub fn of(&self, work: Work) -> usize {
        match work {
            Work::Read => self.reads,
            Work::Write => self.writes,
            Work::Heartbeat => self.heartbeats,
            Work::Wait => self.waits,
            Work::Stream => self.streams,
            Work::Body => BODIES,
        }
    }
}

/// There is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// For this kind of work.
    #[error("as many requests of the kind \"{}\" are under way as may be", .0.as_str())]
    Work(Work),
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

/// A place, given back when this is dropped.
#[derive(Debug)]
pub struct Place {
    /// For what.
    pub work: Work,
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

/// Gives places out; shared by all workers.
pub struct Admission<C> {
    limits: Limits,
    places: [Taken; Work::ALL.len()],
    /// Leases that are being renewed by batches.
    leases: Taken,
    /// In KiB.
    memory: Taken,
    streams: Arc<Mutex<HashMap<C, usize>>>,
}

impl<C: Eq + Hash + Clone> Admission<C> {
    /// All places free. `C` tells clients apart.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            places: Default::default(),
            leases: Taken::default(),
            memory: Taken::default(),
            streams: Arc::default(),
        }
    }

    /// A place for a kind of work, if one is free.
    pub fn enter(&self, work: Work) -> Result<Place, Full> {
        // So that no batch is read that is refused then.
        if work == Work::Heartbeat && self.leases.count() >= self.most_leases() {
            return Err(Full::Work(work));
        }
        let limit = self.limits.of(work);
        let share = self.places[work as usize].take(1, |taken| taken < limit);
        share
            .map(|_share| Place { work, _share })
            .ok_or(Full::Work(work))
    }

    /// Places for the leases of a batch. The last one may take more than there are, so that
    /// the largest fits whatever the limit.
    pub fn leases(&self, count: usize) -> Result<Leases, Full> {
        let share = self.leases.take(count, |taken| taken < self.most_leases());
        share
            .map(|_share| Leases { _share })
            .ok_or(Full::Work(Work::Heartbeat))
    }

    fn most_leases(&self) -> usize {
        self.limits.heartbeats.saturating_mul(LEASES)
    }

    /// A place for a stream of a client.
    pub fn stream(&self, client: C) -> Result<StreamPlace<C>, Full> {
        let place = self.enter(Work::Stream)?;
        let mut streams = lock(&self.streams);
        let count = streams.get(&client).copied().unwrap_or_default();
        if count >= self.limits.streams_per_client {
            return Err(Full::Client);
        }
        streams.insert(client.clone(), count + 1);
        Ok(StreamPlace {
            client,
            streams: Arc::clone(&self.streams),
            _place: place,
        })
    }

    /// Memory for that many more bytes of a large body.
    pub fn memory(&self, bytes: usize) -> Result<Memory, Full> {
        let kib = bytes.div_ceil(1024);
        let share = self.memory.take(kib, |taken| taken + kib <= BODY_MEMORY);
        share.map(Memory).ok_or(Full::Memory)
    }

    /// How many places are taken, and how many there are.
    pub fn taken(&self, work: Work) -> (usize, usize) {
        (self.places[work as usize].count(), self.limits.of(work))
    }
}

/// A place for a stream, given back when this is dropped.
pub struct StreamPlace<C: Eq + Hash> {
    client: C,
    streams: Arc<Mutex<HashMap<C, usize>>>,
    _place: Place,
}

impl<C: Eq + Hash> Drop for StreamPlace<C> {
    fn drop(&mut self) {
        let mut streams = lock(&self.streams);
        if let Some(count) = streams.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                streams.remove(&self.client);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Admission<&'static str> {
        Admission::new(Limits {
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
        let read = admission.enter(Work::Read).unwrap();
        assert_eq!(
            admission.enter(Work::Read).unwrap_err(),
            Full::Work(Work::Read)
        );
        assert!(admission.enter(Work::Heartbeat).is_ok());
        assert_eq!(admission.taken(Work::Read), (1, 1));
        drop(read);
        assert_eq!(admission.taken(Work::Read), (0, 1));
    }

    #[test]
    fn a_client_has_its_share_of_the_streams_and_leaves_nothing_behind() {
        let admission = admission();
        let own = [
            admission.stream("a").unwrap(),
            admission.stream("a").unwrap(),
        ];
        assert_eq!(admission.stream("a").err(), Some(Full::Client));
        // The refused one gave its place back.
        let other = admission.stream("b").unwrap();
        assert_eq!(admission.stream("c").err(), Some(Full::Work(Work::Stream)));
        drop(own);
        assert!(admission.stream("a").is_ok());
        drop(other);
        assert!(lock(&admission.streams).is_empty());
    }

    #[test]
    fn batches_share_the_leases_and_the_largest_fits_where_one_is_free() {
        let admission = admission();
        let (few, most) = (admission.leases(4 * LEASES - 1), admission.leases(10_000));
        let (few, most) = (few.unwrap(), most.unwrap());
        let full = Full::Work(Work::Heartbeat);
        assert_eq!(admission.leases(1).unwrap_err(), full);
        assert_eq!(admission.enter(Work::Heartbeat).unwrap_err(), full);
        drop(most);
        assert!(admission.enter(Work::Heartbeat).is_ok());
        drop(few);
        assert_eq!(admission.leases.count(), 0);
    }

    #[test]
    fn large_bodies_share_a_bounded_memory() {
        let admission = admission();
        let mut all = admission.memory(BODY_MEMORY * 1024 - 1).unwrap();
        assert_eq!(admission.memory(1).unwrap_err(), Full::Memory);
        all.merge(admission.memory(0).unwrap());
        drop(all);
        assert!(admission.memory(1).is_ok());
    }
}
