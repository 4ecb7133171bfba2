//! Which slots of the store are taken.
//!
//! The lowest free slot is always the next one taken, so that the store stays small and dense. A
//! slot's number has 28 bits: a pager holds a terabyte of pages at most.

use super::sparse::SparseSet;
use crate::store::Slot;

/// One more than the highest slot.
pub(super) const SLOTS_END: u32 = (u32::MAX >> 4) - 1;

/// Hands out slots, lowest first, in constant time.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Free slots below `next`.
    free: SparseSet,
    /// Never taken so far.
    next: u32,
    /// Never to be used again.
    bad: u64,
}

impl Slots {
    /// The lowest free slot; `None` when all 2^28 - 2 are taken.
    pub(super) fn take(&mut self) -> Option<Slot> {
        if let Some((id, ())) = self.free.next(0) {
            self.free.remove(id);
            return u32::try_from(id).ok().map(Slot);
        }
        let slot = Slot(self.next);
        if slot.0 >= SLOTS_END {
            return None;
        }
        self.next += 1;
        // Slots are given back while a fault is handled, where nothing may be allocated.
        self.free.reserve(slot.0.into());
        Some(slot)
    }

    /// Takes a slot back.
    pub(super) fn give(&mut self, slot: Slot) {
        self.free.insert(slot.0.into(), ());
    }

    /// A slot that could not be written is taken out of use, or it would be the next one again.
    pub(super) fn retire(&mut self, _slot: Slot) {
        self.bad += 1;
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> u64 {
        u64::from(self.next) - self.free.len() - self.bad
    }

    /// Memory in use, in bytes.
    pub(super) fn table_bytes(&self) -> usize {
        self.free.table_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_last_slot_there_is_none() {
        let mut slots = Slots {
            next: SLOTS_END - 1,
            ..Slots::default()
        };
        let last = slots.take().unwrap();
        assert_eq!(
            (last, slots.take(), slots.take()),
            (Slot(SLOTS_END - 1), None, None)
        );
        slots.give(last);
        assert_eq!(slots.take(), Some(last));
    }

    #[test]
    fn the_lowest_free_slot_is_taken_first() {
        let mut slots = Slots::default();
        let taken: Vec<_> = (0..10).filter_map(|_| slots.take()).collect();
        assert_eq!(taken, (0..10).map(Slot).collect::<Vec<_>>());
        slots.give(Slot(7));
        slots.give(Slot(3));
        assert_eq!(slots.taken(), 8);
        assert_eq!(
            [slots.take(), slots.take(), slots.take()],
            [3, 7, 10].map(|n| Some(Slot(n)))
        );
    }

    #[test]
    fn a_retired_slot_never_comes_back() {
        let mut slots = Slots::default();
        let bad = slots.take().unwrap();
        slots.retire(bad);
        assert_eq!(slots.taken(), 0);
        assert_eq!(slots.take(), Some(Slot(1)));
    }
}
