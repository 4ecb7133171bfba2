// SPDX-License-Identifier: MIT OR Apache-2.0
//! The steps of a batch that touch the store.

use p2m_paging::Errno;
use pager_core::{Batch, Page, PageError};
use pager_store::{Outcome, PageBuf, PageStore, SaveOutcome, Slot, StoreError, Write};

use super::buffers::BufferSet;
use super::machine::Frames;

/// Lists for calls of the store, kept so that their memory is reused.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    slots: Vec<Slot>,
    outcomes: Vec<Outcome>,
    at_once: Vec<Option<Outcome>>,
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
            at_once: Vec::with_capacity(pages),
            ..Self::default()
        }
    }
}

/// Reads each page's slot into its buffer. Pages that have been read at once are left alone.
pub(super) fn load(
    store: &dyn PageStore,
    pages: &mut [Page],
    buffers: &mut BufferSet,
    scratch: &mut Scratch,
) {
    load_with(pages, buffers, scratch, |scratch, stretch, buffers| {
        let Scratch {
            slots, outcomes, ..
        } = scratch;
        outcomes.clear();
        outcomes.extend(slots.iter().map(|slot| not_done(*slot)));
        store.read(slots, buffers, outcomes);
        for (page, outcome) in stretch.iter_mut().zip(outcomes) {
            page.outcome = outcome.map_err(PageError::Store);
        }
    });
}

/// As [`load`], as far as nothing has to be waited for. Returns whether all pages have been read, or
/// have failed.
pub(super) fn load_at_once(
    store: &dyn PageStore,
    pages: &mut [Page],
    buffers: &mut BufferSet,
    scratch: &mut Scratch,
) -> bool {
    load_with(pages, buffers, scratch, |scratch, stretch, buffers| {
        let Scratch { slots, at_once, .. } = scratch;
        at_once.clear();
        at_once.resize(slots.len(), None);
        store.read_at_once(slots, buffers, at_once);
        for (page, outcome) in stretch.iter_mut().zip(at_once) {
            if let Some(outcome) = outcome {
                page.outcome = outcome.map_err(PageError::Store);
            }
        }
    });
    pages.iter().all(|page| !is_left(page))
}

fn is_left(page: &Page) -> bool {
    page.outcome == Err(PageError::NotDone)
}

/// Reads what is left, with one call of `read` for each stretch of buffers without a gap. The slots of
/// the stretch are in the scratch.
fn load_with(
    mut rest: &mut [Page],
    buffers: &mut BufferSet,
    scratch: &mut Scratch,
    mut read: impl FnMut(&mut Scratch, &mut [Page], &mut [PageBuf]),
) {
    while let Some(page) = rest.first_mut() {
        let slot = page.location().slot().filter(|_| is_left(page));
        if slot.is_none() {
            if is_left(page)
                && let Some(buffer) = buffers.pages.get_mut(page.buffer())
            {
                *buffer = PageBuf::ZERO;
                page.outcome = Ok(());
            }
            rest = &mut rest[1..];
            continue;
        }
        // The buffers of a batch ascend. Nearly all batches are one stretch.
        let start = page.buffer();
        let slots = rest.iter().enumerate().map_while(|(n, page)| {
            let ascends = page.buffer() == start + n;
            page.location().slot().filter(|_| ascends && is_left(page))
        });
        scratch.slots.clear();
        scratch.slots.extend(slots);
        let count = scratch.slots.len();
        let (stretch, others) = rest.split_at_mut(count);
        match buffers.pages.get_mut(start..start + count) {
            Some(buffers) => read(scratch, stretch, buffers),
            // No memory was reserved for them.
            None => stretch.iter_mut().for_each(no_buffer),
        }
        rest = others;
    }
}

fn no_buffer(page: &mut Page) {
    if let Some(slot) = page.location().slot() {
        page.outcome = Err(PageError::Store(StoreError::Empty { slot }));
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
