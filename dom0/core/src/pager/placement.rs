// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages lie where in the store, and which slots are taken for that.
//!
//! A slot is freed when its last owner gives it up, and the shell is told at once. Copies of resident
//! pages are given up when there is no other slot.

use p2m_paging::Gfn;

use crate::batch::PageError;
use crate::event::{Action, Actions, Report};
use crate::flight::Flights;
use crate::locations::Locations;
use crate::slots::{CLUSTER, Slots};
use crate::store::{CompareWith, Saved, Slot, SlotRange, StoreError};

/// Copies that are given up together when the store is full.
const COPIES_AT_ONCE: usize = 512;
/// Pages looked at for that.
const COPIES_REACH: usize = 4096;

/// Locations of pages, and the slots behind them.
#[derive(Debug)]
pub(crate) struct Placement {
    pub(crate) locations: Locations,
    pub(crate) slots: Slots,
    /// Where the search for copies to give up goes on.
    copies_cursor: u64,
}

impl Placement {
    pub(super) fn new(areas: &[SlotRange]) -> Self {
        Self {
            locations: Locations::default(),
            slots: Slots::new(areas),
            copies_cursor: 0,
        }
    }

    /// Nothing in the store belongs to this page any more. Returns whether that freed a slot.
    pub(super) fn free_location(&mut self, gfn: Gfn, actions: &mut Actions) -> bool {
        let slot = self.locations.forget(gfn);
        slot.is_some_and(|slot| self.give_back(slot, actions))
    }

    /// An owner gives a slot up. Returns whether it was the last.
    pub(super) fn give_back(&mut self, slot: Slot, actions: &mut Actions) -> bool {
        let is_free = self.slots.give(slot);
        if is_free {
            actions.push(Action::Free(slot));
        }
        is_free
    }

    /// A free slot for a page. Where there is none, copies are given up for it.
    pub(super) fn take_slot(
        &mut self,
        gfn: Gfn,
        flights: &Flights,
        actions: &mut Actions,
    ) -> Option<Slot> {
        let neighbours = self.locations.neighbours(gfn, CLUSTER.into());
        self.slots.take(gfn, neighbours).or_else(|| {
            self.give_up_copies(flights, actions);
            let neighbours = self.locations.neighbours(gfn, CLUSTER.into());
            self.slots.take(gfn, neighbours)
        })
    }

    /// The slot for a page that is to be saved, and what the page is to be compared with.
    pub(super) fn allocate_slot(
        &mut self,
        gfn: Gfn,
        flights: &Flights,
        actions: &mut Actions,
    ) -> Option<(Slot, CompareWith)> {
        if let Some(copy) = self.usable_copy(gfn, actions)
            && self.slots.rewrite(copy)
        {
            return Some((copy, CompareWith::Own));
        }
        let slot = self.take_slot(gfn, flights, actions)?;
        // Its copy is shared, and may have been given up to find a slot.
        let copy = self.locations.copy(gfn);
        Some((slot, copy.map_or(CompareWith::Any, CompareWith::Slot)))
    }

    /// The copy of a page that is to be saved, unless it lies in an area that is being drained.
    fn usable_copy(&mut self, gfn: Gfn, actions: &mut Actions) -> Option<Slot> {
        let copy = self.locations.copy(gfn)?;
        if self.slots.is_leaving(copy) {
            self.free_location(gfn, actions);
            return None;
        }
        Some(copy)
    }

    /// Gives up some copies of resident pages, which cost no more than a write later. Returns how many
    /// slots that freed. Of many pages that are out, only so many are looked at in one call.
    pub(super) fn give_up_copies(&mut self, flights: &Flights, actions: &mut Actions) -> u64 {
        if self.locations.copies() == 0 {
            return 0;
        }
        let mut found = [None; COPIES_AT_ONCE];
        let mut places = found.iter_mut();
        // From the start again, once the end is reached.
        let mut next = 0;
        for ((gfn, _), looked) in self.locations.from(self.copies_cursor).zip(0..) {
            if looked == COPIES_REACH || places.len() == 0 {
                next = gfn.get();
                break;
            }
            if !self.locations.is_out(gfn)
                && !flights.contains(gfn)
                && let Some(place) = places.next()
            {
                *place = Some(gfn);
            }
        }
        self.copies_cursor = next;
        let gfns = found.into_iter().flatten();
        gfns.map(|gfn| u64::from(self.free_location(gfn, actions)))
            .sum()
    }

    /// A page is in this slot, as the store says.
    pub(super) fn saved_in(&mut self, slot: Slot, saved: Saved) {
        self.slots.written(slot);
        if saved == Saved::Written {
            self.slots.works(slot);
        }
    }

