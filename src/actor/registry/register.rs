//! The messages that register instances.

use actix::Message;
use async_trait::async_trait;

use super::write::{Write, registration_events};
use crate::model::{EventKind, Registrant, Registration};
use crate::store::{Registered, RegisteredMany, RegistryTransaction, StoreError};

/// Registers an instance: inserts it, or updates the given fields. The first instance of a
/// service declares the service. Returns `None` if the group of a gateway is not declared.
/// Idempotent. Neighbouring registrations are one statement, `register_instances`.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<Registered>, StoreError>")]
pub struct RegisterInstance(pub Registration);

/// Registers many instances of one client as [`RegisterInstance`] does, in one statement. Each
/// instance may occur once. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<RegisteredMany, StoreError>")]
pub(crate) struct RegisterInstances(pub Vec<Registration>);

#[async_trait]
impl Write for RegisterInstances {
    type Output = RegisteredMany;

    async fn apply(
        &self,
        transaction: &mut dyn RegistryTransaction,
    ) -> Result<RegisteredMany, StoreError> {
        transaction.register_instances(&self.0).await
    }

    fn events(&self, done: &RegisteredMany) -> Vec<EventKind> {
        registration_events(&done.services, done.instances.iter().flatten())
    }

    fn size(&self) -> usize {
        self.0.len()
    }

    fn by(&self) -> Option<&Registrant> {
        self.0.first()?.by.as_ref()
    }
}
