// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page store's disk: it has errors, writes too little, and reports writes that it did not
//! make. The store above it remembers a checksum for each page, as the real one does.

use std::collections::HashMap;

use fastrand::Rng;
use pager_store::{CompareWith, Corruption, Outcome, Saved, Slot, StoreError};

use super::scenario::{Knob, Scenario};
use crate::machine::{Page, SECTORS};

/// The error number of a disk.
const EIO: i32 = 5;

#[derive(Clone, Copy, Debug)]
struct StoredPage {
    on_disk: Page,
    checksum: u64,
}

/// A disk with a store's checksums.
#[derive(Debug)]
pub(super) struct Disk {
    slots: Vec<Option<StoredPage>>,
    /// The slot that each page was last written to, by checksum, if the store deduplicates.
    seems: Option<HashMap<u64, Slot>>,
    held: usize,
    capacity: usize,
    /// Whether faults are injected now.
    pub(super) faulty: bool,
    errors: u32,
    torn: u32,
    short: u32,
}

fn hits(rng: &mut Rng, in_a_thousand: u32) -> bool {
    in_a_thousand > 0 && rng.u32(0..1000) < in_a_thousand
}

impl Disk {
    /// An empty one.
    pub(super) fn new(scenario: &Scenario) -> Self {
        let capacity = match scenario.get(Knob::Room) {
            0 => usize::MAX,
            percent => (scenario.get(Knob::Gfns) * percent / 100) as usize,
        };
        Self {
            slots: Vec::new(),
            seems: (scenario.get(Knob::Alike) > 0).then(HashMap::new),
            held: 0,
            capacity,
            faulty: true,
            errors: scenario.get(Knob::Disk),
            torn: scenario.get(Knob::Torn),
            short: scenario.get(Knob::Short),
        }
    }

    /// Writes a page, unless it is zeros, its copy is there, or it seems to equal another page.
    pub(super) fn save(
        &mut self,
        slot: Slot,
        like: CompareWith,
        page: &Page,
        rng: &mut Rng,
    ) -> Result<Saved, StoreError> {
        if *page == Page::ZERO {
            self.free(slot);
            return Ok(Saved::Zeros);
        }
        let copy = match like {
            CompareWith::Own => Some(slot),
            CompareWith::Slot(other) => Some(other),
            CompareWith::Any | CompareWith::Nothing => None,
        };
        if copy.is_some_and(|copy| self.read(copy, rng) == Ok(*page)) {
            return Ok(Saved::Unchanged);
        }
        if let Some(seems) = &mut self.seems {
            let last = seems.entry(page.checksum()).or_insert(slot);
            if *last != slot && matches!(like, CompareWith::Any | CompareWith::Own) {
                return Ok(Saved::DedupCandidate(*last));
            }
            *last = slot;
        }
        self.write(slot, page, rng).map(|()| Saved::Written)
    }

    /// Writes a page.
    fn write(&mut self, slot: Slot, page: &Page, rng: &mut Rng) -> Outcome {
        let at = slot.0 as usize;
        if self.slots.len() <= at {
            self.slots.resize(at + 1, None);
        }
        let before = self.slots[at].take();
        self.held -= usize::from(before.is_some());
        if self.faulty && hits(rng, self.errors) {
            return Err(StoreError::Io { slot, errno: EIO });
        }
        if self.faulty && hits(rng, self.short) {
            let bytes = rng.usize(0..SECTORS) * 512;
            return Err(StoreError::Short { slot, bytes });
        }
        if self.faulty && self.held >= self.capacity {
            return Err(StoreError::Full);
        }
        let mut on_disk = *page;
        if self.faulty && hits(rng, self.torn) {
            // The contents of sectors that were not written do not matter: here they are another
            // page's.
            on_disk.0[rng.usize(0..SECTORS)..].fill(0x0dd5_ec70);
        }
        self.slots[at] = Some(StoredPage {
            on_disk,
            checksum: page.checksum(),
        });
        self.held += 1;
        Ok(())
    }

    /// Reads a page.
    pub(super) fn read(&self, slot: Slot, rng: &mut Rng) -> Result<Page, StoreError> {
        if self.faulty && hits(rng, self.errors) {
            return Err(StoreError::Io { slot, errno: EIO });
        }
        let held = self.held_in(slot).ok_or(StoreError::Empty { slot })?;
        let found = held.on_disk.checksum();
        if found == held.checksum {
            Ok(held.on_disk)
        } else {
            let short = |sum: u64| u32::try_from(sum >> 32).unwrap_or(0);
            Err(StoreError::Corrupt {
                slot,
                expected: short(held.checksum),
                found: short(found),
                kind: Corruption::Rotten { sectors: 0 },
            })
        }
    }

    /// Forgets a page.
    pub(super) fn free(&mut self, slot: Slot) {
        if let Some(held) = self.slots.get_mut(slot.0 as usize) {
            self.held -= usize::from(held.take().is_some());
        }
    }

    /// The contents of a slot without injected faults: `None` if it contains nothing that is
    /// trusted.
    pub(super) fn trusted(&self, slot: Slot) -> Option<Page> {
        let held = self.held_in(slot)?;
        (held.on_disk.checksum() == held.checksum).then_some(held.on_disk)
    }

    /// Whether the slot holds a page that the disk has corrupted.
    pub(super) fn is_corrupted(&self, slot: Slot) -> bool {
        self.held_in(slot).is_some() && self.trusted(slot).is_none()
    }

    fn held_in(&self, slot: Slot) -> Option<&StoredPage> {
        self.slots.get(slot.0 as usize)?.as_ref()
    }
}
