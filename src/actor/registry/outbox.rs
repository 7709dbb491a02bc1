//! What is published after a commit: the events, and the original's message on which gateways
//! refresh.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{ActorFutureExt, AsyncContext, Context};

use tokio::time::Instant;

use super::RegistryActor;
use crate::backend::BackendError;
use crate::coordination::Coordinator;
use crate::event_log::EventLog;
use crate::metrics::Metrics;
use crate::model::{Event, EventKind};

/// The most events that wait for the event log. Beyond, they are replaced by one that asks
/// subscribers to read again.
const MAX_WAITING: usize = 20_000;

/// The number of waiting events from which the next transaction waits, while the event log
/// accepts events: other replicas would have to read the registry store for each that is lost.
const FULL: usize = 10_000;

/// The most events in one append.
const MAX_BATCH: usize = 1_000;

/// The time between retries while the event log is unavailable.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// The shortest time between two messages to the original's gateways.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(500);

/// The name of the claim that applies this over all replicas.
const ANNOUNCE_CLAIM: &str = "service-launched";

/// A message to all gateways of the original gateway center.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshNotice {
    /// The Redis channel.
    pub(crate) channel: String,
    /// The text.
    pub(crate) message: String,
}

/// Events on their way to the event log, in the order of the commits.
pub(super) struct Outbox {
    log: Arc<dyn EventLog>,
    coordinator: Arc<dyn Coordinator>,
    waiting: VecDeque<Event>,
    sending: bool,
    /// Since when the event log has accepted no event.
    failing: Option<Instant>,
    metrics: Arc<Metrics>,
    announcement: Option<RefreshNotice>,
    announcing: RefreshState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RefreshState {
    /// There is nothing to publish.
    Idle,
    /// A message is in flight, or was published less than [`ANNOUNCE_EVERY`] ago.
    Busy,
    /// The same, and another message must follow.
    Again,
}

impl Outbox {
    pub(super) fn new(
        log: Arc<dyn EventLog>,
        coordinator: Arc<dyn Coordinator>,
        announcement: Option<RefreshNotice>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            log,
            coordinator,
            waiting: VecDeque::new(),
            sending: false,
            failing: None,
            metrics,
            announcement,
            announcing: RefreshState::Idle,
        }
    }

    pub(super) fn push(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            if self.waiting.len() == MAX_WAITING {
                log::warn!(
                    "dropped {MAX_WAITING} events that the event log did not accept; subscribers will receive resync"
                );
                self.waiting.clear();
                let kind = EventKind::EventsLost;
                self.waiting.push_back(Event::new(event.at, kind));
            }
            self.waiting.push_back(event);
        }
    }

    /// Returns whether the event log accepts events more slowly than they are committed.
    pub(super) fn is_behind(&self) -> bool {
        self.failing.is_none() && self.waiting.len() >= FULL
    }

    pub(super) fn is_sending(&self) -> bool {
        self.sending
    }

    /// Updates the metrics after an append, and logs when the event log becomes unavailable or
    /// available.
    fn note(&mut self, outcome: &Result<(), BackendError>) {
        let waiting = self.waiting.len();
        self.metrics
            .events_waiting
            .set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.metrics.backends.event_log.writes(outcome.is_ok());
        match (outcome, self.failing) {
            (Err(error), None) => {
                self.failing = Some(Instant::now());
                log::warn!(
                    "the event log accepts no events, {waiting} are waiting: {error}; subscribers receive no events, and other replicas notice changes about 15 s late"
                );
            }
            (Ok(()), Some(since)) => {
                self.failing = None;
                let seconds = since.elapsed().as_secs();
                log::warn!("the event log accepts events again after {seconds} s");
            }
            _ => {}
        }
    }
}

impl RegistryActor {
    /// Appends the waiting events, unless an append is in flight.
    pub(super) fn flush(&mut self, context: &mut Context<Self>) {
        let outbox = &mut self.outbox;
        if outbox.sending || outbox.waiting.is_empty() {
            return;
        }
        outbox.sending = true;
        let count = outbox.waiting.len().min(MAX_BATCH);
        let batch: Vec<Event> = outbox.waiting.drain(..count).collect();
        let log = Arc::clone(&outbox.log);
        let sending = async move { (log.append(&batch).await, batch) };
        context.spawn(wrap_future(sending).map(
            |(outcome, batch), actor: &mut Self, context: &mut Context<Self>| {
                let outbox = &mut actor.outbox;
                outbox.sending = false;
                if outcome.is_err() {
                    // An event that was appended although the answer was lost is appended twice,
                    // except transitions.
                    let later = std::mem::take(&mut outbox.waiting);
                    outbox.push(batch);
                    outbox.push(later);
                    context.run_later(RETRY_DELAY, |actor, context| actor.flush(context));
                } else {
                    actor.flush(context);
                }
                actor.outbox.note(&outcome);
                actor.work(context);
            },
        ));
    }

    /// Publishes that the available instances of a service have changed.
    pub(super) fn announce(&mut self, context: &mut Context<Self>) {
        if self.outbox.announcement.is_none() {
            return;
        }
        match self.outbox.announcing {
            RefreshState::Idle => self.publish_announcement(context, true),
            RefreshState::Busy | RefreshState::Again => {
                self.outbox.announcing = RefreshState::Again
            }
        }
    }

    fn publish_announcement(&mut self, context: &mut Context<Self>, first: bool) {
        let Some(RefreshNotice { channel, message }) = self.outbox.announcement.clone() else {
            return;
        };
        self.outbox.announcing = RefreshState::Busy;
        let coordinator = Arc::clone(&self.outbox.coordinator);
        let publishing = async move {
            coordinator
                .publish_once(&channel, &message, ANNOUNCE_CLAIM, ANNOUNCE_EVERY)
                .await
        };
        context.spawn(wrap_future(publishing).map(
            move |outcome, _: &mut Self, context: &mut Context<Self>| {
                // Another replica has just published one, perhaps before this change. A message
                // after this wait, from any replica, is after the change.
                let again = match outcome {
                    Ok(published) => !published && first,
                    Err(error) => {
                        log::debug!(
                            "cannot publish the refresh message for gateways, retrying: {error}"
                        );
                        true
                    }
                };
                context.run_later(ANNOUNCE_EVERY, move |actor, context| {
                    let more = actor.outbox.announcing == RefreshState::Again;
                    actor.outbox.announcing = RefreshState::Idle;
                    if more || again {
                        actor.publish_announcement(context, more);
                    }
                });
            },
        ));
    }
}
