// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that pages come in through.

use p2m_paging::PAGE_SIZE;
use pager_core::Pager;
use pager_store::PageBuf;

/// Buffers of one batch.
#[derive(Debug)]
pub(super) struct BufferSet {
    pub(super) place: BufferPlace,
    pub(super) pages: &'static mut [PageBuf],
}

/// Where the buffers of one batch are.
#[derive(Clone, Copy, Debug)]
pub struct BufferPlace {
    /// Among all buffers.
    first_page: usize,
}

impl BufferPlace {
    /// Where one of its buffers is among all, in bytes.
    pub const fn offset_bytes(self, buffer: usize) -> u64 {
        ((self.first_page + buffer) * PAGE_SIZE) as u64
    }
}

/// How many buffers a pager needs.
pub(super) fn buffers(pager: &Pager) -> usize {
    (0..pager.batches()).map(|i| pager.buffers(i)).sum()
}

/// One set for each batch that the core can have under way, by the batch's index.
pub(super) fn buffer_sets(pager: &Pager, mut rest: &'static mut [PageBuf]) -> Vec<BufferSet> {
    let mut first_page = 0;
    let mut sets = Vec::with_capacity(pager.batches());
    for size in (0..pager.batches()).map(|i| pager.buffers(i)) {
        let (pages, others) = rest.split_at_mut(size.min(rest.len()));
        let place = BufferPlace { first_page };
        sets.push(BufferSet { place, pages });
        first_page += size;
        rest = others;
    }
    sets
}
