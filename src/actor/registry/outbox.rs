//! What others are told after a commit: the log of events, and the original's message
//! that gateways refresh on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{ActorFutureExt, AsyncContext, Context};

use tokio::time::Instant;

use super::RegistryActor;
use crate::bus::{BusError, EventBus};
use crate::metrics::Metrics;
use crate::model::{Event, EventKind};

/// The most events that wait for the bus. With more, those who listen are told that they
/// must read again.
const MAX_WAITING: usize = 20_000;

/// The most events in one message to the bus.
const MAX_BATCH: usize = 500;

/// Between attempts while the bus is away.
const AGAIN: Duration = Duration::from_millis(500);

/// How often the original's gateways are asked to refresh, at most.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(500);

/// Keeps several daemons together to that.
const ANNOUNCE_CLAIM: &str = "service-launched";

/// A message to all gateways of the original gateway center.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshNotice {
    /// Where it is published.
    pub channel: String,
    /// What is published.
    pub message: String,
}

/// Events on their way to the bus, in the order of the commits.
pub(super) struct Outbox {
    bus: Arc<dyn EventBus>,
    waiting: VecDeque<Event>,
    sending: bool,
    /// Since when the log has taken nothing.
    failing: Option<Instant>,
    metrics: Arc<Metrics>,
    announcement: Option<RefreshNotice>,
    announcing: RefreshState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RefreshState {
    /// Nothing to say.
    Idle,
    /// A message is on its way, or was a moment ago.
    Busy,
    /// So it is, and there is another to send.
    Again,
}

impl Outbox {
    pub(super) fn new(
        bus: Arc<dyn EventBus>,
        announcement: Option<RefreshNotice>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            bus,
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
                log::warn!("{MAX_WAITING} events could not be told; listeners must read again");
                self.waiting.clear();
                let kind = EventKind::EventsLost;
                self.waiting.push_back(Event { at: event.at, kind });
            }
            self.waiting.push_back(event);
        }
    }

    pub(super) fn is_sending(&self) -> bool {
        self.sending
    }

    /// Tells what came of the last attempt, and in the log when that is another than before.
    fn note(&mut self, outcome: &Result<(), BusError>) {
        let waiting = self.waiting.len();
        self.metrics
            .events_waiting
            .set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.metrics.backends.bus.writes(outcome.is_ok());
        match (outcome, self.failing) {
            (Err(error), None) => {
                self.failing = Some(Instant::now());
                log::warn!(
                    "the log of events takes no events, {waiting} wait: {error}; subscribers are told nothing, and other replicas notice changes about 15 s late"
                );
            }
            (Ok(()), Some(since)) => {
                self.failing = None;
                let seconds = since.elapsed().as_secs();
                log::warn!("the log of events takes events again, after {seconds} s");
            }
            _ => {}
        }
    }
}

impl RegistryActor {
    /// Sends what waits, unless something is on its way.
    pub(super) fn flush(&mut self, context: &mut Context<Self>) {
        let outbox = &mut self.outbox;
        if outbox.sending || outbox.waiting.is_empty() {
            return;
        }
        outbox.sending = true;
        let count = outbox.waiting.len().min(MAX_BATCH);
        let batch: Vec<Event> = outbox.waiting.drain(..count).collect();
        let bus = Arc::clone(&outbox.bus);
        let sending = async move { (bus.append(&batch).await, batch) };
        context.spawn(wrap_future(sending).map(
            |(outcome, batch), actor: &mut Self, context: &mut Context<Self>| {
                let outbox = &mut actor.outbox;
                outbox.sending = false;
                if outcome.is_err() {
                    // One that was told all the same is told twice, but for a transition.
                    let later = std::mem::take(&mut outbox.waiting);
                    outbox.push(batch);
                    outbox.push(later);
                    context.run_later(AGAIN, |actor, context| actor.flush(context));
                } else {
                    actor.flush(context);
                }
                actor.outbox.note(&outcome);
                actor.drained();
            },
        ));
    }

    /// The available instances of a service are others than before.
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
        let bus = Arc::clone(&self.outbox.bus);
        let publishing = async move {
            bus.publish_once(&channel, &message, ANNOUNCE_CLAIM, ANNOUNCE_EVERY)
                .await
        };
        context.spawn(wrap_future(publishing).map(
            move |outcome, _: &mut Self, context: &mut Context<Self>| {
                // Another daemon has just sent one, perhaps before our change: what is sent
                // after this wait, by whomever, is after it.
                let again = match outcome {
                    Ok(published) => !published && first,
                    Err(error) => {
                        log::debug!("gateways are not asked to refresh yet: {error}");
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
