//! The steps of a batch that touch the store.

use p2m_paging::Errno;

use super::buffers::BufferSet;
use super::machine::Frames;
use crate::core::{Batch, Home, Page, PageError};
use crate::store::{Outcome, PageBuf, PageStore, SaveOutcome, Slot, StoreError, Write};

/// Lists that the store is called with, kept for their memory.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    slots: Vec<Slot>,
    outcomes: Vec<Outcome>,
    writes: Vec<Write>,
    saved: Vec<SaveOutcome>,
    unread: Vec<Option<Errno>>,
}

impl Scratch {
    /// With room for loading batches of so many pages.
    pub(super) fn with_capacity(pages: usize) -> Self {
        Self {
            slots: Vec::with_capacity(pages),
            outcomes: Vec::with_capacity(pages),
            ..Self::default()
        }
    }
}

/// Reads each page's slot into its buffer.
pub(super) fn load(
    store: &dyn PageStore,
    batch: &mut Batch,
    buffers: &mut BufferSet,
    scratch: &mut Scratch,
) {
    let mut rest = batch.pages_mut();
    while let Some(page) = rest.first_mut() {
        let Home::Slot(_) = page.home() else {
            if let Some(buffer) = buffers.pages.get_mut(page.buffer()) {
                *buffer = PageBuf::ZERO;
                page.outcome = Ok(());
            }
            rest = &mut rest[1..];
            continue;
        };
        // A batch's buffers ascend; one call for each stretch without a gap, which is one for nearly all.
        let start = page.buffer();
        let slots = rest.iter().enumerate().map_while(|(n, page)| {
            let ascends = page.buffer() == start + n;
            page.home().slot().filter(|_| ascends)
        });
        scratch.slots.clear();
        scratch.slots.extend(slots);
        let count = scratch.slots.len();
        scratch.outcomes.clear();
        scratch
            .outcomes
            .extend(scratch.slots.iter().map(|slot| not_done(*slot)));
        if let Some(pages) = buffers.pages.get_mut(start..start + count) {
            store.read(&scratch.slots, pages, &mut scratch.outcomes);
        }
        let (loaded, others) = rest.split_at_mut(count);
        for (page, outcome) in loaded.iter_mut().zip(&scratch.outcomes) {
            page.outcome = outcome.map_err(PageError::Store);
        }
        rest = others;
    }
}

/// Writes each page's frame to its slot, where that is needed. A page has been saved once the store's device
/// has it: what a cache has taken may still fail, and then the page would be out already.
pub(super) fn save(
    store: &dyn PageStore,
    frames: &mut dyn Frames,
    batch: &mut Batch,
    scratch: &mut Scratch,
) {
    let pages = batch.pages();
    let write = |page: &Page| {
        page.home().slot().map(|slot| Write {
            slot,
            has_copy: page.has_copy(),
        })
    };
    scratch.writes.clear();
    scratch.writes.extend(pages.iter().filter_map(write));
    scratch.saved.clear();
    scratch
        .saved
        .extend(scratch.writes.iter().map(|write| not_done(write.slot)));
    let unread = &mut scratch.unread;
    unread.clear();
    unread.resize(pages.len(), None);
    let mut fill = |first: usize, buffers: &mut [PageBuf]| {
        let end = first + buffers.len();
        frames.read(&pages[first..end], buffers, &mut unread[first..end]);
    };
    store.write(&scratch.writes, &mut fill, &mut scratch.saved);
    store.flush(&scratch.writes, &mut scratch.saved);
    let results = scratch.saved.iter().zip(&scratch.unread);
    for (page, (saved, unread)) in batch.pages_mut().iter_mut().zip(results) {
        page.outcome = match (unread, saved) {
            (Some(errno), _) => Err(PageError::Unmapped(*errno)),
            (None, Err(error)) => Err(PageError::Store(*error)),
            (None, Ok(saved)) => {
                page.saved = *saved;
                Ok(())
            }
        };
    }
}

fn not_done<T>(slot: Slot) -> Result<T, StoreError> {
    Err(StoreError::Empty { slot })
}
