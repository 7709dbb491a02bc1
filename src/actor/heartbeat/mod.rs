//! The HeartbeatActor: owner of the leases, one on the thread of each HTTP worker.
//!
//! It renews the leases of the heartbeats that have arrived in one round trip, and collects those
//! that arrive during it for the next one: no timer, and no delay when idle. It never writes to
//! the database: it reports new leases to the RegistryActor.

mod new_leases;
mod round_trip;

use std::mem;
use std::rc::Rc;
use std::sync::Arc;

use actix::fut::{ready, wrap_future};
use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture};
use tokio::sync::oneshot;

use self::new_leases::NewLeases;
use self::round_trip::{Answer, Batch};
use super::{Lifeline, Mailbox, Ping, RegistryActor, admit};
use crate::backend::BackendError;
use crate::directory::{Directory, HeartbeatInfo};
use crate::lease::{LeaseStore, Renewed};
use crate::metrics::Metrics;
use crate::model::{InstanceKey, Ttl};

/// The result of a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeartbeatOutcome {
    /// The lease was renewed; with its TTL.
    Renewed(Ttl),
    /// A new lease began; with its TTL.
    Created(Ttl),
    /// The instance is not registered, and no lease was left behind.
    Unknown,
}

/// Receives the outcomes of heartbeats, in their order.
pub(crate) type HeartbeatReply = oneshot::Sender<Result<Vec<HeartbeatOutcome>, BackendError>>;

/// Heartbeats of instances, each at most once, with what the Directory knows of each: `None` for
/// one that is not registered, see [`Directory::resolve`]. Creates or renews a lease for each of
/// the others. Idempotent but for the time.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct RecordHeartbeats {
    /// The instances.
    pub instances: Vec<(InstanceKey, Option<HeartbeatInfo>)>,
    /// Whether an instance that is not registered must have no lease: after a lease was created,
    /// the registry store is then asked once more: an instance that another replica deregistered
    /// has no lease, so a heartbeat that was in flight creates one, finds no row, and revokes the
    /// lease. In the original's protocol also an address that never registered has a lease.
    pub must_be_registered: bool,
    /// Receives the outcomes.
    pub reply: HeartbeatReply,
}

/// Owns one handle to the lease store.
pub struct HeartbeatActor {
    leases: Arc<dyn LeaseStore>,
    directory: Arc<Directory>,
    default_ttl: Ttl,
    metrics: Arc<Metrics>,
    new_leases: Rc<NewLeases>,
    /// The heartbeats that wait for the next round trip.
    pending: Batch,
    /// Whether a round trip is in flight.
    is_busy: bool,
    _lifeline: Lifeline,
}

impl HeartbeatActor {
    /// Renews leases in `leases`, and records new ones by `registry`. Must be called on the thread
    /// of the actor.
    pub fn new(
        leases: Arc<dyn LeaseStore>,
        directory: Arc<Directory>,
        registry: Mailbox<RegistryActor>,
        default_ttl: Ttl,
        metrics: Arc<Metrics>,
        lifeline: Lifeline,
    ) -> Self {
        Self {
            new_leases: Rc::new(NewLeases::new(
                Arc::clone(&leases),
                Arc::clone(&directory),
                registry,
                lifeline.clone(),
            )),
            leases,
            directory,
            default_ttl,
            metrics,
            pending: Batch::default(),
            is_busy: false,
            _lifeline: lifeline,
        }
    }

    /// Starts a round trip with all heartbeats that wait and those in the mailbox, unless one is in
    /// flight.
    fn send(&mut self, context: &mut Context<Self>) {
        if self.is_busy {
            return;
        }
        self.is_busy = true;
        // A context polls what it has spawned after it has emptied its mailbox.
        let round_trip = ready(()).then(|(), actor: &mut Self, _: &mut Context<Self>| {
            let batch = actor.pending.split_off_first();
            let leases = Arc::clone(&actor.leases);
            wrap_future(async move { (batch.renew(&*leases).await, batch) })
        });
        context.spawn(round_trip.map(
            |(outcome, batch), actor: &mut Self, context: &mut Context<Self>| {
                actor.is_busy = false;
                let error = outcome.as_ref().err().cloned();
                actor.answer(batch, outcome);
                if let Some(error @ BackendError::Unavailable(_)) = error {
                    // A further attempt would only fail later.
                    let rest = mem::take(&mut actor.pending);
                    actor.answer(rest, Err(error));
                }
                if !actor.pending.is_empty() {
                    actor.send(context);
                }
            },
        ));
    }

    /// Answers the heartbeats of a round trip: at once, except those with new leases.
    fn answer(&self, batch: Batch, outcome: Result<Vec<Renewed>, BackendError>) {
        // Also without an answer: the lease may be alive until then.
        batch.arm_deadlines(&self.directory);
        for (request, answer) in batch.into_answers(outcome) {
            match answer {
                Ok(Answer { outcomes, leases }) if !leases.is_empty() => {
                    let new_leases = Rc::clone(&self.new_leases);
                    let metrics = Arc::clone(&self.metrics);
                    actix::spawn(async move {
                        let outcomes = new_leases.record(leases, outcomes).await;
                        request.reply(outcomes, &metrics.heartbeats);
                    });
                }
                answer => {
                    let outcomes = answer.map(|answer| answer.outcomes);
                    request.reply(outcomes, &self.metrics.heartbeats);
                }
            }
        }
    }
}

impl Actor for HeartbeatActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        // The senders limit themselves; with a capacity, each sender beyond 16 would get a handle
        // of its own.
        context.set_mailbox_capacity(0);
    }
}

admit!(HeartbeatActor);

impl Handler<RecordHeartbeats> for HeartbeatActor {
    type Result = ();

    fn handle(&mut self, message: RecordHeartbeats, context: &mut Context<Self>) {
        self.pending.push(message, self.default_ttl);
        self.send(context);
    }
}

/// Ends leases at once. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), BackendError>")]
pub struct Revoke {
    /// The instances that are deregistered.
    pub keys: Vec<InstanceKey>,
}

impl Handler<Revoke> for HeartbeatActor {
    type Result = ResponseFuture<Result<(), BackendError>>;

    fn handle(&mut self, message: Revoke, _: &mut Context<Self>) -> Self::Result {
        let leases = Arc::clone(&self.leases);
        Box::pin(async move { leases.revoke(&message.keys).await })
    }
}

/// Hides the lease of an instance that was disabled or held, or shows that of one that was enabled,
/// before its next heartbeat does. Answered with whether that changed anything. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<bool, BackendError>")]
pub(crate) struct HideLease {
    /// The instance.
    pub(crate) key: InstanceKey,
    /// Whether clients that read the lease store must not see the lease.
    pub(crate) is_hidden: bool,
}

impl Handler<HideLease> for HeartbeatActor {
    type Result = ResponseFuture<Result<bool, BackendError>>;

    fn handle(&mut self, message: HideLease, _: &mut Context<Self>) -> Self::Result {
        let leases = Arc::clone(&self.leases);
        Box::pin(async move { leases.set_hidden(&message.key, message.is_hidden).await })
    }
}

impl Handler<Ping> for HeartbeatActor {
    type Result = ();

    fn handle(&mut self, _: Ping, _: &mut Context<Self>) {}
}
