//! The two threads for batches that nobody waits for, each of which takes one step at a time. The
//! caller makes calls to the machine, the storer moves pages to and from the store: while one batch is
//! saved, another is nominated or evicted.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::buffers::{BufferPlace, BufferSet};
use super::inbox::{Inbox, News};
use super::machine::{Calls, Frames, MachineError};
use super::pages::{Scratch, load, save};
use crate::core::{Batch, Step};
use crate::store::PageStore;

/// Batches to be run.
#[derive(Debug)]
struct Queue {
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
    fn new(batches: usize) -> Self {
        Self {
            state: Mutex::new(QueueState {
                batches: Vec::with_capacity(batches),
                open: true,
            }),
            filled: Condvar::new(),
        }
    }

    fn push(&self, batch: Batch) {
        self.state.lock().batches.push(batch);
        self.filled.notify_one();
    }

    /// Whoever takes from it ends once it is empty.
    fn close(&self) {
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

/// One queue for each of the two threads.
#[derive(Debug)]
pub(super) struct Queues {
    calls: Queue,
    store: Queue,
}

impl Queues {
    /// Empty ones, with room for so many batches.
    pub(super) fn new(batches: usize) -> Self {
        Self {
            calls: Queue::new(batches),
            store: Queue::new(batches),
        }
    }

    /// Hands a batch to the thread that its step is for.
    pub(super) fn push(&self, batch: Batch) {
        match batch.step() {
            Step::Save | Step::Load => self.store.push(batch),
            Step::Nominate | Step::Evict | Step::Restore | Step::Prep => self.calls.push(batch),
        }
    }

    /// Both threads end once their queues are empty.
    pub(super) fn close(&self) {
        self.calls.close();
        self.store.close();
    }
}

/// What the caller works with.
pub(super) struct Caller {
    pub(super) calls: Box<dyn Calls>,
    /// By batch.
    pub(super) buffers: Vec<BufferPlace>,
}

impl Caller {
    /// Runs batches until the queue is closed; then the calls are free again.
    pub(super) fn run(mut self, queues: &Queues, inbox: &Inbox) -> Box<dyn Calls> {
        while let Some(mut batch) = queues.calls.next() {
            if let Err(error) = self.step(&mut batch) {
                tracing::error!("{error}");
                inbox.tell(News::GONE);
            }
            inbox.hand_back(batch);
        }
        self.calls
    }

    fn step(&mut self, batch: &mut Batch) -> Result<(), MachineError> {
        let buffers = self.buffers.get(batch.index());
        match (batch.step(), buffers) {
            (Step::Nominate, _) => self.calls.nominate(batch.pages_mut()),
            (Step::Evict, _) => self.calls.evict(batch.pages_mut()),
            (Step::Restore, _) => self.calls.restore(batch.pages_mut()),
            (Step::Prep, Some(&buffers)) => self.calls.prep(batch.pages_mut(), buffers),
            (Step::Prep, None) | (Step::Save | Step::Load, _) => Ok(()),
        }
    }
}

/// What the storer works with.
pub(super) struct Storer {
    pub(super) frames: Box<dyn Frames>,
    pub(super) store: Arc<dyn PageStore>,
    /// Of the batches that are not demand, the first of which has index `first_set`.
    pub(super) sets: Vec<BufferSet>,
    pub(super) first_set: usize,
    pub(super) scratch: Scratch,
}

impl Storer {
    /// Runs batches until the queue is closed.
    pub(super) fn run(mut self, queues: &Queues, inbox: &Inbox) {
        while let Some(mut batch) = queues.store.next() {
            self.step(&mut batch);
            inbox.hand_back(batch);
        }
    }

    fn step(&mut self, batch: &mut Batch) {
        let set = batch.index().checked_sub(self.first_set);
        let set = set.and_then(|set| self.sets.get_mut(set));
        match (batch.step(), set) {
            (Step::Save, _) => save(&*self.store, &mut *self.frames, batch, &mut self.scratch),
            (Step::Load, Some(set)) => load(&*self.store, batch, set, &mut self.scratch),
            _ => {}
        }
    }
}
