// SPDX-License-Identifier: MIT OR Apache-2.0
//! The demand lane: the main thread itself reads and preps the pages that somebody waits for.

use std::sync::Arc;

use p2m_paging::ring::SLOTS;
use pager_core::Batch;
use pager_store::PageStore;
use pager_store::index::Index;

use super::buffers::BufferSet;
use super::indexed::clear_resident;
use super::machine::Preps;
use super::pages::{Scratch, load};

/// The number of demand batches, and of pages in each: one for each slot of the ring.
pub const REQUESTS: usize = SLOTS as usize;

/// The buffers of all demand batches, and the calls that prep their pages.
pub(super) struct DemandLane {
    preps: Box<dyn Preps>,
    sets: Vec<BufferSet>,
    scratch: Scratch,
    index: Option<Arc<Index>>,
}

impl DemandLane {
    /// `sets` are the buffers of the first [`SLOTS`] batches.
    pub(super) fn new(
        preps: Box<dyn Preps>,
        sets: Vec<BufferSet>,
        index: Option<Arc<Index>>,
    ) -> Self {
        Self {
            index,
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
        let Some(set) = self.sets.get(batch.index()) else {
            return Some(batch);
        };
        let done = self.preps.prep(batch, set.place)?;
        clear_resident(self.index.as_deref(), done.pages());
        Some(done)
    }

    /// See [`Preps::collect_done`].
    pub(super) fn collect_done(&mut self, mut done: impl FnMut(Batch)) {
        let index = self.index.as_deref();
        self.preps.collect_done(&mut |batch: Batch| {
            clear_resident(index, batch.pages());
            done(batch);
        });
    }

    /// See [`Preps::abandon`].
    pub(super) fn abandon(&mut self, mut done: impl FnMut(Batch)) {
        self.preps.abandon(&mut done);
    }
}
