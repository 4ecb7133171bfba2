// SPDX-License-Identifier: MIT OR Apache-2.0
//! The steps of a batch that touch the store.

use p2m_paging::Errno;
use pager_core::{Batch, Location, Page, PageError};
use pager_store::{Outcome, PageBuf, PageStore, SaveOutcome, Slot, StoreError, Write};

use super::buffers::BufferSet;
use super::machine::Frames;

/// Lists for calls of the store, kept so that their memory is reused.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    slots: Vec<Slot>,
    outcomes: Vec<Outcome>,
    writes: Vec<Write>,
    saved: Vec<SaveOutcome>,
    unread: Vec<Option<Errno>>,
}

impl Scratch {
    /// Reserves room to load batches of this many pages.
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
        let Location::Slot(_) = page.location() else {
            if let Some(buffer) = buffers.pages.get_mut(page.buffer()) {
                *buffer = PageBuf::ZERO;
                page.outcome = Ok(());
            }
            rest = &mut rest[1..];
            continue;
        };
        // The buffers of a batch ascend. Each stretch without a gap is read with one call; nearly
        // all batches are one stretch.
        let start = page.buffer();
        let slots = rest.iter().enumerate().map_while(|(n, page)| {
            let ascends = page.buffer() == start + n;
            page.location().slot().filter(|_| ascends)
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

/// Writes each page's frame to its slot, where that is needed. A page counts as saved once the
/// store's device has it: a write that is only cached may still fail, and by then the page would be
/// paged out.
pub(super) fn save(
    store: &dyn PageStore,
    frames: &mut dyn Frames,
    batch: &mut Batch,
    scratch: &mut Scratch,
) {
    let mut unread = std::mem::take(&mut scratch.unread);
    unread.clear();
    unread.resize(batch.pages().len(), None);
    let mut fill = |pages: &[Page], first: usize, buffers: &mut [PageBuf]| {
        let end = first + buffers.len();
        frames.read(&pages[first..end], buffers, &mut unread[first..end]);
    };
    write(store, batch, scratch, &mut fill);
    for (page, unread) in batch.pages_mut().iter_mut().zip(&unread) {
        if let Some(errno) = unread {
            page.outcome = Err(PageError::Unmapped(*errno));
        }
    }
    scratch.unread = unread;
}

/// Writes each page's buffer to its slot.
pub(super) fn write_back(
    store: &dyn PageStore,
    batch: &mut Batch,
    buffers: &BufferSet,
    scratch: &mut Scratch,
) {
    let mut fill = |pages: &[Page], first: usize, into: &mut [PageBuf]| {
        for (page, into) in pages[first..].iter().zip(into) {
            if let Some(buffer) = buffers.pages.get(page.buffer()) {
                *into = *buffer;
            }
        }
    };
    write(store, batch, scratch, &mut fill);
}

/// Copies the contents of the nth page and of those after it into buffers.
type FillPages<'a> = dyn FnMut(&[Page], usize, &mut [PageBuf]) + 'a;

/// Writes pages with their contents, and waits for the device.
fn write(
    store: &dyn PageStore,
    batch: &mut Batch,
    scratch: &mut Scratch,
    fill: &mut FillPages<'_>,
) {
    let pages = batch.pages();
    let write = |page: &Page| {
        page.location().slot().map(|slot| Write {
            slot,
            like: page.compare_with(),
        })
    };
    scratch.writes.clear();
    scratch.writes.extend(pages.iter().filter_map(write));
    scratch.saved.clear();
    let saved = scratch.writes.iter().map(|write| not_done(write.slot));
    scratch.saved.extend(saved);
    let mut fill = |first: usize, into: &mut [PageBuf]| fill(pages, first, into);
    store.write(&scratch.writes, &mut fill, &mut scratch.saved);
    store.flush(&scratch.writes, &mut scratch.saved);
    for (page, saved) in batch.pages_mut().iter_mut().zip(&scratch.saved) {
        page.outcome = saved.map(|_| ()).map_err(PageError::Store);
        if let Ok(saved) = saved {
            page.saved = *saved;
        }
    }
}

fn not_done<T>(slot: Slot) -> Result<T, StoreError> {
    Err(StoreError::Empty { slot })
}
