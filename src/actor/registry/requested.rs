//! Writes that a client requested: their events name it, and those of operators are recorded as
//! actions in the same transaction.

use actix::Message;
use async_trait::async_trait;

use super::write::Write;
use crate::model::{Action, EventKind, Registrant};
use crate::store::{RegistryTransaction, StoreError};

/// A write that a client requested. That of an operator is recorded as its action, or fails
/// together with the record.
#[derive(Debug, Clone)]
pub(crate) struct Requested<W> {
    /// The client.
    pub(crate) by: Registrant,
    /// Whether it is an operator.
    pub(crate) is_operator: bool,
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
        if !self.is_operator {
            return self.write.apply(transaction).await;
        }
        let before = match self.write.changes() {
            Some(key) => {
                let keys = std::slice::from_ref(key);
                transaction.find_instances(keys).await?.pop()
            }
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
