//! The bus on Redis pub/sub.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use redis::{Client, Script};
use tokio::time::timeout;

use super::{BusError, EventBus, Subscription};
use crate::redis_link::{RedisLink, link_error};

/// Before every claim's key.
const CLAIM_PREFIX: &str = "rollcall:claim:";

/// Connecting and subscribing, together.
const SUBSCRIBE: Duration = Duration::from_secs(2);

pub(super) struct RedisBus {
    link: RedisLink,
    client: Client,
    publish_once: Script,
}

impl RedisBus {
    pub(super) fn new(client: Client) -> Self {
        Self {
            link: RedisLink::new(client.clone()),
            client,
            publish_once: Script::new(include_str!("publish_once.lua")),
        }
    }
}

#[async_trait]
impl EventBus for RedisBus {
    async fn publish(&self, channel: &str, message: &str) -> Result<(), BusError> {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(channel).arg(message);
        self.link
            .ask(async |connection| publish.query_async::<()>(connection).await)
            .await?;
        Ok(())
    }

    async fn publish_once(
        &self,
        channel: &str,
        message: &str,
        claim: &str,
        remember: Duration,
    ) -> Result<bool, BusError> {
        let mut call = self.publish_once.prepare_invoke();
        call.key(format!("{CLAIM_PREFIX}{claim}"))
            .arg(channel)
            .arg(message)
            .arg(millis(remember));
        let published: i64 = self
            .link
            .ask(async |connection| call.invoke_async(connection).await)
            .await?;
        Ok(published == 1)
    }

    async fn claim(&self, claim: &str, remember: Duration) -> Result<bool, BusError> {
        let mut set = redis::cmd("SET");
        set.arg(format!("{CLAIM_PREFIX}{claim}"))
            .arg("1")
            .arg("NX")
            .arg("PX")
            .arg(millis(remember));
        let set: Option<String> = self
            .link
            .ask(async |connection| set.query_async(connection).await)
            .await?;
        Ok(set.is_some())
    }

    async fn subscribe(&self, channel: &str) -> Result<Subscription, BusError> {
        let subscribing = async {
            let mut pubsub = self.client.get_async_pubsub().await?;
            pubsub.subscribe(channel).await?;
            Ok(pubsub)
        };
        let pubsub = timeout(SUBSCRIBE, subscribing)
            .await
            .map_err(|_| {
                BusError::Unavailable(format!("no answer from Redis within {SUBSCRIBE:?}"))
            })?
            .map_err(link_error)?;
        // The sink must live as long as the stream: it keeps the subscription.
        let (sink, messages) = pubsub.split();
        let messages = stream::unfold((sink, messages), |(sink, mut messages)| async {
            loop {
                // A message that is not text was not sent by a daemon.
                if let Ok(text) = messages.next().await?.get_payload::<String>() {
                    return Some((text, (sink, messages)));
                }
            }
        });
        Ok(Box::pin(messages))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
