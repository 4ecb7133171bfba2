// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which slots of the store are taken, and by how many pages.
//!
//! A slot has an *owner* for each page whose contents, or copy, lie there, and is free once the last one has given it up
//! (row C6). While it is being written it has one, the page that it is written for, and no other can be added; while it has several it
//! is not written. So what a page shares stays as it is.
//!
//! Slots lie in *areas*, each with a stretch of numbers (row C5). The area with the highest priority that has a free
//! slot is the next one to take from; areas of the same priority take turns, a megabyte at a time, so that disks work side by
//! side. An area that failed to write is only taken from when no other has room, and now and then to see whether it works
//! again ([`AreaHealth`]).
//!
//! In an area slots lie in *clusters* of 64, so that neighbours that go out at different times lie together, and are read
//! in one call (row C8): the first of 64 neighbours to go out takes a cluster that is wholly free, the lowest, and its own place
//! in it, by gfn; the others take theirs beside it. Which cluster that is, is seen by where the neighbours lie, and for those
//! that are just going out remembered. The other slots of a cluster are free like any other: once no cluster is wholly free the lowest free
//! slot is taken, so that no room is lost to order.
//!
//! A file takes room on its disk where it has been written. So when an area is full, the free slots in which a page lay
//! before are taken first: nowhere else a write can succeed.

use std::cmp::Reverse;
use std::collections::HashMap;

use foldhash::fast::RandomState;
use p2m_paging::Gfn;

use super::area_health::AreaHealth;
use super::sparse::{SparseMap, SparseSet};
use crate::store::{SLOTS_END, Slot, SlotRange};

/// Slots of a cluster. Areas begin with one.
pub(super) const CLUSTER: u32 = 64;
/// Clusters taken from one area before it is another's turn.
const TURN: usize = 4;
/// Clusters remembered: of all pages in batches that go out, or nearly.
const RECENT: usize = 1024;

/// How an area stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaFigures {
    /// Its slots.
    pub range: SlotRange,
    /// How many are taken.
    pub taken: u64,
    /// It could not take a page, and none since.
    pub failed: bool,
    /// It is to go.
    pub leaving: bool,
}

/// Hands out slots in constant time.
#[derive(Debug)]
pub(super) struct Slots {
    /// The best first.
    areas: Vec<Area>,
    /// Clusters begun so far.
    turns: usize,
    /// By the last digits of its number, a group of neighbours and the first slot of the cluster that it took last.
    recent: Vec<(u64, Slot)>,
    /// Of slots with several owners, how many there are beside the first.
    further: SparseMap<u32>,
    /// Slots that are being written, or about to be, and those that are retired; with whether a page lay there before.
    writing: HashMap<Slot, bool, RandomState>,
}

#[derive(Debug)]
struct Area {
    range: SlotRange,
    /// Free slots below `next`, and behind the last cluster, counted from the area's first.
    free: SparseSet,
    /// Clusters below `next` all of whose slots are free.
    whole: SparseSet,
    /// Free slots in which a page lay before, or may have lain.
    used: SparseSet,
    /// The last write to a slot in which no page had lain found no room.
    is_full: bool,
    /// No cluster has been begun from here on.
    next: u32,
    taken: u64,
    health: AreaHealth,
    /// Nothing is taken from it any more.
    leaving: bool,
}

/// Which owner of a slot a page is that lies there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adopted {
    First,
    Further,
}

impl Slots {
    /// Slots in these areas, which do not overlap. Numbers from [`SLOTS_END`] on are not used.
    pub(super) fn new(areas: &[SlotRange]) -> Self {
        let mut slots = Self {
            areas: Vec::new(),
            turns: 0,
            recent: vec![(u64::MAX, Slot(0)); RECENT],
            further: SparseMap::default(),
            writing: HashMap::default(),
        };
        areas.iter().for_each(|area| slots.add(*area));
        slots
    }

    /// There is one more area.
    pub(super) fn add(&mut self, area: SlotRange) {
        self.areas.push(Area::new(area));
        self.areas.sort_by_key(Area::rank);
    }

    /// Nothing is taken from an area that is leaving.
    pub(super) fn set_leaving(&mut self, area: SlotRange, leaving: bool) {
        if let Some(area) = self.area(area.first) {
            area.leaving = leaving;
        }
    }

    /// Whether the slot's area is leaving.
    pub(super) fn is_leaving(&mut self, slot: Slot) -> bool {
        self.area(slot).is_some_and(|area| area.leaving)
    }

