//! The event bus: the event log and claims, in the memory of this process or on Redis.
//!
//! The event log keeps the latest events, so that a replica that could not read it for some
//! time reads the missed events later, or learns that some of them were dropped. A message
//! that is published with a claim reaches only the clients that are subscribed in Redis at that
//! moment.

mod memory;
mod redis;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Clock;
use crate::error::OpenError;
use crate::model::{Event, EventId};
use crate::redis::{LinkError, RedisBackend};

/// Why a call of the event bus failed. The call may still have taken effect.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    /// The bus cannot be reached or did not answer in time.
    #[error("the bus is unavailable: {0}")]
    Unavailable(String),
    /// The bus answered with an error.
    #[error("the bus refused a command: {0}")]
    Refused(String),
}

impl From<LinkError> for BusError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Unavailable(reason) => Self::Unavailable(reason),
            LinkError::Refused(reason) => Self::Refused(reason),
        }
    }
}

/// The approximate number of events that the log keeps.
const LOG_CAPACITY: usize = 20_000;

/// The maximum number of events that one read returns.
const READ_LIMIT: usize = 500;

/// How long the log remembers the last transition of an instance, in order to correct the order
/// of transitions that two replicas append at about the same time.
const TRANSITION_MEMORY: Duration = Duration::from_secs(60);

/// An event in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its position in the log.
    pub id: EventId,
    /// The event.
    pub event: Event,
}

/// The result of [`EventBus::read`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The next events, without a gap; empty if there are none yet.
    Events(Vec<LogEntry>),
    /// Some of the next events are missing, because the log was trimmed or lost.
    Lost,
}

/// The event log, and claims by which one replica does a piece of work for all replicas.
#[async_trait]
pub trait EventBus: Send + Sync {
    /// Takes a claim for `ttl` and publishes a message in one atomic step. Returns whether the
    /// claim was free and the message was published.
    async fn publish_once(
        &self,
        channel: &str,
        message: &str,
        claim: &str,
        ttl: Duration,
    ) -> Result<bool, BusError>;

    /// Takes a claim for `ttl`, so that only one replica on this bus does a piece of work.
    /// Returns whether the claim was free.
    async fn try_claim(&self, claim: &str, ttl: Duration) -> Result<bool, BusError>;

    /// Appends events to the log, in order. The log contains each transition of an instance
    /// once, and these alternate, in whatever order they arrive: a transition whose revision is
    /// not later than that of the last one is dropped, and the opposite transition is appended
    /// before one that repeats the last one.
    async fn append(&self, events: &[Event]) -> Result<(), BusError>;

    /// Returns the ID of the last event of the log.
    async fn head(&self) -> Result<EventId, BusError>;

    /// Returns the events after `after`. If there are none, waits for the first one, for at
    /// most `wait`.
    async fn read(&self, after: EventId, wait: Duration) -> Result<ReadOutcome, BusError>;
}

/// The event bus to open. It is on the lease store.
#[derive(Clone)]
pub enum BusUrl {
    /// In the memory of this process.
    Memory,
    /// On Redis, through the connections of the process.
    Redis(Arc<RedisBackend>),
}

/// Opens an event bus. Its connections, if it needs any, run on the current runtime. Only a bus
/// in memory uses `clock`.
pub fn open(url: &BusUrl, clock: Arc<dyn Clock>) -> Result<Arc<dyn EventBus>, OpenError> {
    match url {
        BusUrl::Memory => Ok(Arc::new(memory::MemoryBus::new(clock))),
        BusUrl::Redis(backend) => Ok(Arc::new(redis::RedisBus::new(backend))),
    }
}
