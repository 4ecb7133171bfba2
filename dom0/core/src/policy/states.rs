// SPDX-License-Identifier: MIT OR Apache-2.0
//! A state for every page of a guest, in a byte, and the pages in each state.
//!
//! What linked lists would do with eight bytes a page and more, this does with one. Pages lie in
//! leaves of 16,384; each leaf counts its pages by state, and for each state there is a set of the
//! leaves that hold any: a bit each, 2 KiB in a guest of a terabyte. So the next page in a given state
//! is found by looking at one set and one leaf, however large the guest is; and what befalls all
//! pages of a leaf alike, as in a scan of accessed bits, is one pass over it.
//!
//! Memory: a byte a page, and two bytes for each leaf and state.

use std::ops::RangeInclusive;

use bitvec::vec::BitVec;
use p2m_paging::Gfn;

use crate::sparse::{SparseMap, SparseSet};

/// Pages in a leaf.
pub(super) const LEAF_PAGES: usize = 1 << LEAF_BITS;
/// Pages that a scan of accessed bits speaks of at a time.
pub const PART_PAGES: usize = LEAF_PAGES;
const LEAF_BITS: u32 = 14;

/// The state of a page: below `STATES`.
pub(super) type State = u8;

/// No state at all: that of pages that are not in the map, and of whatever was never set.
pub(super) const NONE: State = 0;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct StateMap<const STATES: usize> {
    /// By number of a leaf (`gfn / LEAF_PAGES`): its index in `leaves`.
    directory: SparseMap<u32>,
    /// In the order of their pages.
    leaves: Vec<Leaf<STATES>>,
    /// By state: the indices of the leaves that hold any such page. Not kept for [`NONE`].
    holding: [BitVec; STATES],
    counts: [u64; STATES],
}

#[derive(Debug)]
struct Leaf<const STATES: usize> {
    number: u64,
    states: [State; LEAF_PAGES],
    /// Not kept for [`NONE`].
    counts: [u16; STATES],
}

/// Some pages of a leaf: bit n of word m stands for its page `64 * m + n`.
pub(super) type Selection = [u64; LEAF_PAGES / 64];

impl<const STATES: usize> StateMap<STATES> {
    /// For pages in these ranges, in any order; all in state [`NONE`].
    pub(super) fn new(memory: &[RangeInclusive<u64>]) -> Self {
        let mut numbers = SparseSet::default();
        for range in memory.iter().filter(|range| !range.is_empty()) {
            let last = *range.end().min(&Gfn::MAX.get());
            numbers.insert_range(range.start() >> LEAF_BITS..=last >> LEAF_BITS, ());
        }
        let mut map = Self {
            directory: SparseMap::default(),
            leaves: Vec::with_capacity(usize::try_from(numbers.len()).unwrap_or(0)),
            holding: std::array::from_fn(|_| BitVec::new()),
            counts: [0; STATES],
        };
        for ((number, ()), index) in numbers.iter().zip(0..) {
            map.directory.insert(number, index);
            map.leaves.push(Leaf {
                number,
                states: [NONE; LEAF_PAGES],
                counts: [0; STATES],
            });
        }
        for set in &mut map.holding {
            *set = BitVec::repeat(false, map.leaves.len());
        }
        map
    }

    /// How many leaves there are.
    pub(super) fn leaves(&self) -> usize {
        self.leaves.len()
    }

    /// The leaf that this page lies in, if it is in the map, and its place there.
    pub(super) fn find(&self, gfn: u64) -> Option<(usize, usize)> {
        Some((self.directory.get(gfn >> LEAF_BITS)? as usize, place(gfn)))
    }

    /// The state of a page.
    pub(super) fn get(&self, gfn: u64) -> State {
        self.find(gfn)
            .and_then(|(leaf, place)| self.leaves.get(leaf)?.states.get(place))
            .map_or(NONE, |state| *state)
    }

    /// Puts a page into a state; nothing happens to one that is not in the map.
    pub(super) fn set(&mut self, gfn: u64, state: State) {
        let Some((index, place)) = self.find(gfn) else {
            return;
        };
        let old = std::mem::replace(&mut self.leaves[index].states[place], state);
        self.moved(index, old, state, 1);
    }

