//! The worker thread: batches that nobody waits for, one step at a time.

use parking_lot::{Condvar, Mutex};

use super::buffers::BufferSet;
use super::inbox::{Inbox, News};
use super::machine::{Calls, MachineError};
use super::pages::{Scratch, load, save};
use crate::core::{Batch, Step};
use crate::store::PageStore;

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
    pub(super) calls: Box<dyn Calls>,
    /// Of the batches that are not demand, the first of which has index `first_set`.
    pub(super) sets: Vec<BufferSet>,
    pub(super) first_set: usize,
    pub(super) scratch: Scratch,
}

impl Worker {
    /// Runs batches until the queue is closed; then the calls are free again.
    pub(super) fn run(
        mut self,
        queue: &Queue,
        inbox: &Inbox,
        store: &dyn PageStore,
    ) -> Box<dyn Calls> {
        while let Some(mut batch) = queue.next() {
            if let Err(error) = self.step(&mut batch, store) {
                tracing::error!("{error}");
                inbox.tell(News::GONE);
            }
            inbox.hand_back(batch);
        }
        self.calls
    }

    fn step(&mut self, batch: &mut Batch, store: &dyn PageStore) -> Result<(), MachineError> {
        let set = batch.index().checked_sub(self.first_set);
        let set = set.and_then(|set| self.sets.get_mut(set));
        match (batch.step(), set) {
            (Step::Nominate, _) => self.calls.nominate(batch.pages_mut())?,
            (Step::Evict, _) => self.calls.evict(batch.pages_mut())?,
            (Step::Restore, _) => self.calls.restore(batch.pages_mut())?,
            (Step::Save, _) => save(store, &mut *self.calls, batch, &mut self.scratch),
            (Step::Load, Some(set)) => load(store, batch, set, &mut self.scratch),
            (Step::Prep, Some(set)) => self.calls.prep(batch.pages_mut(), set)?,
            (Step::Load | Step::Prep, None) => {}
        }
        Ok(())
    }
}
