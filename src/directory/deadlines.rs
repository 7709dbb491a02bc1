//! The deadlines of the leases that this replica renewed: one atomic number per instance.
//!
//! A renewal stores the deadline of its lease, at the same cost for any number of instances.
//! The sweep reads all deadlines in a row. A deadline that passed proves nothing; it says that
//! the lease store must be asked.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The number of deadlines that are allocated at once.
const CHUNK: usize = 4096;

/// The most chunks: enough for 16 million instances.
const CHUNKS: usize = 4096;

/// The position of an instance's deadline. After the removal of the instance the position is
/// used again with another generation, so that an old slot cannot touch the deadline of a new
/// instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    index: u32,
    generation: u16,
}

/// A deadline in one number: 16 bits for the generation of the slot, 48 bits for the
/// milliseconds since the process started; 0 is no deadline.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Packed(u64);

impl Packed {
    const MAX_MILLIS: u64 = (1 << 48) - 1;

    fn new(generation: u16, millis: u64) -> Self {
        Self(u64::from(generation) << 48 | millis.min(Self::MAX_MILLIS))
    }

    fn generation(self) -> u16 {
        (self.0 >> 48) as u16
    }

    fn millis(self) -> u64 {
        self.0 & Self::MAX_MILLIS
    }
}

/// The deadlines of all instances of the Directory. `T` is the owner of a deadline.
pub(crate) struct Deadlines<T> {
    begin: Instant,
    chunks: Box<[OnceLock<Box<[AtomicU64]>>]>,
    slots: Mutex<Slots<T>>,
}

struct Slots<T> {
    /// The owner of each position.
    owners: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            owners: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Default for Deadlines<T> {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
            slots: Mutex::default(),
        }
    }
}

impl<T: Clone> Deadlines<T> {
    /// Allocates a slot; returns `None` beyond 16 million instances.
    pub(super) fn take(&self) -> Option<Slot> {
        let mut slots = self.slots.lock();
        if let Some(index) = slots.free.pop() {
            let generation = Packed(self.at(index)?.load(Ordering::Acquire)).generation();
            return Some(Slot { index, generation });
        }
        let index = u32::try_from(slots.owners.len()).ok()?;
        let chunk = self.chunks.get(index as usize / CHUNK)?;
        chunk.get_or_init(|| (0..CHUNK).map(|_| AtomicU64::new(0)).collect());
        slots.owners.push(None);
        Some(Slot {
            index,
            generation: 0,
        })
    }

    /// Sets the owner of a slot.
    pub(super) fn own(&self, slot: Slot, owner: T) {
        if let Some(slot_deadline) = self.slots.lock().owners.get_mut(slot.index as usize) {
            *slot_deadline = Some(owner);
        }
    }

    /// Frees a slot. It has no effect from now on.
    pub(super) fn give_back(&self, slot: Slot) {
        let mut slots = self.slots.lock();
        let Some(slot_deadline) = self.at(slot.index) else {
            return;
        };
        let given = slot_deadline.fetch_update(Ordering::AcqRel, Ordering::Acquire, |packed| {
            let current = Packed(packed).generation() == slot.generation;
            current.then_some(Packed::new(slot.generation.wrapping_add(1), 0).0)
        });
        if given.is_ok() {
            slots.owners[slot.index as usize] = None;
            slots.free.push(slot.index);
        }
    }

    /// Sets the deadline of a lease, unless a later one is set.
    pub(crate) fn arm(&self, slot: Slot, deadline: Instant) {
        let armed = Packed::new(slot.generation, self.millis(deadline).max(1));
        let Some(slot_deadline) = self.at(slot.index) else {
            return;
        };
        // Fails if the slot belongs to another instance by now.
        let _ = slot_deadline.fetch_update(Ordering::AcqRel, Ordering::Acquire, |packed| {
            let packed = Packed(packed);
            let later = packed.millis() < armed.millis();
            (packed.generation() == slot.generation && later).then_some(armed.0)
        });
    }

    /// Returns the deadline, if one is set.
    pub(super) fn deadline(&self, slot: Slot) -> Option<Instant> {
        let packed = Packed(self.at(slot.index)?.load(Ordering::Acquire));
        let is_armed = packed.generation() == slot.generation && packed.millis() != 0;
        is_armed.then(|| self.begin + Duration::from_millis(packed.millis()))
    }

