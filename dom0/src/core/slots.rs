//! Which slots of the store are taken, and by which pages.
//!
//! The lowest free slot is always the next one taken, so that the store stays small and dense. A
//! frame number and a slot are never confused and neither has a value that means "none": gfn 0 and
//! slot 0 are as good as any.
//!
//! A slot's number has 28 bits: a pager holds a terabyte of pages at most. Two pages share seven
//! bytes, and what is remembered of a page altogether stays below eight.

use p2m_paging::Gfn;

use super::sparse::{SparseMap, SparseSet};
use crate::store::Slot;

/// One more than the highest slot. In a [`Pair`], whose default is all ones: none.
const NO_SLOT: u32 = u32::MAX >> 4;

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
    /// The lowest free slot; `None` when all 2^28 - 1 are taken.
    pub(super) fn take(&mut self) -> Option<Slot> {
        if let Some((id, ())) = self.free.next(0) {
            self.free.remove(id);
            return u32::try_from(id).ok().map(Slot);
        }
        let slot = Slot(self.next);
        if slot.0 >= NO_SLOT {
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

/// The pages that are out, and where each one's copy lies.
#[derive(Debug, Default)]
pub(super) struct Homes {
    /// By half a gfn; there if either page is out.
    pairs: SparseMap<Pair>,
    len: u64,
}

impl Homes {
    /// How many pages are out.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether this one is.
    pub(super) fn contains(&self, gfn: Gfn) -> bool {
        self.get(gfn).is_some()
    }

    /// Where its copy lies, if it is out.
    pub(super) fn get(&self, gfn: Gfn) -> Option<Slot> {
        self.pairs.get(gfn.get() / 2)?.slot(gfn.get())
    }

    /// It is out now.
    pub(super) fn insert(&mut self, gfn: Gfn, slot: Slot) {
        let pair = self.pairs.get(gfn.get() / 2).unwrap_or_default();
        self.len += u64::from(pair.slot(gfn.get()).is_none());
        let with = pair.with(gfn.get(), slot.0);
        self.pairs.insert(gfn.get() / 2, with);
    }

    /// It is not out any more; where its copy was.
    pub(super) fn remove(&mut self, gfn: Gfn) -> Option<Slot> {
        let pair = self.pairs.get(gfn.get() / 2)?;
        let slot = pair.slot(gfn.get())?;
        self.len -= 1;
        if pair.slot(gfn.get() ^ 1).is_some() {
            let without = pair.with(gfn.get(), NO_SLOT);
            self.pairs.insert(gfn.get() / 2, without);
        } else {
            self.pairs.remove(gfn.get() / 2);
        }
        Some(slot)
    }

    /// The first page out from this number on.
    pub(super) fn next(&self, from: u64) -> Option<(Gfn, Slot)> {
        let (half, pair) = self.pairs.next(from / 2)?;
        let here = [2 * half, 2 * half + 1]
            .into_iter()
            .filter(|gfn| *gfn >= from)
            .find_map(|gfn| Some((Gfn::try_new(gfn)?, pair.slot(gfn)?)));
        // A pair that is there holds something: if not from here on, then the next one does.
        here.or_else(|| {
            let (half, pair) = self.pairs.next(half + 1)?;
            [2 * half, 2 * half + 1]
                .into_iter()
                .find_map(|gfn| Some((Gfn::try_new(gfn)?, pair.slot(gfn)?)))
        })
    }

    /// Memory in use, in bytes.
    pub(super) fn table_bytes(&self) -> usize {
        self.pairs.table_bytes()
    }
}

/// The slots of two neighbours, 28 bits each; the even gfn's are the low ones.
#[derive(Clone, Copy, Debug)]
struct Pair([u8; 7]);

impl Default for Pair {
    fn default() -> Self {
        Self([0xff; 7])
    }
}

impl Pair {
    fn word(self) -> u64 {
        let [a, b, c, d, e, f, g] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, 0])
    }

    fn slot(self, gfn: u64) -> Option<Slot> {
        let slot = self.word() >> shift(gfn) & u64::from(u32::MAX >> 4);
        let slot = u32::try_from(slot).ok()?;
        (slot != NO_SLOT).then_some(Slot(slot))
    }

    fn with(self, gfn: u64, slot: u32) -> Self {
        let mask = u64::from(u32::MAX >> 4) << shift(gfn);
        let word = self.word() & !mask | u64::from(slot) << shift(gfn) & mask;
        let [a, b, c, d, e, f, g, _] = word.to_le_bytes();
        Self([a, b, c, d, e, f, g])
    }
}

fn shift(gfn: u64) -> u64 {
    28 * (gfn & 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn homes_behave_like_a_btree(
            ops in prop::collection::vec((0..3_u8, 0..12_u64, 0..NO_SLOT), 0..60),
        ) {
            let mut homes = Homes::default();
            let mut model = BTreeMap::new();
            for (op, n, slot) in ops {
                // Neighbours, and some on the far side of a leaf.
                let gfn = Gfn::new_truncate(if n < 8 { n } else { (1 << 20) + n });
                match op {
                    0 => {
                        homes.insert(gfn, Slot(slot));
                        model.insert(gfn.get(), slot);
                    }
                    1 => prop_assert_eq!(homes.remove(gfn), model.remove(&gfn.get()).map(Slot)),
                    _ => {
                        let next = model.range(gfn.get()..).next();
                        let next = next.map(|(gfn, slot)| (Gfn::new_truncate(*gfn), Slot(*slot)));
                        prop_assert_eq!(homes.next(gfn.get()), next);
                    }
                }
                prop_assert_eq!(homes.get(gfn), model.get(&gfn.get()).copied().map(Slot));
                prop_assert_eq!(homes.len(), model.len() as u64);
            }
        }
    }

    #[test]
    fn after_the_last_slot_there_is_none() {
        let mut slots = Slots {
            next: NO_SLOT - 1,
            ..Slots::default()
        };
        let last = slots.take().unwrap();
        assert_eq!(
            (last, slots.take(), slots.take()),
            (Slot(NO_SLOT - 1), None, None)
        );
        let mut homes = Homes::default();
        let gfn = Gfn::new_truncate(3);
        homes.insert(gfn, last);
        assert_eq!(homes.get(gfn), Some(last));
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
