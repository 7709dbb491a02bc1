//! The RegistryActor: the only owner of database writes.
//!
//! It gathers the writes that arrive while a transaction is under way and carries
//! them out in the next one; every caller is answered after the commit. It never
//! reads for anyone, and never waits for leases or the bus.

mod queue;

use std::sync::Arc;

use actix::fut::wrap_future;
use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture};
use async_trait::async_trait;
use tokio::sync::oneshot;

use self::queue::Queue;
pub use self::queue::Write;
use super::{Lifeline, Ping, admit};
use crate::clock::Clock;
use crate::directory::Directory;
use crate::model::{
    DisplayName, Instance, InstanceChange, InstanceId, InstanceKey, Registration, Scope,
};
use crate::store::{
    Declared, Life, MigrateError, Registered, RegistryTransaction, RegistryWriter, ScopeDeletion,
    StoreError,
};

/// Owns the registry writer.
pub struct RegistryActor {
    /// Away while a transaction has it.
    writer: Option<Box<dyn RegistryWriter>>,
    queue: Queue,
    /// Answered when the queue is empty and the writer is back.
    drains: Vec<oneshot::Sender<()>>,
    clock: Arc<dyn Clock>,
    directory: Arc<Directory>,
    _lifeline: Lifeline,
}

impl RegistryActor {
    /// Takes the writer; from now on nobody else can write.
    pub fn new(
        writer: Box<dyn RegistryWriter>,
        clock: Arc<dyn Clock>,
        directory: Arc<Directory>,
        lifeline: Lifeline,
    ) -> Self {
        Self {
            writer: Some(writer),
            queue: Queue::default(),
            drains: Vec::new(),
            clock,
            directory,
            _lifeline: lifeline,
        }
    }

    /// Begins the next transaction, unless one is under way or nothing waits.
    fn work(&mut self, context: &mut Context<Self>) {
        if self.queue.is_empty() {
            if self.writer.is_some() {
                self.drains.drain(..).for_each(|done| {
                    let _ = done.send(());
                });
            }
            return;
        }
        let Some(mut writer) = self.writer.take() else {
            return;
        };
        let batch = self.queue.take_batch();
        let now = self.clock.now();
        let directory = Arc::clone(&self.directory);
        let transaction = async move {
            batch.carry_out(&mut *writer, now, &directory).await;
            writer
        };
        context.spawn(wrap_future(transaction).map(
            |writer, actor: &mut Self, context: &mut Context<Self>| {
                actor.writer = Some(writer);
                actor.work(context);
            },
        ));
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

    fn committed(&self, changed: &Option<Instance>, directory: &Directory) {
        if let Some(instance) = changed {
            directory.learn(instance);
        }
    }
}

/// Disables a service instance by its id, unless it is held; whether there is one.
/// Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<bool, StoreError>")]
pub struct DisableServiceInstance {
    /// Which one.
    pub id: InstanceId,
}

#[async_trait]
impl Write for DisableServiceInstance {
    type Output = bool;

    async fn apply(&self, transaction: &mut dyn RegistryTransaction) -> Result<bool, StoreError> {
        transaction.disable_service_instance(self.id).await
    }
}

/// Removes an instance; whether it was there. Its lease is revoked by whoever asked,
/// afterwards: a heartbeat that comes in between finds no instance. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<bool, StoreError>")]
pub struct DeregisterInstance {
    /// Which one.
    pub key: InstanceKey,
}

#[async_trait]
impl Write for DeregisterInstance {
    type Output = bool;

    async fn apply(&self, transaction: &mut dyn RegistryTransaction) -> Result<bool, StoreError> {
        transaction.deregister_instance(&self.key).await
    }

    fn committed(&self, _: &bool, directory: &Directory) {
        directory.forget(&self.key);
    }
}

/// Records new lives of leases: of each instance, if it is a later one than is known.
/// How many of them came online by it. No instance may come twice. Idempotent, and in
/// any order with [`RecordOffline`], from any number of daemons.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<usize, StoreError>")]
pub struct RecordOnline(pub Vec<Life>);

#[async_trait]
impl Write for RecordOnline {
    type Output = usize;

    async fn apply(&self, transaction: &mut dyn RegistryTransaction) -> Result<usize, StoreError> {
        let changed = transaction.record_online(&self.0).await?;
        let online = changed.iter().filter(|changed| changed.transition);
        Ok(online
            .inspect(|changed| log::debug!("{} is online", changed.instance.key))
            .count())
    }
}

/// Records the ends of lives of leases: of each instance, if it is not known to have
/// another life by now. How many went offline by it. No instance may come twice.
/// Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<usize, StoreError>")]
pub struct RecordOffline(pub Vec<Life>);

#[async_trait]
impl Write for RecordOffline {
    type Output = usize;

    async fn apply(&self, transaction: &mut dyn RegistryTransaction) -> Result<usize, StoreError> {
        let changed = transaction.record_offline(&self.0).await?;
        Ok(changed
            .iter()
            .inspect(|instance| log::debug!("{} is offline", instance.key))
            .count())
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

/// Answered when everything that was asked before is committed or refused.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Drain;

impl Handler<Drain> for RegistryActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, context: &mut Context<Self>) -> Self::Result {
        let (done, drained) = oneshot::channel();
        self.drains.push(done);
        self.work(context);
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