    /// Takes the deadlines that have passed, and returns their owners and times.
    pub(crate) fn take_passed(&self) -> Vec<(T, Instant)> {
        let now = self.millis(Instant::now());
        let mut passed = Vec::new();
        let chunks = self.chunks.iter().map_while(OnceLock::get);
        let all = chunks.flat_map(|chunk| chunk.iter());
        for (index, deadline) in all.enumerate() {
            let packed = Packed(deadline.load(Ordering::Relaxed));
            if packed.millis() == 0 || packed.millis() > now {
                continue;
            }
            // A renewal at this moment wins.
            let taken = deadline.compare_exchange(
                packed.0,
                Packed::new(packed.generation(), 0).0,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if taken.is_ok() {
                passed.push((index, packed));
            }
        }
        let slots = self.slots.lock();
        passed
            .into_iter()
            .filter_map(|(index, packed)| {
                // The slot may belong to another instance by now.
                let current = Packed(self.at(index as u32)?.load(Ordering::Acquire));
                if current.generation() != packed.generation() {
                    return None;
                }
                let owner = slots.owners.get(index)?.clone()?;
                Some((owner, self.begin + Duration::from_millis(packed.millis())))
            })
            .collect()
    }

    fn at(&self, index: u32) -> Option<&AtomicU64> {
        let index = index as usize;
        self.chunks.get(index / CHUNK)?.get()?.get(index % CHUNK)
    }

    fn millis(&self, at: Instant) -> u64 {
        millis(at.saturating_duration_since(self.begin))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(Packed::MAX_MILLIS)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const NONE: [usize; 0] = [];

    fn taken(deadlines: &Deadlines<usize>) -> Vec<usize> {
        let passed = deadlines.take_passed();
        passed.into_iter().map(|(owner, _)| owner).collect()
    }

    fn take(deadlines: &Deadlines<usize>, owner: usize) -> Slot {
        let slot = deadlines.take().unwrap();
        deadlines.own(slot, owner);
        slot
    }

    fn after(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_passed_is_taken_once_and_a_renewal_puts_it_off() {
        let deadlines = Deadlines::default();
        let (a, b) = (take(&deadlines, 0), take(&deadlines, 1));
        deadlines.arm(a, after(30));
        deadlines.arm(b, after(30));
        advance(Duration::from_secs(20)).await;
        assert_eq!(taken(&deadlines), NONE);
        deadlines.arm(b, after(30));
        advance(Duration::from_secs(11)).await;
        assert_eq!(taken(&deadlines), [0]);
        assert_eq!(taken(&deadlines), NONE);
        advance(Duration::from_secs(20)).await;
        assert_eq!(taken(&deadlines), [1]);
        // The longest TTL, and a deadline that is earlier than the present one.
        deadlines.arm(a, after(3600));
        deadlines.arm(a, after(5));
        advance(Duration::from_secs(3599)).await;
        assert_eq!(taken(&deadlines), NONE);
        advance(Duration::from_secs(1)).await;
        assert_eq!(taken(&deadlines), [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_slot_of_a_removed_instance_touches_no_other_deadline() {
        let deadlines = Deadlines::default();
        let old = take(&deadlines, 0);
        deadlines.arm(old, after(5));
        deadlines.give_back(old);
        let new = take(&deadlines, 1);
        assert_eq!(new.index, old.index, "the slot_deadline is used again");
        advance(Duration::from_secs(6)).await;
        assert_eq!(taken(&deadlines), NONE, "its deadline is gone");
        deadlines.arm(new, after(5));
        // A renewal that was in flight when the old instance was deregistered.
        deadlines.arm(old, after(3600));
        deadlines.give_back(old);
        advance(Duration::from_secs(5)).await;
        assert_eq!(taken(&deadlines), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn every_deadline_is_taken_once() {
        let deadlines = Deadlines::default();
        let count = 2 * CHUNK + 17;
        for i in 0..count {
            deadlines.arm(take(&deadlines, i), after(5));
        }
        advance(Duration::from_secs(5)).await;
        assert_eq!(taken(&deadlines), Vec::from_iter(0..count));
        assert_eq!(taken(&deadlines), NONE);
    }
}
