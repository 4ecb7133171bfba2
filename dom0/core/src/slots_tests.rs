// SPDX-License-Identifier: MIT OR Apache-2.0
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

fn gfn(n: u64) -> Gfn {
    Gfn::new_truncate(n)
}

/// A slot for a page without neighbours.
fn take(slots: &mut Slots, n: u64) -> Option<u32> {
    slots.take(gfn(n), std::iter::empty()).map(|slot| slot.0)
}

/// The plain model: which slots of an area are free.
struct Model {
    range: SlotRange,
    free: BTreeSet<u32>,
    failed: bool,
    reported: bool,
}

impl Model {
    fn rank(&self) -> (bool, i32) {
        (!self.failed, self.range.priority)
    }

    /// Clusters with all their slots free.
    fn has_whole(&self) -> bool {
        let is_whole = |first: &u32| self.free.range(first..&(first + CLUSTER)).count() == 64;
        self.free
            .iter()
            .filter(|slot| *slot % CLUSTER == 0)
            .any(is_whole)
    }
}

proptest! {
    /// What is taken is free, and of the best areas that have any; beside a neighbour that lies there if its place is free, else in a
    /// cluster that is wholly free if there is one.
    #[test]
    fn c5_slots_behave_like_sets_with_priorities_and_clusters(
        areas in prop::collection::vec((1..300_u32, -1..2_i32), 1..5),
        ops in prop::collection::vec((0..40_u8, any::<Index>(), 0..400_u64), 0..400),
    ) {
        let mut models: Vec<Model> = Vec::new();
        for (slots, priority) in areas {
            let first = models.last().map_or(0, |area| area.range.end().next_multiple_of(64));
            let free = (first..first + slots).collect();
            models.push(Model { range: range(first, slots, priority), free, failed: false, reported: false });
        }
        let ranges: Vec<_> = models.iter().map(|area| area.range).collect();
        let mut slots = Slots::new(&ranges);
        let mut taken: Vec<(u64, u32)> = Vec::new();
        for (op, which, n) in ops {
            let of = |slot: u32| ranges.iter().position(|range| range.contains(Slot(slot))).unwrap();
            match op {
                0..10 if !taken.is_empty() => {
                    let (_, slot) = taken.swap_remove(which.index(taken.len()));
                    slots.give(Slot(slot));
                    models[of(slot)].free.insert(slot);
                }
                10 if !taken.is_empty() => {
                    slots.retire(Slot(taken.swap_remove(which.index(taken.len())).1));
                }
                11 if !taken.is_empty() => {
                    let (_, slot) = taken[which.index(taken.len())];
                    models[of(slot)].failed = true;
                    let others = models.iter().any(|area| !area.failed && !area.free.is_empty());
                    let was = models[of(slot)].reported;
                    models[of(slot)].reported |= others;
                    prop_assert_eq!(slots.failed(Slot(slot)), others && !was);
                }
                _ if taken.iter().any(|page| page.0 == n) => {}
                _ => {
                    let best = models.iter().filter(|area| !area.free.is_empty()).map(Model::rank).max();
                    let mut beside: Vec<_> = taken.iter().copied().filter(|page| page.0 / 64 == n / 64).collect();
                    beside.sort_unstable();
                    let good = models.iter().filter(|area| Some(area.rank()) == best);
                    let wanted: Vec<u32> = beside.iter()
                        .filter(|(n, slot)| u64::from(slot % 64) == n % 64)
                        .map(|(_, slot)| slot - slot % 64 + u32::try_from(n % 64).unwrap())
                        .filter(|slot| good.clone().any(|area| area.free.contains(slot)))
                        .collect();
                    let has_whole = good.clone().any(Model::has_whole);
                    let neighbours = beside.iter().map(|(n, slot)| (gfn(*n), Slot(*slot)));
                    let got = slots.take(gfn(n), neighbours).map(|slot| slot.0);
                    prop_assert_eq!(got.map(|slot| models[of(slot)].rank()), best);
                    let Some(got) = got else { continue };
                    let in_place = u64::from(got % 64) == n % 64;
                    prop_assert!(in_place || (wanted.is_empty() && !has_whole), "{} for {}", got, n);
                    prop_assert!(models[of(got)].free.remove(&got));
                    taken.push((n, got));
                }
            }
            prop_assert_eq!(slots.taken(), taken.len() as u64);
            let sound = models.iter().any(|area| !area.failed && !area.free.is_empty());
            prop_assert_eq!(slots.has_healthy_free_slot(), sound);
        }
    }
}

#[test]
fn c5_neighbours_lie_together_whenever_they_go_out() {
    let mut slots = one(1 << 20);
    // Far apart, and in any order.
    let first = take(&mut slots, 1000 * 64 + 7).unwrap();
    for n in (0..500).rev() {
        take(&mut slots, n * 64 + 3).unwrap();
    }
    assert_eq!(first % 64, 7);
    // Remembered while it goes out, and seen by its neighbours after that.
    assert_eq!(take(&mut slots, 1000 * 64 + 9), Some(first + 2));
    for n in 2000..4000 {
        take(&mut slots, n * 64).unwrap();
    }
    let neighbour = (gfn(1000 * 64 + 7), Slot(first));
    let beside = slots.take(gfn(1000 * 64 + 63), std::iter::once(neighbour));
    assert_eq!(beside, Some(Slot(first + 56)));
    // What lies anywhere says nothing.
    let stray = (gfn(1000 * 64 + 8), Slot(first));
    let slot = slots.take(gfn(1000 * 64 + 62), std::iter::once(stray));
    assert_eq!(slot.unwrap().0 % 64, 62);
    assert_ne!(slot, Some(Slot(first + 55)));
}

