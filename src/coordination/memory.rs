//! Claims in the memory of this process, for a single replica.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Coordinator;
use crate::backend::BackendError;

#[derive(Default)]
pub(super) struct MemoryCoordinator {
    /// The time at which each claim expires.
    claims: Mutex<HashMap<String, Instant>>,
}

#[async_trait]
impl Coordinator for MemoryCoordinator {
    async fn try_claim(&self, claim: &str, ttl: Duration) -> Result<bool, BackendError> {
        let (mut claims, now) = (self.claims.lock(), Instant::now());
        claims.retain(|_, expires_at| *expires_at > now);
        let is_free = !claims.contains_key(claim);
        if is_free {
            claims.insert(claim.to_owned(), now + ttl);
        }
        Ok(is_free)
    }

    async fn publish_once(
        &self,
        _: &str,
        _: &str,
        claim: &str,
        ttl: Duration,
    ) -> Result<bool, BackendError> {
        // No subscriber can reach the memory of this process.
        self.try_claim(claim, ttl).await
    }
}
