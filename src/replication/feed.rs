//! The event feed: passes events on to subscribers.
//!
//! The Follower publishes here the events that it reads from the event log. Subscribers receive
//! them live. A subscriber that reconnects, to any replica, receives the events that it missed
//! from the log, or a message to read the whole state again.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::event_log::{EventLog, LogEntry, ReadOutcome};
use crate::model::{Event, EventId};

/// The number of events that a subscriber may be behind before it is dropped.
const MAX_LAG: usize = 1024;

/// An event for subscribers.
#[derive(Debug)]
pub(crate) struct PublishedEvent {
    /// Its position in the event log.
    pub(crate) id: EventId,
    /// The event.
    pub(crate) event: Event,
    /// The encoded event.
    frame: OnceLock<Bytes>,
}

impl PublishedEvent {
    fn new(LogEntry { id, event }: LogEntry) -> Arc<Self> {
        Arc::new(Self {
            id,
            event,
            frame: OnceLock::new(),
        })
    }

    /// Returns the event as it is sent. `encode` is called once, for the first subscriber.
    pub(crate) fn frame(&self, encode: impl FnOnce(&Self) -> Bytes) -> Bytes {
        self.frame.get_or_init(|| encode(self)).clone()
    }
}

/// A message to a subscriber.
#[derive(Debug, Clone)]
pub(crate) enum FeedItem {
    /// The subscriber has seen everything up to this ID and may resume from it.
    From(EventId),
    /// The next event.
    Event(Arc<PublishedEvent>),
    /// Events up to this ID are missing: the subscriber must read the whole state again.
    Resync(EventId),
    /// The subscriber was too slow; this is the last message.
    Dropped,
}

#[derive(Debug, Clone)]
enum Live {
    Event(Arc<PublishedEvent>),
    Lost(EventId),
}

/// Passes events on to all subscribers of this replica.
pub(crate) struct EventBroadcast {
    log: Arc<dyn EventLog>,
    live: broadcast::Sender<Live>,
    head: Mutex<EventId>,
}

impl EventBroadcast {
    /// Creates a broadcast without subscribers. Events that a subscriber missed are read from
    /// `log`.
    pub(crate) fn new(log: Arc<dyn EventLog>) -> Self {
        Self {
            log,
            live: broadcast::channel(MAX_LAG).0,
            head: Mutex::default(),
        }
    }

    /// Sends an event to all subscribers.
    pub(crate) fn publish(&self, entry: LogEntry) {
        let mut head = self.head.lock();
        *head = entry.id;
        // This fails if there are no subscribers.
        let _ = self.live.send(Live::Event(PublishedEvent::new(entry)));
    }

    /// Tells all subscribers that events up to `head` are missing.
    pub(crate) fn lose(&self, head: EventId) {
        let mut current = self.head.lock();
        *current = head;
        let _ = self.live.send(Live::Lost(head));
    }

    /// Returns the number of subscribers.
    pub(crate) fn subscribers(&self) -> usize {
        self.live.receiver_count()
    }

    /// Returns the events from now on, or those after `last` if the log still contains them.
    pub(crate) fn subscribe(&self, last: Option<EventId>) -> impl Stream<Item = FeedItem> + use<> {
        let (head, live) = self.listen();
        let phase = match last {
            None => Phase::Begin,
            Some(_) => Phase::CatchUp {
                entries: VecDeque::new(),
                is_listening: false,
            },
        };
        let subscriber = Subscriber {
            last: last.unwrap_or(head),
            phase,
            live,
            sender: self.live.clone(),
            log: Arc::clone(&self.log),
        };
        stream::unfold(subscriber, Subscriber::next)
    }

    /// Returns the ID of the last published event, and a receiver of all events after it.
    fn listen(&self) -> (EventId, broadcast::Receiver<Live>) {
        let head = self.head.lock();
        (*head, self.live.subscribe())
    }
}

struct Subscriber {
    /// The ID of the last event that it received.
    last: EventId,
    phase: Phase,
    live: broadcast::Receiver<Live>,
    sender: broadcast::Sender<Live>,
    log: Arc<dyn EventLog>,
}

enum Phase {
    Begin,
    /// The subscriber receives the events that it missed.
    CatchUp {
        /// Missed events that were read from the log.
        entries: VecDeque<LogEntry>,
        /// Whether `live` already buffers new events. That begins only after all missed events
        /// were read once, so that the buffer does not overflow before.
        is_listening: bool,
    },
    Live,
    End,
}

impl Subscriber {
    async fn next(mut self) -> Option<(FeedItem, Self)> {
        loop {
            let item = match &mut self.phase {
                Phase::Begin => {
                    self.phase = Phase::Live;
                    FeedItem::From(self.last)
                }
                Phase::CatchUp {
                    entries,
                    is_listening,
                } => match entries.pop_front() {
                    Some(entry) => {
                        self.last = entry.id;
                        FeedItem::Event(PublishedEvent::new(entry))
                    }
                    None => match self.log.read(self.last, Duration::ZERO).await {
                        Ok(ReadOutcome::Events(events)) if events.is_empty() => {
                            if *is_listening {
                                self.phase = Phase::Live;
                            } else {
                                self.live = self.sender.subscribe();
                                *is_listening = true;
                            }
                            continue;
                        }
                        Ok(ReadOutcome::Events(events)) => {
                            *entries = events.into();
                            continue;
                        }
                        Ok(ReadOutcome::Lost) | Err(_) => {
                            // Subscribe first, so that no event after the head is missed.
                            self.live = self.sender.subscribe();
                            self.last = self.log.head().await.unwrap_or_default();
                            self.phase = Phase::Live;
                            FeedItem::Resync(self.last)
                        }
                    },
                },
                Phase::Live => match self.live.recv().await {
                    // The event was already received while catching up.
                    Ok(Live::Event(published)) if self.has_received(published.id) => continue,
                    Ok(Live::Event(published)) => {
                        self.last = published.id;
                        FeedItem::Event(published)
                    }
                    Ok(Live::Lost(head)) => {
                        self.last = head;
                        FeedItem::Resync(head)
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        self.phase = Phase::End;
                        FeedItem::Dropped
                    }
                    Err(broadcast::error::RecvError::Closed) => return None,
                },
                Phase::End => return None,
            };
            return Some((item, self));
        }
    }

    fn has_received(&self, id: EventId) -> bool {
        id.epoch == self.last.epoch && id.sequence <= self.last.sequence
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt;

    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::event_log;
    use crate::model::EventKind;

    #[tokio::test]
    async fn an_event_is_serialised_once_for_all_subscribers() {
        let log = event_log::open(None, Arc::new(SystemClock), 20_000);
        let feed = EventBroadcast::new(log);
        let subscribers: Vec<_> = (0..1000).map(|_| feed.subscribe(None)).collect();
        feed.publish(LogEntry {
            id: EventId {
                epoch: 1,
                sequence: 1,
            },
            event: Event::new(SystemClock.now(), EventKind::EventsLost),
        });
        let mut encoded = 0;
        for subscriber in subscribers {
            let mut subscriber = pin!(subscriber);
            assert!(matches!(subscriber.next().await, Some(FeedItem::From(_))));
            let Some(FeedItem::Event(published)) = subscriber.next().await else {
                panic!("the subscriber received no event");
            };
            published.frame(|_| {
                encoded += 1;
                Bytes::from_static(b"frame")
            });
        }
        assert_eq!(encoded, 1);
    }
}
