//! The RegistryActor: the only owner of database writes.
//!
//! It collects the writes that arrive during a transaction and executes them in the next one.
//! After the commit it updates the Directory, then answers the callers, then publishes the
//! events, while the store already works on the next transaction. It reads for no one, and no
//! write waits for leases. A write waits for the event log only while thousands of events do, so
//! that none of them is lost.

mod messages;
mod outbox;
mod queue;
mod record;
mod register;
mod requested;
mod upkeep;
mod write;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ready, wrap_future};
use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::sleep;

pub(crate) use self::messages::{Attest, DeleteScope, DisableServiceInstance, TakeOffline};
pub use self::messages::{ChangeInstance, DeclareScope, DeregisterInstance, LeaveInstance, Left};
use self::outbox::Outbox;
pub use self::outbox::RefreshNotice;
use self::queue::{Done, Enqueue, Queue};
pub use self::record::RecordOffline;
pub(crate) use self::record::RecordOnline;
pub use self::register::RegisterInstance;
pub(crate) use self::register::RegisterInstances;
pub(crate) use self::requested::{RecordAction, Requested};
pub(crate) use self::upkeep::{EndHolds, PurgeActions, PurgeOffline};
pub use self::write::Write;
use super::{Admitted, AskError, Lifeline, Mailbox, Ping};
use crate::clock::Clock;
use crate::coordination::Coordinator;
use crate::directory::Directory;
use crate::event_log::EventLog;
use crate::metrics::Metrics;
use crate::model::Event;
use crate::store::{MigrateError, RegistryWriter, StoreError};

/// The time between attempts to hand events to a busy RegistryActor.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Owns the registry writer.
pub struct RegistryActor {
    /// `None` while a transaction has it.
    writer: Option<Box<dyn RegistryWriter>>,
    queue: Queue,
    /// Committed batches that are not published yet, in the order of the commits.
    unsettled: VecDeque<Done>,
    outbox: Outbox,
    /// Answered when the queue is empty, the writer is back, all commits are published, and no
    /// event is in flight.
    drains: Vec<oneshot::Sender<()>>,
    clock: Arc<dyn Clock>,
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
    _lifeline: Lifeline,
}

impl RegistryActor {
    /// Takes the writer, so that no other code can write. `announcement` is published when the
    /// available instances of a service change.
    #[expect(
        clippy::too_many_arguments,
        reason = "one for each thing that the actor uses"
    )]
    pub fn new(
        writer: Box<dyn RegistryWriter>,
        clock: Arc<dyn Clock>,
        directory: Arc<Directory>,
        log: Arc<dyn EventLog>,
        coordinator: Arc<dyn Coordinator>,
        announcement: Option<RefreshNotice>,
        metrics: Arc<Metrics>,
        lifeline: Lifeline,
    ) -> Self {
        Self {
            writer: Some(writer),
            queue: Queue::default(),
            unsettled: VecDeque::new(),
            outbox: Outbox::new(log, coordinator, announcement, Arc::clone(&metrics)),
            drains: Vec::new(),
            clock,
            directory,
            metrics,
            _lifeline: lifeline,
        }
    }

    /// Begins the next transaction, unless one is in flight or no write waits.
    fn work(&mut self, context: &mut Context<Self>) {
        if self.queue.is_empty() {
            return self.drained();
        }
        if self.outbox.is_behind() {
            return;
        }
        let Some(mut writer) = self.writer.take() else {
            return;
        };
        // A context polls what it has spawned after it has emptied its mailbox, so that messages
        // that arrived together share a transaction.
        let transaction = ready(()).then(|(), actor: &mut Self, _: &mut Context<Self>| {
            let (batch, now) = (actor.queue.take_batch(), actor.clock.now());
            let (directory, metrics) = (Arc::clone(&actor.directory), Arc::clone(&actor.metrics));
            wrap_future(async move {
                let done = batch.execute(&mut *writer, now, &directory, &metrics).await;
                (writer, done)
            })
        });
        context.spawn(transaction.map(
            |(writer, done), actor: &mut Self, context: &mut Context<Self>| {
                actor.writer = Some(writer);
                actor.unsettled.push_back(done);
                actor.work(context);
                // The next transaction is sent to the store before this one is published.
                let sent = wrap_future(yield_now());
                context.spawn(
                    sent.map(|(), actor: &mut Self, context: &mut Context<Self>| {
                        actor.settle(context);
                    }),
                );
            },
        ));
    }

    /// Publishes what was committed.
    fn settle(&mut self, context: &mut Context<Self>) {
        while let Some(mut done) = self.unsettled.pop_front() {
            done.apply_committed(&self.directory, &self.metrics);
            self.outbox.push(done.events);
            self.flush(context);
            if done.availability {
                self.announce(context);
            }
        }
        self.drained();
    }

    /// Answers the pending [`Drain`] messages if no work is left.
    fn drained(&mut self) {
        if self.queue.is_empty()
            && self.writer.is_some()
            && self.unsettled.is_empty()
            && !self.outbox.is_sending()
        {
            self.drains.drain(..).for_each(|done| {
                let _ = done.send(());
            });
        }
    }
}

