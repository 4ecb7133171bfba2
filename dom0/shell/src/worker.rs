// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two threads for batches that nobody waits for. Each thread takes one step at a time. The
//! hypercall worker makes calls to the machine; the store worker moves pages to and from the store.
//! While one batch is saved, another is nominated or evicted.
//!
//! A panic in a step ends neither thread: the batch goes back, and the pager pages everything in.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use p2m_paging::Errno;
use pager_accesses::Recorder;
use pager_core::{Batch, Lane, Loss, Page, PageError, Scan, Step};
use pager_store::PageStore;
use parking_lot::{Condvar, Mutex};

use super::buffers::{BufferPlace, BufferSet};
use super::inbox::{Inbox, Updates};
use super::indexed::{Indexed, clear_resident};
use super::machine::{Calls, Frames, MachineError, OnLoss};
use super::pages::{Scratch, load, save, write_back};

/// How often it is tried to stop a guest, and the pause between two attempts.
const STOP_ATTEMPTS: u32 = 10;
const STOP_PAUSE: Duration = Duration::from_millis(100);

/// A job for one of the threads.
#[derive(Debug)]
enum Job {
    Batch(Batch),
    Scan(Scan),
    StopGuest(Loss),
}

impl Job {
    /// Jobs are taken in this order. Scans are rare and short, and the next page-out benefits from
    /// their results.
    fn urgency(&self) -> (Lane, bool) {
        match self {
            Self::StopGuest(_) => (Lane::Demand, false),
            Self::Scan(_) => (Lane::Out, false),
            Self::Batch(batch) => (batch.lane(), true),
        }
    }

    fn return_batch(self, inbox: &Inbox) {
        match self {
            Self::Batch(batch) => inbox.return_batch(batch),
            Self::Scan(scan) => inbox.return_scan(scan),
            Self::StopGuest(_) => {}
        }
    }
}

/// The jobs that have not been taken yet.
#[derive(Debug)]
struct Queue {
    state: Mutex<QueueState>,
    filled: Condvar,
}

#[derive(Debug)]
struct QueueState {
    jobs: Vec<Job>,
    open: bool,
}

impl Queue {
    /// Creates an empty queue with room for this many batches, a scan and a loss.
    fn new(batches: usize) -> Self {
        Self {
            state: Mutex::new(QueueState {
                jobs: Vec::with_capacity(batches + 2),
                open: true,
            }),
            filled: Condvar::new(),
        }
    }

    fn push(&self, job: Job) {
        self.state.lock().jobs.push(job);
        self.filled.notify_one();
    }

    /// Closes the queue. The thread that takes from it ends once it is empty.
    fn close(&self) {
        self.state.lock().open = false;
        self.filled.notify_one();
    }

    /// Waits for the most urgent job; `None`: the queue is closed.
    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            let jobs = state.jobs.iter().enumerate();
            if let Some((first, _)) = jobs.min_by_key(|(_, job)| job.urgency()) {
                return Some(state.jobs.swap_remove(first));
            }
            if !state.open {
                return None;
            }
            self.filled.wait(&mut state);
        }
    }
}

/// One queue for each of the two threads.
#[derive(Debug)]
pub(super) struct Queues {
    calls: Queue,
    store: Queue,
}

impl Queues {
    /// Creates empty queues with room for this many batches.
    pub(super) fn new(batches: usize) -> Self {
        Self {
            calls: Queue::new(batches),
            store: Queue::new(batches),
        }
    }

    /// Passes a batch to the thread that carries out its step.
    pub(super) fn push(&self, batch: Batch) {
        match batch.step() {
            Step::Save | Step::Load | Step::Move => self.store.push(Job::Batch(batch)),
            Step::Nominate | Step::Evict | Step::Restore | Step::Probe | Step::Prep => {
                self.calls.push(Job::Batch(batch));
            }
        }
    }

    /// Passes a scan to the hypercall worker.
    pub(super) fn push_scan(&self, scan: Scan) {
        self.calls.push(Job::Scan(scan));
    }

