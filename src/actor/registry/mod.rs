//! The RegistryActor: the only owner of database writes.
//!
//! It gathers the writes that arrive while a transaction is under way and carries
//! them out in the next one. After the commit the Directory is changed, then every caller
//! is answered, then the others are told. It never reads for anyone, and no write waits
//! for leases or the bus.

mod outbox;
mod queue;

use std::sync::Arc;

use actix::fut::wrap_future;
use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::oneshot;

pub use self::outbox::Announcement;
use self::outbox::Outbox;
use self::queue::Queue;
pub use self::queue::Write;
use super::{Lifeline, Ping, admit};
use crate::bus::EventBus;
use crate::clock::Clock;
use crate::directory::Directory;
use crate::model::{
    DisplayName, EventKind, Instance, InstanceChange, InstanceId, InstanceKey, Registration, Scope,
};
use crate::store::{
    Declared, Life, MigrateError, Registered, RegistryTransaction, RegistryWriter, ScopeDeletion,
    StoreError, WentOnline,
};

/// Owns the registry writer.
pub struct RegistryActor {
    /// Away while a transaction has it.
    writer: Option<Box<dyn RegistryWriter>>,
    queue: Queue,
    outbox: Outbox,
    /// Answered when the queue is empty, the writer is back, and nothing is on its way to
    /// the bus.
    drains: Vec<oneshot::Sender<()>>,
    clock: Arc<dyn Clock>,
    directory: Arc<Directory>,
    _lifeline: Lifeline,
}

impl RegistryActor {
    /// Takes the writer; from now on nobody else can write. `announcement` is published
    /// when the available instances of a service are others than before.
    pub fn new(
        writer: Box<dyn RegistryWriter>,
        clock: Arc<dyn Clock>,
        directory: Arc<Directory>,
        bus: Arc<dyn EventBus>,
        announcement: Option<Announcement>,
        lifeline: Lifeline,
    ) -> Self {
        Self {
            writer: Some(writer),
            queue: Queue::default(),
            outbox: Outbox::new(bus, announcement),
            drains: Vec::new(),
            clock,
            directory,
            _lifeline: lifeline,
        }
    }

    /// Begins the next transaction, unless one is under way or nothing waits.
    fn work(&mut self, context: &mut Context<Self>) {
        if self.queue.is_empty() {
            return self.drained();
        }
        let Some(mut writer) = self.writer.take() else {
            return;
        };
        let batch = self.queue.take_batch();
        let now = self.clock.now();
        let directory = Arc::clone(&self.directory);
        let transaction = async move {
            let done = batch.carry_out(&mut *writer, now, &directory).await;
            (writer, done)
        };
        context.spawn(wrap_future(transaction).map(
            |(writer, done), actor: &mut Self, context: &mut Context<Self>| {
                actor.writer = Some(writer);
                actor.outbox.push(done.events);
                actor.tell(context);
                if done.availability {
                    actor.announce(context);
                }
                actor.work(context);
            },
        ));
    }

    /// Answers those who wait until nothing is left to do, if that is so.
    fn drained(&mut self) {
        if self.queue.is_empty() && self.writer.is_some() && !self.outbox.is_sending() {
            self.drains.drain(..).for_each(|done| {
                let _ = done.send(());
            });
        }
    }
}

impl Actor for RegistryActor {
    type Context = Context<Self>;
}

admit!(RegistryActor);

/// Every write goes through the queue and is answered after its commit.
impl<W: Write> Handler<W> for RegistryActor {
    type Result = ResponseFuture<Result<W::Output, StoreError>>;

    fn handle(&mut self, write: W, context: &mut Context<Self>) -> Self::Result {
        let answer = self.queue.push(write);
        self.work(context);
        Box::pin(answer)
    }
}

/// Declares a group or service, or gives a known one a name. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Declared, StoreError>")]
pub struct DeclareScope {
    /// What to declare.
    pub scope: Scope,
    /// `None` leaves the name that is there.
    pub name: Option<DisplayName>,
}

