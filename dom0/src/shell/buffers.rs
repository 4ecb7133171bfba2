//! The memory that pages come in through, shared with the machine.

use std::os::fd::OwnedFd;

use p2m_paging::PAGE_SIZE;

use crate::core::Pager;
use crate::link::SharedArea;
use crate::link::area::AreaError;
use crate::store::PageBuf;

/// Why there are no buffers.
#[derive(Debug, thiserror::Error)]
#[error("page buffers: {0}")]
pub struct BufferError(#[from] AreaError);

/// Buffers of one batch.
pub(super) struct BufferSet {
    /// Where the set starts in the shared memory, in pages.
    first_page: usize,
    /// The buffers.
    pub(super) pages: &'static mut [PageBuf],
}

impl BufferSet {
    /// What the machine is told of a buffer: its place in bytes.
    pub(super) fn claim(&self, buffer: usize) -> u64 {
        ((self.first_page + buffer) * PAGE_SIZE) as u64
    }
}

/// One set for each batch that the core can have under way, by the batch's index, and the file that
/// they are in.
pub(super) fn buffer_sets(pager: &Pager) -> Result<(Vec<BufferSet>, OwnedFd, usize), BufferError> {
    let sizes: Vec<usize> = (0..pager.batches()).map(|i| pager.buffers(i)).collect();
    let total = sizes.iter().sum();
    let area = SharedArea::create("pager-buffers", total)?;
    if let Err(errno) = area.lock_in_memory() {
        tracing::warn!(
            "{} KiB of page buffers cannot be locked in memory ({errno}): raise RLIMIT_MEMLOCK \
             (`ulimit -l`), or a fault may wait for the pager itself to be paged in",
            total * PAGE_SIZE / 1024
        );
    }
    let (mut rest, file) = area.into_pages();
    let mut first_page = 0;
    let mut sets = Vec::with_capacity(sizes.len());
    for size in sizes {
        let (pages, others) = rest.split_at_mut(size);
        sets.push(BufferSet { first_page, pages });
        first_page += size;
        rest = others;
    }
    Ok((sets, file, total))
}