    /// An area is no more; none of its slots may be taken.
    pub(super) fn remove(&mut self, area: SlotRange) {
        self.areas.retain(|other| other.range.first != area.first);
        self.writing.retain(|slot, _| !area.contains(*slot));
    }

    /// How many of an area's are taken.
    pub(super) fn taken_in(&mut self, area: SlotRange) -> u64 {
        self.area(area.first).map_or(0, |area| area.taken)
    }

    /// A free slot of the best area that has any, to be written; for this page, whose neighbours lie in these slots.
    pub(super) fn take(
        &mut self,
        gfn: Gfn,
        neighbours: impl Iterator<Item = (Gfn, Slot)>,
    ) -> Option<Slot> {
        let tried = self
            .areas
            .iter_mut()
            .find_map(|area| area.try_again(place(gfn)));
        let slot = tried.or_else(|| self.find(gfn, neighbours))?;
        let was_used = self.area(slot).is_some_and(|area| area.was_used(slot));
        self.writing.insert(slot, was_used);
        Some(slot)
    }

    /// A page lies in this slot since before there were these tables. Whether there is such a slot.
    pub(super) fn adopt(&mut self, slot: Slot) -> bool {
        let adopted = self.area(slot).map(|area| area.adopt(slot));
        match adopted {
            Some(Adopted::First) => true,
            Some(Adopted::Further) => self.share(slot),
            None => false,
        }
    }

    /// Its one owner may write the slot again; not if there are more.
    pub(super) fn rewrite(&mut self, slot: Slot) -> bool {
        let is_own = !self.is_shared(slot);
        if is_own {
            self.writing.insert(slot, true);
        }
        is_own
    }

    /// The slot is not being written any more: a page lies in it.
    pub(super) fn written(&mut self, slot: Slot) {
        let was_used = self.writing.remove(&slot);
        if let Some(area) = self.area(slot).filter(|_| was_used == Some(false)) {
            let index = area.index(slot);
            area.used.reserve(index);
            area.is_full = false;
        }
    }

    /// There is no room for a page in this slot, which is given back next.
    pub(super) fn no_room(&mut self, slot: Slot) {
        self.writing.insert(slot, false);
        if let Some(area) = self.area(slot) {
            area.is_full = true;
        }
    }

    /// The slot has one more owner, if that can be: it is taken, nobody writes it, and its area stays.
    pub(super) fn share(&mut self, slot: Slot) -> bool {
        if self.writing.contains_key(&slot) {
            return false;
        }
        let may = self
            .area(slot)
            .is_some_and(|area| !area.leaving && area.is_taken(slot));
        if may {
            let further = self.further.get(slot.0.into()).unwrap_or(0);
            self.further.insert(slot.0.into(), further + 1);
        }
        may
    }

    /// Whether a slot has several owners.
    pub(super) fn is_shared(&self, slot: Slot) -> bool {
        self.further.contains(slot.0.into())
    }

    fn find(&mut self, gfn: Gfn, neighbours: impl Iterator<Item = (Gfn, Slot)>) -> Option<Slot> {
        let group = gfn.get() / u64::from(CLUSTER);
        let mut equals = self.areas.chunk_by_mut(|a, b| a.rank() == b.rank());
        let equal = equals.find(|equal| equal.iter().any(Area::has_room))?;
        if let Some(slot) = equal.iter_mut().find_map(Area::take_where_room_is) {
            return Some(slot);
        }
        // Where the page's place is in the cluster of a neighbour that lies in its own.
        let beside = neighbours
            .filter(|(neighbour, slot)| slot.0 % CLUSTER == place(*neighbour))
            .map(|(_, slot)| slot.0 - slot.0 % CLUSTER);
        let at = usize::try_from(group).unwrap_or(0) % RECENT;
        let (last_group, cluster) = self.recent[at];
        let recent = (last_group == group).then_some(cluster.0);
        for cluster in recent.into_iter().chain(beside) {
            let slot = Slot(cluster + place(gfn));
            let mut areas = equal.iter_mut();
            if let Some(area) = areas.find(|area| area.range.contains(slot))
                && area.take_exactly(slot)
            {
                return Some(slot);
            }
        }
        let (before, from) = equal.split_at_mut(self.turns / TURN % equal.len());
        let mut in_turn = from.iter_mut().chain(before);
        if let Some(slot) = in_turn.find_map(|area| area.begin_cluster(place(gfn))) {
            self.turns = self.turns.wrapping_add(1);
            self.recent[at] = (group, Slot(slot.0 - place(gfn)));
            return Some(slot);
        }
        equal.iter_mut().find_map(Area::take_lowest)
    }

