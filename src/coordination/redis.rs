//! Claims as keys of Redis, and messages through its pub/sub.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::Script;

use super::Coordinator;
use crate::backend::BackendError;
use crate::redis::{Call, RedisBackend, RedisConnection, millis};

pub(super) struct RedisCoordinator {
    connection: RedisConnection,
    publish_once: Script,
}

impl RedisCoordinator {
    pub(super) fn new(backend: &Arc<RedisBackend>) -> Self {
        Self {
            connection: backend.connection(),
            publish_once: Script::new(include_str!("publish_once.lua")),
        }
    }
}

/// Returns the key of a claim. Like all keys without a lease it has the hash tag `{rollcall}`, so
/// that a cluster stores them in one slot.
fn claim_key(claim: &str) -> String {
    format!("{{rollcall}}:claim:{claim}")
}

#[async_trait]
impl Coordinator for RedisCoordinator {
    async fn try_claim(&self, claim: &str, ttl: Duration) -> Result<bool, BackendError> {
        let key = claim_key(claim);
        let mut set = Call::command("SET");
        set.arg(&key).arg("1").arg("NX").arg("PX").arg(millis(ttl));
        let reply: Option<String> = self.connection.query(&key, &set).await?;
        Ok(reply.is_some())
    }

    async fn publish_once(
        &self,
        channel: &str,
        message: &str,
        claim: &str,
        ttl: Duration,
    ) -> Result<bool, BackendError> {
        let key = claim_key(claim);
        let mut call = Call::script(&self.publish_once, 1);
        call.arg(&key).arg(channel).arg(message).arg(millis(ttl));
        let published: i64 = self.connection.query(&key, &call).await?;
        Ok(published == 1)
    }
}
