//! The messages of the daemon's own upkeep: they remove what is old, and end what has an end.

use actix::Message;
use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::messages::events_of;
use super::write::Write;
use crate::model::{EventKind, Instance};
use crate::store::{RegistryTransaction, Removal, StoreError};

/// Removes instances that went offline and were changed last before a time, except held ones,
/// and returns them: [`PurgeOffline::LIMIT`] at most. Idempotent.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Removal, StoreError>")]
pub(crate) struct PurgeOffline {
    /// The time before which the instances went offline.
    pub(crate) before: DateTime<Utc>,
}

impl PurgeOffline {
    /// The most instances that one message removes.
    pub(crate) const LIMIT: u16 = 500;
}

#[async_trait]
impl Write for PurgeOffline {
    type Output = Removal;

    async fn apply(
        &self,
        transaction: &mut dyn RegistryTransaction,
    ) -> Result<Removal, StoreError> {
        transaction
            .purge_offline_instances(self.before, Self::LIMIT)
            .await
    }

    fn events(&self, removal: &Removal) -> Vec<EventKind> {
        events_of(removal)
    }
}

/// Enables the instances whose holds have ended, [`EndHolds::LIMIT`] at most, and returns them.
/// Idempotent.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<Instance>, StoreError>")]
pub(crate) struct EndHolds;

impl EndHolds {
    /// The most instances that one message enables.
    pub(crate) const LIMIT: u16 = 500;
}

#[async_trait]
impl Write for EndHolds {
    type Output = Vec<Instance>;

    async fn apply(
        &self,
        transaction: &mut dyn RegistryTransaction,
    ) -> Result<Vec<Instance>, StoreError> {
        transaction.end_holds(Self::LIMIT).await
    }

    fn events(&self, enabled: &Vec<Instance>) -> Vec<EventKind> {
        enabled
            .iter()
            .cloned()
            .map(EventKind::InstanceChanged)
            .collect()
    }
}

/// Deletes the oldest actions of operators that were recorded before a time, [`PurgeActions::LIMIT`]
/// at most, and returns how many. Idempotent.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<usize, StoreError>")]
pub(crate) struct PurgeActions {
    /// The time.
    pub(crate) before: DateTime<Utc>,
}

impl PurgeActions {
    /// The most actions that one message deletes.
    pub(crate) const LIMIT: u16 = 500;
}

#[async_trait]
impl Write for PurgeActions {
    type Output = usize;

    async fn apply(&self, transaction: &mut dyn RegistryTransaction) -> Result<usize, StoreError> {
        transaction.purge_actions(self.before, Self::LIMIT).await
    }

    fn events(&self, _: &usize) -> Vec<EventKind> {
        Vec::new()
    }
}