    /// Puts all pages of a range that are in the map into a state, a leaf at a time.
    pub(super) fn fill(&mut self, range: RangeInclusive<u64>, state: State) {
        let (mut from, last) = range.into_inner();
        while from <= last {
            let end = last.min(from | (LEAF_PAGES as u64 - 1));
            if let Some((index, start)) = self.find(from) {
                let mut met = [0; STATES];
                for old in &mut self.leaves[index].states[start..=place(end)] {
                    met[usize::from(*old)] += 1;
                    *old = state;
                }
                for (old, pages) in (0..=State::MAX).zip(met) {
                    self.moved(index, old, state, pages);
                }
            }
            let Some(next) = self.directory.next((end >> LEAF_BITS) + 1) else {
                return;
            };
            from = next.0 << LEAF_BITS;
        }
    }

    /// How many pages are in this state, which is not [`NONE`].
    pub(super) fn count(&self, state: State) -> u64 {
        self.counts[usize::from(state)]
    }

    /// The lowest page from `from` on in this state, which is not [`NONE`].
    pub(super) fn next(&self, state: State, from: u64) -> Option<u64> {
        let (number, index) = self.directory.next(from >> LEAF_BITS)?;
        let mut from_leaf = index as usize;
        if number == from >> LEAF_BITS {
            if let Some(found) = self.leaves[index as usize].next(state, place(from)) {
                return Some(found);
            }
            from_leaf += 1;
        }
        let later = self.holding[usize::from(state)].get(from_leaf..)?;
        self.leaves[from_leaf + later.first_one()?].next(state, 0)
    }

    /// The same, and from the start when there is none.
    pub(super) fn next_around(&self, state: State, from: u64) -> Option<u64> {
        if self.count(state) == 0 {
            return None;
        }
        self.next(state, from).or_else(|| self.next(state, 0))
    }

    /// Moves the selected pages of a leaf, all if there is no selection, each from state `s` to
    /// `to[s]`; how many there were, by the state that they were in. [`NONE`] stays.
    pub(super) fn remap(
        &mut self,
        index: usize,
        selection: Option<&Selection>,
        to: &[State; STATES],
    ) -> [u16; STATES] {
        let mut met = [0; STATES];
        let Some(leaf) = self.leaves.get_mut(index) else {
            return met;
        };
        for (word, states) in leaf.states.chunks_mut(64).enumerate() {
            let selected = selection.map_or(!0, |selection| selection[word]);
            for (state, place) in states.iter_mut().zip(0..) {
                if selected >> place & 1 == 0 {
                    continue;
                }
                met[usize::from(*state)] += 1;
                *state = to[usize::from(*state)];
            }
        }
        for (state, pages) in (0..=State::MAX).zip(met).skip(1) {
            self.moved(index, state, to[usize::from(state)], pages);
        }
        met
    }

    /// Memory in use, in bytes.
    pub(super) fn table_bytes(&self) -> usize {
        let sets = self.holding.iter().map(|set| set.capacity() / 8);
        self.directory.table_bytes()
            + sets.sum::<usize>()
            + self.leaves.capacity() * size_of::<Leaf<STATES>>()
    }

    /// Keeps the books after pages of a leaf have changed their state.
    fn moved(&mut self, index: usize, from: State, to: State, pages: u16) {
        if from == to || pages == 0 {
            return;
        }
        let counts = &mut self.leaves[index].counts;
        if from != NONE {
            counts[usize::from(from)] -= pages;
            if counts[usize::from(from)] == 0 {
                self.holding[usize::from(from)].set(index, false);
            }
            self.counts[usize::from(from)] -= u64::from(pages);
        }
        if to != NONE {
            if counts[usize::from(to)] == 0 {
                self.holding[usize::from(to)].set(index, true);
            }
            counts[usize::from(to)] += pages;
            self.counts[usize::from(to)] += u64::from(pages);
        }
    }
}

