// SPDX-License-Identifier: MIT OR Apache-2.0
//! The demand lane: the pages that somebody waits for. The main thread preps them. It also reads those
//! for which nothing has to be waited; [readers](super::readers) read the others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use p2m_paging::ring::SLOTS;
use pager_core::{Batch, PageError};
use pager_store::PageStore;
use pager_store::index::Index;

use super::buffers::{BufferPlace, BufferSet};
use super::indexed::clear_resident;
use super::machine::Preps;
use super::pages::{Scratch, load_at_once};
use super::read_wait::ReadWait;
use super::readers::{ReadQueue, Reading};

/// The number of demand batches, and of pages in each: one for each slot of the ring.
pub const REQUESTS: usize = SLOTS as usize;

/// The buffers of all demand batches, and the calls that prep their pages.
pub(super) struct DemandLane {
    preps: Box<dyn Preps>,
    /// By the batch's index.
    places: Vec<Place>,
    scratch: Scratch,
    index: Option<Arc<Index>>,
    readers: Arc<ReadQueue>,
    read_wait: ReadWait,
}

/// What belongs to the batches with one index.
struct Place {
    buffers: BufferPlace,
    /// `None`: a reader has it.
    reading: Option<Reading>,
    /// The batch whose pages a reader reads.
    read: Option<BeingRead>,
}

struct BeingRead {
    batch: Batch,
    /// For so many ticks.
    ticks: u64,
}

/// What has become of a batch that is to be loaded.
pub(super) enum Load {
    Done(Batch),
    /// The main thread has panicked in the store. Some pages may not be loaded.
    Panicked(Batch),
    /// [`DemandLane::was_read`] returns it.
    BeingRead,
}

impl DemandLane {
    /// `sets` are the buffers of the first [`SLOTS`] batches.
    pub(super) fn new(
        preps: Box<dyn Preps>,
        sets: Vec<BufferSet>,
        index: Option<Arc<Index>>,
        readers: Arc<ReadQueue>,
    ) -> Self {
        let place = |(batch, set): (usize, BufferSet)| Place {
            buffers: set.place,
            reading: Some(Reading::new(batch, set)),
            read: None,
        };
        Self {
            index,
            preps,
            places: sets.into_iter().enumerate().map(place).collect(),
            scratch: Scratch::with_capacity(REQUESTS),
            readers,
            read_wait: ReadWait::default(),
        }
    }

    /// Reads the pages from the store, or has them read if a device has to be waited for.
    pub(super) fn load(&mut self, mut batch: Batch, store: &dyn PageStore) -> Load {
        let place = self.places.get_mut(batch.index());
        let Some((place, mut reading)) =
            place.and_then(|place| place.reading.take().map(|reading| (place, reading)))
        else {
            return Load::Done(batch);
        };
        let (pages, scratch) = (batch.pages_mut(), &mut self.scratch);
        let load = || load_at_once(store, pages, &mut reading.set, scratch);
        let Ok(is_done) = catch_unwind(AssertUnwindSafe(load)) else {
            place.reading = Some(reading);
            return Load::Panicked(batch);
        };
        if is_done {
            place.reading = Some(reading);
            return Load::Done(batch);
        }
        reading.pages.clear();
        reading.pages.extend(batch.pages());
        place.read = Some(BeingRead { batch, ticks: 0 });
        self.readers.push(reading);
        Load::BeingRead
    }

    /// A reader is done. Returns the batch, unless it was abandoned meanwhile.
    pub(super) fn was_read(&mut self, reading: Reading) -> Option<Batch> {
        let place = self.places.get_mut(reading.batch)?;
        let batch = place.read.take().map(|mut read| {
            let pages = read.batch.pages_mut().iter_mut();
            for (page, read) in pages.zip(&reading.pages) {
                page.outcome = read.outcome;
            }
            read.batch
        });
        place.reading = Some(reading);
        batch
    }

    /// The number of pages that readers have been told to read and have not read yet.
    pub(super) fn pages_being_read(&self) -> u64 {
        let reads = self.places.iter().filter_map(|place| place.read.as_ref());
        let is_left = |outcome| outcome == Err(PageError::NotDone);
        reads
            .flat_map(|read| read.batch.pages())
            .filter(|page| is_left(page.outcome))
            .count() as u64
    }

    /// Some time passed. Returns the line to log, if one is due.
    pub(super) fn tick(&mut self) -> Option<String> {
        let reads = self
            .places
            .iter_mut()
            .filter_map(|place| place.read.as_mut());
        self.read_wait.tick(reads.map(|read| {
            read.ticks += 1;
            read.ticks
        }))
    }

    /// See [`Preps::prep`]. A batch without a buffer set is returned at once.
    pub(super) fn prep(&mut self, batch: Batch) -> Option<Batch> {
        let Some(place) = self.places.get(batch.index()) else {
            return Some(batch);
        };
        let done = self.preps.prep(batch, place.buffers)?;
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

    /// See [`Preps::abandon`]. Reads that hang are not waited for.
    pub(super) fn abandon(&mut self, mut done: impl FnMut(Batch)) {
        self.preps.abandon(&mut done);
        let reads = self.places.iter_mut().filter_map(|place| place.read.take());
        reads.for_each(|read| done(read.batch));
    }
}
