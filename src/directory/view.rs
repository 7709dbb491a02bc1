//! A scope as it is shown: a picture that never changes, replaced by the next.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::Notify;

use super::deadlines::Slot;
use crate::model::{Address, Instance, ScopeRecord};

/// An instance as the Directory has it.
#[derive(Debug)]
pub struct Listed {
    /// What is recorded.
    pub instance: Instance,
    /// Whether its lease is gone, and it is not believed yet.
    pub suspect: bool,
    pub(super) slot: Option<Slot>,
}

impl Listed {
    /// Where its deadline is; `None` beyond 16 million instances.
    pub fn slot(&self) -> Option<Slot> {
        self.slot
    }
}

/// How many instances a scope has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Registered.
    pub instances: usize,
    /// Online.
    pub online: usize,
    /// Online and enabled.
    pub available: usize,
    /// Online, and suspect.
    pub suspect: usize,
}

impl Counts {
    fn of(listed: &[Arc<Listed>]) -> Self {
        let mut counts = Self::default();
        for Listed {
            instance, suspect, ..
        } in listed.iter().map(|listed| &**listed)
        {
            counts.instances += 1;
            counts.online += usize::from(instance.presence.online);
            counts.available += usize::from(instance.available());
            counts.suspect += usize::from(*suspect);
        }
        counts
    }
}

/// Which instances of a scope are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    All,
    /// Those that are online.
    Online,
    /// Those that may be sent traffic.
    Available,
}

/// A list of instances as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// The body of the answer.
    pub bytes: Bytes,
    /// Says what is in it, wherever it was made: an entity tag, quotes included.
    pub etag: String,
}

impl Body {
    fn new(bytes: Vec<u8>) -> Self {
        let half = |seed: u8| {
            let mut hasher = DefaultHasher::new();
            (seed, &bytes).hash(&mut hasher);
            hasher.finish()
        };
        Self {
            etag: format!("\"{:016x}{:016x}\"", half(0), half(1)),
            bytes: bytes.into(),
        }
    }
}

/// A picture of one scope.
#[derive(Default)]
pub struct ScopeView {
    /// What was declared; `None` for a moment, where an instance was heard of first.
    pub record: Option<ScopeRecord>,
    /// Its instances, by address.
    pub instances: Box<[Arc<Listed>]>,
    /// How many they are.
    pub counts: Counts,
    /// The bodies that were asked for, made once: for each of [`Which`], fresh and stale.
    bodies: [OnceLock<Body>; 6],
    /// Tells those who wait for another picture, and is handed on to that one.
    pub(super) replaced: Arc<Notify>,
}

impl ScopeView {
    pub(super) fn new(
        record: Option<ScopeRecord>,
        instances: Box<[Arc<Listed>]>,
        replaced: Arc<Notify>,
    ) -> Self {
        Self {
            record,
            counts: Counts::of(&instances),
            instances,
            bodies: Default::default(),
            replaced,
        }
    }

    /// One instance.
    pub fn find(&self, address: &Address) -> Option<&Arc<Listed>> {
        let by_address = |listed: &Arc<Listed>| listed.instance.key.address.cmp(address);
        let index = self.instances.binary_search_by(by_address).ok()?;
        self.instances.get(index)
    }

    /// Those that are asked for.
    pub fn list(&self, which: Which) -> impl Iterator<Item = &Listed> {
        let instances = self.instances.iter().map(|listed| &**listed);
        instances.filter(move |listed| match which {
            Which::All => true,
            Which::Online => listed.instance.presence.online,
            Which::Available => listed.instance.available(),
        })
    }

    /// The body of an answer, which `make` makes for the first who asks.
    pub fn body(&self, which: Which, stale: bool, make: impl FnOnce(&Self) -> Vec<u8>) -> &Body {
        self.bodies[2 * which as usize + usize::from(stale)].get_or_init(|| Body::new(make(self)))
    }
}
