//! The steps of a batch that touch the store.

use p2m_paging::Errno;

use super::buffers::BufferSet;
use super::machine::Frames;
use crate::core::{Batch, PageError};
use crate::store::{Outcome, PageBuf, PageStore, Slot, StoreError};

/// Lists that the store is called with, kept for their memory.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    slots: Vec<Slot>,
    outcomes: Vec<Outcome>,
    unread: Vec<Option<Errno>>,
}

impl Scratch {
    /// With room for batches of so many pages.
    pub(super) fn with_capacity(pages: usize) -> Self {
        Self {
            slots: Vec::with_capacity(pages),
            outcomes: Vec::with_capacity(pages),
            unread: Vec::with_capacity(pages),
        }
    }

    fn prepare(&mut self, slots: impl Iterator<Item = Slot>) {
        self.slots.clear();
        self.slots.extend(slots);
        let not_done = |slot: &Slot| Err(StoreError::Empty { slot: *slot });
        self.outcomes.clear();
        self.outcomes.extend(self.slots.iter().map(not_done));
        self.unread.clear();
        self.unread.resize(self.slots.len(), None);
    }
}

/// Reads each page's slot into its buffer.
pub(super) fn load(
    store: &dyn PageStore,
    batch: &mut Batch,
    buffers: &mut BufferSet,
    scratch: &mut Scratch,
) {
    scratch.prepare(batch.pages().iter().map(|page| page.slot()));
    // A batch's buffers ascend; one call for each stretch without a gap, which is one for nearly all.
    let mut first = 0;
    while let Some(page) = batch.pages().get(first) {
        let start = page.buffer();
        let ascending = |(n, page): &(usize, &crate::core::Page)| page.buffer() == start + n;
        let stretch = batch.pages()[first..].iter().enumerate();
        let count = stretch.take_while(ascending).count();
        let end = first + count;
        if let Some(pages) = buffers.pages.get_mut(start..start + count) {
            let (slots, outcomes) = (&scratch.slots, &mut scratch.outcomes);
            store.read(&slots[first..end], pages, &mut outcomes[first..end]);
        }
        first = end;
    }
    for (page, outcome) in batch.pages_mut().iter_mut().zip(&scratch.outcomes) {
        page.outcome = outcome.map_err(PageError::Store);
    }
}

/// Writes each page's frame to its slot.
pub(super) fn save(
    store: &dyn PageStore,
    frames: &mut dyn Frames,
    batch: &mut Batch,
    scratch: &mut Scratch,
) {
    scratch.prepare(batch.pages().iter().map(|page| page.slot()));
    let unread = &mut scratch.unread;
    let pages = batch.pages();
    let mut fill = |first: usize, buffers: &mut [PageBuf]| {
        let end = first + buffers.len();
        frames.read(&pages[first..end], buffers, &mut unread[first..end]);
    };
    store.write(&scratch.slots, &mut fill, &mut scratch.outcomes);
    let results = scratch.outcomes.iter().zip(&scratch.unread);
    for (page, (outcome, unread)) in batch.pages_mut().iter_mut().zip(results) {
        page.outcome = match unread {
            Some(errno) => Err(PageError::Unmapped(*errno)),
            None => outcome.map_err(PageError::Store),
        };
    }
}
