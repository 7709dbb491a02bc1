//! The read model: who is registered, and who is present, in memory.
//!
//! Handlers read it, without waiting for a store and without a lock that a writer
//! holds. The RegistryActor applies its own commits to it and the Follower those of other
//! daemons; of two pictures of one instance the later stays, in whatever order they come.
//! It changes nothing elsewhere.

mod deadlines;
mod state;
mod view;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout_at};

pub use self::deadlines::{Deadlines, Slot};
pub use self::state::{Applied, Differences};
use self::state::{Maps, State};
pub use self::view::{Body, Counts, Listed, ScopeView, Which};
use crate::model::{
    Epoch, EventKind, Instance, InstanceId, InstanceKey, Scope, ScopeId, ScopeKind, ScopeRecord,
    Ttl, Weight,
};
use crate::store::{Digest, RegistryReader, StoreError};

/// How many look-ups of what is unknown here may be under way at once, so that a flood of
/// unknown addresses does not become a flood of queries.
const LOOKUPS: usize = 64;

/// The same for the original's heartbeats, whose addresses may all be unknown.
const KEEP_ALIVE_LOOKUPS: usize = 16;

/// How long a look-up waits for the registry store, a place included.
const LOOKUP: Duration = Duration::from_millis(600);

/// How many instances are read from the store in one step.
const PAGE: u16 = 1000;

/// Why the Directory gave no answer about what it does not know itself.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DirectoryError {
    /// The registry store gave none.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Too many questions to the store are under way.
    #[error("too many look-ups are under way")]
    Overloaded,
}

/// Why what the Directory holds may be old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// The lease store does not answer: nobody is seen to come or go.
    Leases,
    /// The log of events cannot be read: other daemons' changes are not seen.
    Events,
}

/// What a heartbeat needs to know of an instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Profile {
    /// Its weight, or the default.
    pub weight: Weight,
    /// Its own time to live, if it has one.
    pub ttl: Option<Ttl>,
    /// The last life that is recorded.
    pub epoch: Option<Epoch>,
    /// Where its deadline is; `None` where it is not known to be registered.
    pub slot: Option<Slot>,
}

impl From<&Listed> for Profile {
    fn from(listed: &Listed) -> Self {
        Self {
            weight: listed.instance.weight(),
            ttl: listed.instance.ttl,
            epoch: listed.instance.presence.epoch,
            slot: listed.slot,
        }
    }
}

/// Holds every scope and instance.
pub struct Directory {
    reader: Arc<dyn RegistryReader>,
    maps: Maps,
    /// Whoever changes the maps holds this; nobody who only reads.
    state: Mutex<State>,
    deadlines: Deadlines,
    /// Why what is here may be old, a bit for each [`Stale`]; 0 if it is not.
    stale: AtomicU8,
    /// Tells those who wait for a scope that is not there.
    scope_added: Notify,
    lookups: Semaphore,
    keep_alive_lookups: Semaphore,
}

impl Directory {
    /// Empty, until [`Directory::read_again`].
    pub fn new(reader: Arc<dyn RegistryReader>) -> Self {
        Self {
            reader,
            maps: Maps::default(),
            state: Mutex::default(),
            deadlines: Deadlines::default(),
            stale: AtomicU8::new(0),
            scope_added: Notify::new(),
            lookups: Semaphore::new(LOOKUPS),
            keep_alive_lookups: Semaphore::new(KEEP_ALIVE_LOOKUPS),
        }
    }

    /// A scope as it is now.
    pub fn scope(&self, scope: &Scope) -> Option<Arc<ScopeView>> {
        self.maps.scopes.pin().get(scope).cloned()
    }

