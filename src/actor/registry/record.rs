//! The messages that record when leases began and ended.

use std::collections::HashMap;
use std::sync::Arc;

use actix::Message;
use async_trait::async_trait;

use super::write::Write;
use crate::directory::{Directory, InstanceEntry};
use crate::model::{EventKind, Instance, InstanceKey};
use crate::store::{LeaseStart, RegistryTransaction, StoreError};

/// Marks instances online if the given lease is newer than the recorded one, and returns the
/// changed instances. Keys must be unique. Idempotent, and in any order with [`RecordOffline`],
/// from any number of replicas.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Vec<WentOnline>, StoreError>")]
pub(crate) struct RecordOnline {
    starts: Vec<LeaseStart>,
    /// The instances as the Directory knew them, which saves reading the rows.
    known: Vec<Option<Arc<InstanceEntry>>>,
}

impl RecordOnline {
    pub(crate) fn new(starts: Vec<LeaseStart>, directory: &Directory) -> Self {
        let known = starts.iter().map(|start| directory.find(&start.key));
        Self {
            known: known.collect(),
            starts,
        }
    }
}

/// An instance that was marked online.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WentOnline {
    /// The instance after the change.
    pub(crate) instance: Instance,
    /// Whether it was offline before; otherwise the end of its previous lease was never recorded.
    transition: bool,
}

#[async_trait]
impl Write for RecordOnline {
    type Output = Vec<WentOnline>;

    async fn apply(
        &self,
        transaction: &mut dyn RegistryTransaction,
    ) -> Result<Vec<WentOnline>, StoreError> {
        let recorded = transaction.record_online(&self.starts).await?;
        let (mut changed, mut others) = (Vec::with_capacity(recorded.len()), HashMap::new());
        for lease in recorded {
            let start = &self.starts[lease.index];
            let known = self.known[lease.index].as_ref();
            match known.and_then(|known| lease.applied_to(&known.instance, start)) {
                Some(instance) => changed.push(WentOnline {
                    instance,
                    transition: lease.transition,
                }),
                None => {
                    others.insert(start.key.clone(), lease.transition);
                }
            }
        }
        if !others.is_empty() {
            let keys: Vec<InstanceKey> = others.keys().cloned().collect();
            for instance in transaction.find_instances(&keys).await? {
                let transition = others.get(&instance.key).copied().unwrap_or_default();
                changed.push(WentOnline {
                    instance,
                    transition,
                });
            }
        }
        Ok(changed)
    }

    fn size(&self) -> usize {
        self.starts.len()
    }

    fn events(&self, changed: &Vec<WentOnline>) -> Vec<EventKind> {
        let event = |changed: &WentOnline| {
            if changed.transition {
                EventKind::InstanceWentOnline(changed.instance.clone())
            } else {
                EventKind::LeaseRestarted(changed.instance.clone())
            }
        };
        changed.iter().map(event).collect()
    }
}

/// Marks instances offline if the given lease is still the recorded one, and returns the
/// changed instances. Keys must be unique. Idempotent.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Vec<Instance>, StoreError>")]
pub struct RecordOffline(pub Vec<LeaseStart>);

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
