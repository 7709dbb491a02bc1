//! The replicas that run, as they say in the registry store.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use crate::directory::Directory;
use crate::model::ReplicaState;
use crate::store::Attestation;

/// The age at which what is known about the others is too old: they may have ended.
const MAX_AGE: Duration = Duration::from_secs(5);

/// What this replica says about itself, besides what its Directory knows.
pub(crate) type OwnState = dyn Fn(&Directory) -> ReplicaState + Send + Sync;

/// The replicas that run.
pub(crate) struct Replicas {
    directory: Arc<Directory>,
    describe: Box<OwnState>,
    others: Mutex<(Instant, Vec<Attestation>)>,
}

impl Replicas {
    /// This replica alone, until the others are known.
    pub(crate) fn new(directory: Arc<Directory>, describe: Box<OwnState>) -> Self {
        Self {
            directory,
            describe,
            others: Mutex::new((Instant::now(), Vec::new())),
        }
    }

    /// Returns what this replica says about itself.
    pub(crate) fn own(&self) -> ReplicaState {
        (self.describe)(&self.directory)
    }

    /// Records what the other replicas said.
    pub(super) fn set_others(&self, others: Vec<Attestation>) {
        *self.others.lock() = (Instant::now(), others);
    }

    /// Returns what the other running replicas said; none if that is not known.
    pub(crate) fn others(&self) -> Vec<Attestation> {
        let others = self.others.lock();
        match others.0.elapsed() <= MAX_AGE {
            true => others.1.clone(),
            false => Vec::new(),
        }
    }
}
