// SPDX-License-Identifier: MIT OR Apache-2.0
//! The demand lane: the main thread itself reads and preps the pages that somebody waits for.

use p2m_paging::ring::SLOTS;
use pager_core::Batch;
use pager_store::PageStore;

use super::buffers::BufferSet;
use super::machine::Preps;
use super::pages::{Scratch, load};

/// The number of demand batches, and of pages in each: one for each slot of the ring.
pub const REQUESTS: usize = SLOTS as usize;

/// The buffers of all demand batches, and the calls that prep their pages.
pub(super) struct DemandLane {
    preps: Box<dyn Preps>,
    sets: Vec<BufferSet>,
    scratch: Scratch,
}

impl DemandLane {
    /// `sets` are the buffers of the first [`SLOTS`] batches.
    pub(super) fn new(preps: Box<dyn Preps>, sets: Vec<BufferSet>) -> Self {
        Self {
            preps,
            sets,
            scratch: Scratch::with_capacity(REQUESTS),
        }
    }

    /// Reads the pages from the store.
    pub(super) fn load(&mut self, batch: &mut Batch, store: &dyn PageStore) {
        if let Some(set) = self.sets.get_mut(batch.index()) {
            load(store, batch, set, &mut self.scratch);
        }
    }

    /// See [`Preps::prep`]. A batch without a buffer set is returned at once.
    pub(super) fn prep(&mut self, batch: Batch) -> Option<Batch> {
        match self.sets.get(batch.index()) {
            Some(set) => self.preps.prep(batch, set.place),
            None => Some(batch),
        }
    }

    /// See [`Preps::collect_done`].
    pub(super) fn collect_done(&mut self, mut done: impl FnMut(Batch)) {
        self.preps.collect_done(&mut done);
    }

    /// See [`Preps::abandon`].
    pub(super) fn abandon(&mut self, mut done: impl FnMut(Batch)) {
        self.preps.abandon(&mut done);
    }
}
