//! The event log, in the memory of this process or on Redis.
//!
//! It keeps the latest events, so that a replica that could not read it for some time reads the
//! missed events later, or learns that some of them were dropped.

mod memory;
mod redis;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::backend::BackendError;
use crate::clock::Clock;
use crate::model::{Event, EventId};
use crate::redis::RedisBackend;

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

/// The result of [`EventLog::read`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The next events, without a gap; empty if there are none yet.
    Events(Vec<LogEntry>),
    /// Some of the next events are missing, because the log was trimmed or lost.
    Lost,
}

/// The events of all replicas, in one order.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Appends events, in order. The log contains each transition of an instance once, and these
    /// alternate, in whatever order they arrive: a transition whose revision is not later than
    /// that of the last one is dropped, and the opposite transition is appended before one that
    /// repeats the last one.
    async fn append(&self, events: &[Event]) -> Result<(), BackendError>;

    /// Returns the last events before `before`, at most 500, the latest first; none if there are no
    /// earlier ones.
    async fn read_before(&self, before: EventId) -> Result<Vec<LogEntry>, BackendError>;

    /// Returns the ID of the last event.
    async fn head(&self) -> Result<EventId, BackendError>;

    /// Returns the events after `after`. If there are none, waits for the first one, for at
    /// most `wait`.
    async fn read(&self, after: EventId, wait: Duration) -> Result<ReadOutcome, BackendError>;
}

/// Opens the event log on `redis`, or in memory without it. It keeps about `length` events.
/// Connections run on the current runtime. Only a log in memory uses `clock`.
pub fn open(
    redis: Option<&Arc<RedisBackend>>,
    clock: Arc<dyn Clock>,
    length: usize,
) -> Arc<dyn EventLog> {
    match redis {
        None => Arc::new(memory::MemoryEventLog::new(clock, length)),
        Some(backend) => Arc::new(redis::RedisEventLog::new(backend, length)),
    }
}
