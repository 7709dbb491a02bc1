//! The immutable snapshot of a scope.

use std::collections::{HashMap, VecDeque};
use std::ops::Add;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::body::Body;
use super::entry::{Counts, InstanceEntry};
use super::instance_list::{Difference, InstanceList};
use crate::model::{ScopeRecord, Selection};

/// The totals of a kind of scope.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// The number of scopes without instances.
    pub(crate) empty: usize,
    /// The number of scopes with instances of which none is available.
    pub(crate) unavailable: usize,
    /// The number of scopes with available instances.
    pub(crate) available: usize,
    /// The numbers of their instances.
    pub(crate) instances: Counts,
}

impl Totals {
    /// The totals of a single scope.
    pub(crate) fn of(view: &ScopeSnapshot) -> Self {
        let counts = view.counts;
        let is = |state: bool| usize::from(view.record.is_some() && state);
        Self {
            empty: is(counts.instances == 0),
            unavailable: is(counts.instances > 0 && counts.available == 0),
            available: is(counts.available > 0),
            instances: counts,
        }
    }

    /// Returns all figures, for [`AtomicTotals`].
    fn figures(self) -> [usize; 9] {
        let counts = self.instances;
        [
            self.empty,
            self.unavailable,
            self.available,
            counts.instances,
            counts.online,
            counts.available,
            counts.suspect,
            counts.held,
            counts.disabled,
        ]
    }

    /// Returns the number of scopes.
    pub(crate) fn scopes(&self) -> usize {
        self.empty + self.unavailable + self.available
    }
}

impl Add for Totals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            empty: self.empty + other.empty,
            unavailable: self.unavailable + other.unavailable,
            available: self.available + other.available,
            instances: self.instances + other.instances,
        }
    }
}

/// [`Totals`] that one thread changes and any thread reads.
#[derive(Default)]
pub(super) struct AtomicTotals([AtomicUsize; 9]);

impl AtomicTotals {
    /// Counts `now` in the place of `before`.
    pub(super) fn replace(&self, before: Option<&ScopeSnapshot>, now: Option<&ScopeSnapshot>) {
        let figures =
            |view: Option<&ScopeSnapshot>| view.map(Totals::of).unwrap_or_default().figures();
        for ((total, before), now) in self.0.iter().zip(figures(before)).zip(figures(now)) {
            // Wraps back: what is subtracted was added before.
            total.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
        }
    }

    pub(super) fn totals(&self) -> Totals {
        let total = |index: usize| self.0[index].load(Ordering::Relaxed);
        Totals {
            empty: total(0),
            unavailable: total(1),
            available: total(2),
            instances: Counts {
                instances: total(3),
                online: total(4),
                available: total(5),
                suspect: total(6),
                held: total(7),
                disabled: total(8),
            },
        }
    }
}

/// The selections whose lists are kept with a snapshot, because nearly all requests are for
/// these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceFilter {
    /// All instances.
    All,
    /// Online instances.
    Online,
    /// Instances that accept traffic.
    Available,
}

impl InstanceFilter {
    /// Returns the filter that is the same as a selection within a scope, if there is one.
    pub(crate) fn of(selection: &Selection) -> Option<Self> {
        let presence = Selection {
            online: selection.online,
            available: selection.available,
            ..Selection::default()
        };
        match (selection.available, selection.online) {
            _ if *selection != presence => None,
            // Available instances are online.
            (Some(true), None | Some(true)) => Some(Self::Available),
            (None, Some(true)) => Some(Self::Online),
            (None, None) => Some(Self::All),
            _ => None,
        }
    }
}

/// The number of lists of a scope that are remembered for clients that ask what changed.
const PAST: usize = 64;

/// The most bodies that a snapshot keeps under names that depend on requests.
const KEPT: usize = 4 * PAST;

/// A snapshot of one scope.
#[derive(Default)]
pub struct ScopeSnapshot {
    /// The declared scope; `None` briefly, if an event of an instance arrived first.
    pub(crate) record: Option<ScopeRecord>,
    /// The instances, by address.
    pub(crate) instances: InstanceList,
    /// Their numbers.
    pub(crate) counts: Counts,
    /// The bodies, serialised on first use: for each [`InstanceFilter`], fresh and stale.
    bodies: [OnceLock<Body>; 6],
    /// Other bodies, by name.
    named: RwLock<Vec<(&'static str, Bytes)>>,
    /// The bodies of other lists, and of changes, by names that depend on requests.
    requested: Mutex<HashMap<String, Body>>,
    /// Wakes the requests that wait for the next snapshot, to which it is passed on.
    pub(super) replaced: Arc<Notify>,
    /// The lists that clients may have; passed on to the next snapshot.
    past: Arc<PastLists>,
}

/// The latest lists of a scope, each with the entity tag under which a client has it.
#[derive(Default)]
struct PastLists(Mutex<VecDeque<(String, InstanceList)>>);

impl PastLists {
    fn add(&self, etag: &str, list: &InstanceList) {
        let mut lists = self.0.lock();
        lists.retain(|(known, _)| known != etag);
        lists.push_back((etag.to_owned(), list.clone()));
        if lists.len() > PAST {
            lists.pop_front();
        }
    }
}

impl ScopeSnapshot {
    pub(super) fn new(
        record: Option<ScopeRecord>,
        instances: InstanceList,
        before: Option<&Self>,
    ) -> Self {
        let replaced = before.map(|before| Arc::clone(&before.replaced));
        let past = before.map(|before| Arc::clone(&before.past));
        Self {
            record,
            counts: instances.counts(),
            instances,
            bodies: Default::default(),
            named: RwLock::default(),
            requested: Mutex::default(),
            replaced: replaced.unwrap_or_default(),
            past: past.unwrap_or_default(),
        }
    }

