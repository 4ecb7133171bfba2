// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owners of slots against a plain model (row C6).

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

impl Slots {
    /// How many owners a slot has that is taken.
    pub(crate) fn owners(&self, slot: Slot) -> u64 {
        1 + u64::from(self.further.get(slot.0.into()).unwrap_or(0))
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Take,
    Rewrite(u32),
    Written(u32),
    Share(u32),
    Give(u32),
    Retire(u32),
    Leaving(bool),
}

/// One area, and what is known of its slots.
#[derive(Default)]
struct Model {
    area: u32,
    owners: HashMap<u32, u64>,
    writing: HashSet<u32>,
    retired: HashSet<u32>,
    is_leaving: bool,
}

impl Model {
    fn new(area: u32) -> Self {
        Self {
            area,
            ..Self::default()
        }
    }

    fn range(&self) -> SlotRange {
        SlotRange {
            first: Slot(0),
            slots: self.area,
            priority: 0,
        }
    }

    /// Whether the pager would do that: it has a slot to write, or owns it.
    fn may(&self, op: Op) -> bool {
        let is_written = |slot| self.writing.contains(&slot);
        match op {
            Op::Take | Op::Share(_) => true,
            Op::Rewrite(slot) => self.owners.contains_key(&slot) && !is_written(slot),
            Op::Written(slot) | Op::Retire(slot) => is_written(slot),
            Op::Give(slot) => self.owners.contains_key(&slot),
            Op::Leaving(is) => is != self.is_leaving,
        }
    }

    fn step(&mut self, slots: &mut Slots, op: Op) {
        match op {
            Op::Take => {
                let is_free =
                    |slot| !self.owners.contains_key(&slot) && !self.retired.contains(&slot);
                let has_room = !self.is_leaving && (0..self.area).any(is_free);
                let taken = slots.take(Gfn::new_truncate(0), std::iter::empty());
                assert_eq!(taken.is_some(), has_room);
                if let Some(Slot(slot)) = taken {
                    assert!(slot < self.area && is_free(slot), "{slot} is somebody's");
                    self.owners.insert(slot, 1);
                    self.writing.insert(slot);
                }
            }
            Op::Rewrite(slot) => {
                let may = self.owners[&slot] == 1;
                assert_eq!(slots.rewrite(Slot(slot)), may);
                may.then(|| self.writing.insert(slot));
            }
            Op::Written(slot) => {
                slots.written(Slot(slot));
                self.writing.remove(&slot);
            }
            Op::Share(slot) => {
                let owners = self.owners.get_mut(&slot);
                let may = !self.is_leaving && !self.writing.contains(&slot) && owners.is_some();
                assert_eq!(slots.share(Slot(slot)), may);
                if let Some(owners) = owners.filter(|_| may) {
                    *owners += 1;
                }
            }
            Op::Give(slot) => {
                let owners = self.owners.get_mut(&slot).unwrap();
                *owners -= 1;
                let was_last = *owners == 0;
                self.writing.remove(&slot);
                if was_last {
                    self.owners.remove(&slot);
                }
                assert_eq!(slots.give(Slot(slot)), was_last);
            }
            Op::Retire(slot) => {
                slots.retire(Slot(slot));
                self.owners.remove(&slot);
                self.writing.remove(&slot);
                self.retired.insert(slot);
            }
            Op::Leaving(is) => {
                slots.set_leaving(self.range(), is);
                self.is_leaving = is;
            }
        }
        assert_eq!(slots.taken(), self.owners.len() as u64);
        for (slot, owners) in &self.owners {
            assert_eq!(slots.owners(Slot(*slot)), *owners, "owners of {slot}");
            assert_eq!(slots.is_shared(Slot(*slot)), *owners > 1);
        }
    }
}

fn run(area: u32, ops: &[Op]) -> Model {
    let mut model = Model::new(area);
    let mut slots = Slots::new(&[model.range()]);
    ops.iter().for_each(|op| model.step(&mut slots, *op));
    model
}

fn ops(area: u32) -> Vec<Op> {
    use Op::{Give, Leaving, Retire, Rewrite, Share, Take, Written};
    let of_each = [Rewrite, Written, Share, Give, Retire];
    let of_slots = (0..area).flat_map(|slot| of_each.map(|op| op(slot)));
    of_slots
        .chain([Take, Leaving(true), Leaving(false)])
        .collect()
}

/// Every sequence that a pager could make, to this length. How many there were.
fn every_sequence(area: u32, ops: &[Op], so_far: &mut Vec<Op>, length: usize) -> u64 {
    let model = run(area, so_far);
    if length == 0 {
        return 1;
    }
    let mut sequences = 0;
    for op in ops.iter().filter(|op| model.may(**op)) {
        so_far.push(*op);
        sequences += every_sequence(area, ops, so_far, length - 1);
        so_far.pop();
    }
    sequences
}

#[test]
fn c6_every_short_sequence_of_two_and_three_slots_behaves_like_a_map_of_counts() {
    for (area, length) in [(2, 6), (3, 5)] {
        let sequences = every_sequence(area, &ops(area), &mut Vec::new(), length);
        assert!(sequences > 1_000, "{sequences}");
    }
}

proptest! {
    #[test]
    fn c6_owners_behave_like_a_map_of_counts(
        area in 1..200_u32,
        choices in prop::collection::vec(any::<prop::sample::Index>(), 0..600),
    ) {
        let mut model = Model::new(area);
        let mut slots = Slots::new(&[model.range()]);
        let ops = ops(area);
        for choice in choices {
            // As likely a new slot as anything else.
            let op = *choice.get(&ops);
            let op = if model.may(op) { op } else { Op::Take };
            model.step(&mut slots, op);
        }
    }
}
