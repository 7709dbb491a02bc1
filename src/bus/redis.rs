//! The bus on Redis: messages by pub/sub, the log of events as a capped stream.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use redis::{Client, Script};
use tokio::time::timeout;

use super::{
    BusError, EventBus, Following, LOG_CAPACITY, Logged, READ, Subscription, TRANSITION_MEMORY,
};
use crate::model::{Event, EventId, EventKind};
use crate::redis_link::{RedisLink, link_error};

/// Before every claim's key.
const CLAIM_PREFIX: &str = "rollcall:claim:";

/// Connecting and subscribing, together.
const SUBSCRIBE: Duration = Duration::from_secs(2);

/// How much later than the wait an answer may come.
const WAITED: Duration = Duration::from_millis(800);

/// The log of events.
const LOG_KEY: &str = "rollcall:events";

/// Before what is remembered of each instance's last transition.
const TRANSITION_PREFIX: &str = "rollcall:transition:";

pub(super) struct RedisBus {
    link: RedisLink,
    /// For reads that wait, which hold up whatever else is asked on their connection.
    waiting: RedisLink,
    client: Client,
    publish_once: Script,
    append: Script,
}

impl RedisBus {
    pub(super) fn new(client: Client) -> Self {
        Self {
            link: RedisLink::new(client.clone()),
            waiting: RedisLink::new(client.clone()),
            client,
            publish_once: Script::new(include_str!("publish_once.lua")),
            append: Script::new(include_str!("append.lua")),
        }
    }

    /// What follows in the log, as far as it is there now; after at most `wait`.
    async fn events_after(&self, after: EventId, wait: Duration) -> Result<Vec<Logged>, BusError> {
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(READ);
        if !wait.is_zero() {
            read.arg("BLOCK").arg(millis(wait));
        }
        read.arg("STREAMS").arg(LOG_KEY).arg(after.to_string());
        let answer: Option<Vec<(String, Vec<Entry>)>> = match wait.is_zero() {
            true => {
                let link = &self.link;
                link.ask(&read).await?
            }
            false => {
                let (link, limit) = (&self.waiting, wait + WAITED);
                link.ask_within(limit, &read).await?
            }
        };
        let entries = answer.unwrap_or_default();
        entries
            .into_iter()
            .flat_map(|(_, entries)| entries)
            .map(logged)
            .collect()
    }
}

#[async_trait]
impl EventBus for RedisBus {
    async fn publish(&self, channel: &str, message: &str) -> Result<(), BusError> {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(channel).arg(message);
        self.link.ask::<()>(&publish).await?;
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
        let published: i64 = self.link.ask(&call).await?;
        Ok(published == 1)
    }

    async fn claim(&self, claim: &str, remember: Duration) -> Result<bool, BusError> {
        let mut set = redis::cmd("SET");
        set.arg(format!("{CLAIM_PREFIX}{claim}"))
            .arg("1")
            .arg("NX")
            .arg("PX")
            .arg(millis(remember));
        let set: Option<String> = self.link.ask(&set).await?;
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

    async fn append(&self, events: &[Event]) -> Result<(), BusError> {
        if events.is_empty() {
            return Ok(());
        }
        let mut call = self.append.prepare_invoke();
        call.key(LOG_KEY)
            .arg(LOG_CAPACITY)
            .arg(millis(TRANSITION_MEMORY));
        for event in events {
            let json = serde_json::to_string(event)
                .map_err(|error| BusError::Refused(error.to_string()))?;
            call.arg(event.kind.name()).arg(json);
            match event.kind.transition() {
                Some((instance, online)) => call
                    .key(format!("{TRANSITION_PREFIX}{}", instance.id))
                    .arg(instance.revision)
                    .arg(EventKind::transition_name(!online)),
                None => call.key(LOG_KEY).arg("").arg(""),
            };
        }
        self.link.ask::<()>(&call).await?;
        Ok(())
    }

    async fn head(&self) -> Result<EventId, BusError> {
        let mut last = redis::cmd("XREVRANGE");
        last.arg(LOG_KEY).arg("+").arg("-").arg("COUNT").arg(1);
        let last: Vec<Entry> = self.link.ask(&last).await?;
        match last.into_iter().next() {
            Some(entry) => Ok(logged(entry)?.id),
            None => Ok(EventId::default()),
        }
    }

    async fn read(&self, after: EventId, wait: Duration) -> Result<Following, BusError> {
        let events = self.events_after(after, wait).await?;
        match events.first() {
            Some(first) if after.precedes(first.id) => Ok(Following::Events(events)),
            Some(_) => Ok(Following::Lost),
            // Nothing follows: either nothing happened, or the log is another one, whose ids
            // may be smaller.
            None => {
                let head = self.head().await?;
                let same = head.log == after.log && head.place >= after.place;
                match same || (after.is_empty() && head.place <= 1) {
                    true => Ok(Following::Events(Vec::new())),
                    false => Ok(Following::Lost),
                }
            }
        }
    }
}

/// A stream's entry: its id and its fields.
type Entry = (String, HashMap<String, String>);

/// The entry as what was appended. The name may be the opposite of the event's own.
fn logged((id, fields): Entry) -> Result<Logged, BusError> {
    let foreign = |why: &str| BusError::Refused(format!("{LOG_KEY} holds {id}, {why}"));
    let field = |name| {
        fields
            .get(name)
            .ok_or_else(|| foreign("which lacks a field"))
    };
    let mut event: Event =
        serde_json::from_str(field("event")?).map_err(|error| foreign(&error.to_string()))?;
    let name = field("name")?;
    if event.kind.name() != name {
        event.kind = event
            .kind
            .opposite()
            .filter(|opposite| opposite.name() == name)
            .ok_or_else(|| foreign("whose name is not that of its event"))?;
    }
    let id = id
        .parse()
        .map_err(|_| foreign("which has another id than ours"))?;
    Ok(Logged { id, event })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
