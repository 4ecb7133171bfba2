// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two handshakes in which no wake-up may be lost, under every interleaving that the memory
//! model allows.
//!
//! The crate uses `core`'s atomics on shared memory, so these tests are models: the same accesses
//! with the same orderings, in the same order, as in the functions that each names. The explorer
//! treats `SeqCst` accesses as `AcqRel`, which is weaker. The crate relies on `SeqCst` in fences
//! only, and fences are explored as they are.

use loom::sync::Arc;
use loom::sync::Mutex;
use loom::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};
use loom::thread;

/// One direction of the ring: `Front::push` and `Back::take`, or `Back::publish` and `Front::take`.
struct Direction {
    entry: AtomicU64,
    prod: AtomicU32,
    event: AtomicU32,
}

impl Direction {
    fn new() -> Self {
        Self {
            entry: AtomicU64::new(0),
            prod: AtomicU32::new(0),
            event: AtomicU32::new(1),
        }
    }

    /// Whether a notification is owed.
    fn push(&self, value: u64, fenced: bool) -> bool {
        self.entry.store(value, Relaxed);
        let old = self.prod.load(Relaxed);
        self.prod.store(old + 1, Release);
        if fenced {
            fence(SeqCst);
        }
        let event = self.event.load(Relaxed);
        (old + 1).wrapping_sub(event) < 1
    }

    /// The next entry, or `None`: asleep until notified.
    fn take(&self, cons: u32, fenced: bool) -> Option<u64> {
        if self.prod.load(Acquire) == cons {
            self.event.store(cons + 1, Relaxed);
            if fenced {
                fence(SeqCst);
            }
            if self.prod.load(Acquire) == cons {
                return None;
            }
        }
        Some(self.entry.load(Relaxed))
    }
}

/// The consumer has taken one entry and goes to sleep while the second comes: it sees that entry,
/// or it is notified.
fn sleeping_consumer(fenced: bool) {
    loom::model(move || {
        let ring = Arc::new(Direction::new());
        let _ = ring.push(1, fenced);
        let producer = {
            let ring = ring.clone();
            thread::spawn(move || ring.push(2, fenced))
        };
        let mut cons = 0;
        let mut seen = 0;
        while let Some(value) = ring.take(cons, fenced) {
            assert!(value > u64::from(cons), "an entry before its contents");
            cons += 1;
            seen += 1;
        }
        let notified = producer.join().unwrap();
        assert!(seen == 2 || notified, "asleep with an entry on the ring");
    });
}

#[test]
fn nobody_sleeps_with_an_entry_on_the_ring() {
    sleeping_consumer(true);
}

/// Without the fences the same model finds the lost notification: the test can fail.
#[test]
#[should_panic(expected = "asleep with an entry on the ring")]
fn without_its_fences_the_ring_would_lose_an_event() {
    sleeping_consumer(false);
}

/// A vcpu that waits, and a caller that tears the ring down: `Paging::populate_for` and
/// `Paging::disable`.
struct Waiting {
    waits_for: AtomicU64,
    enabled: AtomicBool,
    /// The ring lock, and whether there is a ring.
    ring: Mutex<bool>,
}

impl Waiting {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            waits_for: AtomicU64::new(0),
            enabled: AtomicBool::new(true),
            ring: Mutex::new(true),
        })
    }

    /// `Vcpus::wait`, on the vcpu's thread.
    fn wait(&self) {
        let began = self.waits_for.compare_exchange(0, 2, AcqRel, Acquire);
        assert_eq!(began, Ok(0));
    }

    /// `Vcpus::end_wait`.
    fn end_wait(&self) {
        let _ = self.waits_for.compare_exchange(2, 0, AcqRel, Acquire);
    }

    /// Whether there is a ring; the answer is read under its lock.
    fn has_ring(&self) -> bool {
        *self.ring.lock().unwrap()
    }

    fn set_ring(&self, there: bool) {
        let mut ring = self.ring.lock().unwrap();
        self.enabled.store(there, Release);
        *ring = there;
    }

    /// `Paging::disable`, and its `take_all_waiters`.
    fn disable(&self) {
        self.set_ring(false);
        if self.waits_for.load(Acquire) != 0 {
            self.end_wait();
        }
    }
}

