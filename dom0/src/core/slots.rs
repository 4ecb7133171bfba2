//! Which slots of the store are taken, and by which pages.
//!
//! The lowest free slot is always the next one taken, so that the store stays small and dense. A
//! frame number and a slot are never confused and neither has a value that means "none": gfn 0 and
//! slot 0 are as good as any.

use p2m_paging::Gfn;

use super::sparse::{SparseMap, SparseSet};
use crate::store::Slot;

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
    /// The lowest free slot; `None` when all 2^32 - 1 are taken.
    pub(super) fn take(&mut self) -> Option<Slot> {
        if let Some((id, ())) = self.free.next(0) {
            self.free.remove(id);
            return u32::try_from(id).ok().map(Slot);
        }
        let slot = Slot(self.next);
        self.next = self.next.checked_add(1)?;
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

/// The pages that are out, and where each one's copy lies.
#[derive(Debug, Default)]
pub(super) struct Homes {
    slots: SparseMap<u32>,
}

impl Homes {
    /// How many pages are out.
    pub(super) fn len(&self) -> u64 {
        self.slots.len()
    }

    /// Whether this one is.
    pub(super) fn contains(&self, gfn: Gfn) -> bool {
        self.slots.contains(gfn.get())
    }

    /// Where its copy lies, if it is out.
    pub(super) fn get(&self, gfn: Gfn) -> Option<Slot> {
        self.slots.get(gfn.get()).map(Slot)
    }

    /// It is out now.
    pub(super) fn insert(&mut self, gfn: Gfn, slot: Slot) {
        self.slots.insert(gfn.get(), slot.0);
    }

    /// It is not out any more; where its copy was.
    pub(super) fn remove(&mut self, gfn: Gfn) -> Option<Slot> {
        self.slots.remove(gfn.get()).map(Slot)
    }

    /// The first page out from this number on.
    pub(super) fn next(&self, from: u64) -> Option<(Gfn, Slot)> {
        let (gfn, slot) = self.slots.next(from)?;
        Some((Gfn::try_new(gfn)?, Slot(slot)))
    }

    /// Memory in use, in bytes.
    pub(super) fn table_bytes(&self) -> usize {
        self.slots.table_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// The C pager has 0 stand for "free" in its slot table.
    #[test]
    fn defect_7_gfn_0_has_a_slot_like_any_other() {
        let mut homes = Homes::default();
        let zero = Gfn::new_truncate(0);
        homes.insert(zero, Slot(0));
        assert_eq!(homes.get(zero), Some(Slot(0)));
        assert_eq!(homes.next(0), Some((zero, Slot(0))));
        assert_eq!(homes.remove(zero), Some(Slot(0)));
        assert_eq!(homes.remove(zero), None);
    }
}
