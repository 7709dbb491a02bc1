//! Claims, by which one replica does a piece of work for all replicas, and messages that are
//! published with one. In the memory of this process or on Redis.
//!
//! A message reaches only the clients that are subscribed in Redis at that moment.

mod memory;
mod redis;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::backend::BackendError;
use crate::redis::RedisBackend;

/// Lets one replica do a piece of work.
#[async_trait]
pub trait Coordinator: Send + Sync {
    /// Takes a claim for `ttl`. Returns whether it was free.
    async fn try_claim(&self, claim: &str, ttl: Duration) -> Result<bool, BackendError>;

    /// Takes a claim for `ttl` and publishes a message in one atomic step. Returns whether the
    /// claim was free and the message was published.
    async fn publish_once(
        &self,
        channel: &str,
        message: &str,
        claim: &str,
        ttl: Duration,
    ) -> Result<bool, BackendError>;
}

/// Opens the coordinator on `redis`, or in memory without it. Connections run on the current
/// runtime.
pub fn open(redis: Option<&Arc<RedisBackend>>) -> Arc<dyn Coordinator> {
    match redis {
        None => Arc::new(memory::MemoryCoordinator::default()),
        Some(backend) => Arc::new(redis::RedisCoordinator::new(backend)),
    }
}
