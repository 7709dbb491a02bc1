//! Renewals that share a round trip to the lease store.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::HeartbeatActor;
use crate::lease::{LeaseError, LeaseStore, Renewal, Renewed};

/// The most leases in one round trip: a script holds up everybody else on Redis.
const MAX_BATCH: usize = 1000;

/// How long a round trip may take before those who wait for it are told.
const ROUND_TRIP: Duration = Duration::from_millis(900);

/// What waits for the next round trip.
#[derive(Default)]
pub(super) struct Renewals {
    waiting: Vec<Waiting>,
    under_way: bool,
}

struct Waiting {
    renewals: Vec<Renewal>,
    answer: oneshot::Sender<Result<Vec<Renewed>, LeaseError>>,
}

impl HeartbeatActor {
    /// Sends what waits, unless a round trip is under way.
    fn send(&mut self, context: &mut Context<Self>) {
        if self.renewals.under_way || self.renewals.waiting.is_empty() {
            return;
        }
        self.renewals.under_way = true;
        let batch = mem::take(&mut self.renewals.waiting);
        let leases = Arc::clone(&self.leases);
        let round_trips = async move { renew(&*leases, batch).await };
        context.spawn(wrap_future(round_trips).map(
            |outcome, actor: &mut Self, context: &mut Context<Self>| {
                actor.renewals.under_way = false;
                if let Err(error @ LeaseError::Unavailable(_)) = outcome {
                    actor.fail(&error);
                }
                actor.send(context);
            },
        ));
    }

    /// Tells those who waited for a round trip that failed, and would now wait for the
    /// next failure.
    fn fail(&mut self, error: &LeaseError) {
        for waiting in self.renewals.waiting.drain(..) {
            let _ = waiting.answer.send(Err(error.clone()));
        }
    }
}

/// Renews a batch, in as few round trips as it fits, and answers each caller as soon
/// as its own leases are through. After a failure nothing more is tried.
async fn renew(leases: &dyn LeaseStore, batch: Vec<Waiting>) -> Result<(), LeaseError> {
    let mut batch = batch.into_iter().peekable();
    let mut failure = None;
    while let Some(first) = batch.next() {
        let mut together = vec![(first.renewals.len(), first.answer)];
        let mut renewals = first.renewals;
        while let Some(next) =
            batch.next_if(|next| renewals.len() + next.renewals.len() <= MAX_BATCH)
        {
            together.push((next.renewals.len(), next.answer));
            renewals.extend(next.renewals);
        }
        let mut renewed = Vec::with_capacity(renewals.len());
        for part in renewals.chunks(MAX_BATCH) {
            if failure.is_some() {
                break;
            }
            match round_trip(leases, part).await {
                Ok(part) => renewed.extend(part),
                Err(error) => failure = Some(error),
            }
        }
        let mut renewed = renewed.into_iter();
        for (count, answer) in together {
            let own = match &failure {
                None => Ok(renewed.by_ref().take(count).collect()),
                Some(error) => Err(error.clone()),
            };
            // Whoever asked may have given up meanwhile.
            let _ = answer.send(own);
        }
    }
    failure.map_or(Ok(()), Err)
}

async fn round_trip(
    leases: &dyn LeaseStore,
    renewals: &[Renewal],
) -> Result<Vec<Renewed>, LeaseError> {
    match timeout(ROUND_TRIP, leases.renew(renewals)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(LeaseError::Unavailable(format!(
            "no answer within {ROUND_TRIP:?}"
        ))),
    }
}

/// Renewals that join the next round trip.
#[derive(Message)]
#[rtype(result = "Result<Vec<Renewed>, LeaseError>")]
pub(super) struct Renew(pub(super) Vec<Renewal>);

impl Handler<Renew> for HeartbeatActor {
    type Result = ResponseFuture<Result<Vec<Renewed>, LeaseError>>;

    fn handle(&mut self, Renew(renewals): Renew, context: &mut Context<Self>) -> Self::Result {
        let (answer, answered) = oneshot::channel();
        self.renewals.waiting.push(Waiting { renewals, answer });
        self.send(context);
        Box::pin(async { answered.await.unwrap_or_else(|_| Err(ended())) })
    }
}

/// The error of a caller whose actor ended before it could answer.
pub(super) fn ended() -> LeaseError {
    LeaseError::Unavailable("the heartbeat actor has ended".into())
}
