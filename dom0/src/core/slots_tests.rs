use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn range(first: u32, slots: u32, priority: i32) -> SlotRange {
    SlotRange {
        first: Slot(first),
        slots,
        priority,
    }
}

fn one(slots: u32) -> Slots {
    Slots::new(&[range(0, slots, 0)])
}

/// The plain model: which slots of an area are free.
struct Model {
    range: SlotRange,
    free: BTreeSet<u32>,
    failed: bool,
}

proptest! {
    /// What is taken is free, of the best area that has any, and the lowest there.
    #[test]
    fn c5_slots_behave_like_sets_with_priorities(
        areas in prop::collection::vec((1..90_u32, -1..2_i32), 1..5),
        ops in prop::collection::vec((0..40_u8, any::<Index>()), 0..400),
    ) {
        let mut models: Vec<Model> = Vec::new();
        for (slots, priority) in areas {
            let first = models.last().map_or(0, |area| area.range.end().next_multiple_of(64));
            let free = (first..first + slots).collect();
            models.push(Model { range: range(first, slots, priority), free, failed: false });
        }
        let ranges: Vec<_> = models.iter().map(|area| area.range).collect();
        let mut slots = Slots::new(&ranges);
        let mut taken: Vec<u32> = Vec::new();
        for (op, which) in ops {
            let of = |slot: u32| ranges.iter().position(|range| range.contains(Slot(slot))).unwrap();
            match op {
                0..10 if !taken.is_empty() => {
                    let slot = taken.swap_remove(which.index(taken.len()));
                    slots.give(Slot(slot));
                    models[of(slot)].free.insert(slot);
                }
                10 if !taken.is_empty() => {
                    slots.retire(Slot(taken.swap_remove(which.index(taken.len()))));
                }
                11 if !taken.is_empty() => {
                    let slot = taken[which.index(taken.len())];
                    let was = std::mem::replace(&mut models[of(slot)].failed, true);
                    prop_assert_eq!(slots.failed(Slot(slot)), !was);
                }
                _ => {
                    let rank = |area: &Model| (!area.failed, area.range.priority);
                    let best = models.iter().filter(|area| !area.free.is_empty()).map(rank).max();
                    let got = slots.take().map(|slot| slot.0);
                    prop_assert_eq!(got.map(|slot| rank(&models[of(slot)])), best);
                    if let Some(got) = got {
                        prop_assert_eq!(models[of(got)].free.pop_first(), Some(got));
                        taken.push(got);
                    }
                }
            }
            prop_assert_eq!(slots.taken(), taken.len() as u64);
            let sound = models.iter().any(|area| !area.failed && !area.free.is_empty());
            prop_assert_eq!(slots.sound_room(), sound);
        }
    }
}

/// The areas that slots are taken from until there are no more, with how many in a row.
fn order(slots: &mut Slots) -> Vec<(u32, usize)> {
    let taken: Vec<_> = std::iter::from_fn(|| slots.take())
        .map(|slot| slot.0 / 1024)
        .collect();
    let runs = taken.chunk_by(|a, b| a == b);
    runs.map(|run| (run[0], run.len())).collect()
}

#[test]
fn c5_areas_of_one_priority_take_turns_and_lower_ones_come_after() {
    let mut slots = Slots::new(&[range(0, 128, 1), range(1024, 128, 5), range(2048, 192, 5)]);
    let expected = [(1, 64), (2, 64), (1, 64), (2, 128), (0, 128)];
    assert_eq!(order(&mut slots), expected);
}

#[test]
fn c5_an_area_that_failed_comes_last_whatever_its_priority() {
    let mut slots = Slots::new(&[range(0, 64, 9), range(1024, 64, 1), range(2048, 64, 0)]);
    assert!(slots.failed(Slot(7)) && !slots.failed(Slot(8)));
    assert_eq!(order(&mut slots), [(1, 64), (2, 64), (0, 64)]);
    assert!(!slots.sound_room());
}

#[test]
fn after_the_last_slot_there_is_none() {
    let mut slots = Slots::new(&[range(SLOTS_END - 1, u32::MAX, 0)]);
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
    let mut slots = one(100);
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
    let mut slots = one(100);
    let bad = slots.take().unwrap();
    slots.retire(bad);
    assert_eq!(slots.taken(), 0);
    assert_eq!(slots.take(), Some(Slot(1)));
}
