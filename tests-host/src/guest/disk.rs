// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's own disk: its files, then its swap area. The kernel puts orders into a queue. A back
//! end outside the guest takes them, copies between the guest's memory and the disk, and reports
//! each. It never fails, and may carry out orders in any sequence.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use p2m_paging::Gfn;

use crate::machine::{Page, SECTORS};

/// A block of the disk, of the size of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block(pub u32);

/// The first block of the guest's swap area.
pub const FIRST_SWAP_BLOCK: Block = Block(1 << 20);

impl Block {
    /// The block this many after this one.
    pub fn after(self, blocks: u32) -> Self {
        Self(self.0 + blocks)
    }

    /// Whether it belongs to the swap area.
    pub fn is_swap(self) -> bool {
        self >= FIRST_SWAP_BLOCK
    }

    /// The contents of this block of a file before anybody writes it.
    pub fn initial(self) -> Page {
        let mut page = Page::ZERO;
        for (word, at) in page.0.iter_mut().zip(0..SECTORS as u64) {
            *word = 0xf11e << 48 | u64::from(self.0) << 8 | at;
        }
        page
    }
}

/// The direction of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the disk to memory.
    Read,
    /// From memory to the disk.
    Write,
}

/// An order of the kernel for its back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    id: u64,
    /// The page.
    pub gfn: Gfn,
    /// The block.
    pub block: Block,
    /// The direction.
    pub way: Way,
}

/// The disk, with its queue.
#[derive(Debug, Default)]
pub(super) struct Disk {
    blocks: BTreeMap<Block, Page>,
    queue: VecDeque<Io>,
    done: BTreeSet<u64>,
    last_id: u64,
}

impl Disk {
    /// The contents of a block.
    pub(super) fn contents(&self, block: Block) -> Page {
        let written = self.blocks.get(&block).copied();
        written.unwrap_or_else(|| block.initial())
    }

    pub(super) fn order(&mut self, gfn: Gfn, block: Block, way: Way) -> u64 {
        self.last_id += 1;
        let id = self.last_id;
        self.queue.push_back(Io {
            id,
            gfn,
            block,
            way,
        });
        id
    }

    /// Whether an order is done; reported once.
    pub(super) fn take_done(&mut self, id: u64) -> bool {
        self.done.remove(&id)
    }

    pub(super) fn take_order(&mut self) -> Option<Io> {
        self.queue.pop_front()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Copies between a page and the disk.
    pub(super) fn copy(&mut self, io: Io, page: &mut Page) {
        match io.way {
            Way::Read => *page = self.contents(io.block),
            Way::Write => {
                self.blocks.insert(io.block, *page);
            }
        }
    }

    pub(super) fn finish(&mut self, io: Io) {
        self.done.insert(io.id);
    }
}