    /// The store did not take a page into this slot. The slot belongs to nobody now, and its area has
    /// failed.
    pub(super) fn not_written(&mut self, slot: Slot, error: PageError, actions: &mut Actions) {
        self.area_failed(slot, error, actions);
        if error == PageError::Store(StoreError::Full) {
            self.slots.no_room(slot);
            self.give_back(slot, actions);
        } else {
            self.slots.retire(slot);
            actions.push(Action::Free(slot));
        }
    }

    /// The slot's area could not take a page. This is reported once for each area, while another has
    /// slots.
    pub(super) fn area_failed(&mut self, slot: Slot, error: PageError, actions: &mut Actions) {
        if self.slots.failed(slot) {
            actions.push(Action::Report(Report::AreaFailed { slot, error }));
        }
    }

    /// Some time passed.
    pub(super) fn tick(&mut self, actions: &mut Actions) {
        let sound = self.slots.tick();
        actions.extend(sound.map(|slot| Action::Report(Report::AreaRecovered { slot })));
    }

    /// Memory in use, in bytes.
    pub(super) fn table_bytes(&self) -> usize {
        self.slots.table_bytes() + self.locations.table_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flight::Direction;
    use crate::locations::Location;

    fn gfn(n: u64) -> Gfn {
        Gfn::new_truncate(n)
    }

    fn freed(actions: &mut Actions) -> Vec<Slot> {
        let slots = actions.drain().filter_map(|action| match action {
            Action::Free(slot) => Some(slot),
            _ => None,
        });
        slots.collect()
    }

    /// A store of four slots, all of them taken: by a page that is out, by one in flight, and by two
    /// copies.
    fn full() -> (Placement, Flights, [Slot; 4]) {
        let area = SlotRange {
            slots: 4,
            ..SlotRange::EVERYTHING
        };
        let mut placement = Placement::new(&[area]);
        let mut flights = Flights::with_room_for(4);
        let mut actions = Actions::with_capacity(8);
        let slots = [0, 1, 2, 3].map(|n| {
            let slot = placement.take_slot(gfn(n), &flights, &mut actions);
            let slot = slot.expect("a free slot");
            placement.slots.written(slot);
            placement.locations.keep(gfn(n), slot);
            slot
        });
        placement
            .locations
            .goes_out(gfn(0), Location::Slot(slots[0]));
        flights.start(gfn(1), Direction::Out);
        (placement, flights, slots)
    }

    #[test]
    fn copies_are_given_up_but_not_of_pages_that_are_out_or_in_flight() {
        let (mut placement, flights, slots) = full();
        let mut actions = Actions::with_capacity(8);
        let slot = placement.take_slot(gfn(9), &flights, &mut actions);
        assert_eq!(freed(&mut actions), [slots[2], slots[3]]);
        assert!(slot.is_some_and(|slot| slots[2..].contains(&slot)));
        assert_eq!(placement.locations.copies(), 1, "of the page in flight");
        assert_eq!(placement.locations.out_pages(), 1);
    }

    #[test]
    fn a_shared_slot_is_freed_by_its_last_owner() {
        let (mut placement, _, slots) = full();
        let mut actions = Actions::with_capacity(8);
        assert!(placement.slots.share(slots[2]));
        placement.locations.keep(gfn(8), slots[2]);
        assert!(!placement.free_location(gfn(2), &mut actions));
        assert_eq!(freed(&mut actions), []);
        assert!(placement.free_location(gfn(8), &mut actions));
        assert_eq!(freed(&mut actions), [slots[2]]);
    }

    #[test]
    fn a_page_is_compared_with_its_copy() {
        let (mut placement, mut flights, slots) = full();
        let mut actions = Actions::with_capacity(8);
        let own = placement.allocate_slot(gfn(2), &flights, &mut actions);
        assert_eq!(own, Some((slots[2], CompareWith::Own)));
        placement.slots.written(slots[2]);
        // A shared copy stays as it is: the page gets another slot.
        assert!(placement.slots.share(slots[2]));
        flights.start(gfn(2), Direction::Out);
        let shared = placement.allocate_slot(gfn(2), &flights, &mut actions);
        assert_eq!(shared, Some((slots[3], CompareWith::Slot(slots[2]))));
    }

    /// A slot that the device refuses is not the next to be taken; one for which there was no space is.
    #[test]
    fn a_slot_that_cannot_be_written_is_out_of_use() {
        let io = |slot| PageError::Store(StoreError::Io { slot, errno: 5 });
        for (full, taken_again) in [(true, true), (false, false)] {
            let (mut placement, flights, slots) = super::tests::full();
            let mut actions = Actions::with_capacity(8);
            placement.locations.forget(gfn(3));
            let error = match full {
                true => PageError::Store(StoreError::Full),
                false => io(slots[3]),
            };
            placement.not_written(slots[3], error, &mut actions);
            assert_eq!(freed(&mut actions), [slots[3]]);
            placement.locations.forget(gfn(2));
            let slot = placement.take_slot(gfn(9), &flights, &mut actions);
            assert_eq!(slot.is_some(), taken_again);
        }
    }
}
