// SPDX-License-Identifier: MIT OR Apache-2.0
//! Preps of the demand lane, posted to the machine in shared memory: see [`crate::link::mailbox`].

use p2m_paging::Errno;
use pager_core::{Batch, Page, PageError};
use pager_shell::{BufferPlace, Preps, REQUESTS};

use crate::link::mailbox::{ENTRIES, Mailbox, PostedPrep};

// Each buffer of the lane has its own mailbox entry, so an entry is always free.
const _: () = assert!(REQUESTS * REQUESTS <= ENTRIES);

/// Batches whose preps have been posted.
pub(super) struct PostedPreps {
    mailbox: Mailbox,
    posted: [Option<Posted>; REQUESTS],
}

#[derive(Debug)]
struct Posted {
    batch: Batch,
    unfinished: usize,
}

impl PostedPreps {
    pub(super) fn new(mailbox: Mailbox) -> Self {
        Self {
            mailbox,
            posted: [const { None }; REQUESTS],
        }
    }
}

impl Preps for PostedPreps {
    fn prep(&mut self, batch: Batch, buffers: BufferPlace) -> Option<Batch> {
        let index = batch.index();
        let unfinished = batch.pages().len();
        let Some(place @ None) = self.posted.get_mut(index).filter(|_| unfinished > 0) else {
            return Some(batch);
        };
        for page in batch.pages() {
            self.mailbox.post(PostedPrep {
                entry: entry(index, page),
                gfn: page.gfn().get(),
                buffer: buffers.offset_bytes(page.buffer()),
            });
        }
        *place = Some(Posted { batch, unfinished });
        None
    }

    fn collect_done(&mut self, done: &mut dyn FnMut(Batch)) {
        for finished in self.mailbox.collect_done() {
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
            // The shell itself does not produce this errno, and the pager loses nothing if it tries
            // again.
            page.outcome = self.mailbox.result(finished).map_err(PageError::Refused);
            posted.unfinished -= 1;
            if posted.unfinished == 0
                && let Some(Posted { batch, .. }) = place.take()
            {
                done(batch);
            }
        }
    }

    fn abandon(&mut self, done: &mut dyn FnMut(Batch)) {
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
