//! Which slots of the store are taken.
//!
//! Slots lie in *areas*, each with a stretch of numbers (row C5). The area with the highest priority that has a free
//! slot is the next one to take from; areas of the same priority take turns, a stretch at a time, so that disks work side by
//! side and pages that go out together lie together. In an area the lowest free slot is taken first, so that it stays small and
//! dense. An area that failed to write is only taken from when no other has room.

use std::cmp::Reverse;

use super::sparse::SparseSet;
use crate::store::{SLOTS_END, Slot, SlotRange};

/// Slots taken from one area before it is another's turn: 256 KiB.
const TURN: usize = 64;

/// How an area stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaFigures {
    /// Its slots.
    pub range: SlotRange,
    /// How many are taken.
    pub taken: u64,
    /// It could not take a page once.
    pub failed: bool,
    /// It is to go.
    pub leaving: bool,
}

/// Hands out slots in constant time.
#[derive(Debug)]
pub(super) struct Slots {
    /// The best first.
    areas: Vec<Area>,
    /// Slots handed out so far.
    turns: usize,
}

#[derive(Debug)]
struct Area {
    range: SlotRange,
    /// Free slots below `next`, counted from the area's first.
    free: SparseSet,
    /// Never taken so far, from here on.
    next: u32,
    taken: u64,
    /// It could not take a page once.
    failed: bool,
    /// Nothing is taken from it any more.
    leaving: bool,
}

impl Slots {
    /// Slots in these areas, which do not overlap. Numbers from [`SLOTS_END`] on are not used.
    pub(super) fn new(areas: &[SlotRange]) -> Self {
        let mut slots = Self {
            areas: Vec::new(),
            turns: 0,
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
    }

    /// How many of an area's are taken.
    pub(super) fn taken_in(&mut self, area: SlotRange) -> u64 {
        self.area(area.first).map_or(0, |area| area.taken)
    }

    /// A free slot of the best area that has any.
    pub(super) fn take(&mut self) -> Option<Slot> {
        let turn = self.turns / TURN;
        let mut equals = self.areas.chunk_by_mut(|a, b| a.rank() == b.rank());
        let slot = equals.find_map(|equal| {
            let (before, from) = equal.split_at_mut(turn % equal.len());
            from.iter_mut().chain(before).find_map(Area::take)
        })?;
        self.turns = self.turns.wrapping_add(1);
        Some(slot)
    }

    /// Takes a slot back.
    pub(super) fn give(&mut self, slot: Slot) {
        if let Some(area) = self.area(slot) {
            area.free.insert(area.index(slot), ());
            area.taken -= 1;
        }
    }

    /// A slot that could not be written is taken out of use, or it would be the next one again.
    pub(super) fn retire(&mut self, slot: Slot) {
        if let Some(area) = self.area(slot) {
            area.taken -= 1;
        }
    }

    /// A slot's area could not take a page: from now on it comes after all that could. Whether that is news.
    pub(super) fn failed(&mut self, slot: Slot) -> bool {
        let Some(area) = self.area(slot) else {
            return false;
        };
        let is_news = !std::mem::replace(&mut area.failed, true);
        self.areas.sort_by_key(Area::rank);
        is_news
    }

    /// Whether an area has room that has not failed.
    pub(super) fn sound_room(&self) -> bool {
        self.areas
            .iter()
            .any(|area| !area.failed && area.has_room())
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
            failed: area.failed,
            leaving: area.leaving,
        })
    }

    /// Memory in use, in bytes.
    pub(super) fn table_bytes(&self) -> usize {
        self.areas.iter().map(|area| area.free.table_bytes()).sum()
    }

    fn area(&mut self, slot: Slot) -> Option<&mut Area> {
        self.areas.iter_mut().find(|area| area.range.contains(slot))
    }
}

impl Area {
    fn new(range: SlotRange) -> Self {
        let first = range.first.0.min(SLOTS_END);
        Self {
            range: SlotRange {
                first: Slot(first),
                slots: range.slots.min(SLOTS_END - first),
                ..range
            },
            free: SparseSet::default(),
            next: 0,
            taken: 0,
            failed: false,
            leaving: false,
        }
    }

    fn rank(&self) -> (bool, Reverse<i32>) {
        (self.failed, Reverse(self.range.priority))
    }

    fn index(&self, slot: Slot) -> u64 {
        u64::from(slot.0 - self.range.first.0)
    }

    fn has_room(&self) -> bool {
        !self.leaving && (!self.free.is_empty() || self.next < self.range.slots)
    }

    fn take(&mut self) -> Option<Slot> {
        if self.leaving {
            return None;
        }
        let index = match self.free.next(0) {
            Some((index, ())) => {
                self.free.remove(index);
                u32::try_from(index).ok()?
            }
            None if self.next < self.range.slots => {
                self.next += 1;
                // Slots are given back while a fault is handled, where nothing may be allocated.
                self.free.reserve(u64::from(self.next - 1));
                self.next - 1
            }
            None => return None,
        };
        self.taken += 1;
        Some(Slot(self.range.first.0 + index))
    }
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
