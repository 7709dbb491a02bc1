//! Renewals that share a round trip to the lease store.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ready, wrap_future};
use actix::{ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::HeartbeatActor;
use super::beat::Known;
use crate::lease::{LeaseError, LeaseStore, Renewal, Renewed};

/// The most leases in one round trip: a script holds up everybody else on Redis.
const MAX_BATCH: usize = 1000;

/// How long a round trip may take before those who wait for it are told.
const ROUND_TRIP: Duration = Duration::from_millis(900);

/// What waits for the next round trip. An actor shares it with the answers it has not given.
#[derive(Clone, Default)]
pub(super) struct Renewals(Rc<RefCell<VecDeque<Waiting>>>);

pub(super) struct Waiting {
    pub(super) renewals: Vec<Renewal>,
    pub(super) asker: Asker,
}

/// Who is told what a round trip did.
pub(super) enum Asker {
    /// A heartbeat of instances that are all known here.
    Beat(Known),
    /// Whoever sent [`Renew`].
    Renew(oneshot::Sender<Result<Vec<Renewed>, LeaseError>>),
}

impl Renewals {
    pub(super) fn push(&self, waiting: Waiting) {
        self.0.borrow_mut().push_back(waiting);
    }

    fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Those who waited longest, with at most so many renewals; the first one in any case.
    fn take(&self, most: usize) -> Batch {
        let mut waiting = self.0.borrow_mut();
        let mut batch = Batch::default();
        while let Some(next) = waiting.pop_front() {
            if !batch.askers.is_empty() && batch.renewals.len() + next.renewals.len() > most {
                waiting.push_front(next);
                break;
            }
            batch.askers.push((next.renewals.len(), next.asker));
            batch.renewals.extend(next.renewals);
        }
        batch
    }
}

/// Renewals that are sent together.
#[derive(Default)]
struct Batch {
    renewals: Vec<Renewal>,
    /// How many of these are whose.
    askers: Vec<(usize, Asker)>,
}

impl HeartbeatActor {
    /// Has sent what waits, unless a round trip is under way; together with all that is in
    /// the mailbox by now.
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
                if let Err(error @ LeaseError::Unavailable(_)) = &outcome {
                    // Those who wait would only wait for the next failure.
                    let everybody = actor.renewals.take(usize::MAX);
                    actor.answer(everybody, &Err(error.clone()), context);
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
        outcome: &Result<Vec<Renewed>, LeaseError>,
        context: &Context<Self>,
    ) {
        let mut begin = 0;
        for (count, asker) in batch.askers {
            let own = begin..begin + count;
            begin = own.end;
            let renewed = match outcome {
                // The store answers each of them, or none.
                Ok(renewed) => renewed.get(own.clone()).ok_or_else(ended),
                Err(error) => Err(error.clone()),
            };
            match asker {
                Asker::Beat(known) => self.told(known, &batch.renewals[own], renewed, context),
                Asker::Renew(answer) => {
                    // Whoever asked may have given up meanwhile.
                    let _ = answer.send(renewed.map(<[_]>::to_vec));
                }
            }
        }
    }
}

/// Renews all of them, in as few round trips as may be; after a failure nothing more is tried.
async fn renew(leases: &dyn LeaseStore, renewals: &[Renewal]) -> Result<Vec<Renewed>, LeaseError> {
    let mut renewed = Vec::with_capacity(renewals.len());
    for part in renewals.chunks(MAX_BATCH) {
        match timeout(ROUND_TRIP, leases.renew(part)).await {
            Ok(outcome) => renewed.extend(outcome?),
            Err(_) => {
                let late = format!("no answer within {ROUND_TRIP:?}");
                return Err(LeaseError::Unavailable(late));
            }
        }
    }
    Ok(renewed)
}

/// Renewals that join the next round trip.
#[derive(Message)]
#[rtype(result = "Result<Vec<Renewed>, LeaseError>")]
pub(super) struct Renew(pub(super) Vec<Renewal>);

impl Handler<Renew> for HeartbeatActor {
    type Result = ResponseFuture<Result<Vec<Renewed>, LeaseError>>;

    fn handle(&mut self, Renew(renewals): Renew, context: &mut Context<Self>) -> Self::Result {
        let (answer, answered) = oneshot::channel();
        let asker = Asker::Renew(answer);
        self.renewals.push(Waiting { renewals, asker });
        self.send(context);
        Box::pin(async { answered.await.unwrap_or_else(|_| Err(ended())) })
    }
}

/// The error of a caller whose actor ended before it could answer.
pub(super) fn ended() -> LeaseError {
    LeaseError::Unavailable("the heartbeat actor has ended".into())
}
