//! A mailbox with limits.
//!
//! An actix mailbox does not limit its senders, waits for ever, and does not report that its
//! actor died. [`Mailbox`] adds what is missing: a limit, a deadline, and an error for each way
//! in which an answer can fail to come.

use std::sync::Arc;
use std::time::Duration;

use actix::dev::{MessageResponse, OneshotSender, ToEnvelope};
use actix::{Actor, Addr, Handler, Message};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

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

    /// Returns the address, for messages without a limit: at the start and the stop.
    pub(crate) fn address(&self) -> &Addr<A> {
        &self.address
    }

    /// Sends a message and waits for its answer.
    pub async fn ask<M>(&self, message: M) -> Result<M::Result, AskError>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<Admitted<M>>,
        A::Context: ToEnvelope<A, Admitted<M>>,
    {
        let permit = self.permit()?;
        let admitted = Admitted {
            message,
            permit: Arc::clone(&permit),
        };
        let answer = async { self.address.send(admitted).await.ok() };
        self.wait(permit, answer).await
    }

    /// Sends a message that carries the sender of its answer, and waits for the answer.
    pub async fn ask_with<M, T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> M,
    ) -> Result<T, AskError>
    where
        M: Message<Result = ()> + Send + 'static,
        A: Handler<Admitted<M>>,
        A::Context: ToEnvelope<A, Admitted<M>>,
    {
        let permit = self.permit()?;
        let (reply, answer) = oneshot::channel();
        self.address.do_send(Admitted {
            message: message(reply),
            permit: Arc::clone(&permit),
        });
        self.wait(permit, async { answer.await.ok() }).await
    }

    /// Takes a permit. It is released when the caller has its answer or has given up, and the
    /// message has left the mailbox, or is answered if its actor keeps the permit: so what waits
    /// for a stalled actor stays bounded.
    fn permit(&self) -> Result<Arc<Permit>, AskError> {
        let permit = Permit::take(&self.permits).ok_or(AskError::Overloaded)?;
        Ok(Arc::new(permit))
    }

    /// Waits for an answer, which is `None` if the actor has ended.
    async fn wait<T>(
        &self,
        permit: Arc<Permit>,
        answer: impl Future<Output = Option<T>>,
    ) -> Result<T, AskError> {
        match timeout_at(permit.sent + self.deadline, answer).await {
            Ok(answer) => answer.ok_or(AskError::Ended),
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
pub(super) struct Permit {
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
    /// Returns the message and its permit, when its actor handles it.
    pub(super) fn into_parts(self) -> (M, Arc<Permit>) {
        let waited = self.permit.sent.elapsed();
        self.permit
            .permits
            .metrics
            .wait
            .observe(waited.as_secs_f64());
        (self.message, self.permit)
    }
}

impl<M: Message> Message for Admitted<M> {
    type Result = M::Result;
}

/// The response to an admitted message: that of the message itself.
pub struct Response<A: Handler<M>, M: Message>(pub(super) A::Result);

impl<A: Handler<M>, M: Message> MessageResponse<A, Admitted<M>> for Response<A, M> {
    fn handle(self, context: &mut A::Context, answer: Option<OneshotSender<M::Result>>) {
        self.0.handle(context, answer);
    }
}

/// Lets an actor handle every message that it handles also with a permit, which it releases as
/// soon as it handles the message.
macro_rules! admit {
    ($actor:ty) => {
        impl<M> actix::Handler<$crate::actor::Admitted<M>> for $actor
        where
            M: actix::Message,
            Self: actix::Handler<M>,
        {
            type Result = $crate::actor::mailbox::Response<Self, M>;

            fn handle(
                &mut self,
                admitted: $crate::actor::Admitted<M>,
                context: &mut Self::Context,
            ) -> Self::Result {
                $crate::actor::mailbox::Response(self.handle(admitted.into_parts().0, context))
            }
        }
    };
}
pub(super) use admit;
