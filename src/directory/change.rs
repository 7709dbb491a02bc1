//! A change of the Directory, by IDs and revisions.

use std::borrow::Cow;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use tokio::sync::Notify;

use super::deadlines::Deadlines;
use super::entry::InstanceEntry;
use super::instance_list::{Edit, InstanceList};
use super::recent::RecentChanges;
use super::snapshot::ScopeSnapshot;
use crate::model::{
    EventKind, Instance, InstanceId, InstanceKey, Scope, ScopeId, ScopeKind, ScopeRecord,
};
use crate::store::Digest;

use super::state::{Applied, Maps, State};

/// A change of the Directory in progress.
pub(super) struct Change<'a> {
    pub(super) maps: &'a Maps,
    pub(super) state: &'a mut State,
    deadlines: &'a Deadlines<Arc<InstanceEntry>>,
    recent: Option<&'a mut RecentChanges<InstanceEntry>>,
    edits: HashMap<Scope, Edits>,
    applied: Applied,
}

/// The change of one scope.
#[derive(Default)]
struct Edits {
    /// `Some(None)` if the scope was removed.
    record: Option<Option<ScopeRecord>>,
    /// In the order in which they were made: the last edit of an instance wins.
    instances: Vec<Edit>,
}

impl<'a> Change<'a> {
    pub(super) fn begin(
        maps: &'a Maps,
        state: &'a mut State,
        deadlines: &'a Deadlines<Arc<InstanceEntry>>,
        recent: Option<&'a mut RecentChanges<InstanceEntry>>,
    ) -> Self {
        Self {
            maps,
            state,
            deadlines,
            recent,
            edits: HashMap::new(),
            applied: Applied::default(),
        }
    }

    pub(super) fn apply(&mut self, event: &EventKind) {
        match event {
            EventKind::InstanceDeregistered(instance) => self.remove(&instance.key, instance.id),
            EventKind::ScopeDeclared(record) => self.declare(record.clone()),
            EventKind::ScopeRemoved(record) => self.undeclare(&record.scope, record.id),
            event => {
                if let Some(instance) = event.instance() {
                    if let Some(reading) = &mut self.state.reading {
                        reading.instances.insert(instance.id);
                    }
                    self.put(self.known(&instance.key), Cow::Borrowed(instance));
                }
            }
        }
    }

    /// Takes a later version of an instance, which is copied only if it is one: most events of a
    /// replica are about its own commits. `before` is what is known of its key.
    pub(super) fn put(&mut self, before: Option<Arc<InstanceEntry>>, instance: Cow<'_, Instance>) {
        if self.state.removed_instances.ids.contains(&instance.id) {
            return;
        }
        if let Some(before) = &before {
            let known = &before.instance;
            if (known.id, known.revision) >= (instance.id, instance.revision) {
                return;
            }
            if known.id != instance.id {
                let id = known.id;
                self.remove(&instance.key, id);
            }
        }
        let before = before.filter(|before| before.instance.id == instance.id);
        let mut instance = instance.into_owned();
        // Share texts that are in memory already.
        match &before {
            Some(before) => instance.key = before.instance.key.clone(),
            None => instance.key.scope = self.known_scope(instance.key.scope),
        }
        let registrants = &mut self.state.registrants;
        instance.registered_by = instance.registered_by.map(|by| registrants.share(by));
        let slot = match &before {
            Some(before) => before.slot,
            None => self.deadlines.take(),
        };
        // Keep the suspect flag for the same lease; clear it for a newer one.
        let suspect = before
            .as_ref()
            .is_some_and(|before| before.suspect && before.instance.presence == instance.presence);
        self.set(
            before,
            InstanceEntry {
                instance,
                suspect,
                slot,
            },
        );
    }

    pub(super) fn known(&self, key: &InstanceKey) -> Option<Arc<InstanceEntry>> {
        self.maps.instances.pin().get(key).cloned()
    }

    /// Replaces `before` by `listed`, which has the same ID.
    fn set(&mut self, before: Option<Arc<InstanceEntry>>, listed: InstanceEntry) {
        let instance = &listed.instance;
        let (key, available) = (instance.key.clone(), instance.available());
        let was_available = before
            .as_ref()
            .is_some_and(|before| before.instance.available());
        let term_before = before
            .as_ref()
            .map_or(0, |before| Digest::term(&before.instance));
        let digest = &mut self.state.digest;
        digest.instances += i64::from(before.is_none());
        digest.instance_sum += Digest::term(instance) - term_before;
        self.applied.availability |=
            key.scope.kind == ScopeKind::Service && available != was_available;
        let metadata_before = before
            .as_ref()
            .map(|before| &before.instance.given_metadata);
        let ids = &self.maps.ids;
        ids.replace(&key, metadata_before, Some(&instance.given_metadata));
        let listed = Arc::new(listed);
        if let Some(recent) = &mut self.recent {
            // Another process may have the address, under another ID.
            let is_other = metadata_before.is_some_and(|it| *it != listed.instance.given_metadata);
            before
                .iter()
                .filter(|_| is_other)
                .for_each(|it| recent.add(it));
            recent.add(&listed);
        }
        if let Some(slot) = listed.slot {
            self.deadlines.own(slot, Arc::clone(&listed));
        }
        self.maps
            .instances
            .pin()
            .insert(key.clone(), Arc::clone(&listed));
        let edits = self.edits.entry(key.scope).or_default();
        edits.instances.push((key.address, Some(listed)));
    }

