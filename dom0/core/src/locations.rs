// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the contents of pages lie in the store: of those that are out, and copies of those that are
//! in.
//!
//! A page that comes in keeps its slot (row C7). What lies there is a *copy*: good for nothing but to
//! be compared with when the page is to go out again, and then not to be written. So it need not be
//! known whether the guest has written the page since, and a copy may be taken away at any time. A page of zeros has no
//! slot while it is out.
//!
//! A frame number and a slot are never confused and neither has a value that means "none": gfn 0 and
//! slot 0 are as good as any. Two pages share seven bytes, and what is remembered of a page altogether
//! stays below eight.

use p2m_paging::Gfn;

use super::sparse::{SparseMap, SparseSet};
use crate::store::{SLOTS_END, Slot};

/// In a [`Pair`]: zeros. Slots are below.
const ZEROS: u32 = SLOTS_END;
/// In a [`Pair`], whose default is all ones: nothing.
const NOTHING: u32 = ZEROS + 1;

/// Where the contents of a page lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// In a slot of the store.
    Slot(Slot),
    /// Nowhere: it is all zeros.
    Zeros,
}

impl Location {
    /// The slot, if it needs one.
    pub fn slot(self) -> Option<Slot> {
        match self {
            Self::Slot(slot) => Some(slot),
            Self::Zeros => None,
        }
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Locations {
    /// By half a gfn; there if either page has a home.
    pairs: SparseMap<Pair>,
    /// The pages that are out. The others' slots are copies.
    out: SparseSet,
    copies: u64,
}

impl Locations {
    /// How many pages are out.
    pub(super) fn out_pages(&self) -> u64 {
        self.out.len()
    }

    /// How many pages are in and have a copy in the store.
    pub(super) fn copies(&self) -> u64 {
        self.copies
    }

    /// Whether this page is out.
    pub(super) fn is_out(&self, gfn: Gfn) -> bool {
        self.out.contains(gfn.get())
    }

    /// Where its contents lie, if it is out.
    pub(super) fn out(&self, gfn: Gfn) -> Option<Location> {
        self.location(gfn).filter(|_| self.is_out(gfn))
    }

    /// The slot that holds its copy, if it is in and has one.
    pub(super) fn copy(&self, gfn: Gfn) -> Option<Slot> {
        let home = self.location(gfn).filter(|_| !self.is_out(gfn));
        home.and_then(Location::slot)
    }

    /// The page is in, and has a copy there.
    pub(super) fn keep(&mut self, gfn: Gfn, slot: Slot) {
        self.forget(gfn);
        self.set(gfn, slot.0);
        self.copies += 1;
    }

    /// The page is out, and its contents lie there.
    pub(super) fn goes_out(&mut self, gfn: Gfn, home: Location) {
        self.forget(gfn);
        self.set(gfn, home.slot().map_or(ZEROS, |slot| slot.0));
        self.out.insert(gfn.get(), ());
    }

    /// The page is in again; its slot, if it had one, holds a copy.
    pub(super) fn comes_in(&mut self, gfn: Gfn) {
        if self.out.remove(gfn.get()).is_none() {
            return;
        }
        match self.location(gfn) {
            Some(Location::Slot(_)) => self.copies += 1,
            Some(Location::Zeros) | None => self.set(gfn, NOTHING),
        }
    }

    /// Neither its contents nor its copy are wanted any more. The slot that is free now, if there was one.
    pub(super) fn forget(&mut self, gfn: Gfn) -> Option<Slot> {
        let home = self.location(gfn)?;
        if self.out.remove(gfn.get()).is_none() {
            self.copies -= 1;
        }
        self.set(gfn, NOTHING);
        home.slot()
    }

    /// The first page out from this number on.
    pub(super) fn next_out(&self, from: u64) -> Option<(Gfn, Location)> {
        let (gfn, ()) = self.out.next(from)?;
        let gfn = Gfn::try_new(gfn)?;
        Some((gfn, self.location(gfn)?))
    }

    /// The pages with a home from this number on, out or in, lowest first.
    pub(super) fn from(&self, from: u64) -> impl Iterator<Item = (Gfn, Location)> + '_ {
        let pairs = self.pairs.iter_from(from / 2);
        let both = pairs.flat_map(|(half, pair)| [2 * half, 2 * half + 1].map(|gfn| (gfn, pair)));
        both.filter(move |(gfn, _)| *gfn >= from)
            .filter_map(|(gfn, pair)| Some((Gfn::try_new(gfn)?, pair.location(gfn)?)))
    }

    /// The slots of pages around this one, itself among them: of as many, from a multiple of that on.
    pub(super) fn neighbours(
        &self,
        gfn: Gfn,
        pages: u64,
    ) -> impl Iterator<Item = (Gfn, Slot)> + '_ {
        let first = gfn.get() - gfn.get() % pages;
        self.from(first)
            .take_while(move |(other, _)| other.get() - first < pages)
            .filter_map(|(other, home)| Some((other, home.slot()?)))
    }

