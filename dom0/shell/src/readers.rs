// SPDX-License-Identifier: MIT OR Apache-2.0
//! The readers: threads that read pages that somebody waits for, if the main thread would have to wait
//! for the store's device.
//!
//! A read that hangs keeps its reader. The others go on, and so does the main thread. A reader has a
//! copy of the list of pages, and the buffers; the batch stays with the main thread. So the batch can
//! end although its read hangs.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pager_core::Page;
use pager_store::PageStore;
use parking_lot::{Condvar, Mutex};

use super::buffers::BufferSet;
use super::demand::REQUESTS;
use super::inbox::{Inbox, Updates};
use super::pages::{Scratch, load};

/// The number of readers, and so of reads that can hang without effect on the next one.
pub(super) const READERS: usize = 4;

/// What a reader needs for the pages of one batch. It is used again for each batch with this index.
#[derive(Debug)]
pub(super) struct Reading {
    /// The batch's index.
    pub(super) batch: usize,
    pub(super) set: BufferSet,
    /// The pages of the batch. Those that are not done are to be read.
    pub(super) pages: Vec<Page>,
}

impl Reading {
    pub(super) fn new(batch: usize, set: BufferSet) -> Self {
        Self {
            batch,
            set,
            pages: Vec::with_capacity(REQUESTS),
        }
    }
}

/// What no reader has taken yet, in order.
#[derive(Debug)]
pub(super) struct ReadQueue {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Debug)]
struct State {
    readings: VecDeque<Reading>,
    open: bool,
}

impl ReadQueue {
    /// Creates an empty queue with room for all demand batches.
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                readings: VecDeque::with_capacity(REQUESTS),
                open: true,
            }),
            filled: Condvar::new(),
        }
    }

    pub(super) fn push(&self, reading: Reading) {
        self.state.lock().readings.push_back(reading);
        self.filled.notify_one();
    }

    /// Nobody waits for pages any more. Readers end, those that hang as soon as they go on.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.open = false;
        state.readings.clear();
        self.filled.notify_all();
    }

    fn next(&self) -> Option<Reading> {
        let mut state = self.state.lock();
        while state.open {
            if let Some(reading) = state.readings.pop_front() {
                return Some(reading);
            }
            self.filled.wait(&mut state);
        }
        None
    }
}

/// Reads until the queue is closed. After a panic the pages that have no outcome are not read.
pub(super) fn read_for_main(queue: &ReadQueue, inbox: &Inbox, store: &dyn PageStore) {
    let mut scratch = Scratch::with_capacity(REQUESTS);
    while let Some(mut reading) = queue.next() {
        let Reading { set, pages, .. } = &mut reading;
        let read = || load(store, pages, set, &mut scratch);
        if catch_unwind(AssertUnwindSafe(read)).is_err() {
            inbox.notify(Updates::PANICKED);
        }
        inbox.return_reading(reading);
    }
}
