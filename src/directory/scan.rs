//! Searches through all instances, for the jobs.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::{Directory, InstanceEntry};
use crate::model::{Status, Ttl};

impl Directory {
    /// Returns all instances that are listed as online.
    pub(crate) fn online(&self) -> Vec<Arc<InstanceEntry>> {
        let scopes = self.maps.scopes.pin();
        let views = scopes.values().filter(|view| view.counts.online > 0);
        let listed = views.flat_map(|view| view.instances.iter());
        let online = listed.filter(|listed| listed.instance.presence.online);
        online.cloned().collect()
    }

    /// Returns whether the hold of an instance has ended by this time.
    pub(crate) fn has_ended_hold(&self, now: DateTime<Utc>) -> bool {
        let has_ended = |listed: &Arc<InstanceEntry>| {
            let hold = listed.instance.hold.as_ref();
            hold.is_some_and(|hold| hold.until.is_some_and(|until| until <= now))
        };
        let scopes = self.maps.scopes.pin();
        let views = scopes.values().filter(|view| view.counts.held > 0);
        views.flat_map(|view| view.instances.iter()).any(has_ended)
    }

    /// Returns whether an instance that is not held has been offline and unchanged since before this
    /// time, as `purge_offline_instances` says it.
    pub(crate) fn has_offline_since(&self, before: DateTime<Utc>) -> bool {
        let is_old = |listed: &Arc<InstanceEntry>| {
            let instance = &listed.instance;
            !instance.presence.online
                && instance.status != Status::Held
                && instance.changed_at() < before
        };
        let scopes = self.maps.scopes.pin();
        let views = scopes
            .values()
            .filter(|view| view.counts.online < view.counts.instances);
        views.flat_map(|view| view.instances.iter()).any(is_old)
    }

    /// Returns the online instances for which this replica has no timely deadline, because another
    /// replica renewed the lease or the TTL was shortened. `default_ttl` is for instances without a
    /// TTL of their own.
    pub(crate) fn unwatched(&self, default_ttl: Ttl) -> Vec<Arc<InstanceEntry>> {
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

    /// Returns a sample of the online instances, evenly distributed, of at most `looked` instances
    /// checked; all of them if there are no more.
    pub(crate) fn sample_online(&self, looked: usize) -> Vec<Arc<InstanceEntry>> {
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
}
