//! What the calls of the registry store take and return.

use chrono::{DateTime, Utc};

use super::StoreError;
use crate::model::{Epoch, Instance, InstanceId, InstanceKey, Presence, ScopeRecord};

/// The result of declaring a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// The scope after the change.
    pub record: ScopeRecord,
    /// Whether it is new.
    pub created: bool,
}

/// The result of registering an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// The instance after the change.
    pub instance: Instance,
    /// Whether it is new.
    pub created: bool,
    /// Whether anything changed.
    pub changed: bool,
}

/// The result of registering instances.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegisteredMany {
    /// In the order of the registrations; `None` for a gateway whose group is not declared.
    pub instances: Vec<Option<Registered>>,
    /// The services that were declared by their first instance.
    pub services: Vec<ScopeRecord>,
}

/// Instances in the order of their IDs. A row is parsed when it is taken, so that the store can read
/// the next page at the same time.
pub struct InstancePage {
    last_id: Option<InstanceId>,
    instances: Box<dyn Iterator<Item = Result<Instance, StoreError>> + Send>,
}

impl InstancePage {
    /// A page whose last instance has this ID; `None` if it is empty.
    pub(super) fn new(
        last_id: Option<InstanceId>,
        instances: impl Iterator<Item = Result<Instance, StoreError>> + Send + 'static,
    ) -> Self {
        Self {
            last_id,
            instances: Box::new(instances),
        }
    }

    /// Returns the ID after which the next page begins; `None` if there is none.
    pub fn last_id(&self) -> Option<InstanceId> {
        self.last_id
    }
}

impl From<Vec<Instance>> for InstancePage {
    fn from(instances: Vec<Instance>) -> Self {
        let last = instances.last().map(|last| last.id);
        Self::new(last, instances.into_iter().map(Ok))
    }
}

/// Fails for a row that another program wrote.
impl Iterator for InstancePage {
    type Item = Result<Instance, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.instances.next()
    }
}

/// Counts and sums of the stored rows. Two stores, or a store and a copy of it, with different
/// rows almost certainly have different digests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest {
    /// The number of scopes.
    pub scopes: i64,
    /// The sum of their IDs and revisions.
    pub scope_sum: i64,
    /// The number of instances.
    pub instances: i64,
    /// The sum of [`Digest::term`] over the instances.
    pub instance_sum: i64,
}

impl Digest {
    /// Returns the term of an instance. It covers more than the ID and the revision, because after
    /// a restore a revision may have another content than before.
    pub fn term(instance: &Instance) -> i64 {
        // Different weights, so that small changes of two parts do not cancel each other out.
        const PRIME: i64 = 1_000_000_007;
        let epoch = instance.presence.epoch.map_or(0, |epoch| epoch.0);
        instance.id.0
            + 1009 * instance.revision
            + 500_009 * i64::from(instance.presence.online)
            + epoch % PRIME
            + instance.updated_at.timestamp() % PRIME
    }
}

/// The start of a lease of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseStart {
    /// The instance.
    pub key: InstanceKey,
    /// The epoch of the lease.
    pub epoch: Epoch,
}

/// A new lease that was recorded: what changed in the row of its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordedLease {
    /// The index of the lease among those that were given.
    pub index: usize,
    /// The instance.
    pub id: InstanceId,
    /// When the instance went online.
    pub changed_at: DateTime<Utc>,
    /// The revision of the row after the change.
    pub revision: i64,
    /// Whether it was offline before; otherwise the end of its previous lease was never recorded.
    pub transition: bool,
}

impl RecordedLease {
    /// Returns an instance after the change, if `before` is the state that was changed.
    pub fn applied_to(&self, before: &Instance, start: &LeaseStart) -> Option<Instance> {
        let is_same = before.id == self.id && before.revision + 1 == self.revision;
        is_same.then(|| Instance {
            presence: Presence {
                online: true,
                epoch: Some(start.epoch),
                changed_at: Some(self.changed_at),
            },
            revision: self.revision,
            ..before.clone()
        })
    }
}

/// What was removed: the last states, in no order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    /// The instances.
    pub instances: Vec<Instance>,
    /// The services that were declared by their first instance alone, and have none left.
    pub services: Vec<ScopeRecord>,
}

/// The result of deregistering an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deregistration {
    /// It was removed.
    Removed(Removal),
    /// It stays because of an operator's decision.
    Kept(Instance),
    /// There is no such instance.
    Unknown,
}

/// The result of deleting a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScopeDeletion {
    /// It was deleted; this was its last state.
    Deleted(ScopeRecord),
    /// It still has instances.
    HasInstances,
    /// There is no such scope.
    Unknown,
}