    /// Memory in use, in bytes.
    pub(super) fn table_bytes(&self) -> usize {
        self.pairs.table_bytes() + self.out.table_bytes()
    }

    fn location(&self, gfn: Gfn) -> Option<Location> {
        self.pairs.get(gfn.get() / 2)?.location(gfn.get())
    }

    fn set(&mut self, gfn: Gfn, value: u32) {
        let pair = self.pairs.get(gfn.get() / 2).unwrap_or_default();
        let with = pair.with(gfn.get(), value);
        if with.is_empty() {
            self.pairs.remove(gfn.get() / 2);
        } else {
            self.pairs.insert(gfn.get() / 2, with);
        }
    }
}

/// The homes of two neighbours, 28 bits each; the even gfn's are the low ones.
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

    fn is_empty(self) -> bool {
        self.0 == Self::default().0
    }

    fn location(self, gfn: u64) -> Option<Location> {
        let value = self.word() >> shift(gfn) & u64::from(NOTHING);
        match u32::try_from(value).ok()? {
            NOTHING => None,
            ZEROS => Some(Location::Zeros),
            slot => Some(Location::Slot(Slot(slot))),
        }
    }

    fn with(self, gfn: u64, value: u32) -> Self {
        let mask = u64::from(NOTHING) << shift(gfn);
        let word = self.word() & !mask | u64::from(value) << shift(gfn) & mask;
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
        /// Against two maps: what is out, and what copies there are.
        #[test]
        fn c7_homes_behave_like_two_btrees(
            ops in prop::collection::vec((0..7_u8, 0..12_u64, 0..SLOTS_END), 0..80),
        ) {
            let mut locations = Locations::default();
            let (mut out, mut copies) = (BTreeMap::new(), BTreeMap::new());
            for (op, n, slot) in ops {
                // Neighbours, and some on the far side of a leaf.
                let n = if n < 8 { n } else { (1 << 20) + n };
                let gfn = Gfn::new_truncate(n);
                let slot = Slot(slot);
                match op {
                    0 | 1 => {
                        let home = if op == 0 { Location::Slot(slot) } else { Location::Zeros };
                        locations.goes_out(gfn, home);
                        copies.remove(&n);
                        out.insert(n, home);
                    }
                    2 => {
                        locations.keep(gfn, slot);
                        out.remove(&n);
                        copies.insert(n, slot);
                    }
                    3 => {
                        locations.comes_in(gfn);
                        if let Some(Location::Slot(slot)) = out.remove(&n) {
                            copies.insert(n, slot);
                        }
                    }
                    4 => {
                        let was_out = out.remove(&n).and_then(Location::slot);
                        prop_assert_eq!(locations.forget(gfn), was_out.or(copies.remove(&n)));
                    }
                    5 => {
                        let next = out.range(n..).next();
                        let next = next.map(|(gfn, home)| (Gfn::new_truncate(*gfn), *home));
                        prop_assert_eq!(locations.next_out(n), next);
                    }
                    _ => {
                        let mut all = out.clone();
                        all.extend(copies.iter().map(|(gfn, slot)| (*gfn, Location::Slot(*slot))));
                        let expected: Vec<_> = all.range(n..)
                            .map(|(gfn, home)| (Gfn::new_truncate(*gfn), *home)).collect();
                        prop_assert_eq!(locations.from(n).collect::<Vec<_>>(), expected);
                    }
                }
                prop_assert_eq!(locations.out(gfn), out.get(&n).copied());
                prop_assert_eq!(locations.is_out(gfn), out.contains_key(&n));
                prop_assert_eq!(locations.copy(gfn), copies.get(&n).copied());
                prop_assert_eq!(locations.out_pages(), out.len() as u64);
                prop_assert_eq!(locations.copies(), copies.len() as u64);
            }
        }
    }

    /// The C pager has 0 stand for "free" in its slot table.
    #[test]
    fn defect_7_gfn_0_has_a_slot_like_any_other() {
        let mut locations = Locations::default();
        let zero = Gfn::new_truncate(0);
        let home = Location::Slot(Slot(0));
        locations.goes_out(zero, home);
        assert_eq!(locations.out(zero), Some(home));
        assert_eq!(locations.next_out(0), Some((zero, home)));
        assert_eq!(locations.forget(zero), Some(Slot(0)));
        assert_eq!(locations.forget(zero), None);
    }

    #[test]
    fn the_highest_slot_is_not_taken_for_zeros() {
        let mut locations = Locations::default();
        for (gfn, home) in [
            (2, Location::Slot(Slot(SLOTS_END - 1))),
            (3, Location::Zeros),
        ] {
            locations.goes_out(Gfn::new_truncate(gfn), home);
            assert_eq!(locations.out(Gfn::new_truncate(gfn)), Some(home));
        }
    }
}
