//! The bus on Redis: messages by pub/sub, the log of events as a capped stream.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::Script;

use super::{BusError, EventBus, LOG_CAPACITY, LogEntry, READ, ReadOutcome, TRANSITION_MEMORY};
use crate::model::{Event, EventId, EventKind};
use crate::redis::{Call, RedisBackend, RedisConnection};

// All keys have one hash tag, so that on a cluster they are in one slot.

/// The prefix of the keys of claims.
const CLAIM_PREFIX: &str = "{rollcall}:claim:";

/// How much later than the wait an answer may come.
const WAITED: Duration = Duration::from_millis(800);

/// The log of events.
const LOG_KEY: &str = "{rollcall}:events";

/// The position of the last event of the log that voids the remembered transitions.
const RESYNC_KEY: &str = "{rollcall}:resync";

/// The run of the server that appended last.
const RUN_KEY: &str = "{rollcall}:run";

/// The prefix of the keys that remember each instance's last transition.
const TRANSITION_PREFIX: &str = "{rollcall}:transition:";

pub(super) struct RedisBus {
    link: RedisConnection,
    /// For reads that wait, because they delay all later calls on their connection.
    waiting: RedisConnection,
    publish_once: Script,
    append: Script,
}

impl RedisBus {
    pub(super) fn new(backend: &Arc<RedisBackend>) -> Self {
        Self {
            link: backend.link(),
            waiting: backend.link(),
            publish_once: Script::new(include_str!("publish_once.lua")),
            append: Script::new(include_str!("append.lua")),
        }
    }

    /// Returns the next events of the log. If there are none, waits at most `wait` for the first.
    async fn events_after(
        &self,
        after: EventId,
        wait: Duration,
    ) -> Result<Vec<LogEntry>, BusError> {
        let mut read = Call::command("XREAD");
        read.arg("COUNT").arg(READ);
        if !wait.is_zero() {
            read.arg("BLOCK").arg(millis(wait));
        }
        read.arg("STREAMS").arg(LOG_KEY).arg(after.to_string());
        let answer: Option<Vec<(String, Vec<Entry>)>> = match wait.is_zero() {
            true => {
                let link = &self.link;
                link.ask(LOG_KEY, &read).await?
            }
            false => {
                let (link, limit) = (&self.waiting, wait + WAITED);
                link.ask_within(limit, LOG_KEY, &read).await?
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
    async fn publish_once(
        &self,
        channel: &str,
        message: &str,
        claim: &str,
        remember: Duration,
    ) -> Result<bool, BusError> {
        let mut call = Call::script(&self.publish_once, 1);
        call.arg(format!("{CLAIM_PREFIX}{claim}"))
            .arg(channel)
            .arg(message)
            .arg(millis(remember));
        let published: i64 = self.link.ask(LOG_KEY, &call).await?;
        Ok(published == 1)
    }

    async fn claim(&self, claim: &str, remember: Duration) -> Result<bool, BusError> {
        let mut set = Call::command("SET");
        set.arg(format!("{CLAIM_PREFIX}{claim}"))
            .arg("1")
            .arg("NX")
            .arg("PX")
            .arg(millis(remember));
        let set: Option<String> = self.link.ask(LOG_KEY, &set).await?;
        Ok(set.is_some())
    }

    async fn append(&self, events: &[Event]) -> Result<(), BusError> {
        if events.is_empty() {
            return Ok(());
        }
        let mut call = Call::script(&self.append, 3 + events.len());
        call.arg(LOG_KEY).arg(RESYNC_KEY).arg(RUN_KEY);
        for event in events {
            match event.kind.transition() {
                Some((instance, _)) => call.arg(format!("{TRANSITION_PREFIX}{}", instance.id)),
                None => call.arg(LOG_KEY),
            };
        }
        call.arg(LOG_CAPACITY).arg(millis(TRANSITION_MEMORY));
        for event in events {
            let json = serde_json::to_string(event)
                .map_err(|error| BusError::Refused(error.to_string()))?;
            call.arg(event.kind.name()).arg(json);
            match event.kind.transition() {
                Some((instance, online)) => call
                    .arg(instance.revision)
                    .arg(EventKind::transition_name(!online)),
                None => call.arg("").arg(""),
            };
        }
        self.link.ask::<()>(LOG_KEY, &call).await?;
        Ok(())
    }

    async fn head(&self) -> Result<EventId, BusError> {
        let mut last = Call::command("XREVRANGE");
        last.arg(LOG_KEY).arg("+").arg("-").arg("COUNT").arg(1);
        let last: Vec<Entry> = self.link.ask(LOG_KEY, &last).await?;
        match last.into_iter().next() {
            Some(entry) => Ok(logged(entry)?.id),
            None => Ok(EventId::default()),
        }
    }

    async fn read(&self, after: EventId, wait: Duration) -> Result<ReadOutcome, BusError> {
        let mut events = self.events_after(after, wait).await?;
        // Where another log begins the next read finds that something was lost.
        let mut last = after;
        let follow = events
            .iter()
            .take_while(|logged| std::mem::replace(&mut last, logged.id).precedes(logged.id))
            .count();
        match events.len() {
            1.. if follow == 0 => Ok(ReadOutcome::Lost),
            1.. => {
                events.truncate(follow);
                Ok(ReadOutcome::Events(events))
            }
            // Either nothing happened, or this is another log, whose ids may be smaller.
            0 if continues(after, self.head().await?) => Ok(ReadOutcome::Events(Vec::new())),
            0 => Ok(ReadOutcome::Lost),
        }
    }
}

/// Whether nothing is lost after a read of no event after `after`, when the log ended at `head`
/// a moment later. Events may be appended in that moment; the next read returns those.
fn continues(after: EventId, head: EventId) -> bool {
    after.is_empty() || (head.epoch == after.epoch && head.sequence >= after.sequence)
}

/// A stream's entry: its id and its fields.
type Entry = (String, HashMap<String, String>);

/// The entry as what was appended. The name may be the opposite of the event's own.
fn logged((id, fields): Entry) -> Result<LogEntry, BusError> {
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
    Ok(LogEntry { id, event })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_appended_after_an_empty_read_are_not_taken_for_a_loss() {
        let id = |epoch, sequence| EventId { epoch, sequence };
        let empty = EventId::default();
        assert!(continues(empty, empty));
        assert!(continues(empty, id(5, 3)));
        assert!(continues(id(5, 2), id(5, 2)));
        assert!(continues(id(5, 2), id(5, 9)));
        assert!(!continues(id(5, 2), id(5, 1)));
        assert!(!continues(id(5, 2), id(6, 9)));
        assert!(!continues(id(5, 2), empty));
    }
}
