//! The messages that write: each knows its change and its events.

use actix::Message;
use async_trait::async_trait;

use super::write::Write;
use crate::model::{
    Action, ActionKind, DisplayName, EventKind, Instance, InstanceChange, InstanceId, InstanceKey,
    Registrant, Scope, Subject,
};
use crate::store::{
    Attestation, Declared, Deregistration, RegistryTransaction, Removal, ScopeDeletion, StoreError,
};

/// Declares a group or service, or gives a known one a name. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Declared, StoreError>")]
pub struct DeclareScope {
    /// The scope to declare.
    pub scope: Scope,
    /// The name to give; `None` keeps the present one.
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

    fn action(&self, by: &Registrant, _: Option<&Instance>, declared: &Declared) -> Option<Action> {
        let scope = declared.record.scope.clone();
        Some(Action::new(by, ActionKind::Declare, Subject::Scope(scope)))
    }
}

/// Removes a group or service that has no instances. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<ScopeDeletion, StoreError>")]
pub(crate) struct DeleteScope {
    /// The scope to remove.
    pub(crate) scope: Scope,
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

    fn action(
        &self,
        by: &Registrant,
        _: Option<&Instance>,
        deletion: &ScopeDeletion,
    ) -> Option<Action> {
        let ScopeDeletion::Deleted(record) = deletion else {
            return None;
        };
        let subject = Subject::Scope(record.scope.clone());
        Some(Action::new(by, ActionKind::Remove, subject))
    }
}

/// Changes an instance for an operator; returns `None` if it is unknown. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<Instance>, StoreError>")]
pub struct ChangeInstance {
    /// The instance.
    pub key: InstanceKey,
    /// The changed fields.
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

    fn changes(&self) -> Option<&InstanceKey> {
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

/// Disables a service instance by its ID, unless it is held; returns `None` if there is none.
/// Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<Instance>, StoreError>")]
pub(crate) struct DisableServiceInstance {
    /// The ID of the instance.
    pub(crate) id: InstanceId,
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

/// Removes an instance. The sender revokes the lease afterwards: a heartbeat in between finds no
/// instance. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Deregistration, StoreError>")]
pub struct DeregisterInstance {
    /// The instance.
    pub key: InstanceKey,
    /// Whether it stays if an operator's decision is attached to it.
    pub keep_decided: bool,
}

#[async_trait]
impl Write for DeregisterInstance {
    type Output = Deregistration;

    async fn apply(
        &self,
        transaction: &mut dyn RegistryTransaction,
    ) -> Result<Deregistration, StoreError> {
        transaction
            .deregister_instance(&self.key, self.keep_decided)
            .await
    }

    fn events(&self, outcome: &Deregistration) -> Vec<EventKind> {
        match outcome {
            Deregistration::Removed(removal) => events_of(removal),
            Deregistration::Kept(_) | Deregistration::Unknown => Vec::new(),
        }
    }

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

pub(super) fn events_of(removal: &Removal) -> Vec<EventKind> {
    let instances = removal.instances.iter().cloned();
    let services = removal.services.iter().cloned();
    let instances = instances.map(EventKind::InstanceDeregistered);
    instances
        .chain(services.map(EventKind::ScopeRemoved))
        .collect()
}

/// The end of a lease by the will of its instance, which stays registered; returns `None` if it is
/// unknown or offline already. The sender revokes the lease afterwards. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<Instance>, StoreError>")]
pub(crate) struct TakeOffline {
    /// The instance.
    pub(crate) key: InstanceKey,
}

#[async_trait]
impl Write for TakeOffline {
    type Output = Option<Instance>;

    async fn apply(
        &self,
        transaction: &mut dyn RegistryTransaction,
    ) -> Result<Option<Instance>, StoreError> {
        transaction.take_offline(&self.key, false).await
    }

    fn events(&self, offline: &Option<Instance>) -> Vec<EventKind> {
        Vec::from_iter(offline.clone().map(EventKind::InstanceWentOffline))
    }
}

/// The end of an instance by its own will: marks it offline, and removes it unless an operator's
/// decision is attached to it. The sender revokes the lease afterwards. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Left, StoreError>")]
pub struct LeaveInstance {
    /// The instance.
    pub key: InstanceKey,
}

/// The result of leaving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// It was removed.
    Removed(Removal),
    /// It stays, and was marked offline.
    WentOffline(Instance),
    /// It stays, and was offline already.
    WasOffline,
    /// There is no such instance.
    Unknown,
}

#[async_trait]
impl Write for LeaveInstance {
    type Output = Left;

    async fn apply(&self, transaction: &mut dyn RegistryTransaction) -> Result<Left, StoreError> {
        if let Some(instance) = transaction.take_offline(&self.key, true).await? {
            return Ok(Left::WentOffline(instance));
        }
        Ok(
            match transaction.deregister_instance(&self.key, true).await? {
                Deregistration::Removed(removal) => Left::Removed(removal),
                Deregistration::Unknown => Left::Unknown,
                // Decided by another replica since the first statement.
                Deregistration::Kept(_) => match transaction.take_offline(&self.key, true).await? {
                    Some(instance) => Left::WentOffline(instance),
                    None => Left::WasOffline,
                },
            },
        )
    }

    fn events(&self, left: &Left) -> Vec<EventKind> {
        match left {
            Left::Removed(removal) => events_of(removal),
            Left::WentOffline(instance) => vec![EventKind::InstanceWentOffline(instance.clone())],
            Left::WasOffline | Left::Unknown => Vec::new(),
        }
    }
}

/// Records which lease store this replica uses, and returns what the other running replicas
/// recorded. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Vec<Attestation>, StoreError>")]
pub(crate) struct Attest(pub Attestation);

#[async_trait]
impl Write for Attest {
    type Output = Vec<Attestation>;

    async fn apply(
        &self,
        transaction: &mut dyn RegistryTransaction,
    ) -> Result<Vec<Attestation>, StoreError> {
        transaction.attest(&self.0).await
    }

    fn events(&self, _others: &Vec<Attestation>) -> Vec<EventKind> {
        Vec::new()
    }
}