    /// Passes a loss to the hypercall worker.
    pub(super) fn push_loss(&self, loss: Loss) {
        self.calls.push(Job::StopGuest(loss));
    }

    /// Closes both queues. The threads end once their queues are empty.
    pub(super) fn close(&self) {
        self.calls.close();
        self.store.close();
    }
}

/// The hypercall worker and what it uses.
pub(super) struct HypercallWorker {
    pub(super) calls: Box<dyn Calls>,
    /// One for each batch, by the batch's index.
    pub(super) buffers: Vec<BufferPlace>,
    /// Records what scans find.
    pub(super) recorder: Option<Arc<Recorder>>,
    /// Where it is noted what lies where.
    pub(super) indexed: Option<Indexed>,
    /// What becomes of a guest that needs a page that is gone for good.
    pub(super) on_loss: OnLoss,
}

impl HypercallWorker {
    /// Runs batches until the queue is closed, then returns the calls.
    pub(super) fn run(mut self, queues: &Queues, inbox: &Inbox) -> Box<dyn Calls> {
        while let Some(mut job) = queues.calls.next() {
            let done = catch_unwind(AssertUnwindSafe(|| match &mut job {
                Job::Batch(batch) => self.step(batch),
                Job::Scan(scan) => self.scan(scan),
                Job::StopGuest(loss) => {
                    self.stop_guest(*loss);
                    Ok(())
                }
            }));
            match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!("{error}");
                    inbox.notify(Updates::GONE);
                }
                Err(_) => {
                    if let Job::Batch(batch) = &mut job {
                        self.find_out(batch);
                    }
                    inbox.notify(Updates::PANICKED);
                }
            }
            job.return_batch(inbox);
        }
        self.calls
    }

    fn scan(&mut self, scan: &mut Scan) -> Result<(), MachineError> {
        self.calls.scan(scan)?;
        if let Some(recorder) = self.recorder.as_ref().filter(|_| scan.outcome.is_ok()) {
            recorder.note(scan.used());
        }
        Ok(())
    }

    /// Stops the guest, and says so in one line.
    fn stop_guest(&mut self, loss: Loss) {
        let mut stopped = self.calls.stop_guest(self.on_loss);
        for _ in 1..STOP_ATTEMPTS {
            if stopped.is_ok() {
                break;
            }
            thread::sleep(STOP_PAUSE);
            stopped = self.calls.stop_guest(self.on_loss);
        }
        match (stopped, self.on_loss) {
            (Ok(()), OnLoss::Pause) => tracing::error!(
                "{loss}. The guest is paused: unpause it to let it wait for the page, destroy it, or \
                 start the pager again with --on-loss crash"
            ),
            (Ok(()), OnLoss::Crash) => tracing::error!("{loss}. The guest is crashed"),
            (Err(error), how) => {
                let what = match how {
                    OnLoss::Pause => "paused",
                    OnLoss::Crash => "crashed",
                };
                tracing::error!("{loss}. The guest cannot be {what}, and waits: {error}");
            }
        }
    }

    fn step(&mut self, batch: &mut Batch) -> Result<(), MachineError> {
        let buffers = self.buffers.get(batch.index());
        match (batch.step(), buffers) {
            (Step::Nominate | Step::Probe, _) => self.nominate(batch.pages_mut()),
            (Step::Evict, _) => self.evict(batch.pages_mut()),
            (Step::Restore, _) => self.calls.restore(batch.pages_mut()),
            (Step::Prep, Some(&buffers)) => {
                let prepped = self.calls.prep(batch.pages_mut(), buffers);
                let index = self.indexed.as_ref().map(|indexed| &*indexed.index);
                clear_resident(index, batch.pages());
                prepped
            }
            (Step::Prep, None) | (Step::Save | Step::Load | Step::Move, _) => Ok(()),
        }
    }

    fn evict(&mut self, pages: &mut [Page]) -> Result<(), MachineError> {
        match &mut self.indexed {
            Some(indexed) => indexed.evict(&mut *self.calls, pages),
            None => self.calls.evict(pages),
        }
    }
}