    /// All declared scopes of a kind, by key.
    pub fn scopes(&self, kind: ScopeKind) -> Vec<Arc<ScopeView>> {
        let mut views: Vec<(Scope, Arc<ScopeView>)> = self
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
    pub fn find(&self, key: &InstanceKey) -> Option<Arc<Listed>> {
        self.maps.instances.pin().get(key).cloned()
    }

    /// How many scopes there are, and their instances together.
    pub fn totals(&self) -> (usize, Counts) {
        let mut totals = Counts::default();
        let scopes = self.maps.scopes.pin();
        for view in scopes.values() {
            totals.instances += view.counts.instances;
            totals.online += view.counts.online;
            totals.available += view.counts.available;
            totals.suspect += view.counts.suspect;
        }
        (scopes.len(), totals)
    }

    /// Everybody who is listed as online.
    pub fn online(&self) -> Vec<Arc<Listed>> {
        let scopes = self.maps.scopes.pin();
        let views = scopes.values().filter(|view| view.counts.online > 0);
        let listed = views.flat_map(|view| view.instances.iter());
        let online = listed.filter(|listed| listed.instance.presence.online);
        online.cloned().collect()
    }

    /// Waits until `answer` finds one in a picture of the scope, at most until `deadline`.
    /// It is asked at once, and again after each change; `None` is a scope that is not there.
    pub async fn wait<T>(
        &self,
        scope: &Scope,
        deadline: Instant,
        mut answer: impl FnMut(Option<&ScopeView>) -> Option<T>,
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
    pub fn deadlines(&self) -> &Deadlines {
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
    pub async fn read_again(&self) -> Result<Differences, StoreError> {
        self.state().begin_reading();
        let read = self.read_store().await;
        let mut differences = Differences::default();
        let left = self.state().end_reading();
        let (scopes, changed, mut seen) = read?;
        seen.extend(left.instances);
        seen.sort_unstable();
        self.change(|change| {
            differences = change.take_over(scopes, &left.scopes, changed, &seen);
        });
        Ok(differences)
    }

    /// All scopes, the instances that are different here, and the ids of all instances.
    async fn read_store(
        &self,
    ) -> Result<(Vec<ScopeRecord>, Vec<Instance>, Vec<InstanceId>), StoreError> {
        let scopes = self.reader.list_scopes().await?;
        let (mut changed, mut seen) = (Vec::new(), Vec::new());
        let mut after = InstanceId(0);
        loop {
            let page = self.reader.list_instances(after, PAGE).await?;
            let Some(last) = page.last() else {
                return Ok((scopes, changed, seen));
            };
            after = last.id;
            seen.extend(page.iter().map(|instance| instance.id));
            let known = self.maps.instances.pin();
            changed.extend(page.into_iter().filter(|instance| {
                known.get(&instance.key).is_none_or(|known| {
                    (known.instance.id, known.instance.revision) != (instance.id, instance.revision)
                })
            }));
        }
    }

    /// Counts and sums of what is here, to compare with the store's.
    pub fn digest(&self) -> Digest {
        self.state().digest
    }

    /// An instance, if it is registered. What is unknown here may have been registered
    /// on another daemon a moment ago, so the store is asked before it is none.
    pub async fn instance(&self, key: &InstanceKey) -> Result<Option<Arc<Listed>>, DirectoryError> {
        if let Some(listed) = self.find(key) {
            return Ok(Some(listed));
        }
        self.look_up(std::slice::from_ref(key), &self.lookups)
            .await?;
        Ok(self.find(key))
    }

    /// A scope, if it is declared; the store is asked before it is none.
    pub async fn declared(&self, scope: &Scope) -> Result<Option<Arc<ScopeView>>, DirectoryError> {
        let known = |view: &Arc<ScopeView>| view.record.is_some();
        if let Some(view) = self.scope(scope).filter(known) {
            return Ok(Some(view));
        }
        let found = self.ask(self.reader.find_scope(scope)).await?;
        if let Some(record) = found {
            self.apply([&EventKind::ScopeDeclared(record)]);
        }
        Ok(self.scope(scope).filter(known))
    }

    /// The scope with that id, of either kind.
    pub async fn scope_by_id(&self, id: ScopeId) -> Result<Option<ScopeRecord>, DirectoryError> {
        self.ask(self.reader.find_scope_by_id(id)).await
    }

    /// Whether the registry store answers.
    pub async fn ping_store(&self) -> Result<(), StoreError> {
        self.reader.ping().await
    }

    /// For each instance what a heartbeat needs, or `None` where it is not registered.
    ///
    /// What is not known here is asked of the store, all at once. Where the store gives no
    /// answer it is taken on trust with the defaults: a lease that turns out to be nobody's
    /// is listed nowhere and expires.
    pub async fn resolve(
        &self,
        keys: &[InstanceKey],
    ) -> Result<Vec<Option<Profile>>, DirectoryError> {
        let profile = |known: &Listed| Profile::from(known);
        let (mut profiles, mut unknown) = (Vec::with_capacity(keys.len()), Vec::new());
        {
            let known = self.maps.instances.pin();
            for key in keys {
                let found = known.get(key).map(|listed| profile(listed));
                if found.is_none() {
                    unknown.push(key.clone());
                }
                profiles.push(found);
            }
        }
        if unknown.is_empty() {
            return Ok(profiles);
        }
        match self.look_up(&unknown, &self.lookups).await {
            Ok(found) => {
                for (key, profile) in keys.iter().zip(&mut profiles) {
                    *profile = profile.or_else(|| found.get(key).copied());
                }
                Ok(profiles)
            }
            Err(DirectoryError::Overloaded) => Err(DirectoryError::Overloaded),
            Err(error) => {
                log::debug!("heartbeats go on without the registry store: {error}");
                let trusted = profiles.into_iter().map(Option::unwrap_or_default);
                Ok(trusted.map(Some).collect())
            }
        }
    }

    /// The same for one heartbeat in the original's manner, which may be of an address
    /// that never registers: so it is asked of the store only while few others are.
    pub async fn resolve_keep_alive(&self, key: &InstanceKey) -> Option<Profile> {
        if let Some(known) = self.maps.instances.pin().get(key) {
            return Some(Profile::from(&**known));
        }
        if self.keep_alive_lookups.available_permits() == 0 {
            return None;
        }
        let found = self.look_up(std::slice::from_ref(key), &self.keep_alive_lookups);
        found.await.ok()?.get(key).copied()
    }

    /// Those of the given instances that the store says are not registered, now.
    /// Without an answer from the store, none of them.
    pub async fn vanished(&self, keys: &[InstanceKey]) -> Vec<InstanceKey> {
        if keys.is_empty() {
            return Vec::new();
        }
        match self.look_up(keys, &self.lookups).await {
            Ok(found) => keys
                .iter()
                .filter(|key| !found.contains_key(key))
                .cloned()
                .collect(),
            Err(error) => {
                log::debug!("cannot confirm new leases: {error}");
                Vec::new()
            }
        }
    }

    /// Asks the store for instances, and takes over what it says.
    async fn look_up(
        &self,
        keys: &[InstanceKey],
        places: &Semaphore,
    ) -> Result<HashMap<InstanceKey, Profile>, DirectoryError> {
        let found = self
            .ask_in(places, self.reader.find_instances(keys))
            .await?;
        let found: Vec<EventKind> = found.into_iter().map(EventKind::InstanceLives).collect();
        self.apply(&found);
        let found = found.iter().filter_map(EventKind::instance);
        let profiles = found.map(|instance| {
            let listed = self.find(&instance.key);
            let profile = listed.map(|listed| Profile::from(&*listed));
            (instance.key.clone(), profile.unwrap_or_default())
        });
        Ok(profiles.collect())
    }

    async fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, DirectoryError> {
        self.ask_in(&self.lookups, question).await
    }

    async fn ask_in<T>(
        &self,
        places: &Semaphore,
        question: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, DirectoryError> {
        let deadline = Instant::now() + LOOKUP;
        let _place = match timeout_at(deadline, places.acquire()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) | Err(_) => return Err(DirectoryError::Overloaded),
        };
        match timeout_at(deadline, question).await {
            Ok(answer) => Ok(answer?),
            Err(_) => {
                let late = format!("no look-up within {LOOKUP:?}");
                Err(StoreError::Unavailable(late).into())
            }
        }
    }

    /// Changes the maps, and then tells those who wait.
    fn change(&self, make: impl FnOnce(&mut state::Change<'_>)) -> Applied {
        let mut state = self.state();
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

    /// No code that holds the lock can panic half-way, so a poisoned lock is whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
