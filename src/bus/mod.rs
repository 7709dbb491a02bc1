//! The bus: messages to whoever listens, within this process or through Redis.
//!
//! Called by the SchedulerActor, which publishes the roll call. A message that is
//! published while nobody listens is gone; nothing may depend on it alone.

mod memory;
mod redis;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::Stream;

use crate::error::OpenError;
use crate::redis_link::{LinkError, RedisUrl};

/// Why a call of the bus failed. A message may still have been published.
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

/// Messages of one channel, from the subscription on. It ends when the connection is
/// lost, and what was published meanwhile is lost with it: subscribe again.
pub type Subscription = Pin<Box<dyn Stream<Item = String> + Send>>;

/// Publishes and subscribes.
#[async_trait]
pub trait EventBus: Send + Sync {
    /// Sends a message to all who are subscribed now.
    async fn publish(&self, channel: &str, message: &str) -> Result<(), BusError>;

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

    /// Subscribes to a channel.
    async fn subscribe(&self, channel: &str) -> Result<Subscription, BusError>;
}

/// Which bus. It follows `--leases`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusUrl {
    /// Within this process.
    Memory,
    /// Through Redis pub/sub.
    Redis(RedisUrl),
}

/// Opens a bus whose connection, if it needs one, will live on the current runtime.
pub fn open(url: &BusUrl) -> Result<Arc<dyn EventBus>, OpenError> {
    match url {
        BusUrl::Memory => Ok(Arc::new(memory::MemoryBus::default())),
        BusUrl::Redis(url) => Ok(Arc::new(redis::RedisBus::new(url.client()?))),
    }
}
