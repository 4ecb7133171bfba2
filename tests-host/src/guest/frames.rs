// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's record of each page of its memory: its use, its mappings, the block of the disk
//! that it stands for; also the free list, and two lists of the pages that reclaim may take.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use p2m_paging::Gfn;

use super::address_space::SpaceId;
use super::disk::{Block, Way};
use super::tables::Virt;
use super::wait::Waiters;

/// Reclaim spares the pages of files if they are less than this part of all.
const FEW_FILES: usize = 4;

/// The use of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Free,
    /// The kernel's, for ever.
    Reserved,
    /// A table of an address space.
    Table,
    /// A process's own.
    Anonymous,
    /// Part of a file.
    File,
    /// The hypervisor has it.
    Ballooned,
}

/// A page of the guest's memory.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) used: Use,
    /// The tables that map it, with the place in each.
    pub(super) mapped: Vec<(SpaceId, Virt)>,
    /// The block that it stands for, or stood for before it was written.
    pub(super) home: Option<Block>,
    /// It is known to differ from its block. Dirty bits of entries may say so, too.
    pub(super) dirty: bool,
    /// The disk reads into it or writes it.
    pub(super) busy: Option<Way>,
    /// It was read for a task that has not mapped it yet.
    pub(super) pinned: bool,
}

/// All pages of the guest's memory.
#[derive(Debug)]
pub(super) struct Frames {
    frames: BTreeMap<Gfn, Frame>,
    free: Vec<Gfn>,
    /// Pages in memory by the block that they stand for: the page cache and the swap cache in one.
    cache: BTreeMap<Block, Gfn>,
    /// Pages that were used again lately; the longest unused one first.
    active: VecDeque<Gfn>,
    /// Pages not used again so far; the oldest first.
    inactive: VecDeque<Gfn>,
    /// Tasks that have something to do when few pages are free.
    idle: Rc<Waiters>,
}

impl Frame {
    fn new(used: Use) -> Self {
        Self {
            used,
            mapped: Vec::new(),
            home: None,
            dirty: false,
            busy: None,
            pinned: false,
        }
    }

    pub(super) fn may_go(&self) -> bool {
        self.busy.is_none() && !self.pinned
    }
}

impl Frames {
    /// All pages are free. `idle` wait for short memory, among other things.
    pub(super) fn new(gfns: impl Iterator<Item = Gfn>, idle: Rc<Waiters>) -> Self {
        let frames: BTreeMap<_, _> = gfns.map(|gfn| (gfn, Frame::new(Use::Free))).collect();
        let free = frames.keys().rev().copied().collect();
        Self {
            frames,
            free,
            cache: BTreeMap::new(),
            active: VecDeque::new(),
            inactive: VecDeque::new(),
            idle,
        }
    }

    pub(super) fn get(&self, gfn: Gfn) -> &Frame {
        &self.frames[&gfn]
    }

    pub(super) fn get_mut(&mut self, gfn: Gfn) -> &mut Frame {
        self.frames.get_mut(&gfn).expect("a page of this guest")
    }

    /// Pages with this use.
    pub(super) fn used_for(&self, what: Use) -> impl Iterator<Item = Gfn> + '_ {
        let frames = self.frames.iter();
        frames
            .filter(move |(_, frame)| frame.used == what)
            .map(|(gfn, _)| *gfn)
    }

    pub(super) fn free_count(&self) -> usize {
        self.free.len()
    }

    /// Background reclaim starts below this many free pages.
    pub(super) fn low_free(&self) -> usize {
        3 + self.frames.len() / 32
    }

    pub(super) fn is_low(&self) -> bool {
        self.free_count() < self.low_free()
    }

    /// Takes a page off the free list: the one freed last. Its contents are undefined.
    pub(super) fn alloc(&mut self, used: Use) -> Option<Gfn> {
        let gfn = self.free.pop()?;
        *self.get_mut(gfn) = Frame::new(used);
        if matches!(used, Use::Anonymous | Use::File) {
            self.inactive.push_back(gfn);
        }
        if self.is_low() {
            self.idle.wake_all();
        }
        Some(gfn)
    }

    /// Puts a page back that nobody maps.
    pub(super) fn free(&mut self, gfn: Gfn) {
        let frame = self.get(gfn);
        assert!(frame.mapped.is_empty(), "{gfn} is freed and mapped");
        assert!(frame.may_go(), "{gfn} is freed and busy");
        self.forget_home(gfn);
        self.active.retain(|other| *other != gfn);
        self.inactive.retain(|other| *other != gfn);
        *self.get_mut(gfn) = Frame::new(Use::Free);
        self.free.push(gfn);
    }

    /// The page stands for this block from now on.
    pub(super) fn set_home(&mut self, gfn: Gfn, block: Block) {
        self.get_mut(gfn).home = Some(block);
        let before = self.cache.insert(block, gfn);
        assert_eq!(before, None, "{block:?} is in memory twice");
    }

    /// The page stands for no block any more.
    pub(super) fn forget_home(&mut self, gfn: Gfn) -> Option<Block> {
        let home = self.get_mut(gfn).home.take()?;
        self.cache.remove(&home);
        Some(home)
    }

    /// The page that stands for a block.
    pub(super) fn cached(&self, block: Block) -> Option<Gfn> {
        self.cache.get(&block).copied()
    }

    /// The next page that reclaim may check, taken off its list. It is a page of a file, which
    /// costs little (row C1), unless there are few of these.
    pub(super) fn candidate(&mut self) -> Option<Gfn> {
        while self.inactive.len() < self.active.len() {
            let gfn = self.active.pop_front()?;
            self.inactive.push_back(gfn);
        }
        let files = self.used_for(Use::File).count();
        let wanted = if files > self.listed() / FEW_FILES {
            Use::File
        } else {
            Use::Anonymous
        };
        let is = |gfn: &Gfn| self.frames[gfn].may_go();
        let found = self
            .inactive
            .iter()
            .position(|gfn| is(gfn) && self.frames[gfn].used == wanted)
            .or_else(|| self.inactive.iter().position(is));
        self.inactive.remove(found?)
    }

    /// A candidate was used lately.
    pub(super) fn activate(&mut self, gfn: Gfn) {
        self.active.push_back(gfn);
    }

    pub(super) fn listed(&self) -> usize {
        self.active.len() + self.inactive.len()
    }

    /// Whether the disk uses any page.
    pub(super) fn is_any_busy(&self) -> bool {
        self.frames.values().any(|frame| frame.busy.is_some())
    }
}