#[async_trait]
impl Write for DeclareScope {
    type Output = Declared;

    async fn apply(
        &self,
        transaction: &mut dyn RegistryTransaction,
    ) -> Result<Declared, StoreError> {
        transaction
            .declare_scope(&self.scope, self.name.as_ref())
            .await
    }

    fn events(&self, declared: &Declared) -> Vec<EventKind> {
        vec![EventKind::ScopeDeclared(declared.record.clone())]
    }
}

/// Removes a group or service that has no instances. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<ScopeDeletion, StoreError>")]
pub struct DeleteScope {
    /// What to remove.
    pub scope: Scope,
}

#[async_trait]
impl Write for DeleteScope {
    type Output = ScopeDeletion;

    async fn apply(
        &self,
        transaction: &mut dyn RegistryTransaction,
    ) -> Result<ScopeDeletion, StoreError> {
        transaction.delete_scope(&self.scope).await
    }

    fn events(&self, deletion: &ScopeDeletion) -> Vec<EventKind> {
        match deletion {
            ScopeDeletion::Deleted(record) => vec![EventKind::ScopeRemoved(record.clone())],
            ScopeDeletion::HasInstances | ScopeDeletion::Unknown => Vec::new(),
        }
    }
}

/// Registers an instance: inserts it, or updates what it gives. The first instance of
/// a service declares it; `None` where a gateway's group is not declared. Idempotent.
/// Many of them are one statement.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<Registered>, StoreError>")]
pub struct RegisterInstance(pub Registration);

impl Handler<RegisterInstance> for RegistryActor {
    type Result = ResponseFuture<Result<Option<Registered>, StoreError>>;

    fn handle(&mut self, message: RegisterInstance, context: &mut Context<Self>) -> Self::Result {
        let answer = self.queue.push_registration(message.0);
        self.work(context);
        Box::pin(answer)
    }
}

/// An operator's change of an instance; `None` where it is unknown. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<Instance>, StoreError>")]
pub struct ChangeInstance {
    /// Which one.
    pub key: InstanceKey,
    /// What becomes different.
    pub change: InstanceChange,
}

#[async_trait]
impl Write for ChangeInstance {
    type Output = Option<Instance>;

    async fn apply(
        &self,
        transaction: &mut dyn RegistryTransaction,
    ) -> Result<Option<Instance>, StoreError> {
        transaction.change_instance(&self.key, &self.change).await
    }

    fn events(&self, changed: &Option<Instance>) -> Vec<EventKind> {
        Vec::from_iter(changed.clone().map(EventKind::InstanceChanged))
    }
}

/// Disables a service instance by its id, unless it is held; `None` where there is none.
/// Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<Instance>, StoreError>")]
pub struct DisableServiceInstance {
    /// Which one.
    pub id: InstanceId,
}

#[async_trait]
impl Write for DisableServiceInstance {
    type Output = Option<Instance>;

    async fn apply(
        &self,
        transaction: &mut dyn RegistryTransaction,
    ) -> Result<Option<Instance>, StoreError> {
        transaction.disable_service_instance(self.id).await
    }

    fn events(&self, disabled: &Option<Instance>) -> Vec<EventKind> {
        Vec::from_iter(disabled.clone().map(EventKind::InstanceChanged))
    }
}

/// Removes an instance; `None` where there was none. Its lease is revoked by whoever asked,
/// afterwards: a heartbeat that comes in between finds no instance. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<Instance>, StoreError>")]
pub struct DeregisterInstance {
    /// Which one.
    pub key: InstanceKey,
}

#[async_trait]
impl Write for DeregisterInstance {
    type Output = Option<Instance>;

    async fn apply(
        &self,
        transaction: &mut dyn RegistryTransaction,
    ) -> Result<Option<Instance>, StoreError> {
        transaction.deregister_instance(&self.key).await
    }

    fn events(&self, removed: &Option<Instance>) -> Vec<EventKind> {
        Vec::from_iter(removed.clone().map(EventKind::InstanceDeregistered))
    }
}