    /// An owner gives a slot up. Whether it was the last one: then the slot is free.
    pub(super) fn give(&mut self, slot: Slot) -> bool {
        let was_used = self.writing.remove(&slot).unwrap_or(true);
        match self.further.get(slot.0.into()) {
            Some(1) => _ = self.further.remove(slot.0.into()),
            Some(further) => _ = self.further.insert(slot.0.into(), further - 1),
            None => {
                if self
                    .area(slot)
                    .is_some_and(|area| !area.give(slot, was_used))
                {
                    self.writing.insert(slot, was_used);
                }
                return true;
            }
        }
        false
    }

    /// A slot that could not be written is out of use until its area works again, or it would be the next one.
    pub(super) fn retire(&mut self, slot: Slot) {
        self.writing.insert(slot, true);
        if let Some(area) = self.area(slot) {
            area.taken -= 1;
            area.health.retire(slot);
        }
    }

    /// A slot's area could not take a page: from now on it comes after all that could. Whether that is to be reported: it
    /// is news, and another area has room.
    pub(super) fn failed(&mut self, slot: Slot) -> bool {
        let Some(area) = self.area(slot) else {
            return false;
        };
        area.health.fails(slot);
        self.areas.sort_by_key(Area::rank);
        self.has_healthy_free_slot()
            && self
                .area(slot)
                .is_some_and(|area| !std::mem::replace(&mut area.health.is_reported, true))
    }

    /// A slot's area has taken a page: the area is as good as others.
    pub(super) fn works(&mut self, slot: Slot) {
        let Some(area) = self.areas.iter_mut().find(|area| area.range.contains(slot)) else {
            return;
        };
        let had_failed = area.health.has_failed();
        for slot in area.health.works(slot) {
            area.set_free(slot, true);
            self.writing.remove(&slot);
        }
        if had_failed {
            self.areas.sort_by_key(Area::rank);
        }
    }

    /// Some time passed. Returns the first slots of the areas whose failure was reported, and is over.
    pub(super) fn tick(&mut self) -> impl Iterator<Item = Slot> + '_ {
        let areas = self.areas.iter_mut();
        areas.filter_map(|area| area.health.tick().then_some(area.range.first))
    }

    /// Whether an area has room that has not failed.
    pub(super) fn has_healthy_free_slot(&self) -> bool {
        self.areas
            .iter()
            .any(|area| !area.health.has_failed() && area.has_room())
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> u64 {
        self.areas.iter().map(|area| area.taken).sum()
    }

    /// How each area stands, the best first.
    pub(super) fn figures(&self) -> impl Iterator<Item = AreaFigures> + '_ {
        self.areas.iter().map(|area| AreaFigures {
            range: area.range,
            taken: area.taken,
            failed: area.health.has_failed(),
            leaving: area.leaving,
        })
    }

    /// Memory in use, in bytes.
    pub(super) fn table_bytes(&self) -> usize {
        let areas = self.areas.iter();
        let sets = areas.flat_map(|area| [&area.free, &area.whole, &area.used]);
        let retired = self.areas.iter().map(|area| area.health.table_bytes());
        sets.map(SparseSet::table_bytes)
            .chain(retired)
            .sum::<usize>()
            + self.further.table_bytes()
    }

    fn area(&mut self, slot: Slot) -> Option<&mut Area> {
        self.areas.iter_mut().find(|area| area.range.contains(slot))
    }
}

impl Area {
    fn new(range: SlotRange) -> Self {
        let first = range.first.0.min(SLOTS_END);
        let slots = range.slots.min(SLOTS_END - first);
        let mut free = SparseSet::default();
        let rest = slots % CLUSTER;
        if rest > 0 {
            free.insert_range((slots - rest).into()..=(slots - 1).into(), ());
        }
        Self {
            range: SlotRange {
                first: Slot(first),
                slots,
                ..range
            },
            free,
            whole: SparseSet::default(),
            used: SparseSet::default(),
            is_full: false,
            next: 0,
            taken: 0,
            health: AreaHealth::default(),
            leaving: false,
        }
    }

    fn rank(&self) -> (bool, Reverse<i32>) {
        (self.health.has_failed(), Reverse(self.range.priority))
    }

    fn index(&self, slot: Slot) -> u64 {
        u64::from(slot.0 - self.range.first.0)
    }

    fn has_room(&self) -> bool {
        !self.leaving && (!self.free.is_empty() || self.range.slots - self.next >= CLUSTER)
    }

