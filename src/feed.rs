//! The feed: what happened, for everybody who wants to be told.
//!
//! The Follower publishes here what it reads from the log of events. Subscribers get it
//! live; one that was away gets what it missed from the log, on whichever daemon it comes
//! back to, or is told that it must read everything again.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::bus::{EventBus, LogEntry, ReadOutcome};
use crate::model::{Event, EventId};

/// How many events a subscriber may be behind before it is dropped.
const LAG: usize = 1024;

/// An event for subscribers.
#[derive(Debug)]
pub struct PublishedEvent {
    /// Where it stands in the log.
    pub id: EventId,
    /// What happened.
    pub event: Event,
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

    /// The event as it is sent, which `make` makes for the first subscriber who gets it.
    pub fn frame(&self, make: impl FnOnce(&Self) -> Bytes) -> Bytes {
        self.frame.get_or_init(|| make(self)).clone()
    }
}

/// What a subscriber is told.
#[derive(Debug, Clone)]
pub enum FeedItem {
    /// Nothing happened before this event that it is not told: from here it may resume.
    From(EventId),
    /// Something happened.
    Event(Arc<PublishedEvent>),
    /// What happened until this event is not known: everything must be read again.
    Resync(EventId),
    /// It was too slow, and is told nothing more.
    Dropped,
}

#[derive(Debug, Clone)]
enum Live {
    Event(Arc<PublishedEvent>),
    Lost(EventId),
}

/// Passes events on.
pub struct EventBroadcast {
    bus: Arc<dyn EventBus>,
    live: broadcast::Sender<Live>,
    head: Mutex<EventId>,
}

impl EventBroadcast {
    /// Reads from that log what subscribers have missed.
    pub fn new(bus: Arc<dyn EventBus>) -> Self {
        Self {
            bus,
            live: broadcast::channel(LAG).0,
            head: Mutex::default(),
        }
    }

    /// Tells what happened.
    pub fn publish(&self, logged: LogEntry) {
        let mut head = self.head.lock();
        *head = logged.id;
        // Nobody may be listening.
        let _ = self.live.send(Live::Event(PublishedEvent::new(logged)));
    }

    /// Tells that what happened until `head` was missed.
    pub fn lose(&self, head: EventId) {
        let mut known = self.head.lock();
        *known = head;
        let _ = self.live.send(Live::Lost(head));
    }

    /// How many subscribers there are.
    pub fn subscribers(&self) -> usize {
        self.live.receiver_count()
    }

    /// Everything from now on; or everything after `last`, if that is still known.
    pub fn subscribe(&self, last: Option<EventId>) -> impl Stream<Item = FeedItem> + use<> {
        let (head, live) = self.listen();
        let phase = match last {
            None => Phase::Begin,
            Some(_) => Phase::Missed {
                read: VecDeque::new(),
                listening: false,
            },
        };
        let subscriber = Subscriber {
            last: last.unwrap_or(head),
            phase,
            live,
            sender: self.live.clone(),
            bus: Arc::clone(&self.bus),
        };
        stream::unfold(subscriber, Subscriber::next)
    }

    /// The last event that was told, and the receiver of all after it.
    fn listen(&self) -> (EventId, broadcast::Receiver<Live>) {
        let head = self.head.lock();
        (*head, self.live.subscribe())
    }
}

struct Subscriber {
    /// What it was told last.
    last: EventId,
    phase: Phase,
    live: broadcast::Receiver<Live>,
    sender: broadcast::Sender<Live>,
    bus: Arc<dyn EventBus>,
}

enum Phase {
    Begin,
    /// It is told what it missed.
    Missed {
        /// What was read of it.
        read: VecDeque<LogEntry>,
        /// Whether what happens meanwhile is kept for it: once it has nearly caught up, so
        /// that it does not fall behind while it reads.
        listening: bool,
    },
    Live,
    End,
}

impl Subscriber {
    async fn next(mut self) -> Option<(FeedItem, Self)> {
        loop {
            let told = match &mut self.phase {
                Phase::Begin => {
                    self.phase = Phase::Live;
                    FeedItem::From(self.last)
                }
                Phase::Missed { read, listening } => match read.pop_front() {
                    Some(logged) => {
                        self.last = logged.id;
                        FeedItem::Event(PublishedEvent::new(logged))
                    }
                    None => match self.bus.read(self.last, Duration::ZERO).await {
                        Ok(ReadOutcome::Events(events)) if events.is_empty() => {
                            if *listening {
                                self.phase = Phase::Live;
                            } else {
                                self.live = self.sender.subscribe();
                                *listening = true;
                            }
                            continue;
                        }
                        Ok(ReadOutcome::Events(events)) => {
                            *read = events.into();
                            continue;
                        }
                        Ok(ReadOutcome::Lost) | Err(_) => {
                            // In this order, so that nothing after the head is missed.
                            self.live = self.sender.subscribe();
                            self.last = self.bus.head().await.unwrap_or_default();
                            self.phase = Phase::Live;
                            FeedItem::Resync(self.last)
                        }
                    },
                },
                Phase::Live => match self.live.recv().await {
                    // It was among what was missed.
                    Ok(Live::Event(notice)) if self.knows(notice.id) => continue,
                    Ok(Live::Event(notice)) => {
                        self.last = notice.id;
                        FeedItem::Event(notice)
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
            return Some((told, self));
        }
    }

    fn knows(&self, id: EventId) -> bool {
        id.epoch == self.last.epoch && id.sequence <= self.last.sequence
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt;

    use super::*;
    use crate::bus::{self, BusUrl};
    use crate::clock::{Clock, SystemClock};
    use crate::model::EventKind;

    #[tokio::test]
    async fn an_event_is_serialised_once_for_all_who_are_told() {
        let bus = bus::open(&BusUrl::Memory, Arc::new(SystemClock)).unwrap();
        let feed = EventBroadcast::new(bus);
        let subscribers: Vec<_> = (0..1000).map(|_| feed.subscribe(None)).collect();
        feed.publish(LogEntry {
            id: EventId {
                epoch: 1,
                sequence: 1,
            },
            event: Event {
                at: SystemClock.now(),
                kind: EventKind::EventsLost,
            },
        });
        let mut made = 0;
        for subscriber in subscribers {
            let mut subscriber = pin!(subscriber);
            assert!(matches!(subscriber.next().await, Some(FeedItem::From(_))));
            let Some(FeedItem::Event(notice)) = subscriber.next().await else {
                panic!("it was not told");
            };
            notice.frame(|_| {
                made += 1;
                Bytes::from_static(b"frame")
            });
        }
        assert_eq!(made, 1);
    }
}