    /// Returns the scope that is in memory already, if there is one, to share its text.
    fn known_scope(&self, scope: Scope) -> Scope {
        if let Some((known, _)) = self.edits.get_key_value(&scope) {
            return known.clone();
        }
        let scopes = self.maps.scopes.pin();
        let known = scopes.get_key_value(&scope).map(|(known, _)| known.clone());
        known.unwrap_or(scope)
    }

    fn remove(&mut self, key: &InstanceKey, id: InstanceId) {
        self.state.removed_instances.insert(id);
        if let Some(reading) = &mut self.state.reading {
            reading.instances.insert(id);
        }
        self.unlist(key, id);
    }

    /// Removes an instance whose ID the store may give to another one.
    pub(super) fn unlist(&mut self, key: &InstanceKey, id: InstanceId) {
        let instances = self.maps.instances.pin();
        let Some(before) = instances.get(key).filter(|before| before.instance.id == id) else {
            return;
        };
        let instance = &before.instance;
        if let Some(recent) = &mut self.recent {
            recent.add(before);
        }
        if let Some(slot) = before.slot {
            self.deadlines.give_back(slot);
        }
        self.applied.availability |= key.scope.kind == ScopeKind::Service && instance.available();
        let digest = &mut self.state.digest;
        digest.instances -= 1;
        digest.instance_sum -= Digest::term(instance);
        self.maps
            .ids
            .replace(key, Some(&instance.given_metadata), None);
        instances.remove(key);
        let edits = self.edits.entry(key.scope.clone()).or_default();
        edits.instances.push((key.address.clone(), None));
    }

    pub(super) fn set_suspect(&mut self, key: &InstanceKey, suspect: bool) {
        let Some(before) = self.known(key) else {
            return;
        };
        if before.suspect != suspect && before.instance.presence.online {
            let listed = InstanceEntry {
                instance: before.instance.clone(),
                suspect,
                slot: before.slot,
            };
            self.set(Some(before), listed);
        }
    }

    /// Returns the record of a scope, including the edits of this change.
    pub(super) fn record(&self, scope: &Scope) -> Option<ScopeRecord> {
        match self.edits.get(scope).and_then(|edits| edits.record.clone()) {
            Some(record) => record,
            None => self.maps.scopes.pin().get(scope)?.record.clone(),
        }
    }

    pub(super) fn declare(&mut self, record: ScopeRecord) {
        if let Some(reading) = &mut self.state.reading {
            reading.scopes.insert(record.id);
        }
        if self.state.removed_scopes.ids.contains(&record.id) {
            return;
        }
        match self.record(&record.scope) {
            Some(known) if (known.id, known.revision) >= (record.id, record.revision) => return,
            Some(known) if known.id == record.id => self.count_scope(&known, -1),
            Some(known) => self.undeclare(&known.scope, known.id),
            None => {}
        }
        self.count_scope(&record, 1);
        let edits = self.edits.entry(record.scope.clone()).or_default();
        edits.record = Some(Some(record));
    }

    fn undeclare(&mut self, scope: &Scope, id: ScopeId) {
        self.state.removed_scopes.insert(id);
        if let Some(reading) = &mut self.state.reading {
            reading.scopes.insert(id);
        }
        if let Some(known) = self.record(scope).filter(|known| known.id == id) {
            self.unlist_scope(&known);
        }
    }

    /// Removes a scope whose ID the store may give to another one.
    pub(super) fn unlist_scope(&mut self, known: &ScopeRecord) {
        self.count_scope(known, -1);
        self.edits.entry(known.scope.clone()).or_default().record = Some(None);
    }

    /// Adds a scope to the digest, or subtracts it.
    fn count_scope(&mut self, record: &ScopeRecord, sign: i64) {
        let digest = &mut self.state.digest;
        digest.scopes += sign;
        let sum = record.id.0.wrapping_add(record.revision);
        digest.scope_sum = digest.scope_sum.wrapping_add(sum.wrapping_mul(sign));
    }

    /// Replaces the snapshots of the changed scopes, and returns the waiters to wake.
    pub(super) fn end(mut self) -> (Applied, Vec<Arc<Notify>>) {
        let (scopes, no_instances) = (self.maps.scopes.pin(), InstanceList::default());
        let mut replaced = Vec::with_capacity(self.edits.len());
        for (scope, edits) in self.edits {
            let before = scopes.get(&scope);
            let record = match edits.record {
                Some(record) => record,
                None => before.and_then(|view| view.record.clone()),
            };
            let known = before.map_or(&no_instances, |snapshot| &snapshot.instances);
            let instances = known.edited(edits.instances);
            let declared = |view: &Arc<ScopeSnapshot>| view.record.is_some();
            self.applied.scopes |=
                before.is_none() || before.is_some_and(declared) != record.is_some();
            let tally = self.maps.tally(scope.kind);
            if record.is_none() && instances.counts().instances == 0 {
                replaced.extend(before.map(|view| Arc::clone(&view.replaced)));
                tally.replace(before.map(|view| &**view), None);
                self.maps.fold(&scope, false);
                scopes.remove(&scope);
            } else {
                let view = ScopeSnapshot::new(record, instances, before.map(|view| &**view));
                replaced.push(Arc::clone(&view.replaced));
                tally.replace(before.map(|view| &**view), Some(&view));
                if before.is_none() {
                    self.maps.fold(&scope, true);
                }
                scopes.insert(scope, Arc::new(view));
            }
        }
        (self.applied, replaced)
    }
}
