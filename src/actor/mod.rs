//! The three actors and their mailboxes.
//!
//! An actix mailbox does not limit its senders, waits for ever, and does not report that its
//! actor died. [`Mailbox`] adds what is missing: a limit, a deadline, and an error for each way
//! in which an answer can fail to come.

mod heartbeat;
mod registry;
mod scheduler;

use std::sync::Arc;
use std::time::Duration;

use actix::dev::{MessageResponse, OneshotSender, ToEnvelope};
use actix::{Actor, Addr, Handler, Message};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

pub use self::heartbeat::{
    GetLeases, HeartbeatActor, HeartbeatError, HeartbeatOutcome, HeartbeatReply, KeepAlive,
    ProbeLeases, RecordHeartbeats, Revoke, Sweep,
};
pub use self::registry::{
    AppendEvents, Attest, ChangeInstance, DeclareScope, DeleteScope, DeregisterInstance,
    DisableServiceInstance, Drain, MigrateSchema, PurgeOffline, RecordOffline, RecordOnline,
    RefreshNotice, RegisterInstance, RegistryActor, Write,
};
pub use self::scheduler::{
    BackgroundJobs, EndProtection, GetStatus, RECONCILE, ReconcileReport, RegisterSweeper, Report,
    RollCall, RollCallReport, SchedulerActor, until_next,
};
use crate::metrics::MailboxMetrics;

/// Why an actor gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The mailbox is full. The message was not sent.
    #[error("the mailbox of the actor is full")]
    Overloaded,
    /// The deadline passed. The message may still be handled.
    #[error("the actor did not answer by the deadline")]
    TimedOut,
    /// The actor has ended.
    #[error("the actor has ended")]
    Ended,
}

/// The limits of a mailbox.
#[derive(Debug, Clone, Copy)]
pub struct MailboxLimits {
    /// The most pending messages, over all clones of the mailbox.
    pub permits: usize,
    /// The time limit for each answer.
    pub deadline: Duration,
}

/// The address of an actor, with a limit on its pending messages and a deadline for each.
pub struct Mailbox<A: Actor> {
    address: Addr<A>,
    deadline: Duration,
    permits: Arc<Permits>,
}

/// The permits of a mailbox, shared by all its clones.
struct Permits {
    free: Semaphore,
    metrics: MailboxMetrics,
}

impl<A: Actor> Mailbox<A> {
    /// Limits the messages to this actor.
    pub fn new(address: Addr<A>, limits: MailboxLimits, metrics: MailboxMetrics) -> Self {
        Self {
            address,
            deadline: limits.deadline,
            permits: Arc::new(Permits {
                free: Semaphore::new(limits.permits),
                metrics,
            }),
        }
    }

    /// Sends a message and waits for its answer.
    pub async fn ask<M>(&self, message: M) -> Result<M::Result, AskError>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<Admitted<M>>,
        A::Context: ToEnvelope<A, Admitted<M>>,
    {
        let permit = Arc::new(Permit::take(&self.permits).ok_or(AskError::Overloaded)?);
        // The permit is released when the caller has its answer or has given up, and the message
        // has left the mailbox: the mailbox of a stalled actor stays bounded.
        let message = Admitted {
            message,
            permit: Arc::clone(&permit),
        };
        let deadline = permit.sent + self.deadline;
        match timeout_at(deadline, self.address.send(message)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(AskError::Ended),
            Err(_) => Err(AskError::TimedOut),
        }
    }
}

impl<A: Actor> Clone for Mailbox<A> {
    fn clone(&self) -> Self {
        Self {
            address: self.address.clone(),
            deadline: self.deadline,
            permits: Arc::clone(&self.permits),
        }
    }
}

/// A permit for one pending message.
struct Permit {
    sent: Instant,
    permits: Arc<Permits>,
}

impl Permit {
    /// Takes a permit, if one is free.
    fn take(permits: &Arc<Permits>) -> Option<Self> {
        let Ok(free) = permits.free.try_acquire() else {
            permits.metrics.refused.inc();
            return None;
        };
        // Dropping `Permit` returns it.
        free.forget();
        permits.metrics.waiting.inc();
        Some(Self {
            sent: Instant::now(),
            permits: Arc::clone(permits),
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.metrics.waiting.dec();
        self.permits.free.add_permits(1);
    }
}

/// A message with its permit.
pub struct Admitted<M> {
    message: M,
    permit: Arc<Permit>,
}

impl<M> Admitted<M> {
    /// Releases the permit and returns the message, when its actor handles it.
    fn into_inner(self) -> M {
        let waited = self.permit.sent.elapsed();
        self.permit
            .permits
            .metrics
            .wait
            .observe(waited.as_secs_f64());
        self.message
    }
}

impl<M: Message> Message for Admitted<M> {
    type Result = M::Result;
}

/// The response to an admitted message: that of the message itself.
pub struct Response<A: Handler<M>, M: Message>(A::Result);

impl<A: Handler<M>, M: Message> MessageResponse<A, Admitted<M>> for Response<A, M> {
    fn handle(self, context: &mut A::Context, answer: Option<OneshotSender<M::Result>>) {
        self.0.handle(context, answer);
    }
}

/// Lets an actor handle every message that it handles also with a permit.
macro_rules! admit {
    ($actor:ty) => {
        impl<M> actix::Handler<$crate::actor::Admitted<M>> for $actor
        where
            M: actix::Message,
            Self: actix::Handler<M>,
        {
            type Result = $crate::actor::Response<Self, M>;

            fn handle(
                &mut self,
                admitted: $crate::actor::Admitted<M>,
                context: &mut Self::Context,
            ) -> Self::Result {
                $crate::actor::Response(self.handle(admitted.into_inner(), context))
            }
        }
    };
}
use admit;

/// Reports the end of its actor. An actor that panics is dropped silently; this is one of its
/// fields, so its drop reports the end.
pub struct Lifeline {
    actor: &'static str,
    ends: mpsc::UnboundedSender<&'static str>,
}

impl Lifeline {
    /// Sends the name of the actor to `ends` when the actor is dropped.
    pub fn new(actor: &'static str, ends: mpsc::UnboundedSender<&'static str>) -> Self {
        Self { actor, ends }
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        // While the daemon stops there is no receiver, and ends are expected.
        let _ = self.ends.send(self.actor);
    }
}

/// Checks that an actor handles its messages. No effect.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Ping;
