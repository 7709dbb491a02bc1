//! The instances of a scope by address, in parts, so that a change copies only the parts that
//! it touches.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use foldhash::HashSet;

use super::entry::{Counts, InstanceEntry};
use crate::model::Address;

/// The number of instances in a part after it was split; a part is split at twice this number.
const PART: usize = 32;

/// A change: the instance at an address, or `None` to remove it.
pub(super) type Edit = (Address, Option<Arc<InstanceEntry>>);

/// An instance before and after a change; `None` where it was not, or is not any more.
pub(crate) type Difference<'a> = (
    Option<&'a Arc<InstanceEntry>>,
    Option<&'a Arc<InstanceEntry>>,
);

/// Immutable list of instances by address. A clone shares the parts.
#[derive(Clone, Default)]
pub(crate) struct InstanceList {
    parts: Vec<Arc<Part>>,
}

/// At least one instance.
struct Part {
    instances: Box<[Arc<InstanceEntry>]>,
    counts: Counts,
    /// When one of them last changed or went online or offline.
    changed_at: Option<DateTime<Utc>>,
}

impl Part {
    fn new(instances: &[Arc<InstanceEntry>]) -> Arc<Self> {
        Arc::new(Self {
            instances: instances.into(),
            counts: instances.iter().map(|listed| Counts::of(listed)).sum(),
            changed_at: instances.iter().map(|it| it.instance.changed_at()).max(),
        })
    }

    /// Returns whether all its addresses are greater than `address`.
    fn is_behind(&self, address: &Address) -> bool {
        let first = self.instances.first();
        first.is_some_and(|first| first.instance.key.address > *address)
    }
}

impl InstanceList {
    /// Iterates over all instances, by address.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<InstanceEntry>> {
        self.parts.iter().flat_map(|part| part.instances.iter())
    }

    /// Returns the counts.
    pub(crate) fn counts(&self) -> Counts {
        self.parts.iter().map(|part| part.counts).sum()
    }

    /// Returns when an instance last changed or went online or offline.
    pub(super) fn changed_at(&self) -> Option<DateTime<Utc>> {
        self.parts.iter().filter_map(|part| part.changed_at).max()
    }

    /// Returns in what it differs from an earlier list, by address. Takes as long as there are parts,
    /// and instances in those that differ.
    pub(crate) fn differences<'a>(&'a self, earlier: &'a Self) -> Vec<Difference<'a>> {
        let of = |list: &Self| list.parts.iter().map(Arc::as_ptr).collect::<HashSet<_>>();
        let (before, now) = (of(earlier), of(self));
        let mut all: BTreeMap<&Address, Difference<'a>> = BTreeMap::new();
        for part in earlier
            .parts
            .iter()
            .filter(|part| !now.contains(&Arc::as_ptr(part)))
        {
            for listed in &part.instances {
                all.entry(&listed.instance.key.address).or_default().0 = Some(listed);
            }
        }
        for part in self
            .parts
            .iter()
            .filter(|part| !before.contains(&Arc::as_ptr(part)))
        {
            for listed in &part.instances {
                all.entry(&listed.instance.key.address).or_default().1 = Some(listed);
            }
        }
        let differs = |(before, now): &Difference<'_>| match (before, now) {
            (Some(before), Some(now)) => !Arc::ptr_eq(before, now),
            _ => true,
        };
        all.into_values().filter(differs).collect()
    }

    /// Returns the list after `edits`. Of several edits of one address the last wins.
    pub(super) fn edited(&self, mut edits: Vec<Edit>) -> Self {
        // The sort is stable, so the last edit of an address stays the last.
        edits.sort_by(|(a, _), (b, _)| a.cmp(b));
        edits.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                mem::swap(later, earlier);
            }
            same
        });
        let mut edited = Self {
            parts: Vec::with_capacity(self.parts.len() + 1),
        };
        let (mut rest, mut edits) = (self.parts.as_slice(), edits.into_iter().peekable());
        while let Some((address, _)) = edits.peek() {
            let (before, from) = rest.split_at(part_of(rest, address));
            edited.parts.extend_from_slice(before);
            let (part, after) = match from.split_first() {
                Some((part, after)) => (&*part.instances, after),
                None => (&[] as &[_], from),
            };
            let mut instances = Vec::with_capacity(part.len() + 1);
            let mut known = part;
            while let Some((address, edit)) = edits
                .next_if(|(address, _)| after.first().is_none_or(|next| next.is_behind(address)))
            {
                let earlier = |listed: &Arc<InstanceEntry>| listed.instance.key.address < address;
                let (before, from) = known.split_at(known.partition_point(earlier));
                instances.extend_from_slice(before);
                instances.extend(edit);
                known = match from.split_first() {
                    Some((same, after)) if same.instance.key.address == address => after,
                    _ => from,
                };
            }
            instances.extend_from_slice(known);
            edited.push(instances);
            rest = after;
        }
        edited.parts.extend_from_slice(rest);
        edited
    }

    /// Appends instances, merged with the last part if both are small.
    fn push(&mut self, mut instances: Vec<Arc<InstanceEntry>>) {
        if let Some(last) = self
            .parts
            .pop_if(|last| last.instances.len() + instances.len() <= PART)
        {
            instances.splice(..0, last.instances.iter().cloned());
        }
        let size = if instances.len() <= 2 * PART {
            2 * PART
        } else {
            PART
        };
        self.parts.extend(instances.chunks(size).map(Part::new));
    }
}