/// `locked`: the vcpu checks the ring, under its lock, after it began to wait. Otherwise it reads
/// the flag only, as it did in an earlier version.
fn tear_down(locked: bool) {
    loom::model(move || {
        let w = Waiting::new();
        let vcpu = {
            let w = w.clone();
            thread::spawn(move || {
                w.wait();
                let there = if locked {
                    w.has_ring()
                } else {
                    w.enabled.load(Acquire)
                };
                if !there {
                    w.end_wait();
                }
            })
        };
        w.disable();
        vcpu.join().unwrap();
        assert_eq!(w.waits_for.load(Relaxed), 0, "waits for ever");
    });
}

#[test]
fn nobody_waits_on_a_ring_that_is_gone() {
    tear_down(true);
}

#[test]
#[should_panic(expected = "waits for ever")]
fn a_look_at_the_flag_alone_would_lose_the_vcpu() {
    tear_down(false);
}

/// As [`tear_down`], and a new pager attaches at once. A vcpu that found no ring stops waiting
/// (`Paging::cancel_wait`). A vcpu that believed the flag, which is that of the new ring, would
/// wait for a request that nobody made.
fn replacement(believes_the_flag: bool) {
    loom::model(move || {
        let w = Waiting::new();
        let vcpu = {
            let w = w.clone();
            thread::spawn(move || {
                w.wait();
                let asked = w.has_ring();
                let stays = believes_the_flag && w.enabled.load(Acquire);
                if !asked && !stays {
                    w.end_wait();
                }
                asked
            })
        };
        w.disable();
        w.set_ring(true);
        let asked = vcpu.join().unwrap();
        let waits = w.waits_for.load(Relaxed) != 0;
        assert!(asked || !waits, "waits for a request that nobody made");
    });
}

#[test]
fn nobody_waits_on_a_ring_that_was_not_asked() {
    replacement(false);
}

#[test]
#[should_panic(expected = "waits for a request that nobody made")]
fn a_flag_of_the_next_ring_would_lose_the_vcpu() {
    replacement(true);
}

/// The count of waiting vcpus, which lets a page become resident without a check of each vcpu:
/// `Vcpus::wait` against `Vcpus::end_wait` of a tear-down, while `Vcpus::woken` looks for another
/// vcpu.
fn count(counted_first: bool) {
    loom::model(move || {
        // Vcpu 0 waits for the page that is resident by now. Vcpu 1 begins to wait.
        let waits = Arc::new([AtomicU64::new(7), AtomicU64::new(0)]);
        let waiting = Arc::new(AtomicU32::new(1));
        let begins = {
            let (waits, waiting) = (waits.clone(), waiting.clone());
            thread::spawn(move || {
                if counted_first {
                    waiting.fetch_add(1, AcqRel);
                }
                let _ = waits[1].compare_exchange(0, 9, AcqRel, Acquire);
                if !counted_first {
                    waiting.fetch_add(1, AcqRel);
                }
            })
        };
        let tears_down = {
            let (waits, waiting) = (waits.clone(), waiting.clone());
            thread::spawn(move || {
                if waits[1].compare_exchange(9, 0, AcqRel, Acquire).is_ok() {
                    waiting.fetch_sub(1, AcqRel);
                }
            })
        };
        let anyone = waiting.load(Acquire) != 0;
        assert!(anyone, "vcpu 0 is not looked for");
        begins.join().unwrap();
        tears_down.join().unwrap();
        let left = waits.iter().filter(|w| w.load(Relaxed) != 0).count();
        assert_eq!(waiting.load(Relaxed) as usize, left);
    });
}

#[test]
fn the_count_is_never_below_those_who_wait() {
    count(true);
}

#[test]
#[should_panic(expected = "vcpu 0 is not looked for")]
fn counted_afterwards_a_waiter_could_be_overlooked() {
    count(false);
}
