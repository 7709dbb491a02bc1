//! The read model: who is registered, and who is present, in memory.
//!
//! Handlers read it, without waiting for a store and without a lock that a writer
//! holds. The RegistryActor applies its own commits to it and the Follower those of other
//! daemons; of two pictures of one instance the later stays, in whatever order they come.
//! It changes nothing elsewhere.

mod deadlines;
mod lookup;
mod roster;
mod state;
mod view;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

pub use self::deadlines::{Deadlines, Slot};
use self::lookup::Places;
pub use self::lookup::{DirectoryError, HeartbeatInfo, KeyParts};
pub use self::roster::InstanceList;
pub use self::state::{Applied, Drift};
use self::state::{Maps, State};
pub use self::view::{Body, Counts, InstanceEntry, InstanceFilter, ScopeSnapshot, Totals};
use crate::model::{
    EventKind, Instance, InstanceId, InstanceKey, Scope, ScopeKind, ScopeRecord, Ttl,
};
use crate::store::{Digest, PoolFigures, RegistryReader, StoreError};

/// How many instances are read from the store in one step.
const PAGE: u16 = 1000;

/// How many instances are held while the store is read for the first time, before they are
/// taken over.
const CHANGED: usize = 50_000;

/// Why what the Directory holds may be old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// The lease store does not answer: nobody is seen to come or go.
    Leases,
    /// The log of events cannot be read: other daemons' changes are not seen.
    Events,
}

/// Holds every scope and instance.
pub struct Directory {
    reader: Arc<dyn RegistryReader>,
    maps: Maps,
    /// Whoever changes the maps holds this; nobody who only reads.
    state: Mutex<State>,
    deadlines: Deadlines<Arc<InstanceEntry>>,
    /// Why what is here may be old, a bit for each [`Stale`]; 0 if it is not.
    stale: AtomicU8,
    /// Tells those who wait for a scope that is not there.
    scope_added: Notify,
    places: Places,
}

impl Directory {
    /// Empty, until [`Directory::reload`].
    pub fn new(reader: Arc<dyn RegistryReader>) -> Self {
        Self {
            reader,
            maps: Maps::default(),
            state: Mutex::default(),
            deadlines: Deadlines::default(),
            stale: AtomicU8::new(0),
            scope_added: Notify::new(),
            places: Places::default(),
        }
    }

    /// A scope as it is now.
    pub fn scope(&self, scope: &Scope) -> Option<Arc<ScopeSnapshot>> {
        self.maps.scopes.pin().get(scope).cloned()
    }