    /// Iterates over all instances, by address.
    pub fn iter(&self) -> impl Iterator<Item = &InstanceEntry> {
        self.instances.iter().map(|listed| &**listed)
    }

    /// Returns when an instance last changed or went online or offline.
    pub(crate) fn changed_at(&self) -> Option<DateTime<Utc>> {
        self.instances.changed_at()
    }

    /// Does the same for instances that outlive the snapshot.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Arc<InstanceEntry>> {
        self.instances.iter()
    }

    /// Iterates over the selected instances, by address.
    pub(crate) fn select(&self, selection: &Selection) -> impl Iterator<Item = &InstanceEntry> {
        self.iter()
            .filter(|listed| selection.selects(&listed.instance))
    }

    /// Returns a body that clients may have of this snapshot's list.
    pub(crate) fn noted(&self, body: Body) -> Body {
        self.past.add(body.etag(), &self.instances);
        body
    }

    /// Returns the body of a list, which `make` serialises on first use for a name.
    pub(crate) fn named_list(&self, name: String, make: impl FnOnce(&Self) -> Vec<u8>) -> Body {
        let mut requested = self.requested.lock();
        if let Some(known) = requested.get(&name) {
            return known.clone();
        }
        let body = self.noted(Body::new(make(self)));
        if requested.len() < KEPT {
            requested.insert(name, body.clone());
        }
        body
    }

    /// Returns the body of what changed since the list that had this entity tag, which `make`
    /// serialises on first use for a name. Returns `None` if that list is too old, or unknown.
    pub(crate) fn changes_since(
        &self,
        etag: &str,
        name: String,
        make: impl FnOnce(Vec<Difference<'_>>) -> Body,
    ) -> Option<Body> {
        // Requests for the same body wait for the request that makes it.
        let mut requested = self.requested.lock();
        if let Some(known) = requested.get(&name) {
            return Some(known.clone());
        }
        let lists = self.past.0.lock();
        let (_, earlier) = lists.iter().find(|(known, _)| known == etag)?;
        let earlier = earlier.clone();
        drop(lists);
        let body = make(self.instances.differences(&earlier));
        if requested.len() < KEPT {
            requested.insert(name, body.clone());
        }
        Some(body)
    }

    /// Returns the body of a list, which `make` serialises on first use.
    pub fn body(
        &self,
        which: InstanceFilter,
        stale: bool,
        make: impl FnOnce(&Self) -> Vec<u8>,
    ) -> &Body {
        self.bodies[2 * which as usize + usize::from(stale)]
            .get_or_init(|| self.noted(Body::new(make(self))))
    }

    /// Returns the body of this name, which `make` serialises on first use.
    pub(crate) fn named_body(
        &self,
        name: &'static str,
        make: impl FnOnce(&Self) -> Vec<u8>,
    ) -> Bytes {
        let find = |bodies: &Vec<(&str, Bytes)>| {
            let found = bodies.iter().find(|(known, _)| *known == name);
            found.map(|(_, body)| body.clone())
        };
        if let Some(known) = find(&self.named.read()) {
            return known;
        }
        let mut named = self.named.write();
        find(&named).unwrap_or_else(|| {
            let body = Bytes::from(make(self));
            named.push((name, body.clone()));
            body
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_body_is_serialised_once_for_all_who_ask() {
        let (view, made) = (ScopeSnapshot::default(), Cell::new(0));
        let ask = |which, stale| {
            let make = |_: &ScopeSnapshot| {
                made.set(made.get() + 1);
                b"{}".to_vec()
            };
            view.body(which, stale, make).bytes().as_ptr()
        };
        let first = ask(InstanceFilter::Available, false);
        assert!((0..1000).all(|_| ask(InstanceFilter::Available, false) == first));
        assert_eq!(made.get(), 1);
        assert_ne!(
            ask(InstanceFilter::Available, true),
            first,
            "it says that it may be old"
        );
        assert_ne!(ask(InstanceFilter::All, false), first);
        assert_eq!(made.get(), 3);
    }
}