    /// Whether a slot is taken, or out of use.
    fn is_taken(&self, slot: Slot) -> bool {
        let index = self.index(slot);
        let rest = self.range.slots - self.range.slots % CLUSTER;
        let begun = index < self.next.into() || index >= rest.into();
        begun && !self.free.contains(index)
    }

    /// A page lies in this slot. Clusters below it have been begun, and are free unless pages lie there.
    fn adopt(&mut self, slot: Slot) -> Adopted {
        let end = self.range.slots - self.range.slots % CLUSTER;
        let place = slot.0 - self.range.first.0;
        if (self.next..end).contains(&place) {
            let next = place - place % CLUSTER + CLUSTER;
            let begun = self.next.into()..=(next - 1).into();
            self.free.insert_range(begun.clone(), ());
            self.used.insert_range(begun, ());
            let clusters = self.next / CLUSTER..=(next - 1) / CLUSTER;
            self.whole
                .insert_range((*clusters.start()).into()..=(*clusters.end()).into(), ());
            self.next = next;
        }
        if self.take_exactly(slot) {
            self.was_used(slot);
            Adopted::First
        } else {
            Adopted::Further
        }
    }

    /// A free slot of an area that has room; whether it was free.
    fn take_exactly(&mut self, slot: Slot) -> bool {
        let index = self.index(slot);
        let was_free = !self.leaving && self.free.remove(index).is_some();
        if was_free {
            self.whole.remove(index / u64::from(CLUSTER));
            self.taken += 1;
        }
        was_free
    }

    /// The slot at a place in a cluster that is wholly free.
    fn begin_cluster(&mut self, place: u32) -> Option<Slot> {
        if self.leaving {
            return None;
        }
        let first = match self.whole.next(0) {
            Some((cluster, ())) => u32::try_from(cluster).ok()? * CLUSTER,
            None if self.range.slots - self.next >= CLUSTER => {
                let first = self.next;
                self.next += CLUSTER;
                let all = first.into()..=(self.next - 1).into();
                self.free.insert_range(all, ());
                self.whole.insert((first / CLUSTER).into(), ());
                first
            }
            None => return None,
        };
        let slot = Slot(self.range.first.0 + first + place);
        self.take_exactly(slot).then_some(slot)
    }

    fn take_lowest(&mut self) -> Option<Slot> {
        if self.leaving {
            return None;
        }
        let (index, ()) = self.free.next(0)?;
        let slot = Slot(self.range.first.0 + u32::try_from(index).ok()?);
        self.take_exactly(slot).then_some(slot)
    }

    /// Whether a page lay before in a slot that has just been taken.
    fn was_used(&mut self, slot: Slot) -> bool {
        self.used.remove(self.index(slot)).is_some()
    }

    /// If the area is full: a free slot for which there is room all the same.
    fn take_where_room_is(&mut self) -> Option<Slot> {
        if self.leaving || !self.is_full {
            return None;
        }
        let (index, ()) = self.used.next(0)?;
        let slot = Slot(self.range.first.0 + u32::try_from(index).ok()?);
        self.take_exactly(slot).then_some(slot)
    }

    /// A slot to be tried, if it is time for that.
    fn try_again(&mut self, place: u32) -> Option<Slot> {
        if self.leaving || !self.health.is_due() {
            return None;
        }
        let slot = match self.health.longest_retired() {
            Some(slot) => {
                self.taken += 1;
                slot
            }
            None => self.begin_cluster(place).or_else(|| self.take_lowest())?,
        };
        self.health.tries(slot);
        Some(slot)
    }

    /// Whether the slot is free now; else it is retired. Nothing is allocated: slots are given back while a fault is
    /// handled.
    fn give(&mut self, slot: Slot, was_used: bool) -> bool {
        self.taken -= 1;
        let is_free = !self.health.stays_retired(slot);
        if is_free {
            self.set_free(slot, was_used);
        }
        is_free
    }

    fn set_free(&mut self, slot: Slot, was_used: bool) {
        let index = self.index(slot);
        self.free.insert(index, ());
        if was_used {
            self.used.insert(index, ());
        }
        if self.free.has_all_of_64(index) {
            self.whole.insert(index / u64::from(CLUSTER), ());
        }
    }
}

/// Where a page lies in its cluster.
fn place(gfn: Gfn) -> u32 {
    u32::try_from(gfn.get() % u64::from(CLUSTER)).unwrap_or(0)
}

#[cfg(test)]
#[path = "slots_owners_tests.rs"]
mod owners_tests;
#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
