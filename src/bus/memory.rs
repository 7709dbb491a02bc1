//! The bus within one process.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::{BusError, EventBus, Subscription};

/// How many messages a subscriber may lag behind before its subscription ends.
const CAPACITY: usize = 1024;

#[derive(Default)]
pub(super) struct MemoryBus {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    channels: HashMap<String, broadcast::Sender<String>>,
    /// Until when each claim is remembered.
    claims: HashMap<String, Instant>,
}

impl State {
    fn claim(&mut self, claim: &str, remember: Duration) -> bool {
        let now = Instant::now();
        self.claims.retain(|_, until| *until > now);
        if self.claims.contains_key(claim) {
            return false;
        }
        self.claims.insert(claim.to_owned(), now + remember);
        true
    }

    fn publish(&mut self, channel: &str, message: &str) {
        let unheard = match self.channels.get(channel) {
            Some(sender) => sender.send(message.to_owned()).is_err(),
            None => false,
        };
        if unheard {
            self.channels.remove(channel);
        }
    }
}

impl MemoryBus {
    /// No code that holds the lock can panic half-way, so a poisoned lock is whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl EventBus for MemoryBus {
    async fn publish(&self, channel: &str, message: &str) -> Result<(), BusError> {
        self.state().publish(channel, message);
        Ok(())
    }

    async fn publish_once(
        &self,
        channel: &str,
        message: &str,
        claim: &str,
        remember: Duration,
    ) -> Result<bool, BusError> {
        let mut state = self.state();
        let free = state.claim(claim, remember);
        if free {
            state.publish(channel, message);
        }
        Ok(free)
    }

    async fn claim(&self, claim: &str, remember: Duration) -> Result<bool, BusError> {
        Ok(self.state().claim(claim, remember))
    }

    async fn subscribe(&self, channel: &str) -> Result<Subscription, BusError> {
        let receiver = self
            .state()
            .channels
            .entry(channel.to_owned())
            .or_insert_with(|| broadcast::channel(CAPACITY).0)
            .subscribe();
        let messages = stream::unfold(receiver, |mut receiver| async {
            // Lagging is a loss, and a loss ends the subscription.
            let message = receiver.recv().await.ok()?;
            Some((message, receiver))
        });
        Ok(Box::pin(messages))
    }
}
