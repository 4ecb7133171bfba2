// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's own page tables, in its own memory: the bits of an entry, and the walk that hardware
//! makes for a process. The tables' pages are ordinary pages: each step of a walk goes through the
//! nested tables and may find its page out.

use p2m_paging::Gfn;
use p2m_paging::p2m::Access;
use x86_64::structures::paging::PageTableFlags;

use super::cpu::{Machine, Stalled};
use super::disk::Block;
use crate::machine::SECTORS;

/// Levels of the tables.
pub(super) const LEVELS: u32 = 3;
/// Entries in a table: one for each word of a page.
const ENTRIES: u32 = 8;
const _: () = assert!(ENTRIES as usize == SECTORS);
/// Pages that a process can address.
pub const VIRT_PAGES: u32 = ENTRIES.pow(LEVELS);

/// The number of a page of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Virt(pub u32);

/// An access for which a process needs its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault;

const PRESENT: u64 = PageTableFlags::PRESENT.bits();
const WRITABLE: u64 = PageTableFlags::WRITABLE.bits();
const ACCESSED: u64 = PageTableFlags::ACCESSED.bits();
const DIRTY: u64 = PageTableFlags::DIRTY.bits();
/// A bit of the kernel's own in an entry that is not present: the rest is the number of a block.
const SWAPPED: u64 = PageTableFlags::BIT_9.bits();
const NUMBER_SHIFT: u32 = 12;
const NUMBER_MASK: u64 = (1 << 40) - 1;

/// An entry, of any level.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pte(pub(super) u64);

/// The meaning of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Nothing,
    Swapped(Block),
    Page {
        gfn: Gfn,
        writable: bool,
        dirty: bool,
    },
}

impl Pte {
    pub(super) const NOTHING: Self = Self(0);
    /// A mask: the entry must not be written through.
    pub(super) const NOT_WRITABLE: u64 = !WRITABLE;
    /// A mask: the entry counts as not used lately.
    pub(super) const NOT_ACCESSED: u64 = !ACCESSED;

    /// It counts as used: a task is about to use it.
    pub(super) fn page(gfn: Gfn, writable: bool) -> Self {
        let writable = if writable { WRITABLE } else { 0 };
        Self(gfn.get() << NUMBER_SHIFT | PRESENT | ACCESSED | writable)
    }

    pub(super) fn swapped(block: Block) -> Self {
        Self(u64::from(block.0) << NUMBER_SHIFT | SWAPPED)
    }

    pub(super) fn entry(self) -> Entry {
        let number = self.0 >> NUMBER_SHIFT & NUMBER_MASK;
        if self.0 & PRESENT != 0 {
            Entry::Page {
                gfn: Gfn::new_truncate(number),
                writable: self.0 & WRITABLE != 0,
                dirty: self.0 & DIRTY != 0,
            }
        } else if self.0 & SWAPPED != 0 {
            Entry::Swapped(Block(u32::try_from(number).expect("a block was put in")))
        } else {
            Entry::Nothing
        }
    }

    /// Written through since it was made.
    pub(super) fn is_dirty(self) -> bool {
        self.0 & (PRESENT | DIRTY) == PRESENT | DIRTY
    }

    /// The place to which a load or a store goes, if it needs no change of the entry.
    fn leads(self, is_store: bool) -> Option<Gfn> {
        match self.entry() {
            Entry::Page {
                gfn,
                writable,
                dirty,
            } if !is_store || writable && dirty => Some(gfn),
            _ => None,
        }
    }

    pub(super) fn is_accessed(self) -> bool {
        self.0 & ACCESSED != 0
    }
}

impl std::fmt::Debug for Pte {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.entry(), f)
    }
}

/// The index of the entry that leads to a page, in a table of this level; level 0 is the last.
pub(super) fn index(virt: Virt, level: u32) -> usize {
    (virt.0 / ENTRIES.pow(level) % ENTRIES) as usize
}

/// One load or store of a process, as hardware does it: with what the CPU remembers of an earlier
/// walk, or with a walk, and then on the word itself. Yields the old word.
pub(super) fn execute(
    machine: &dyn Machine,
    root: Gfn,
    virt: Virt,
    word: usize,
    store: Option<u64>,
) -> Result<Result<u64, PageFault>, Stalled> {
    let remembered = machine.recall(virt);
    let entry = match remembered.filter(|entry| entry.leads(store.is_some()).is_some()) {
        Some(entry) => entry,
        None => match walk(machine, root, virt, store.is_some())? {
            Ok(entry) => entry,
            Err(fault) => return Ok(Err(fault)),
        },
    };
    let gfn = entry.leads(store.is_some()).expect("it was just seen to");
    let access = if store.is_some() {
        Access::READ | Access::WRITE
    } else {
        Access::READ
    };
    let mut before = 0;
    machine.access(gfn, access, &mut |page| {
        before = page.0[word];
        if let Some(value) = store {
            page.0[word] = value;
        }
    })?;
    machine.remember(virt, entry);
    Ok(Ok(before))
}

/// A walk: permissions of all levels, accessed bits on the way, the dirty bit before a store.
/// Yields the last entry.
fn walk(
    machine: &dyn Machine,
    root: Gfn,
    virt: Virt,
    is_store: bool,
) -> Result<Result<Pte, PageFault>, Stalled> {
    let read_write = Access::READ | Access::WRITE;
    let (mut table, mut entry) = (root, Pte::NOTHING);
    for level in (0..LEVELS).rev() {
        let index = index(virt, level);
        let mut bits = 0;
        machine.access(table, Access::READ, &mut |page| bits = page.0[index])?;
        let Entry::Page { gfn, writable, .. } = Pte(bits).entry() else {
            return Ok(Err(PageFault));
        };
        if is_store && !writable {
            return Ok(Err(PageFault));
        }
        let dirty = if level == 0 && is_store { DIRTY } else { 0 };
        let used = ACCESSED | dirty;
        if bits & used != used {
            machine.access(table, read_write, &mut |page| page.0[index] |= used)?;
        }
        (table, entry) = (gfn, Pte(bits | used));
    }
    Ok(Ok(entry))
}