impl<const STATES: usize> Leaf<STATES> {
    fn next(&self, state: State, from: usize) -> Option<u64> {
        if self.counts[usize::from(state)] == 0 {
            return None;
        }
        let place = from + memchr::memchr(state, &self.states[from..])?;
        Some(self.number << LEAF_BITS | place as u64)
    }
}

/// The places of the ones in a word, lowest first.
pub(super) fn ones(word: u64) -> impl Iterator<Item = u64> {
    let mut rest = word;
    std::iter::from_fn(move || {
        let bit = (rest != 0).then(|| u64::from(rest.trailing_zeros()));
        rest &= rest.wrapping_sub(1);
        bit
    })
}

#[expect(clippy::cast_possible_truncation, reason = "masked to fourteen bits")]
fn place(gfn: u64) -> usize {
    (gfn & (LEAF_PAGES as u64 - 1)) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const MEMORY: [RangeInclusive<u64>; 2] = [16_000..=17_000, 1 << 30..=(1 << 30) + 100];

    /// Leaves are whole, whatever part of them is memory.
    fn in_leaves(range: &RangeInclusive<u64>, gfn: u64) -> bool {
        (range.start() >> LEAF_BITS..=range.end() >> LEAF_BITS).contains(&(gfn >> LEAF_BITS))
    }

    fn gfns() -> impl Strategy<Value = u64> {
        prop_oneof![16_300..16_500_u64, 1 << 30..(1 << 30) + 70_u64]
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_btree(
            ops in prop::collection::vec((0..5_u8, gfns(), 0..8_u8, any::<u64>()), 0..100),
        ) {
            let mut ours = StateMap::<8>::new(&MEMORY);
            let mut model = BTreeMap::<u64, State>::new();
            for (op, gfn, state, word) in ops {
                if op < 3 {
                    ours.set(gfn, state);
                    model.insert(gfn, state);
                } else if op == 3 {
                    ours.fill(gfn..=gfn + word % 300, state);
                    let memory = |gfn: &u64| MEMORY.iter().any(|range| in_leaves(range, *gfn));
                    model.extend((gfn..=gfn + word % 300).filter(memory).map(|gfn| (gfn, state)));
                } else {
                    let (leaf, place) = ours.find(gfn).unwrap();
                    let mut selection = [0; LEAF_PAGES / 64];
                    selection[place / 64] = word;
                    let to = [0, 2, 3, 1, state, 5, 5, 7];
                    ours.remap(leaf, Some(&selection), &to);
                    let base = gfn & !63;
                    for (gfn, state) in model.range_mut(base..base + 64) {
                        if word >> (gfn - base) & 1 != 0 {
                            *state = to[usize::from(*state)];
                        }
                    }
                }
                prop_assert_eq!(ours.get(gfn), model.get(&gfn).copied().unwrap_or(NONE));
                for state in 1..8 {
                    let all: Vec<_> = model.iter().filter(|(_, s)| **s == state).collect();
                    prop_assert_eq!(ours.count(state), all.len() as u64);
                    let next = all.iter().map(|(gfn, _)| **gfn).find(|found| *found >= gfn);
                    prop_assert_eq!(ours.next(state, gfn), next);
                    let first = all.first().map(|(gfn, _)| **gfn);
                    prop_assert_eq!(ours.next_around(state, gfn), next.or(first));
                }
            }
        }
    }

    #[test]
    fn what_is_not_memory_has_no_state() {
        let mut map = StateMap::<4>::new(&[0..=10]);
        map.set(1 << 39, 3);
        assert_eq!(
            (map.get(1 << 39), map.count(3), map.next(3, 0)),
            (NONE, 0, None)
        );
        assert_eq!(StateMap::<4>::new(&[0..=u64::MAX >> 44]).leaves(), 64);
    }

    #[test]
    fn a_page_costs_a_byte_and_a_little() {
        let pages = 1_u64 << 20;
        let bytes = StateMap::<256>::new(&[0..=pages - 1]).table_bytes();
        let per_page = bytes as f64 / pages as f64;
        assert!((1.0..1.06).contains(&per_page), "{per_page}");
    }
}