impl Actor for RegistryActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        // The senders limit themselves; with a capacity, each sender beyond 16 would get a handle
        // of its own.
        context.set_mailbox_capacity(0);
    }
}

/// Every write goes through the queue and is answered after its commit.
impl<M: Enqueue> Handler<M> for RegistryActor {
    type Result = ResponseFuture<M::Result>;

    fn handle(&mut self, message: M, context: &mut Context<Self>) -> Self::Result {
        let answer = message.enqueue(&mut self.queue);
        self.work(context);
        Box::pin(answer)
    }
}

/// A write keeps its permit until it is answered, also when its caller has given up: the
/// permits bound the queue.
impl<M: Enqueue> Handler<Admitted<M>> for RegistryActor {
    type Result = ResponseFuture<M::Result>;

    fn handle(&mut self, admitted: Admitted<M>, context: &mut Context<Self>) -> Self::Result {
        let (message, permit) = admitted.into_parts();
        let answer = message.enqueue(&mut self.queue);
        self.work(context);
        Box::pin(async {
            let answer = answer.await;
            drop(permit);
            answer
        })
    }
}

/// Migrates the schema, and returns the names of the applied migrations. Other writes wait.
/// Sent once, at the start, without a deadline. Idempotent.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<String>, MigrateError>")]
pub(crate) struct MigrateSchema;

impl Handler<MigrateSchema> for RegistryActor {
    type Result = ResponseFuture<Result<Vec<String>, MigrateError>>;

    fn handle(&mut self, _: MigrateSchema, context: &mut Context<Self>) -> Self::Result {
        let Some(mut writer) = self.writer.take() else {
            let busy = StoreError::Unavailable("a transaction is in progress".into());
            return Box::pin(async { Err(busy.into()) });
        };
        let (answer, migrated) = oneshot::channel();
        let migration = async move {
            let _ = answer.send(writer.migrate().await);
            writer
        };
        context.spawn(wrap_future(migration).map(
            |writer, actor: &mut Self, context: &mut Context<Self>| {
                actor.writer = Some(writer);
                actor.work(context);
            },
        ));
        Box::pin(async {
            migrated
                .await
                .unwrap_or_else(|_| Err(write::ended().into()))
        })
    }
}

/// Appends events that come from no commit of this replica to the event log, after those of
/// earlier commits. Retries until the log accepts them. Answered at once.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub(crate) struct AppendEvents(pub Vec<Event>);

/// Publishes the original's message on which gateways refresh, if that is enabled. Answered at
/// once.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct AnnounceServices;

impl Handler<Admitted<AnnounceServices>> for RegistryActor {
    type Result = ();

    fn handle(&mut self, _: Admitted<AnnounceServices>, context: &mut Context<Self>) {
        self.announce(context);
    }
}

/// Why a write was not confirmed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// The RegistryActor gave no answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The registry store did not confirm the write.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Mailbox<RegistryActor> {
    /// Sends a write, and waits for its commit.
    pub async fn write<M, T>(&self, message: M) -> Result<T, WriteError>
    where
        M: Enqueue + Message<Result = Result<T, StoreError>>,
        T: Send + 'static,
    {
        Ok(self.ask(message).await??)
    }

    /// Publishes the original's message on which gateways refresh. A busy RegistryActor does it for
    /// its own changes soon.
    pub(crate) async fn announce_services(&self) {
        if let Err(error) = self.ask(AnnounceServices).await {
            log::debug!("cannot announce that the leases of services changed: {error}");
        }
    }

    /// Appends events to the event log, after those of earlier commits. Retries until the
    /// RegistryActor has accepted them.
    pub(crate) async fn append_events(&self, events: Vec<Event>) {
        while let Err(error) = self.ask(AppendEvents(events.clone())).await {
            log::debug!("cannot append events, retrying: {error}");
            sleep(RETRY_DELAY).await;
        }
    }
}

impl Handler<Admitted<AppendEvents>> for RegistryActor {
    type Result = ();

    fn handle(&mut self, admitted: Admitted<AppendEvents>, context: &mut Context<Self>) {
        let (AppendEvents(events), _permit) = admitted.into_parts();
        self.outbox.push(events);
        self.flush(context);
    }
}

/// Answered when all earlier writes are committed or refused, and their events published, if
/// the event log is available.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Drain;

impl Handler<Drain> for RegistryActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, context: &mut Context<Self>) -> Self::Result {
        let (done, drained) = oneshot::channel();
        self.drains.push(done);
        self.work(context);
        self.flush(context);
        Box::pin(async {
            // A lost sender is an actor that ended: there is nothing left to wait for.
            let _ = drained.await;
        })
    }
}

impl Handler<Admitted<Ping>> for RegistryActor {
    type Result = ();

    fn handle(&mut self, _: Admitted<Ping>, _: &mut Context<Self>) {}
}
