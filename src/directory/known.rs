//! What is remembered for heartbeats, so that they do not ask the registry store each time.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Profile;
use crate::model::{Instance, InstanceKey};

/// How long a heartbeat is taken without asking the store whether the instance is
/// still registered with the same weight and time to live.
const FRESH: Duration = Duration::from_secs(15);

/// What was not asked about for this long is dropped from memory.
const KEEP: Duration = Duration::from_secs(3600);

/// The least number of entries at which it is worth looking for some to drop.
const MIN_SWEEP: usize = 4096;

/// The profiles of instances that beat here.
#[derive(Default)]
pub(super) struct Known(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    by_key: HashMap<InstanceKey, Entry>,
    sweep_at: usize,
}

struct Entry {
    profile: Profile,
    read_at: Instant,
    /// Whether the store is asked at the next beat, however recently it was read.
    doubted: bool,
}

impl Entries {
    fn insert(&mut self, instance: &Instance, read_at: Instant) {
        let entry = Entry {
            profile: instance.into(),
            read_at,
            doubted: false,
        };
        self.by_key.insert(instance.key.clone(), entry);
        if self.by_key.len() >= self.sweep_at.max(MIN_SWEEP) {
            self.by_key
                .retain(|_, entry| read_at.duration_since(entry.read_at) < KEEP);
            self.sweep_at = 2 * self.by_key.len();
        }
    }

    fn is_newer(&self, key: &InstanceKey, asked_at: Instant) -> bool {
        let entry = self.by_key.get(key);
        entry.is_some_and(|entry| entry.read_at > asked_at)
    }
}

impl Known {
    /// What is remembered of each instance, and those of which it is not sure enough.
    pub(super) fn recall(&self, keys: &[InstanceKey]) -> (Vec<Option<Profile>>, Vec<InstanceKey>) {
        let now = Instant::now();
        let mut unsure = Vec::new();
        let entries = self.entries();
        let recall = |key: &InstanceKey| {
            let entry = entries.by_key.get(key);
            let sure = entry
                .is_some_and(|entry| !entry.doubted && now.duration_since(entry.read_at) < FRESH);
            if !sure {
                unsure.push(key.clone());
            }
            entry.map(|entry| entry.profile)
        };
        (keys.iter().map(recall).collect(), unsure)
    }

    /// Remembers an instance as it is now.
    pub(super) fn learn(&self, instance: &Instance) {
        self.entries().insert(instance, Instant::now());
    }

    /// Takes over what the store said of `keys`: those it `found`, and no others. What was
    /// learnt after it was asked is newer, and stays.
    pub(super) fn update(&self, keys: &[InstanceKey], found: &[Instance], asked_at: Instant) {
        let mut entries = self.entries();
        for key in keys {
            if !entries.is_newer(key, asked_at) {
                entries.by_key.remove(key);
            }
        }
        for instance in found {
            if !entries.is_newer(&instance.key, asked_at) {
                entries.insert(instance, asked_at);
            }
        }
    }

    /// Is no longer sure of these.
    pub(super) fn doubt(&self, keys: &[InstanceKey]) {
        let mut entries = self.entries();
        for key in keys {
            if let Some(entry) = entries.by_key.get_mut(key) {
                entry.doubted = true;
            }
        }
    }

    /// Forgets an instance.
    pub(super) fn forget(&self, key: &InstanceKey) {
        self.entries().by_key.remove(key);
    }

    /// No code that holds the lock can panic half-way, so a poisoned lock is whole.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
