//! An instance in the Directory, and the numbers of instances.

use std::iter::Sum;
use std::ops::Add;

use super::deadlines::Slot;
use crate::model::{Instance, Status};

/// An instance in the Directory.
#[derive(Debug)]
pub struct InstanceEntry {
    /// The recorded state.
    pub instance: Instance,
    /// Whether protection mode keeps the instance listed without a lease.
    pub(crate) suspect: bool,
    pub(super) slot: Option<Slot>,
}

impl InstanceEntry {
    /// The slot of its deadline; `None` beyond 16 million instances.
    pub(crate) fn slot(&self) -> Option<Slot> {
        self.slot
    }
}

/// The numbers of instances of a scope.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Registered.
    pub(crate) instances: usize,
    /// Online instances.
    pub(crate) online: usize,
    /// Online and enabled instances.
    pub(crate) available: usize,
    /// Online instances that are suspects.
    pub(crate) suspect: usize,
    /// Instances that an operator holds.
    pub(crate) held: usize,
    /// Disabled instances.
    pub(crate) disabled: usize,
}

impl Counts {
    pub(super) fn of(listed: &InstanceEntry) -> Self {
        Self {
            instances: 1,
            online: listed.instance.presence.online.into(),
            available: listed.instance.available().into(),
            suspect: listed.suspect.into(),
            held: (listed.instance.status == Status::Held).into(),
            disabled: (listed.instance.status == Status::Disabled).into(),
        }
    }
}

impl Counts {
    /// Returns the counts with the names of their states in metrics.
    pub(crate) fn by_state(self) -> [(&'static str, usize); 5] {
        [
            ("registered", self.instances),
            ("online", self.online),
            ("available", self.available),
            ("suspect", self.suspect),
            ("held", self.held),
        ]
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            instances: self.instances + other.instances,
            online: self.online + other.online,
            available: self.available + other.available,
            suspect: self.suspect + other.suspect,
            held: self.held + other.held,
            disabled: self.disabled + other.disabled,
        }
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Add::add)
    }
}