/// Removes instances that went offline, and were changed last, before a time; not those
/// that are held. How many they were, [`ForgetInstances::LIMIT`] at most. Idempotent.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<Instance>, StoreError>")]
pub struct ForgetInstances {
    /// That time.
    pub before: DateTime<Utc>,
}

impl ForgetInstances {
    /// The most that are removed at once.
    pub const LIMIT: u16 = 500;
}

#[async_trait]
impl Write for ForgetInstances {
    type Output = Vec<Instance>;

    async fn apply(
        &self,
        transaction: &mut dyn RegistryTransaction,
    ) -> Result<Vec<Instance>, StoreError> {
        transaction.forget_instances(self.before, Self::LIMIT).await
    }

    fn events(&self, forgotten: &Vec<Instance>) -> Vec<EventKind> {
        let removed = forgotten.iter().cloned();
        removed.map(EventKind::InstanceDeregistered).collect()
    }
}

/// Records new lives of leases: of each instance, if it is a later one than is known.
/// Those that changed by it. No instance may come twice. Idempotent, and in any order with
/// [`RecordOffline`], from any number of daemons.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Vec<WentOnline>, StoreError>")]
pub struct RecordOnline(pub Vec<Life>);

#[async_trait]
impl Write for RecordOnline {
    type Output = Vec<WentOnline>;

    async fn apply(
        &self,
        transaction: &mut dyn RegistryTransaction,
    ) -> Result<Vec<WentOnline>, StoreError> {
        transaction.record_online(&self.0).await
    }

    fn events(&self, changed: &Vec<WentOnline>) -> Vec<EventKind> {
        let event = |changed: &WentOnline| match changed.transition {
            true => EventKind::InstanceWentOnline(changed.instance.clone()),
            false => EventKind::InstanceLives(changed.instance.clone()),
        };
        changed.iter().map(event).collect()
    }
}

/// Records the ends of lives of leases: of each instance, if it is not known to have
/// another life by now. Those that went offline by it. No instance may come twice.
/// Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Vec<Instance>, StoreError>")]
pub struct RecordOffline(pub Vec<Life>);

#[async_trait]
impl Write for RecordOffline {
    type Output = Vec<Instance>;

    async fn apply(
        &self,
        transaction: &mut dyn RegistryTransaction,
    ) -> Result<Vec<Instance>, StoreError> {
        transaction.record_offline(&self.0).await
    }

    fn events(&self, changed: &Vec<Instance>) -> Vec<EventKind> {
        let offline = changed.iter().cloned();
        offline.map(EventKind::InstanceWentOffline).collect()
    }
}

/// Brings the schema up to date and names the migrations that were applied. Writes
/// wait meanwhile. Asked once, at the start, without a deadline. Idempotent.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<String>, MigrateError>")]
pub struct MigrateSchema;

impl Handler<MigrateSchema> for RegistryActor {
    type Result = ResponseFuture<Result<Vec<String>, MigrateError>>;

    fn handle(&mut self, _: MigrateSchema, context: &mut Context<Self>) -> Self::Result {
        let Some(mut writer) = self.writer.take() else {
            let busy = StoreError::Unavailable("a transaction is under way".into());
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
                .unwrap_or_else(|_| Err(queue::ended().into()))
        })
    }
}

/// Answered when everything that was asked before is committed or refused, and told, if
/// the bus is there.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Drain;

impl Handler<Drain> for RegistryActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, context: &mut Context<Self>) -> Self::Result {
        let (done, drained) = oneshot::channel();
        self.drains.push(done);
        self.work(context);
        self.tell(context);
        Box::pin(async {
            // A lost sender is an actor that ended: there is nothing left to wait for.
            let _ = drained.await;
        })
    }
}

impl Handler<Ping> for RegistryActor {
    type Result = ();

    fn handle(&mut self, _: Ping, _: &mut Context<Self>) {}
}