    /// All declared scopes of a kind, by key.
    pub fn scopes(&self, kind: ScopeKind) -> Vec<Arc<ScopeSnapshot>> {
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

    /// An instance as it is now.
    pub fn find(&self, key: &InstanceKey) -> Option<Arc<InstanceEntry>> {
        self.maps.instances.pin().get(key).cloned()
    }

    /// The instance that a lease key belongs to, as it is now.
    pub fn find_by_lease_key(&self, text: &str) -> Option<Arc<InstanceEntry>> {
        let parts = KeyParts::of(text)?;
        self.maps.instances.pin().get(&parts).cloned()
    }

    /// How much there is of a kind of scope. Takes as long however much it is.
    pub fn totals_of(&self, kind: ScopeKind) -> Totals {
        self.maps.tally(kind).totals()
    }

    /// How much there is of both kinds.
    pub fn totals(&self) -> Totals {
        self.totals_of(ScopeKind::Group) + self.totals_of(ScopeKind::Service)
    }

    /// The connections of the registry store, where it has a pool.
    pub fn pool(&self) -> Option<PoolFigures> {
        self.reader.pool()
    }

    /// Everybody who is listed as online.
    pub fn online(&self) -> Vec<Arc<InstanceEntry>> {
        let scopes = self.maps.scopes.pin();
        let views = scopes.values().filter(|view| view.counts.online > 0);
        let listed = views.flat_map(|view| view.instances.iter());
        let online = listed.filter(|listed| listed.instance.presence.online);
        online.cloned().collect()
    }

    /// Those who are listed as online, and whose end no deadline here will find in time: their
    /// leases were renewed elsewhere, or live shorter than they once did. `default_ttl` is that
    /// of instances that gave none.
    pub fn unwatched(&self, default_ttl: Ttl) -> Vec<Arc<InstanceEntry>> {
        let now = Instant::now();
        let is_watched = |listed: &InstanceEntry| {
            let ttl = listed.instance.ttl.unwrap_or(default_ttl);
            let deadline = listed.slot.and_then(|slot| self.deadlines.deadline(slot));
            deadline.is_some_and(|deadline| deadline <= now + ttl.as_duration())
        };
        let scopes = self.maps.scopes.pin();
        let listed = scopes.values().flat_map(|view| view.instances.iter());
        let online = listed.filter(|listed| listed.instance.presence.online);
        online
            .filter(|listed| !is_watched(listed))
            .cloned()
            .collect()
    }

    /// Some of those who are listed as online, evenly taken from all instances, of which it
    /// looks at no more than `looked`. Everybody, where there are no more than that.
    pub fn sample_online(&self, looked: usize) -> Vec<Arc<InstanceEntry>> {
        let scopes = self.maps.scopes.pin();
        let count: usize = scopes.values().map(|view| view.counts.instances).sum();
        let step = count.div_ceil(looked.max(1)).max(1);
        let (mut sample, mut skip) = (Vec::new(), 0);
        for view in scopes.values() {
            let chosen = view.instances.iter().skip(skip).step_by(step);
            let online = chosen.filter(|listed| listed.instance.presence.online);
            sample.extend(online.cloned());
            let taken = view.counts.instances.saturating_sub(skip).div_ceil(step);
            skip = skip + taken * step - view.counts.instances;
        }
        sample
    }

    /// Waits until `answer` finds one in a picture of the scope, at most until `deadline`.
    /// It is asked at once, and again after each change; `None` is a scope that is not there.
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
            // What changed before we listened is in this picture.
            let now = self.scope(scope);
            if let Some(answer) = answer(now.as_deref()) {
                return Some(answer);
            }
            // Most do not wait at all, and a timer takes a millisecond to find that out.
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

    /// Whether what is here may be old.
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire) != 0
    }

    /// Says whether what is here may be old for that reason. Whoever waits for a change
    /// is told if that makes it stale or fresh.
    pub fn set_stale(&self, why: Stale, stale: bool) {
        let bit = 1 << why as u8;
        let before = match stale {
            true => self.stale.fetch_or(bit, Ordering::AcqRel),
            false => self.stale.fetch_and(!bit, Ordering::AcqRel),
        };
        let now = if stale { before | bit } else { before & !bit };
        if (before == 0) != (now == 0) {
            for view in self.maps.scopes.pin().values() {
                view.replaced.notify_waiters();
            }
            self.scope_added.notify_waiters();
        }
    }

    /// When the leases renewed here are over.
    pub fn deadlines(&self) -> &Deadlines<Arc<InstanceEntry>> {
        &self.deadlines
    }

    /// Takes over what happened. What is older than what is here changes nothing.
    pub fn apply<'a>(&self, events: impl IntoIterator<Item = &'a EventKind>) -> Applied {
        self.change(|change| {
            for event in events {
                change.apply(event);
            }
        })
    }

    /// Marks or clears suspects among those who are online.
    pub fn set_suspect(&self, keys: &[InstanceKey], suspect: bool) {
        self.change(|change| {
            for key in keys {
                change.set_suspect(key, suspect);
            }
        });
    }

    /// Reads all of the store, page by page, and takes over what is different.
    pub async fn reload(&self) -> Result<Drift, StoreError> {
        self.state.lock().begin_reading();
        let read = self.read_store().await;
        let left = self.state.lock().end_reading();
        let (scopes, mut seen, mut differences) = read?;
        seen.extend(left.instances);
        seen.sort_unstable();
        self.change(|change| {
            change.finish_reload(scopes, &left.scopes, &seen, &mut differences);
        });
        Ok(differences)
    }

    /// Takes over the instances that are different; all scopes, and the ids of all instances.
    async fn read_store(&self) -> Result<(Vec<ScopeRecord>, Vec<InstanceId>, Drift), StoreError> {
        let scopes = self.reader.list_scopes().await?;
        let (mut seen, mut changed) = (Vec::new(), Vec::new());
        let mut differences = Drift::default();
        // Later, what is different is taken over whole or not at all: it is to be told.
        let is_first = self.maps.instances.is_empty();
        let mut after = InstanceId(0);
        loop {
            let page = self.reader.list_instances(after, PAGE).await?;
            let last = page.last().map(|last| last.id);
            seen.extend(page.iter().map(|instance| instance.id));
            let known = self.maps.instances.pin();
            let is_other = |instance: &Instance| {
                let known = known.get(&instance.key);
                known.is_none_or(|known| known.instance != *instance)
            };
            changed.extend(page.into_iter().filter(is_other));
            // A change costs as much as the scopes that it touches are large.
            if (is_first && changed.len() >= CHANGED) || last.is_none() {
                self.change(|change| change.apply_rows(changed.drain(..), &mut differences));
            }
            match last {
                Some(last) => after = last,
                None => return Ok((scopes, seen, differences)),
            }
        }
    }

    /// Counts and sums of what is here, to compare with the store's.
    pub fn digest(&self) -> Digest {
        self.state.lock().digest
    }

    /// Changes the maps, and then tells those who wait.
    fn change(&self, make: impl FnOnce(&mut state::Change<'_>)) -> Applied {
        let mut state = self.state.lock();
        let mut change = state::Change::begin(&self.maps, &mut state, &self.deadlines);
        make(&mut change);
        let (applied, replaced) = change.end();
        drop(state);
        for waiting in replaced {
            waiting.notify_waiters();
        }
        if applied.scopes {
            self.scope_added.notify_waiters();
        }
        applied
    }
}
