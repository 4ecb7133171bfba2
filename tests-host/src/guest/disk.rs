// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's own disk: its files, then the area that it swaps to. The kernel puts orders into a
//! queue; a back end outside the guest takes them, copies between the guest's memory and the disk,
//! and says so. It never fails and may do things in any order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use p2m_paging::Gfn;

use crate::machine::{Page, SECTORS};

/// A page's worth of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block(pub u32);

/// Where the area begins that the guest swaps to.
pub const FIRST_SWAP_BLOCK: Block = Block(1 << 20);

impl Block {
    /// The block so many after this one.
    pub fn after(self, blocks: u32) -> Self {
        Self(self.0 + blocks)
    }

    /// Whether it belongs to the swap area.
    pub fn is_swap(self) -> bool {
        self >= FIRST_SWAP_BLOCK
    }

    /// What a file contains in this block before anybody writes it.
    pub fn initial(self) -> Page {
        let mut page = Page::ZERO;
        for (word, at) in page.0.iter_mut().zip(0..SECTORS as u64) {
            *word = 0xf11e << 48 | u64::from(self.0) << 8 | at;
        }
        page
    }
}

/// Which way bytes go.
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
    /// Which way.
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
    /// What a block contains.
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

    /// Whether an order is done; said once.
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
