// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's swap area: blocks of its disk, each with a count of the entries that name it. A
//! block is free again once no entry names it and no page in memory stands for it.

use super::disk::{Block, FIRST_SWAP_BLOCK};

/// The area. It grows as it is used.
#[derive(Debug, Default)]
pub(super) struct Swap {
    /// Entries that name a block; `None`: the block is free.
    named: Vec<Option<u32>>,
    free: Vec<Block>,
}

impl Swap {
    /// Takes a block that no entry names so far.
    pub(super) fn take(&mut self) -> Block {
        let fresh = FIRST_SWAP_BLOCK.after(u32::try_from(self.named.len()).expect("a small area"));
        let block = self.free.pop().unwrap_or_else(|| {
            self.named.push(None);
            fresh
        });
        *self.count(block) = Some(0);
        block
    }

    /// Entries that name a block.
    pub(super) fn names(&self, block: Block) -> u32 {
        self.named[index(block)].expect("a block that was taken")
    }

    /// Another entry names it.
    pub(super) fn name(&mut self, block: Block) {
        let count = self.count(block);
        *count = count.map(|count| count + 1);
    }

    /// An entry does not name it any more.
    pub(super) fn unname(&mut self, block: Block) {
        let count = self.count(block);
        *count = count.map(|count| count - 1);
    }

    /// Frees a block that nobody needs.
    pub(super) fn give_back(&mut self, block: Block) {
        let count = self.count(block).take();
        assert_eq!(count, Some(0), "{block:?} is given back and named");
        self.free.push(block);
    }

    /// Blocks in use.
    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.named.len() - self.free.len()
    }

    fn count(&mut self, block: Block) -> &mut Option<u32> {
        &mut self.named[index(block)]
    }
}

fn index(block: Block) -> usize {
    (block.0 - FIRST_SWAP_BLOCK.0) as usize
}
