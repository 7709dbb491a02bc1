//! The read model: all scopes and instances, in memory.
//!
//! Handlers read it without waiting for a store, and without a lock that a writer holds. The
//! RegistryActor applies its own commits, and the Follower those of other replicas; of two
//! versions of an instance the later one stays, in whichever order they arrive. The Directory
//! changes nothing elsewhere.

mod body;
mod change;
mod deadlines;
mod entry;
mod ids;
mod instance_list;
mod lookup;
mod recent;
mod reload;
mod scan;
mod snapshot;
mod state;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

pub use self::body::Body;
pub(crate) use self::body::{Coding, etag};
use self::change::Change;
pub(crate) use self::deadlines::{Deadlines, Slot};
pub use self::entry::{Counts, InstanceEntry};
pub(crate) use self::lookup::KeyParts;
use self::lookup::LookupPermits;
pub use self::lookup::{DirectoryError, HeartbeatInfo};
use self::recent::RecentChanges;
pub(crate) use self::snapshot::Totals;
pub use self::snapshot::{InstanceFilter, ScopeSnapshot};
pub use self::state::Applied;
pub(crate) use self::state::Drift;
use self::state::{Maps, State};
use crate::model::{EventKind, InstanceKey, Protocol, Scope, ScopeKind};
use crate::store::{Digest, RegistryReader};

/// Changes in this time are one for requests that wait for any change.
const TOGETHER: Duration = Duration::from_millis(100);

/// Why the Directory may be out of date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stale {
    /// The lease store is unavailable: no transition is detected.
    Leases,
    /// The event log cannot be read: changes of other replicas are not seen.
    Events,
}

/// Holds every scope and instance.
pub struct Directory {
    reader: Arc<dyn RegistryReader>,
    maps: Maps,
    /// Locked by writers; readers never take it.
    state: Mutex<State>,
    deadlines: Deadlines<Arc<InstanceEntry>>,
    /// One bit per [`Stale`]; 0 if the Directory is up to date.
    stale: AtomicU8,
    /// Wakes requests that wait for a scope that does not exist yet.
    scope_added: Notify,
    /// The number of changes, and what wakes requests that wait for any.
    version: AtomicU64,
    changed: Notify,
    permits: LookupPermits,
    /// The latest changes, once they are asked for.
    recent: Mutex<Option<RecentChanges<InstanceEntry>>>,
}

impl Directory {
    /// An empty Directory; [`Directory::reload`] fills it.
    pub fn new(reader: Arc<dyn RegistryReader>) -> Self {
        Self {
            reader,
            maps: Maps::default(),
            state: Mutex::default(),
            deadlines: Deadlines::default(),
            stale: AtomicU8::new(0),
            scope_added: Notify::new(),
            version: AtomicU64::new(0),
            changed: Notify::new(),
            permits: LookupPermits::default(),
            recent: Mutex::default(),
        }
    }

    /// Returns the present snapshot of a scope.
    pub fn scope(&self, scope: &Scope) -> Option<Arc<ScopeSnapshot>> {
        self.maps.scopes.pin().get(scope).cloned()
    }

    /// Returns the present snapshot of a service whose key is this one in any case.
    pub(crate) fn service_in_any_case(&self, key: &str) -> Option<Arc<ScopeSnapshot>> {
        let lower = key.to_ascii_lowercase();
        let exact = |key: &str| {
            let key = key.parse().ok()?;
            self.scope(&ScopeKind::Service.with(key))
        };
        exact(key).or_else(|| exact(&lower)).or_else(|| {
            let folded = self.maps.folded.pin();
            self.scope(folded.get(&lower)?)
        })
    }

    /// Returns all declared scopes of a kind, by key.
    pub(crate) fn scopes(&self, kind: ScopeKind) -> Vec<Arc<ScopeSnapshot>> {
        let mut views: Vec<(Scope, Arc<ScopeSnapshot>)> = self
            .maps
            .scopes
            .pin()
            .iter()
            .filter(|(scope, view)| scope.kind == kind && view.record.is_some())
            .map(|(scope, view)| (scope.clone(), Arc::clone(view)))
            .collect();
        views.sort_by(|(a, _), (b, _)| a.cmp(b));
        views.into_iter().map(|(_, view)| view).collect()
    }

    /// Returns an instance.
    pub fn find(&self, key: &InstanceKey) -> Option<Arc<InstanceEntry>> {
        self.maps.instances.pin().get(key).cloned()
    }

    /// Returns the instances that clients of a protocol name by this ID, sorted.
    pub(crate) fn find_by_id(&self, protocol: Protocol, id: &str) -> Vec<Arc<InstanceEntry>> {
        self.maps.ids.map(protocol, id, |key| self.find(key))
    }