/// Returns the index of the part in which the address is, or would be.
fn part_of(parts: &[Arc<Part>], address: &Address) -> usize {
    parts
        .partition_point(|part| !part.is_behind(address))
        .saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Instance, InstanceId, InstanceKey, Presence, ScopeKind, Status};

    fn listed(address: &Address, online: bool) -> Arc<InstanceEntry> {
        let instance = Instance {
            id: InstanceId(1),
            key: InstanceKey {
                scope: ScopeKind::Service.with("orders".parse().unwrap()),
                address: address.clone(),
            },
            name: None,
            given_weight: None,
            given_metadata: Default::default(),
            ttl: None,
            status: Status::Enabled,
            hold: None,
            overrides: None,
            registered_by: None,
            presence: Presence {
                online,
                ..Presence::default()
            },
            registered_at: Default::default(),
            updated_at: Default::default(),
            revision: 1,
        };
        Arc::new(InstanceEntry {
            instance,
            suspect: false,
            slot: None,
        })
    }

    /// Random edits, many of which touch the same part or the same address.
    #[test]
    fn a_list_is_the_result_of_its_edits() {
        let (mut roster, mut expected) = (InstanceList::default(), BTreeMap::new());
        let mut random = 1_u32;
        let mut next = |below: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) % below
        };
        for round in 0..400 {
            // The list grows, then shrinks to nothing.
            let removed = if round < 200 { 20 } else { 90 };
            let edits: Vec<Edit> = (0..next(100))
                .map(|_| {
                    let address: Address = format!("host-{}:80", next(2000)).parse().unwrap();
                    let edit = listed(&address, next(2) == 0);
                    (address, (next(100) >= removed).then_some(edit))
                })
                .collect();
            for (address, edit) in &edits {
                match edit {
                    Some(edit) => expected.insert(address.clone(), Arc::clone(edit)),
                    None => expected.remove(address),
                };
            }
            let before = roster;
            roster = before.edited(edits);
            let mut patched: BTreeMap<_, _> = before
                .iter()
                .map(|one| (one.instance.key.address.clone(), one))
                .collect();
            for (gone, new) in roster.differences(&before) {
                assert!(!matches!((gone, new), (Some(gone), Some(new)) if Arc::ptr_eq(gone, new)));
                let address = gone.or(new).unwrap().instance.key.address.clone();
                assert_eq!(
                    patched.remove(&address).map(Arc::as_ptr),
                    gone.map(Arc::as_ptr)
                );
                patched.extend(new.map(|new| (address, new)));
            }
            let patched = patched.values().map(|one| Arc::as_ptr(one));
            assert!(patched.eq(roster.iter().map(Arc::as_ptr)), "{round}");
            let same = |(a, b): (&Arc<InstanceEntry>, &Arc<InstanceEntry>)| Arc::ptr_eq(a, b);
            assert!(roster.iter().zip(expected.values()).all(same), "{round}");
            assert_eq!(roster.iter().count(), expected.len());
            let online = expected.values().filter(|one| one.instance.presence.online);
            let counts = roster.counts();
            assert_eq!(
                (counts.instances, counts.online),
                (expected.len(), online.count())
            );
            assert!(
                roster
                    .parts
                    .iter()
                    .all(|part| part.instances.len() <= 2 * PART)
            );
            assert!(roster.parts.len() <= 2 + 3 * expected.len() / PART);
        }
        let all: Vec<Edit> = expected
            .keys()
            .map(|address| (address.clone(), None))
            .collect();
        assert!(!all.is_empty());
        assert!(roster.edited(all).parts.is_empty());
    }

    #[test]
    fn an_edit_leaves_the_parts_that_it_does_not_touch() {
        let address = |i: u32| -> Address { format!("host-{i:05}:80").parse().unwrap() };
        let edit = |i: u32| (address(i), Some(listed(&address(i), true)));
        let roster = InstanceList::default().edited((0..6400).map(edit).collect());
        let edited = roster.edited(vec![edit(3000)]);
        let both = roster.parts.iter().zip(&edited.parts);
        let copied = both.filter(|(before, after)| !Arc::ptr_eq(before, after));
        assert_eq!((roster.parts.len(), copied.count()), (200, 1));
    }
}
