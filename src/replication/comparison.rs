//! The comparison of the Directory with the registry store.

use std::time::Duration;

use tokio::time::Instant;

use crate::directory::{Directory, Drift};
use crate::metrics::Gauge;
use crate::store::{RegistryReader, StoreError};

/// The time between comparisons of the Directory with the store.
const COMPARE: Duration = Duration::from_secs(15);

/// The time between a difference and the comparison that confirms it: an event may be on its
/// way.
const CONFIRM: Duration = Duration::from_secs(1);

/// The time after which the store is read again if changes never pause long enough for a
/// comparison.
const FULL_RELOAD: Duration = Duration::from_secs(600);

/// Compares the Directory with the store from time to time.
pub(super) struct Comparison {
    due: Instant,
    differed: bool,
    equal_at: Instant,
}

impl Comparison {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            due: now + COMPARE,
            differed: false,
            equal_at: now,
        }
    }

    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.due
    }

    /// Compares, and returns the differences if they are certain and were applied.
    pub(super) async fn compare(
        &mut self,
        directory: &Directory,
        reader: &dyn RegistryReader,
        up: &Gauge,
    ) -> Option<Drift> {
        let compared = compare(directory, reader).await;
        // A store that answers reads may refuse writes.
        let answers = compared.is_ok() && reader.ping().await.is_ok();
        up.set(answers.into());
        let now = Instant::now();
        self.due = now + COMPARE;
        let Ok(compared) = compared else { return None };
        if compared == Compared::Equal {
            self.equal_at = now;
        }
        let differs = compared == Compared::Differs;
        let sure = differs && std::mem::replace(&mut self.differed, differs);
        if !sure && now.duration_since(self.equal_at) < FULL_RELOAD {
            if differs {
                self.due = now + CONFIRM;
            } else {
                self.differed = false;
            }
            return None;
        }
        self.differed = false;
        let differences = directory.reload().await.ok()?;
        self.equal_at = now;
        (differences != Drift::default()).then_some(differences)
    }
}

/// The result of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compared {
    Equal,
    Differs,
    /// The Directory changed during the comparison.
    Unknown,
}

pub(super) async fn compare(
    directory: &Directory,
    reader: &dyn RegistryReader,
) -> Result<Compared, StoreError> {
    let before = directory.digest();
    let stored = reader.digest().await?;
    Ok(match directory.digest() == before {
        _ if stored == before => Compared::Equal,
        true => Compared::Differs,
        false => Compared::Unknown,
    })
}
