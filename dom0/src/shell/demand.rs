//! The demand lane: pages that somebody waits for, read and posted by the main thread itself.

use p2m_paging::Errno;
use p2m_paging::ring::SLOTS;

use super::buffers::BufferSet;
use super::pages::{Scratch, load};
use crate::core::{Batch, Page, PageError};
use crate::link::mailbox::{ENTRIES, Mailbox, PostedPrep};
use crate::store::PageStore;

/// Demand batches, and pages of each: as many as the ring has slots.
const REQUESTS: usize = SLOTS as usize;

// Each buffer of the lane has a mailbox entry of its own, so there is always one free.
const _: () = assert!(REQUESTS * REQUESTS <= ENTRIES);

/// Batches whose preps are posted, and the buffers of all.
pub(super) struct Demand {
    mailbox: Mailbox,
    sets: Vec<BufferSet>,
    posted: [Option<Posted>; REQUESTS],
    scratch: Scratch,
}

#[derive(Debug)]
struct Posted {
    batch: Batch,
    unfinished: usize,
}

impl Demand {
    /// `sets` are those of the first [`SLOTS`] batches.
    pub(super) fn new(mailbox: Mailbox, sets: Vec<BufferSet>) -> Self {
        Self {
            mailbox,
            sets,
            posted: [const { None }; REQUESTS],
            scratch: Scratch::with_capacity(REQUESTS),
        }
    }

    /// Reads the pages.
    pub(super) fn load(&mut self, batch: &mut Batch, store: &dyn PageStore) {
        if let Some(set) = self.sets.get_mut(batch.index()) {
            load(store, batch, set, &mut self.scratch);
        }
    }

    /// Posts the preps; the machine is to be rung. The batch comes back from [`Self::harvest`], or at
    /// once if there is no place for it.
    pub(super) fn post(&mut self, batch: Batch) -> Option<Batch> {
        let index = batch.index();
        let (Some(set), Some(place @ None)) = (self.sets.get(index), self.posted.get_mut(index))
        else {
            return Some(batch);
        };
        let unfinished = batch.pages().len();
        for page in batch.pages() {
            self.mailbox.post(PostedPrep {
                entry: entry(index, page),
                gfn: page.gfn().get(),
                buffer: set.claim(page.buffer()),
            });
        }
        if unfinished == 0 {
            return Some(batch);
        }
        *place = Some(Posted { batch, unfinished });
        None
    }

    /// Notes what the machine has worked off; hands each batch that is finished to `done`.
    pub(super) fn harvest(&mut self, mut done: impl FnMut(Batch)) {
        for finished in self.mailbox.harvest() {
            let index = finished / REQUESTS;
            let place = &mut self.posted[index];
            let Some(posted) = place else {
                continue;
            };
            let mut pages = posted.batch.pages_mut().iter_mut();
            let page = pages.find(|page| entry(index, page) == finished);
            let Some(page) = page.filter(|page| page.outcome == Err(PageError::NotDone)) else {
                continue;
            };
            // An errno that this shell does not produce on its own: nothing is lost if it is retried.
            page.outcome = self.mailbox.result(finished).map_err(PageError::Refused);
            posted.unfinished -= 1;
            if posted.unfinished == 0
                && let Some(Posted { batch, .. }) = place.take()
            {
                done(batch);
            }
        }
    }

    /// The machine is gone: what was posted will not be worked off.
    pub(super) fn abandon(&mut self, mut done: impl FnMut(Batch)) {
        for mut posted in self.posted.iter_mut().filter_map(Option::take) {
            for page in posted.batch.pages_mut() {
                page.outcome = Err(PageError::Refused(Errno::ESRCH));
            }
            done(posted.batch);
        }
    }
}

fn entry(index: usize, page: &Page) -> usize {
    index * REQUESTS + page.buffer()
}