    /// Returns the totals of a kind of scope, in constant time.
    pub(crate) fn totals_of(&self, kind: ScopeKind) -> Totals {
        self.maps.tally(kind).totals()
    }

    /// Returns the totals of both kinds.
    pub(crate) fn totals(&self) -> Totals {
        self.totals_of(ScopeKind::Group) + self.totals_of(ScopeKind::Service)
    }

    /// Waits until `answer` returns a value for a snapshot of the scope, at most until `deadline`.
    /// It is called at once and after each change, with `None` if the scope does not exist.
    pub async fn wait<T>(
        &self,
        scope: &Scope,
        deadline: Instant,
        mut answer: impl FnMut(Option<&ScopeSnapshot>) -> Option<T>,
    ) -> Option<T> {
        loop {
            let before = self.scope(scope);
            let changed = match &before {
                Some(view) => view.replaced.notified(),
                None => self.scope_added.notified(),
            };
            let mut changed = pin!(changed);
            changed.as_mut().enable();
            // This snapshot contains all changes before the subscription.
            let now = self.scope(scope);
            if let Some(answer) = answer(now.as_deref()) {
                return Some(answer);
            }
            // Most callers do not wait, and a timer would take a millisecond to expire.
            if Instant::now() >= deadline {
                return None;
            }
            let same = match (&before, &now) {
                (Some(before), Some(now)) => Arc::ptr_eq(&before.replaced, &now.replaced),
                (before, now) => before.is_none() && now.is_none(),
            };
            if same {
                timeout_at(deadline, changed).await.ok()?;
            }
        }
    }

    /// Begins to keep the states of instances before and after their changes for some time.
    pub(crate) fn keep_changes(&self, keep: Duration) {
        *self.recent.lock() = Some(RecentChanges::new(keep));
    }

    /// Returns the kept states of instances that changed, oldest first, and whether they cover all
    /// of the time for which they are kept.
    pub(crate) fn recent_changes(&self) -> (Vec<Arc<InstanceEntry>>, bool) {
        let recent = self.recent.lock();
        recent.as_ref().map(RecentChanges::list).unwrap_or_default()
    }

    /// Returns a number that grows with every change.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Waits until `answer` returns a value, at most until `deadline`. It is called at once and after
    /// changes of any scope.
    pub(crate) async fn wait_for_any<T>(
        &self,
        deadline: Instant,
        mut answer: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(answer) = answer() {
                return Some(answer);
            }
            if Instant::now() >= deadline {
                return None;
            }
            timeout_at(deadline, changed).await.ok()?;
            sleep_until(deadline.min(Instant::now() + TOGETHER)).await;
        }
    }

    fn note_change(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// Returns whether lists may be out of date.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire) != 0
    }

    /// Sets or clears a reason for being out of date, and wakes waiting requests if that changes
    /// the answer.
    pub(crate) fn set_stale(&self, why: Stale, stale: bool) {
        let bit = 1 << why as u8;
        let before = if stale {
            self.stale.fetch_or(bit, Ordering::AcqRel)
        } else {
            self.stale.fetch_and(!bit, Ordering::AcqRel)
        };
        let now = if stale { before | bit } else { before & !bit };
        if (before == 0) != (now == 0) {
            for view in self.maps.scopes.pin().values() {
                view.replaced.notify_waiters();
            }
            self.scope_added.notify_waiters();
            self.note_change();
        }
    }

    /// Returns the deadlines of the leases that this replica renewed.
    pub(crate) fn deadlines(&self) -> &Deadlines<Arc<InstanceEntry>> {
        &self.deadlines
    }

    /// Applies events. An event that is older than the present state changes nothing.
    pub fn apply<'a>(&self, events: impl IntoIterator<Item = &'a EventKind>) -> Applied {
        self.change(|change| {
            for event in events {
                change.apply(event);
            }
        })
    }

    /// Sets or clears the suspect flag of online instances.
    pub(crate) fn set_suspect(&self, keys: &[InstanceKey], suspect: bool) {
        self.change(|change| {
            for key in keys {
                change.set_suspect(key, suspect);
            }
        });
    }

    /// Returns counts and sums to compare with those of the store.
    pub(crate) fn digest(&self) -> Digest {
        self.state.lock().digest
    }

    /// Changes the maps, and then wakes waiting requests.
    fn change(&self, make: impl FnOnce(&mut Change<'_>)) -> Applied {
        let mut state = self.state.lock();
        let mut recent = self.recent.lock();
        let recent = recent.as_mut();
        let mut change = Change::begin(&self.maps, &mut state, &self.deadlines, recent);
        make(&mut change);
        let (applied, replaced) = change.end();
        drop(state);
        if !replaced.is_empty() {
            self.note_change();
        }
        for waiting in replaced {
            waiting.notify_waiters();
        }
        if applied.scopes {
            self.scope_added.notify_waiters();
        }
        applied
    }
}
