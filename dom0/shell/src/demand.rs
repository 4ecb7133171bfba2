// SPDX-License-Identifier: MIT OR Apache-2.0
//! The demand lane: pages that somebody waits for, read and prepped by the main thread itself.

use p2m_paging::ring::SLOTS;
use pager_core::Batch;
use pager_store::PageStore;

use super::buffers::BufferSet;
use super::machine::Preps;
use super::pages::{Scratch, load};

/// Demand batches, and pages of each: as many as the ring has slots.
pub const REQUESTS: usize = SLOTS as usize;

/// The buffers of all demand batches, and the way to the machine.
pub(super) struct DemandLane {
    preps: Box<dyn Preps>,
    sets: Vec<BufferSet>,
    scratch: Scratch,
}

impl DemandLane {
    /// `sets` are those of the first [`SLOTS`] batches.
    pub(super) fn new(preps: Box<dyn Preps>, sets: Vec<BufferSet>) -> Self {
        Self {
            preps,
            sets,
            scratch: Scratch::with_capacity(REQUESTS),
        }
    }

    /// Reads the pages.
    pub(super) fn load(&mut self, batch: &mut Batch, store: &dyn PageStore) {
        if let Some(set) = self.sets.get_mut(batch.index()) {
            load(store, batch, set, &mut self.scratch);
        }
    }

    /// See [`Preps::prep`]. A batch without a place comes back at once.
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
