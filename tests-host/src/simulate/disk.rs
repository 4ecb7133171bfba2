// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page store's disk: it has errors, writes too little, and reports writes that it did not
//! make. The store above it remembers a checksum for each page, as the real one does.
//!
//! What is written is in the host's page cache until it is flushed. A pager that is killed leaves the
//! cache as it is. A host that crashes loses what was not flushed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

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
    /// The disk has not written what it reported.
    is_torn: bool,
}

/// The contents of a slot.
#[derive(Clone, Copy, Debug)]
enum Contents {
    Empty,
    Page(StoredPage),
    /// Another pager wrote it, and this one knows nothing of it.
    Unknown(StoredPage),
}

/// A disk with a store's checksums.
#[derive(Debug)]
pub(super) struct Disk {
    slots: Vec<Contents>,
    /// Slots that were written since the last flush.
    unflushed: BTreeSet<u32>,
    /// What a host that crashes leaves, by slot.
    durable: BTreeMap<u32, Page>,
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
            unflushed: BTreeSet::new(),
            durable: BTreeMap::new(),
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
            self.slots.resize(at + 1, Contents::Empty);
        }
        self.free(slot);
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
        self.slots[at] = Contents::Page(StoredPage {
            on_disk,
            checksum: page.checksum(),
            is_torn: on_disk != *page,
        });
        self.unflushed.insert(slot.0);
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
        self.held -= usize::from(self.held_in(slot).is_some());
        if let Some(contents) = self.slots.get_mut(slot.0 as usize) {
            *contents = Contents::Empty;
        }
    }

    /// What was written is on the disk.
    pub(super) fn flush(&mut self) {
        for slot in std::mem::take(&mut self.unflushed) {
            if let Some(page) = self.in_file(Slot(slot)) {
                self.durable.insert(slot, page.on_disk);
            }
        }
    }

    /// The checksum of a slot's page, for the index.
    pub(super) fn checksum(&self, slot: Slot) -> Option<u64> {
        self.held_in(slot).map(|held| held.checksum)
    }

    /// The pager is dead: the next one has its files, but knows nothing of what is in them.
    pub(super) fn forget_all(&mut self) {
        self.held = 0;
        self.seems = self.seems.take().map(|_| HashMap::new());
        for contents in &mut self.slots {
            if let Contents::Page(page) = contents {
                *contents = Contents::Unknown(*page);
            }
        }
    }

    /// The index says that a page lies in this slot, with this checksum. `false`: the slot is empty.
    pub(super) fn adopt(&mut self, slot: Slot, checksum: u64) -> bool {
        let Some(contents) = self.slots.get_mut(slot.0 as usize) else {
            return false;
        };
        match *contents {
            Contents::Empty => false,
            // Several pages share it.
            Contents::Page(page) => page.checksum == checksum,
            Contents::Unknown(page) => {
                *contents = Contents::Page(StoredPage { checksum, ..page });
                self.held += 1;
                true
            }
        }
    }

    /// How many slots hold a page.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// What is read from a slot if the host has crashed. `None`: an error, as it is not the page with
    /// this checksum.
    pub(super) fn after_a_crash(&self, slot: Slot, checksum: u64) -> Option<Page> {
        let page = self.durable.get(&slot.0).copied();
        page.filter(|page| page.checksum() == checksum)
    }

    /// What is read from a slot if the next pager adopts it with this checksum. `None`: an error.
    pub(super) fn with_checksum(&self, slot: Slot, checksum: u64) -> Option<Page> {
        let page = self.in_file(slot)?.on_disk;
        (page.checksum() == checksum).then_some(page)
    }

    fn in_file(&self, slot: Slot) -> Option<&StoredPage> {
        match self.slots.get(slot.0 as usize)? {
            Contents::Empty => None,
            Contents::Page(page) | Contents::Unknown(page) => Some(page),
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
        self.in_file(slot).is_some_and(|page| page.is_torn)
    }

    fn held_in(&self, slot: Slot) -> Option<&StoredPage> {
        match self.slots.get(slot.0 as usize)? {
            Contents::Page(page) => Some(page),
            Contents::Empty | Contents::Unknown(_) => None,
        }
    }
}