impl HypercallWorker {
    /// A step has panicked, so it is not known what was done to pages without an outcome.
    fn find_out(&mut self, batch: &mut Batch) {
        let step = batch.step();
        let unknown = |page: &&mut Page| page.outcome == Err(PageError::NotDone);
        for page in batch.pages_mut().iter_mut().filter(unknown) {
            page.outcome = match step {
                // If it is not nominated, it cannot be evicted, and that is found then.
                Step::Nominate => Ok(()),
                Step::Evict => self.find_out_evicted(*page),
                // These are tried again.
                _ => Err(PageError::NotDone),
            };
        }
    }

    /// Restores a page, to find out whether it was evicted.
    fn find_out_evicted(&mut self, page: Page) -> Result<(), PageError> {
        let mut pages = [page];
        let restored = catch_unwind(AssertUnwindSafe(|| self.calls.restore(&mut pages)));
        match (restored, pages[0].outcome) {
            // A page that was nominated has not been evicted.
            (Ok(Ok(())), Ok(())) => Err(PageError::NotDone),
            // A page that was not nominated is taken for evicted: its contents are in the store. If it
            // is resident, its prep says so.
            (Ok(Ok(())), Err(PageError::Refused(Errno::ENOENT))) => Ok(()),
            _ => Err(PageError::Uncertain),
        }
    }

    /// Nominates. A page that an earlier pager had left nominated is refused like a page in use, so
    /// this restores it and tries again. A page has one flight at most, so nothing else here has
    /// nominated a refused page.
    fn nominate(&mut self, pages: &mut [Page]) -> Result<(), MachineError> {
        self.calls.nominate(pages)?;
        let refused = |page: &Page| page.outcome == Err(PageError::Refused(Errno::EBUSY));
        let mut left: Vec<_> = pages.iter().copied().filter(refused).collect();
        if left.is_empty() || !self.calls.restores_at_once() {
            return Ok(());
        }
        self.calls.restore(&mut left)?;
        left.retain(|page| page.outcome.is_ok());
        if left.is_empty() {
            return Ok(());
        }
        tracing::debug!(
            pages = left.len(),
            "an earlier pager had nominated these pages"
        );
        self.calls.nominate(&mut left)?;
        let mut left = left.into_iter().peekable();
        for page in pages {
            if let Some(again) = left.next_if(|again| again.gfn() == page.gfn()) {
                *page = again;
            }
        }
        Ok(())
    }
}

/// The store worker and what it uses.
pub(super) struct StoreWorker {
    pub(super) frames: Box<dyn Frames>,
    pub(super) store: Arc<dyn PageStore>,
    /// The buffers of the batches that are not demand. The first of these batches has index
    /// `first_set`.
    pub(super) sets: Vec<BufferSet>,
    pub(super) first_set: usize,
    pub(super) scratch: Scratch,
}

impl StoreWorker {
    /// Runs batches until the queue is closed.
    pub(super) fn run(mut self, queues: &Queues, inbox: &Inbox) {
        while let Some(mut job) = queues.store.next() {
            if let Job::Batch(batch) = &mut job {
                // Pages without an outcome have not been saved, loaded or moved.
                let done = catch_unwind(AssertUnwindSafe(|| self.step(batch)));
                if done.is_err() {
                    inbox.notify(Updates::PANICKED);
                }
            }
            job.return_batch(inbox);
        }
    }

    fn step(&mut self, batch: &mut Batch) {
        let set = batch.index().checked_sub(self.first_set);
        let set = set.and_then(|set| self.sets.get_mut(set));
        match (batch.step(), set) {
            (Step::Save, _) => save(&*self.store, &mut *self.frames, batch, &mut self.scratch),
            (Step::Load, Some(set)) => {
                load(&*self.store, batch.pages_mut(), set, &mut self.scratch);
            }
            (Step::Move, Some(set)) => write_back(&*self.store, batch, set, &mut self.scratch),
            _ => {}
        }
    }
}
