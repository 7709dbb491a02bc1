//! Changes of the Directory: one writer at a time, by IDs and revisions.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::entry::InstanceEntry;
use super::ids::Ids;
use super::snapshot::{AtomicTotals, ScopeSnapshot};
use crate::model::{Instance, InstanceId, InstanceKey, Registrant, Scope, ScopeId, ScopeKind};
use crate::store::Digest;

/// The number of removed IDs that are remembered, so that a late event does not restore a
/// removed row.
const REMOVED: usize = 100_000;

/// The keys come from clients, so the hash has a secret seed.
type Map<K, V> = papaya::HashMap<K, V, RandomState>;

/// The maps that readers use.
#[derive(Default)]
pub(super) struct Maps {
    pub(super) instances: Map<InstanceKey, Arc<InstanceEntry>>,
    pub(super) scopes: Map<Scope, Arc<ScopeSnapshot>>,
    pub(super) ids: Ids,
    /// The services whose keys have capital letters, by the key in lower case.
    pub(super) folded: Map<String, Scope>,
    /// Totals of all groups.
    pub(super) groups: AtomicTotals,
    /// Totals of all services.
    pub(super) services: AtomicTotals,
}

impl Maps {
    /// Adds a scope to the map of keys in lower case, or removes it.
    pub(super) fn fold(&self, scope: &Scope, is_known: bool) {
        let key = scope.key.as_str();
        if scope.kind != ScopeKind::Service || !key.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return;
        }
        let (folded, lower) = (self.folded.pin(), key.to_ascii_lowercase());
        if is_known {
            folded.insert(lower, scope.clone());
        } else if folded.get(&lower) == Some(scope) {
            folded.remove(&lower);
        }
    }

    pub(super) fn tally(&self, kind: ScopeKind) -> &AtomicTotals {
        match kind {
            ScopeKind::Group => &self.groups,
            ScopeKind::Service => &self.services,
        }
    }
}

/// The state that only writers use.
#[derive(Default)]
pub(super) struct State {
    pub(super) digest: Digest,
    pub(super) removed_instances: Tombstones<InstanceId>,
    pub(super) removed_scopes: Tombstones<ScopeId>,
    pub(super) registrants: Registrants,
    /// The changes since the load of the store began, whose pages may be older.
    pub(super) reading: Option<ChangedDuringLoad>,
}

/// The registrants of the instances, each in memory once.
#[derive(Default)]
pub(super) struct Registrants {
    known: HashSet<Registrant>,
    /// The number at which those without an instance are removed.
    limit: usize,
}

impl Registrants {
    /// Returns the one that is in memory already, if there is one.
    pub(super) fn share(&mut self, registrant: Registrant) -> Registrant {
        if let Some(known) = self.known.get(&registrant) {
            return known.clone();
        }
        if self.known.len() >= self.limit {
            self.known.retain(Registrant::is_shared);
            self.limit = 2 * self.known.len() + 1000;
        }
        self.known.insert(registrant.clone());
        registrant
    }
}

/// The rows that events changed during a load.
#[derive(Default)]
pub(super) struct ChangedDuringLoad {
    pub(super) instances: HashSet<InstanceId>,
    pub(super) scopes: HashSet<ScopeId>,
}

impl State {
    pub(super) fn begin_reading(&mut self) {
        self.reading = Some(ChangedDuringLoad::default());
    }

    pub(super) fn end_reading(&mut self) -> ChangedDuringLoad {
        self.reading.take().unwrap_or_default()
    }
}

/// The last removed IDs.
pub(super) struct Tombstones<T> {
    pub(super) ids: HashSet<T>,
    pub(super) order: VecDeque<T>,
}

impl<T> Default for Tombstones<T> {
    fn default() -> Self {
        Self {
            ids: HashSet::new(),
            order: VecDeque::new(),
        }
    }
}

impl<T: Copy + Eq + Hash> Tombstones<T> {
    pub(super) fn forget(&mut self, id: T) {
        if self.ids.remove(&id) {
            self.order.retain(|known| *known != id);
        }
    }

    pub(super) fn insert(&mut self, id: T) {
        if self.ids.insert(id) {
            self.order.push_back(id);
            if self.order.len() > REMOVED
                && let Some(oldest) = self.order.pop_front()
            {
                self.ids.remove(&oldest);
            }
        }
    }
}

/// The result of a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Whether the available instances of a service changed.
    pub(crate) availability: bool,
    /// Whether a scope was added or removed.
    pub(crate) scopes: bool,
}

/// The differences that a load found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Drift {
    /// Instances whose transition was missed, in their present state.
    pub(crate) transitions: Vec<Instance>,
    /// The number of other differences.
    pub(crate) others: usize,
    /// Whether the store has an earlier state of a row: it was restored from a backup, or failed
    /// over to a standby that lacked the last commits.
    pub(crate) restored: bool,
}
