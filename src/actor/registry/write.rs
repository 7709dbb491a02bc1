//! Writes of the registry, and what waits for their commit.

use actix::Message;
use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::model::{
    Action, EventKind, Instance, InstanceKey, Registrant, Registration, ScopeRecord,
};
use crate::store::{Registered, RegistryTransaction, StoreError};

/// A message that is executed within a transaction.
#[async_trait]
pub trait Write:
    Message<Result = Result<Self::Output, StoreError>> + Send + Sync + 'static
{
    /// What the caller receives.
    type Output: Send + 'static;

    /// Changes the store. Called again in a transaction of its own if another write made the shared
    /// transaction fail.
    async fn apply(
        &self,
        transaction: &mut dyn RegistryTransaction,
    ) -> Result<Self::Output, StoreError>;

    /// Returns the events of the committed write.
    fn events(&self, output: &Self::Output) -> Vec<EventKind>;

    /// Returns the instance whose state before the write is a part of its action.
    fn changes(&self) -> Option<&InstanceKey> {
        None
    }

    /// Returns the action to record if an operator requested the write; `None` if it changed nothing,
    /// or is never one. `before` is the state of [`Write::changes`] before it.
    fn action(
        &self,
        _by: &Registrant,
        _before: Option<&Instance>,
        _output: &Self::Output,
    ) -> Option<Action> {
        None
    }

    /// Returns the number of instances that it may write, which bounds a transaction.
    fn size(&self) -> usize {
        1
    }

    /// Returns who requested it, for its events.
    fn by(&self) -> Option<&Registrant> {
        None
    }
}

/// The sender of an answer.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A write that waits for its commit, with its caller.
pub(super) enum Entry {
    /// Shares a statement with its neighbours.
    Registration(Box<PendingRegistration>),
    /// Any other write.
    Write(Box<dyn Pending>),
}

impl Entry {
    /// Returns the number of instances that it may write.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Registration(_) => 1,
            Self::Write(pending) => pending.size(),
        }
    }

    /// Returns the events of the committed write.
    pub(super) fn events(&self) -> Vec<EventKind> {
        match self {
            Self::Registration(pending) => pending.events(),
            Self::Write(pending) => pending.events(),
        }
    }

    /// Returns who requested the write, for its events.
    pub(super) fn by(&self) -> Option<&Registrant> {
        match self {
            Self::Registration(pending) => pending.registration.by.as_ref(),
            Self::Write(pending) => pending.by(),
        }
    }

    /// Answers the caller with its output, or with the error. The caller may have given up; the
    /// write is durable all the same.
    pub(super) fn answer(self, outcome: Result<(), StoreError>) {
        match self {
            Self::Registration(pending) => {
                let PendingRegistration {
                    registered, reply, ..
                } = *pending;
                let _ = reply.send(outcome.map(|()| registered));
            }
            Self::Write(pending) => pending.answer(outcome),
        }
    }
}

pub(super) struct PendingRegistration {
    pub(super) registration: Registration,
    pub(super) registered: Option<Registered>,
    /// The services that its statement declared, if it is the first of the statement.
    pub(super) services: Vec<ScopeRecord>,
    pub(super) reply: Reply<Option<Registered>>,
}

impl PendingRegistration {
    fn events(&self) -> Vec<EventKind> {
        registration_events(&self.services, self.registered.iter())
    }
}

/// Returns the events of declared services and of registrations, of which those without a
/// difference have none.
pub(super) fn registration_events<'a>(
    services: &[ScopeRecord],
    registered: impl Iterator<Item = &'a Registered>,
) -> Vec<EventKind> {
    let services = services.iter().cloned().map(EventKind::ScopeDeclared);
    let changed = registered.filter(|registered| registered.changed);
    let event = |registered: &Registered| match registered.created {
        true => EventKind::InstanceRegistered(registered.instance.clone()),
        false => EventKind::InstanceChanged(registered.instance.clone()),
    };
    services.chain(changed.map(event)).collect()
}

pub(super) struct PendingWrite<W: Write> {
    pub(super) write: W,
    pub(super) output: Option<W::Output>,
    pub(super) reply: Reply<W::Output>,
}

/// A [`PendingWrite`] of any kind.
#[async_trait]
pub(super) trait Pending: Send {
    /// Changes the store and keeps the output.
    async fn apply(&mut self, transaction: &mut dyn RegistryTransaction) -> Result<(), StoreError>;

    fn events(&self) -> Vec<EventKind>;

    fn size(&self) -> usize;

    fn by(&self) -> Option<&Registrant>;

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

#[async_trait]
impl<W: Write> Pending for PendingWrite<W> {
    async fn apply(&mut self, transaction: &mut dyn RegistryTransaction) -> Result<(), StoreError> {
        self.output = Some(self.write.apply(transaction).await?);
        Ok(())
    }

    fn events(&self) -> Vec<EventKind> {
        let output = self.output.as_ref();
        output.map_or_else(Vec::new, |output| self.write.events(output))
    }

    fn size(&self) -> usize {
        self.write.size()
    }

    fn by(&self) -> Option<&Registrant> {
        self.write.by()
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let output = self.output;
        let outcome = outcome.and_then(|()| output.ok_or_else(ended));
        let _ = self.reply.send(outcome);
    }
}

/// Returns the error for a caller whose actor ended before it answered.
pub(super) fn ended() -> StoreError {
    StoreError::OutcomeUnknown("the registry actor has ended".into())
}
