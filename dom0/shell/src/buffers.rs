// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory into which pages are read when they come in.

use p2m_paging::PAGE_SIZE;
use pager_core::Pager;
use pager_store::PageBuf;

/// The buffers of one batch.
#[derive(Debug)]
pub(super) struct BufferSet {
    pub(super) place: BufferPlace,
    pub(super) pages: &'static mut [PageBuf],
}

/// The place of one batch's buffers among all buffers.
#[derive(Clone, Copy, Debug)]
pub struct BufferPlace {
    /// The index of the first buffer of the set.
    first_page: usize,
}

impl BufferPlace {
    /// The offset of one buffer of the set from the first of all buffers, in bytes.
    pub const fn offset_bytes(self, buffer: usize) -> u64 {
        ((self.first_page + buffer) * PAGE_SIZE) as u64
    }
}

/// The number of buffers that a pager needs.
pub(super) fn buffers(pager: &Pager) -> usize {
    (0..pager.batches()).map(|i| pager.buffers(i)).sum()
}

/// Splits the buffers into one set for each batch that the core can have in flight. The batch's
/// index selects its set.
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
