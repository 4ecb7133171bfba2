//! The worker thread: batches that nobody waits for, one step at a time.

use std::time::Duration;

use p2m_paging::Errno;
use parking_lot::{Condvar, Mutex};

use super::buffers::BufferSet;
use super::hypercalls::{CallError, Hypercalls};
use super::inbox::{Inbox, News};
use super::pages::{Scratch, load, save};
use crate::core::{Batch, Page, PageError, Step};
use crate::host::guest_memory::GuestFile;
use crate::link::Op;
use crate::store::PageStore;

/// How often a page is asked for that finds the ring full, and how long to wait in between: the main
/// thread answers meanwhile.
const RESTORE_ATTEMPTS: usize = 1000;
const RESTORE_PAUSE: Duration = Duration::from_micros(500);

/// Batches to be run.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    filled: Condvar,
}

#[derive(Debug)]
struct QueueState {
    batches: Vec<Batch>,
    open: bool,
}

impl Queue {
    /// An empty one, with room for so many batches.
    pub(super) fn new(batches: usize) -> Self {
        Self {
            state: Mutex::new(QueueState {
                batches: Vec::with_capacity(batches),
                open: true,
            }),
            filled: Condvar::new(),
        }
    }

    pub(super) fn push(&self, batch: Batch) {
        self.state.lock().batches.push(batch);
        self.filled.notify_one();
    }

    /// The worker ends once the queue is empty.
    pub(super) fn close(&self) {
        self.state.lock().open = false;
        self.filled.notify_one();
    }

    /// The batch of the most urgent lane; `None`: closed.
    fn next(&self) -> Option<Batch> {
        let mut state = self.state.lock();
        loop {
            let batches = state.batches.iter().enumerate();
            if let Some((first, _)) = batches.min_by_key(|(_, batch)| batch.lane()) {
                return Some(state.batches.swap_remove(first));
            }
            if !state.open {
                return None;
            }
            self.filled.wait(&mut state);
        }
    }
}

/// What the worker works with.
pub(super) struct Worker {
    pub(super) hypercalls: Hypercalls,
    pub(super) memory: GuestFile,
    /// Of the batches that are not demand, the first of which has index `first_set`.
    pub(super) sets: Vec<BufferSet>,
    pub(super) first_set: usize,
    pub(super) scratch: Scratch,
}

impl Worker {
    /// Runs batches until the queue is closed; then the socket is free again.
    pub(super) fn run(mut self, queue: &Queue, inbox: &Inbox, store: &dyn PageStore) -> Hypercalls {
        while let Some(mut batch) = queue.next() {
            if let Err(error) = self.step(&mut batch, store) {
                tracing::error!("{error}");
                inbox.tell(News::GONE);
            }
            inbox.hand_back(batch);
        }
        self.hypercalls
    }

    fn step(&mut self, batch: &mut Batch, store: &dyn PageStore) -> Result<(), CallError> {
        match batch.step() {
            Step::Nominate => self.call(Op::Nominate, batch.pages_mut()),
            Step::Evict => self.call(Op::Evict, batch.pages_mut()),
            Step::Restore => self.restore(batch.pages_mut()),
            Step::Save => {
                save(store, &self.memory, batch, &mut self.scratch);
                Ok(())
            }
            Step::Load => {
                let set = batch.index().checked_sub(self.first_set);
                if let Some(set) = set.and_then(|set| self.sets.get_mut(set)) {
                    load(store, batch, set, &mut self.scratch);
                }
                Ok(())
            }
            Step::Prep => self.prep(batch),
        }
    }

    fn call(&mut self, op: Op, pages: &mut [Page]) -> Result<(), CallError> {
        let mut results = 0;
        let gfns: Vec<_> = pages.iter().map(Page::gfn).collect();
        self.hypercalls.batch(op, gfns, |result| {
            pages[results].outcome = result.map_err(PageError::Refused);
            results += 1;
        })
    }

    fn prep(&mut self, batch: &mut Batch) -> Result<(), CallError> {
        let set = batch.index().checked_sub(self.first_set);
        let Some(set) = set.and_then(|set| self.sets.get(set)) else {
            return Ok(());
        };
        let claims = |page: &Page| (page.gfn(), set.claim(page.buffer()));
        let preps: Vec<_> = batch.pages().iter().map(claims).collect();
        let mut pages = batch.pages_mut().iter_mut();
        self.hypercalls.prep(preps, |result| {
            if let Some(page) = pages.next() {
                page.outcome = result.map_err(PageError::Refused);
            }
        })
    }

    /// Has the machine ask for the pages; the main thread answers, and they are home. Few fit on the
    /// ring at a time.
    fn restore(&mut self, pages: &mut [Page]) -> Result<(), CallError> {
        for attempt in 0..RESTORE_ATTEMPTS {
            let full = Err(PageError::Refused(Errno::EBUSY));
            let is_left = |page: &&mut Page| attempt == 0 || page.outcome == full;
            let mut left: Vec<_> = pages.iter_mut().filter(is_left).collect();
            if left.is_empty() {
                break;
            }
            if attempt > 0 {
                std::thread::sleep(RESTORE_PAUSE);
            }
            let gfns: Vec<_> = left.iter().map(|page| page.gfn()).collect();
            let mut results = left.iter_mut();
            self.hypercalls.batch(Op::Restore, gfns, |result| {
                if let Some(page) = results.next() {
                    page.outcome = result.map_err(PageError::Refused);
                }
            })?;
        }
        Ok(())
    }
}
