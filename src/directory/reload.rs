//! Reads the whole registry store, at the start and after events were lost, and applies what differs.

use std::borrow::Cow;
use std::collections::HashSet;

use super::Directory;
use super::change::Change;
use super::entry::InstanceEntry;
use super::state::Drift;
use crate::model::{Instance, InstanceId, InstanceKey, ScopeId, ScopeRecord};
use crate::store::StoreError;

/// The number of instances in one read of the store.
const PAGE: u16 = 4000;

/// During the first load, the number of instances that are collected before they are applied.
const CHANGED: usize = 50_000;

impl Directory {
    /// Reads the whole store, page by page, and applies the differences.
    pub(crate) async fn reload(&self) -> Result<Drift, StoreError> {
        // On the first load no instance is known, so none can be missing in the store.
        let is_first = self.version() == 0;
        self.state.lock().begin_reading();
        let read = self.read_store(is_first).await;
        let left = self.state.lock().end_reading();
        let (scopes, mut seen, mut differences) = read?;
        seen.extend(left.instances);
        seen.sort_unstable();
        self.change(|change| {
            change.apply_scopes(scopes, &left.scopes, &mut differences);
            if !is_first {
                change.remove_unseen(&seen, &mut differences);
            }
        });
        Ok(differences)
    }

    /// Applies different instances; returns all scopes, and the IDs of all instances unless it is the
    /// first load.
    async fn read_store(
        &self,
        is_first: bool,
    ) -> Result<(Vec<ScopeRecord>, Vec<InstanceId>, Drift), StoreError> {
        let scopes = self.reader.list_scopes().await?;
        let (mut seen, mut changed) = (Vec::new(), Vec::new());
        let mut differences = Drift::default();
        let mut page = self.reader.list_instances(InstanceId(0), PAGE).await?;
        loop {
            let last = page.last_id();
            let next = async {
                match last {
                    Some(last) => self.reader.list_instances(last, PAGE).await,
                    None => Ok(Vec::new().into()),
                }
            };
            let take = async {
                for instance in page {
                    let instance = instance?;
                    if !is_first {
                        seen.push(instance.id);
                    }
                    if is_first || self.differs(&instance) {
                        changed.push(instance);
                    }
                }
                // The cost of a change is proportional to the size of the scopes that it touches.
                // After the first load, differences are applied together or not at all, because
                // they are published.
                if (is_first && changed.len() >= CHANGED) || last.is_none() {
                    self.change(|change| change.apply_rows(changed.drain(..), &mut differences));
                }
                Ok(())
            };
            // The store reads the next page while this one is taken.
            let (next, taken) = tokio::join!(next, take);
            taken?;
            if last.is_none() {
                return Ok((scopes, seen, differences));
            }
            page = next?;
        }
    }

    fn differs(&self, instance: &Instance) -> bool {
        let known = self.maps.instances.pin();
        let known = known.get(&instance.key);
        known.is_none_or(|known| known.instance != *instance)
    }
}

impl Change<'_> {
    /// Applies instances that were read from the store.
    pub(super) fn apply_rows(
        &mut self,
        changed: impl IntoIterator<Item = Instance>,
        differences: &mut Drift,
    ) {
        for instance in changed {
            let mut known = self.known(&instance.key);
            let same = known.iter().find(|it| it.instance.id == instance.id);
            let was_online = same.map(|it| it.instance.presence.online);
            if self.is_restored(known.as_deref(), &instance) {
                differences.restored = true;
                self.state.removed_instances.forget(instance.id);
                if let Some(known) = known.take() {
                    self.unlist(&instance.key, known.instance.id);
                }
            }
            match was_online {
                Some(online) if online != instance.presence.online => {
                    differences.transitions.push(instance.clone());
                }
                _ => differences.others += 1,
            }
            self.put(known, Cow::Owned(instance));
        }
    }

    /// Returns whether `read` shows that the store went back to an earlier state than `known`, or
    /// continued from one: then a revision may have another content. A row that an event changed
    /// during the load may be later than what was read.
    fn is_restored(&self, known: Option<&InstanceEntry>, read: &Instance) -> bool {
        let touched = |id: InstanceId| {
            let reading = self.state.reading.as_ref();
            reading.is_some_and(|reading| reading.instances.contains(&id))
        };
        let is_older = known.is_some_and(|InstanceEntry { instance, .. }| {
            let known = (instance.id, instance.revision);
            let is_other = known == (read.id, read.revision) && instance != read;
            (known > (read.id, read.revision) || is_other) && !touched(instance.id)
        });
        let was_removed = self.state.removed_instances.ids.contains(&read.id);
        (is_older || was_removed) && !touched(read.id)
    }

    /// Applies all scopes that were read.
    pub(super) fn apply_scopes(
        &mut self,
        scopes: Vec<ScopeRecord>,
        touched_scopes: &HashSet<ScopeId>,
        differences: &mut Drift,
    ) {
        let ids: HashSet<ScopeId> = scopes.iter().map(|record| record.id).collect();
        let removed: Vec<ScopeRecord> = {
            let known = self.maps.scopes.pin();
            let records = known.values().filter_map(|view| view.record.clone());
            records
                .filter(|known| !ids.contains(&known.id) && !touched_scopes.contains(&known.id))
                .collect()
        };
        differences.others += removed.len();
        for record in removed {
            self.unlist_scope(&record);
        }
        for record in scopes {
            let mut known = self.record(&record.scope);
            let touched = |id| touched_scopes.contains(&id);
            let is_older = known.as_ref().is_some_and(|known| {
                (known.id, known.revision) > (record.id, record.revision) && !touched(known.id)
            });
            let was_removed = self.state.removed_scopes.ids.contains(&record.id);
            if (is_older || was_removed) && !touched(record.id) {
                differences.restored = true;
                self.state.removed_scopes.forget(record.id);
                if let Some(known) = known.take() {
                    self.unlist_scope(&known);
                }
            }
            let same =
                |known: ScopeRecord| (known.id, known.revision) == (record.id, record.revision);
            differences.others += usize::from(!known.is_some_and(same));
            self.declare(record);
        }
    }

    /// Removes the instances that were neither read nor changed by events during the load: `seen` has
    /// the IDs of the others, sorted.
    pub(super) fn remove_unseen(&mut self, seen: &[InstanceId], differences: &mut Drift) {
        let removed: Vec<(InstanceKey, InstanceId)> = {
            let known = self.maps.instances.pin();
            let unseen = known
                .iter()
                .filter(|(_, listed)| seen.binary_search(&listed.instance.id).is_err());
            unseen
                .map(|(key, listed)| (key.clone(), listed.instance.id))
                .collect()
        };
        differences.others += removed.len();
        for (key, id) in removed {
            self.unlist(&key, id);
        }
    }
}
