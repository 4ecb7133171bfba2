// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the pager's threads hand batches to each other, under the interleavings that the memory
//! model allows.
//!
//! `dom0/shell/src` uses parking_lot's locks and an eventfd, which the explorer does not know, so
//! these tests are models: the same locks and accesses, with the same orderings, in the same order,
//! as in the functions that each names.

use std::collections::VecDeque;

use loom::sync::atomic::AtomicU32;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

const DONE: u32 = 1;

/// `worker::Queue`.
struct Queue {
    state: Mutex<(VecDeque<u32>, bool)>,
    filled: Condvar,
}

impl Queue {
    fn new() -> Self {
        Self {
            state: Mutex::new((VecDeque::new(), true)),
            filled: Condvar::new(),
        }
    }

    fn push(&self, job: u32) {
        self.state.lock().unwrap().0.push_back(job);
        self.filled.notify_one();
    }

    fn close(&self) {
        self.state.lock().unwrap().1 = false;
        self.filled.notify_one();
    }

    fn next(&self) -> Option<u32> {
        let mut state = self.state.lock().unwrap();
        loop {
            if let Some(job) = state.0.pop_front() {
                return Some(job);
            }
            if !state.1 {
                return None;
            }
            state = self.filled.wait(state).unwrap();
        }
    }
}

/// `EventChannel`: kicks that nobody has waited for yet count as one kick.
struct Kicks {
    kicked: Mutex<bool>,
    came: Condvar,
}

impl Kicks {
    fn kick(&self) {
        *self.kicked.lock().unwrap() = true;
        self.came.notify_one();
    }

    fn wait(&self) {
        let mut kicked = self.kicked.lock().unwrap();
        while !*kicked {
            kicked = self.came.wait(kicked).unwrap();
        }
        *kicked = false;
    }
}

/// `inbox::Inbox`.
struct Inbox {
    news: AtomicU32,
    done: Mutex<Vec<u32>>,
    event: Kicks,
}

impl Inbox {
    fn new() -> Self {
        let event = Kicks {
            kicked: Mutex::new(false),
            came: Condvar::new(),
        };
        Self {
            news: AtomicU32::new(0),
            done: Mutex::new(Vec::new()),
            event,
        }
    }

    fn hand_back(&self, batch: u32, batch_first: bool) {
        if batch_first {
            self.done.lock().unwrap().push(batch);
        }
        self.news.fetch_or(DONE, Release);
        self.event.kick();
        if !batch_first {
            self.done.lock().unwrap().push(batch);
        }
    }

    fn take(&self) -> u32 {
        if self.news.load(Relaxed) == 0 {
            return 0;
        }
        self.news.swap(0, Acquire)
    }
}

/// At most two threads are interrupted where they could go on: all interleavings would take a
/// minute.
fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(check);
}

/// The main thread hands out a batch, and another once that one is back, then closes. The worker
/// hands each back. Each comes back once, and both threads end.
fn round_trip() {
    model(|| {
        let (queue, inbox) = (Arc::new(Queue::new()), Arc::new(Inbox::new()));
        let worker = {
            let (queue, inbox) = (queue.clone(), inbox.clone());
            thread::spawn(move || {
                while let Some(batch) = queue.next() {
                    inbox.hand_back(batch, true);
                }
            })
        };
        let mut back = Vec::new();
        queue.push(1);
        // `Shell::serve`, `Shell::round`.
        while back.len() < 2 {
            inbox.event.wait();
            while inbox.take() & DONE != 0 {
                let done = std::mem::take(&mut *inbox.done.lock().unwrap());
                if done.contains(&1) {
                    queue.push(2);
                }
                back.extend(done);
            }
        }
        queue.close();
        worker.join().unwrap();
        assert_eq!(back, [1, 2]);
    });
}

/// Two workers, the hypercall worker and the store worker, hand back at the same time.
fn two_workers(batch_first: bool) {
    model(move || {
        let inbox = Arc::new(Inbox::new());
        let workers = [1, 2].map(|batch| {
            let inbox = inbox.clone();
            thread::spawn(move || inbox.hand_back(batch, batch_first))
        });
        let mut back = Vec::new();
        while back.len() < 2 {
            inbox.event.wait();
            while inbox.take() & DONE != 0 {
                back.append(&mut inbox.done.lock().unwrap());
            }
        }
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap());
        back.sort_unstable();
        assert_eq!(back, [1, 2]);
    });
}

#[test]
fn c7_a_batch_handed_out_comes_back_once_and_the_threads_end() {
    round_trip();
    two_workers(true);
}

/// The same model finds the defect: the test can fail.
#[test]
#[should_panic(expected = "deadlock")]
fn news_before_its_batch_leaves_the_batch_lying() {
    two_workers(false);
}
