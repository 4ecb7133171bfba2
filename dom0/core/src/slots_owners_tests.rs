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
    Works(u32),
    Pause,
    Leaving(bool),
}

/// One area, and what is known of its slots.
#[derive(Default)]
struct Model {
    area: u32,
    owners: HashMap<u32, u64>,
    writing: HashSet<u32>,
    /// Those that could not be written. One that is tried has an owner, too.
    retired: HashSet<u32>,
    /// A retired slot is the next one.
    is_due: bool,
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
            Op::Take | Op::Share(_) | Op::Pause => true,
            Op::Rewrite(slot) => self.owners.contains_key(&slot) && !is_written(slot),
            Op::Written(slot) => is_written(slot) && !self.retired.contains(&slot),
            Op::Retire(slot) | Op::Works(slot) => is_written(slot),
            Op::Give(slot) => self.owners.contains_key(&slot),
            Op::Leaving(is) => is != self.is_leaving,
        }
    }

    fn step(&mut self, slots: &mut Slots, op: Op) {
        match op {
            Op::Take => {
                let has = |slot, set: &HashSet<u32>| set.contains(&slot);
                let is_owned = |slot| self.owners.contains_key(&slot);
                let has_room =
                    (0..self.area).any(|slot| !is_owned(slot) && !has(slot, &self.retired));
                let taken = slots.take(Gfn::new_truncate(0), std::iter::empty());
                let expected = !self.is_leaving && (has_room || self.is_due);
                assert_eq!(taken.is_some(), expected);
                if let Some(Slot(slot)) = taken {
                    assert!(slot < self.area && !is_owned(slot), "{slot} is somebody's");
                    assert_eq!(has(slot, &self.retired), self.is_due);
                    self.is_due = false;
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
                    self.is_due |= self.retired.contains(&slot);
                }
                assert_eq!(slots.give(Slot(slot)), was_last);
            }
            Op::Retire(slot) => {
                slots.failed(Slot(slot));
                slots.retire(Slot(slot));
                self.owners.remove(&slot);
                self.writing.remove(&slot);
                self.retired.insert(slot);
            }
            Op::Works(slot) => {
                slots.written(Slot(slot));
                slots.works(Slot(slot));
                self.writing.remove(&slot);
                if self.retired.contains(&slot) {
                    self.retired.clear();
                }
            }
            Op::Pause => {
                (0..600).for_each(|_| _ = slots.tick().count());
                let mut retired = self.retired.iter();
                let is_tried = retired.any(|slot| self.owners.contains_key(slot));
                self.is_due = !self.retired.is_empty() && !is_tried;
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
    use Op::{Give, Leaving, Pause, Retire, Rewrite, Share, Take, Works, Written};
    let of_each = [Rewrite, Written, Share, Give, Retire, Works];
    let of_slots = (0..area).flat_map(|slot| of_each.map(|op| op(slot)));
    of_slots
        .chain([Take, Pause, Leaving(true), Leaving(false)])
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
