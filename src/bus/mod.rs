//! The bus: the event log and claims, within this process or through Redis.
//!
//! The event log is kept for a while, so that a replica that could not read it finds out what
//! it missed, or that it missed too much. A message that is published with a claim reaches
//! those clients alone that are subscribed in Redis at that moment.

mod memory;
mod redis;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Clock;
use crate::error::OpenError;
use crate::model::{Event, EventId};
use crate::redis::{LinkError, RedisBackend};

/// Why a call of the bus failed. What was asked may still have happened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    /// The bus cannot be reached or did not answer in time.
    #[error("the bus is unavailable: {0}")]
    Unavailable(String),
    /// The bus is there and refused.
    #[error("the bus refused: {0}")]
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

/// About how many events the log keeps.
const LOG_CAPACITY: usize = 20_000;

/// The most events that are read at once.
const READ: usize = 500;

/// How long the log remembers an instance's last transition, to put those right that two
/// daemons append at about the same time.
const TRANSITION_MEMORY: Duration = Duration::from_secs(60);

/// An event in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Where it stands.
    pub id: EventId,
    /// What happened.
    pub event: Event,
}

/// What follows an event in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The next events, without a gap; none if nothing happened yet.
    Events(Vec<LogEntry>),
    /// What followed is not known any more: the log was cut or lost.
    Lost,
}

/// The event log, and work that one replica does for all.
#[async_trait]
pub trait EventBus: Send + Sync {
    /// Claims and, where the claim was free, sends a message in the same step; whether it
    /// was sent.
    async fn publish_once(
        &self,
        channel: &str,
        message: &str,
        claim: &str,
        remember: Duration,
    ) -> Result<bool, BusError>;

    /// Claims a piece of work for one daemon on this bus; whether it was free. The claim
    /// is remembered for that long.
    async fn claim(&self, claim: &str, remember: Duration) -> Result<bool, BusError>;

    /// Appends events to the log, in order. Of an instance's transitions each is told
    /// once and they alternate, in whatever order they come here: one whose revision is
    /// not later than that of the last is dropped, and one that repeats the last is
    /// preceded by its opposite.
    async fn append(&self, events: &[Event]) -> Result<(), BusError>;

    /// The last event of the log.
    async fn head(&self) -> Result<EventId, BusError>;

    /// The events after that one. Where there is none it waits for the first, at most
    /// for `wait`.
    async fn read(&self, after: EventId, wait: Duration) -> Result<ReadOutcome, BusError>;
}

/// Which bus. It is where the leases are.
#[derive(Clone)]
pub enum BusUrl {
    /// Within this process.
    Memory,
    /// Through Redis, by the connections of the process.
    Redis(Arc<RedisBackend>),
}

/// Opens a bus whose connections, if it needs any, will live on the current runtime.
/// `clock` is for a bus in memory.
pub fn open(url: &BusUrl, clock: Arc<dyn Clock>) -> Result<Arc<dyn EventBus>, OpenError> {
    match url {
        BusUrl::Memory => Ok(Arc::new(memory::MemoryBus::new(clock))),
        BusUrl::Redis(backend) => Ok(Arc::new(redis::RedisBus::new(backend))),
    }
}
