//! Writes that a client requested: their events name it, and those of operators are recorded as
//! actions in the same transaction.

use actix::Message;
use async_trait::async_trait;

use super::messages::{ChangeInstance, DeclareScope, DeleteScope, DeregisterInstance};
use super::write::Write;
use crate::model::{
    Action, ActionKind, EventKind, Instance, InstanceKey, Registrant, Scope, Subject,
};
use crate::store::{Declared, Deregistration, RegistryTransaction, ScopeDeletion, StoreError};

/// A write whose events name the client that requested it.
#[derive(Debug, Clone)]
pub(crate) struct Requested<W> {
    /// The client.
    pub(crate) by: Registrant,
    /// The write.
    pub(crate) write: W,
}

impl<W: Write> Message for Requested<W> {
    type Result = W::Result;
}

#[async_trait]
impl<W: Write> Write for Requested<W> {
    type Output = W::Output;

    async fn apply(
        &self,
        transaction: &mut dyn RegistryTransaction,
    ) -> Result<W::Output, StoreError> {
        self.write.apply(transaction).await
    }

    fn events(&self, output: &W::Output) -> Vec<EventKind> {
        self.write.events(output)
    }

    fn by(&self) -> Option<&Registrant> {
        Some(&self.by)
    }
}

/// A write that an operator requested. It is recorded as an action, or fails together with the
/// record.
#[derive(Debug, Clone)]
pub(crate) struct OperatorAction<W> {
    /// The operator.
    pub(crate) by: Registrant,
    /// The write.
    pub(crate) write: W,
}

/// A write that may be an action of an operator.
pub(crate) trait Recorded: Write {
    /// Returns the instance that it changes.
    fn instance(&self) -> Option<&InstanceKey> {
        None
    }

    /// Returns the action; `None` if the write changed nothing. `before` is the instance before it.
    fn action(
        &self,
        by: &Registrant,
        before: Option<&Instance>,
        output: &Self::Output,
    ) -> Option<Action>;
}

impl<W: Recorded> Message for OperatorAction<W> {
    type Result = W::Result;
}

#[async_trait]
impl<W: Recorded> Write for OperatorAction<W> {
    type Output = W::Output;

    async fn apply(
        &self,
        transaction: &mut dyn RegistryTransaction,
    ) -> Result<W::Output, StoreError> {
        let before = match self.write.instance() {
            Some(key) => transaction.find_instance(key).await?,
            None => None,
        };
        let output = self.write.apply(transaction).await?;
        if let Some(action) = self.write.action(&self.by, before.as_ref(), &output) {
            transaction.record_action(&action).await?;
        }
        Ok(output)
    }

    fn events(&self, output: &W::Output) -> Vec<EventKind> {
        self.write.events(output)
    }

    fn by(&self) -> Option<&Registrant> {
        Some(&self.by)
    }
}

impl Recorded for ChangeInstance {
    fn instance(&self) -> Option<&InstanceKey> {
        Some(&self.key)
    }

    fn action(
        &self,
        by: &Registrant,
        before: Option<&Instance>,
        after: &Option<Instance>,
    ) -> Option<Action> {
        let after = after.as_ref()?;
        Some(Action::of_change(by, &self.change, before, after))
    }
}

impl Recorded for DeregisterInstance {
    fn action(
        &self,
        by: &Registrant,
        _: Option<&Instance>,
        outcome: &Deregistration,
    ) -> Option<Action> {
        let Deregistration::Removed(_) = outcome else {
            return None;
        };
        let subject = Subject::Instance(self.key.clone());
        Some(Action::new(by, ActionKind::Deregister, subject))
    }
}

impl Recorded for DeclareScope {
    fn action(&self, by: &Registrant, _: Option<&Instance>, declared: &Declared) -> Option<Action> {
        Some(of_scope(by, ActionKind::Declare, &declared.record.scope))
    }
}

impl Recorded for DeleteScope {
    fn action(
        &self,
        by: &Registrant,
        _: Option<&Instance>,
        deletion: &ScopeDeletion,
    ) -> Option<Action> {
        match deletion {
            ScopeDeletion::Deleted(record) => Some(of_scope(by, ActionKind::Remove, &record.scope)),
            ScopeDeletion::HasInstances | ScopeDeletion::Unknown => None,
        }
    }
}

fn of_scope(by: &Registrant, kind: ActionKind, scope: &Scope) -> Action {
    Action::new(by, kind, Subject::Scope(scope.clone()))
}

/// Records an action of an operator whose writes are many, or none. Not idempotent: an action that
/// is sent twice is recorded twice.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), StoreError>")]
pub(crate) struct RecordAction(pub Action);

#[async_trait]
impl Write for RecordAction {
    type Output = ();

    async fn apply(&self, transaction: &mut dyn RegistryTransaction) -> Result<(), StoreError> {
        transaction.record_action(&self.0).await
    }

    fn events(&self, (): &()) -> Vec<EventKind> {
        Vec::new()
    }
}