#[test]
fn c5_no_room_is_lost_to_order() {
    // Two clusters and a rest, for pages that are nobody's neighbours.
    let mut slots = one(150);
    let taken: BTreeSet<_> = (0..150).map_while(|n| take(&mut slots, n * 64)).collect();
    assert_eq!(taken, (0..150).collect());
    assert_eq!(take(&mut slots, 1), None);
    // A cluster that is wholly free again is one again.
    assert!((0..64).all(|slot| slots.give(Slot(slot))));
    assert_eq!(take(&mut slots, 64_000 + 5), Some(5));
}

/// The areas that slots are taken from until there are no more, with how many in a row, for pages in order.
fn order(slots: &mut Slots) -> Vec<(u32, usize)> {
    let taken: Vec<_> = (0..)
        .map_while(|n| take(slots, n))
        .map(|slot| slot / 1024)
        .collect();
    let runs = taken.chunk_by(|a, b| a == b);
    runs.map(|run| (run[0], run.len())).collect()
}

#[test]
fn c5_areas_of_one_priority_take_turns_and_lower_ones_come_after() {
    let areas = [range(0, 128, 1), range(1024, 512, 5), range(2048, 768, 5)];
    let expected = [(1, 256), (2, 256), (1, 256), (2, 512), (0, 128)];
    assert_eq!(order(&mut Slots::new(&areas)), expected);
}

#[test]
fn c5_an_area_that_failed_comes_last_whatever_its_priority() {
    let mut slots = Slots::new(&[range(0, 64, 9), range(1024, 64, 1), range(2048, 64, 0)]);
    assert!(slots.failed(Slot(7)) && !slots.failed(Slot(8)));
    assert_eq!(order(&mut slots), [(1, 64), (2, 64), (0, 64)]);
    assert!(!slots.has_healthy_free_slot());
}

#[test]
fn after_the_last_slot_there_is_none() {
    let mut slots = Slots::new(&[range(SLOTS_END - 62, u32::MAX, 0)]);
    for slot in SLOTS_END - 62..SLOTS_END {
        assert_eq!(take(&mut slots, 0), Some(slot));
    }
    assert_eq!(take(&mut slots, 62), None);
    slots.give(Slot(SLOTS_END - 1));
    assert_eq!(take(&mut slots, 7), Some(SLOTS_END - 1));
}

fn ticks(slots: &mut Slots, ticks: usize) {
    (0..ticks).for_each(|_| assert_eq!(slots.tick().count(), 0));
}

#[test]
fn a_retired_slot_is_tried_after_a_pause_and_all_come_back_when_one_works() {
    let mut slots = one(3);
    for n in 0..3 {
        let slot = Slot(take(&mut slots, n).unwrap());
        slots.failed(slot);
        slots.retire(slot);
    }
    assert_eq!((slots.taken(), take(&mut slots, 0)), (0, None));
    ticks(&mut slots, 10);
    // One at a time.
    assert_eq!((take(&mut slots, 0), take(&mut slots, 0)), (Some(0), None));
    assert!(!slots.share(Slot(0)), "it is being written");
    slots.failed(Slot(0));
    slots.retire(Slot(0));
    ticks(&mut slots, 19);
    assert_eq!(take(&mut slots, 0), None, "the pause is longer now");
    ticks(&mut slots, 1);
    assert_eq!(take(&mut slots, 0), Some(1));
    // Its page stayed in the guest, so nothing was learned.
    assert!(slots.give(Slot(1)));
    assert_eq!((take(&mut slots, 0), take(&mut slots, 0)), (Some(2), None));
    slots.written(Slot(2));
    slots.works(Slot(2));
    assert_eq!(slots.taken(), 1);
    assert!(slots.rewrite(Slot(2)) && slots.has_healthy_free_slot());
    let both: BTreeSet<_> = [take(&mut slots, 0), take(&mut slots, 0)].into();
    assert_eq!(both, [Some(0), Some(1)].into());
}

#[test]
fn c5_an_area_that_failed_is_tried_with_one_page_and_then_as_good_as_before() {
    let mut slots = Slots::new(&[range(0, 64, 9), range(1024, 64, 1)]);
    // It was full, so nothing is retired.
    let full = Slot(take(&mut slots, 0).unwrap());
    assert!(slots.failed(full));
    slots.give(full);
    ticks(&mut slots, 10);
    let tried = take(&mut slots, 1).unwrap();
    assert!(tried < 64 && take(&mut slots, 2).unwrap() >= 1024);
    slots.works(Slot(tried));
    assert!(take(&mut slots, 3).unwrap() < 64);
    ticks(&mut slots, 600);
    assert_eq!(slots.tick().collect::<Vec<_>>(), [Slot(0)], "said once");
    ticks(&mut slots, 1000);
    assert!(slots.failed(full), "and the next failure is news");
}
