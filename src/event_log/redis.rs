//! The event log on Redis: a capped stream.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::Script;

use super::{EventLog, LogEntry, READ_LIMIT, ReadOutcome, TRANSITION_MEMORY};
use crate::backend::BackendError;
use crate::model::{Event, EventId, EventKind};
use crate::redis::{Call, RedisBackend, RedisConnection, millis};

// All keys have the same hash tag, so that a cluster stores them in one slot.

/// The time limit for a reply after the wait of a blocking read has ended.
const REPLY_DELAY: Duration = Duration::from_millis(800);

/// The event log.
const LOG_KEY: &str = "{rollcall}:events";

/// The ID of the last `resync` event, which voids the transitions from before it.
const RESYNC_KEY: &str = "{rollcall}:resync";

/// The run ID of the server that appended last.
const RUN_KEY: &str = "{rollcall}:run";

/// The prefix of the hashes that store the last transition of each instance. A key for each instance
/// would double the number of keys.
const TRANSITION_PREFIX: &str = "{rollcall}:transitions:";

/// The number of instances in one hash, which Redis keeps in a compact form up to 128.
const TRANSITIONS: i64 = 64;

pub(super) struct RedisEventLog {
    /// The approximate number of events that are kept.
    length: usize,
    connection: RedisConnection,
    /// A connection for blocking reads, because these delay all later calls on it.
    blocking: RedisConnection,
    append: Script,
}

impl RedisEventLog {
    pub(super) fn new(backend: &Arc<RedisBackend>, length: usize) -> Self {
        Self {
            length,
            connection: backend.connection(),
            blocking: backend.connection(),
            append: Script::new(include_str!("append.lua")),
        }
    }

    /// Returns the next events of the log. If there are none, waits for the first one, for at
    /// most `wait`.
    async fn events_after(
        &self,
        after: EventId,
        wait: Duration,
    ) -> Result<Vec<LogEntry>, BackendError> {
        let mut read = Call::command("XREAD");
        read.arg("COUNT").arg(READ_LIMIT);
        if !wait.is_zero() {
            read.arg("BLOCK").arg(millis(wait));
        }
        read.arg("STREAMS").arg(LOG_KEY).arg(after.to_string());
        let streams: Option<Vec<(String, Vec<Entry>)>> = if wait.is_zero() {
            self.connection.query(LOG_KEY, &read).await?
        } else {
            let limit = wait + REPLY_DELAY;
            self.blocking.query_within(limit, LOG_KEY, &read).await?
        };
        streams
            .unwrap_or_default()
            .into_iter()
            .flat_map(|(_, entries)| entries)
            .map(log_entry)
            .collect()
    }
}

#[async_trait]
impl EventLog for RedisEventLog {
    async fn append(&self, events: &[Event]) -> Result<(), BackendError> {
        if events.is_empty() {
            return Ok(());
        }
        let mut call = Call::script(&self.append, 3 + events.len());
        call.arg(LOG_KEY).arg(RESYNC_KEY).arg(RUN_KEY);
        for event in events {
            match event.kind.transition() {
                Some((instance, _)) => {
                    let hash = instance.id.0 / TRANSITIONS;
                    call.arg(format!("{TRANSITION_PREFIX}{hash}"))
                }
                None => call.arg(LOG_KEY),
            };
        }
        call.arg(self.length).arg(millis(TRANSITION_MEMORY));
        for event in events {
            let json = serde_json::to_string(event)
                .map_err(|error| BackendError::Refused(error.to_string()))?;
            call.arg(event.kind.name()).arg(json);
            match event.kind.transition() {
                Some((instance, online)) => call
                    .arg(instance.id.to_string())
                    .arg(instance.revision)
                    .arg(EventKind::transition_name(!online)),
                None => call.arg("").arg("").arg(""),
            };
        }
        self.connection.query::<()>(LOG_KEY, &call).await?;
        Ok(())
    }

    async fn read_before(&self, before: EventId) -> Result<Vec<LogEntry>, BackendError> {
        let mut read = Call::command("XREVRANGE");
        read.arg(LOG_KEY)
            .arg(format!("({before}"))
            .arg("-")
            .arg("COUNT")
            .arg(READ_LIMIT);
        let entries: Vec<Entry> = self.connection.query(LOG_KEY, &read).await?;
        entries.into_iter().map(log_entry).collect()
    }

    async fn head(&self) -> Result<EventId, BackendError> {
        let mut call = Call::command("XREVRANGE");
        call.arg(LOG_KEY).arg("+").arg("-").arg("COUNT").arg(1);
        let entries: Vec<Entry> = self.connection.query(LOG_KEY, &call).await?;
        match entries.into_iter().next() {
            Some(entry) => Ok(log_entry(entry)?.id),
            None => Ok(EventId::default()),
        }
    }

    async fn read(&self, after: EventId, wait: Duration) -> Result<ReadOutcome, BackendError> {
        let mut events = self.events_after(after, wait).await?;
        // Events after a gap or of a new epoch are cut off; the next read reports the loss.
        let mut last = after;
        let consecutive = events
            .iter()
            .take_while(|entry| std::mem::replace(&mut last, entry.id).precedes(entry.id))
            .count();
        match events.len() {
            1.. if consecutive == 0 => Ok(ReadOutcome::Lost),
            1.. => {
                events.truncate(consecutive);
                Ok(ReadOutcome::Events(events))
            }
            // Either there are no new events, or the log is new and may have smaller IDs.
            0 if continues(after, self.head().await?) => Ok(ReadOutcome::Events(Vec::new())),
            0 => Ok(ReadOutcome::Lost),
        }
    }
}

/// Returns whether no event is lost if a read after `after` returned nothing and the log ended
/// at `head` shortly afterwards. The next read returns events that were appended in between.
fn continues(after: EventId, head: EventId) -> bool {
    after.is_empty() || (head.epoch == after.epoch && head.sequence >= after.sequence)
}

/// An entry of a stream: its ID and its fields.
type Entry = (String, HashMap<String, String>);

/// Parses an entry of the log. The field `name` may name the opposite of the transition in the
/// field `event`: then the result is that opposite transition.
fn log_entry((id, fields): Entry) -> Result<LogEntry, BackendError> {
    let invalid = |reason: &str| {
        BackendError::Refused(format!(
            "the entry {id} of the key {LOG_KEY} is invalid: {reason}"
        ))
    };
    let field = |name: &str| {
        fields
            .get(name)
            .ok_or_else(|| invalid(&format!("it has no field {name:?}")))
    };
    let mut event: Event =
        serde_json::from_str(field("event")?).map_err(|error| invalid(&error.to_string()))?;
    let name = field("name")?;
    if event.kind.name() != name {
        event.kind = event
            .kind
            .opposite()
            .filter(|opposite| opposite.name() == name)
            .ok_or_else(|| invalid("its name does not match its event"))?;
    }
    let id = id
        .parse()
        .map_err(|_| invalid("its ID is not EPOCH-SEQUENCE"))?;
    Ok(LogEntry { id, event })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_appended_after_an_empty_read_are_not_reported_as_lost() {
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
