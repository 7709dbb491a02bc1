//! Renewals that share a round trip to the lease store.

use std::cell::RefCell;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::dev::OneshotSender;
use actix::fut::{ready, wrap_future};
use actix::{ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::HeartbeatActor;
use super::record::Outcomes;
use crate::backend::BackendError;
use crate::directory::{Directory, HeartbeatInfo};
use crate::lease::{LeaseStore, Renewal, Renewed};

/// The most leases in one round trip: a script delays all other clients of Redis.
const MAX_BATCH: usize = 1000;

/// The time limit of a round trip.
const ROUND_TRIP: Duration = Duration::from_millis(900);

/// The renewals that wait for the next round trip. Shared by the actor and the replies that are
/// not sent yet.
#[derive(Clone, Default)]
pub(super) struct Renewals(Rc<RefCell<Batch>>);

/// Renewals of one round trip.
#[derive(Default)]
struct Batch {
    renewals: Vec<Renewal>,
    /// What the Directory knows of their instances.
    infos: Vec<HeartbeatInfo>,
    /// The waiters, each with the number of its renewals.
    askers: Vec<(usize, Waiter)>,
}

/// Receives the result of a round trip.
pub(super) enum Waiter {
    /// Heartbeats of instances that the Directory knows.
    RecordHeartbeats(Option<OneshotSender<Outcomes>>),
    /// The sender of [`Renew`].
    Renew(oneshot::Sender<Result<Vec<Renewed>, BackendError>>),
}

impl Renewals {
    pub(super) fn push(
        &self,
        renewals: impl Iterator<Item = (Renewal, HeartbeatInfo)>,
        asker: Waiter,
    ) {
        let waiting = &mut *self.0.borrow_mut();
        let before = waiting.renewals.len();
        for (renewal, info) in renewals {
            waiting.renewals.push(renewal);
            waiting.infos.push(info);
        }
        let count = waiting.renewals.len() - before;
        waiting.askers.push((count, asker));
    }

    fn is_empty(&self) -> bool {
        self.0.borrow().askers.is_empty()
    }

    /// Takes the oldest renewals, at most `most`, but at least those of one waiter.
    fn take(&self, most: usize) -> Batch {
        let mut waiting = self.0.borrow_mut();
        let (mut askers, mut renewals) = (0, 0);
        for (count, _) in &waiting.askers {
            if askers > 0 && renewals + count > most {
                break;
            }
            askers += 1;
            renewals += count;
        }
        let rest = Batch {
            renewals: waiting.renewals.split_off(renewals),
            infos: waiting.infos.split_off(renewals),
            askers: waiting.askers.split_off(askers),
        };
        mem::replace(&mut *waiting, rest)
    }
}

impl HeartbeatActor {
    /// Starts a round trip with all renewals that wait and those in the mailbox, unless one is in
    /// flight.
    pub(super) fn send(&mut self, context: &mut Context<Self>) {
        if self.under_way {
            return;
        }
        self.under_way = true;
        // A context polls what it has spawned after it has emptied its mailbox.
        let round_trip = ready(()).then(|(), actor: &mut Self, _: &mut Context<Self>| {
            let batch = actor.renewals.take(MAX_BATCH);
            let leases = Arc::clone(&actor.leases);
            wrap_future(async move { (renew(&*leases, &batch.renewals).await, batch) })
        });
        context.spawn(round_trip.map(
            |(outcome, batch), actor: &mut Self, context: &mut Context<Self>| {
                actor.under_way = false;
                if let Err(error @ BackendError::Unavailable(_)) = &outcome {
                    // A further attempt would only fail later.
                    let all = actor.renewals.take(usize::MAX);
                    actor.answer(all, &Err(error.clone()), context);
                }
                actor.answer(batch, &outcome, context);
                if !actor.renewals.is_empty() {
                    actor.send(context);
                }
            },
        ));
    }

    fn answer(
        &self,
        batch: Batch,
        outcome: &Result<Vec<Renewed>, BackendError>,
        context: &Context<Self>,
    ) {
        // Also without an answer: the lease may be alive until then.
        watch(&self.directory, &batch.renewals, &batch.infos);
        let heartbeats = &self.metrics.heartbeats;
        let (mut begin, mut lived_on) = (0, 0);
        for (count, asker) in batch.askers {
            let own = begin..begin + count;
            begin = own.end;
            let renewed = match outcome {
                // The store answers all renewals or none.
                Ok(renewed) => renewed.get(own.clone()).ok_or_else(ended),
                Err(error) => Err(error.clone()),
            };
            match (asker, renewed) {
                (Waiter::RecordHeartbeats(answer), Ok(renewed)) => {
                    let (renewals, infos) = (&batch.renewals[own.clone()], &batch.infos[own]);
                    if self.reply_if_renewed(renewals, renewed, infos, answer, context) {
                        lived_on += count;
                    }
                }
                (Waiter::RecordHeartbeats(answer), Err(error)) => {
                    heartbeats.rejected.inc_by(count as u64);
                    // The caller may have given up, here and below.
                    let _ = answer.map(|answer| answer.send(Err(error.into())));
                }
                (Waiter::Renew(answer), renewed) => {
                    let _ = answer.send(renewed.map(<[_]>::to_vec));
                }
            }
        }
        heartbeats.renewed.inc_by(lived_on as u64);
    }
}

/// Arms the deadlines of these leases on this replica: none lasts longer than its TTL.
fn watch(directory: &Directory, renewals: &[Renewal], infos: &[HeartbeatInfo]) {
    let now = Instant::now();
    for (renewal, info) in renewals.iter().zip(infos) {
        if let Some(slot) = info.slot {
            let deadline = now + renewal.ttl.as_duration();
            directory.deadlines().arm(slot, deadline);
        }
    }
}

/// Renews leases in as few round trips as possible, and stops at the first failure.
async fn renew(
    leases: &dyn LeaseStore,
    renewals: &[Renewal],
) -> Result<Vec<Renewed>, BackendError> {
    let mut renewed = Vec::with_capacity(renewals.len());
    for part in renewals.chunks(MAX_BATCH) {
        match timeout(ROUND_TRIP, leases.renew(part)).await {
            Ok(outcome) => renewed.extend(outcome?),
            Err(_) => {
                let late = format!("no answer within {ROUND_TRIP:?}");
                return Err(BackendError::Unavailable(late));
            }
        }
    }
    Ok(renewed)
}

/// Adds renewals to the next round trip.
#[derive(Message)]
#[rtype(result = "Result<Vec<Renewed>, BackendError>")]
pub(super) struct Renew(pub(super) Vec<Renewal>, pub(super) Vec<HeartbeatInfo>);

impl Handler<Renew> for HeartbeatActor {
    type Result = ResponseFuture<Result<Vec<Renewed>, BackendError>>;

    fn handle(
        &mut self,
        Renew(renewals, infos): Renew,
        context: &mut Context<Self>,
    ) -> Self::Result {
        let (answer, answered) = oneshot::channel();
        self.renewals
            .push(renewals.into_iter().zip(infos), Waiter::Renew(answer));
        self.send(context);
        Box::pin(async { answered.await.unwrap_or_else(|_| Err(ended())) })
    }
}

/// Returns the error for a caller whose actor ended before it answered.
pub(super) fn ended() -> BackendError {
    BackendError::Unavailable("the heartbeat actor has ended".into())
}
