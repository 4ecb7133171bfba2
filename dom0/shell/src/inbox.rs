// SPDX-License-Identifier: MIT OR Apache-2.0
//! What other threads send to the main thread.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bitflags::bitflags;
use pager_core::{Batch, Scan};
use parking_lot::Mutex;

use super::control_request::{ControlClient, Request};
use super::error::ShellError;
use super::event_channel::EventChannel;
use super::machine::MachineEvent;
use super::readers::Reading;
use super::repeated::Repeated;

/// The most signals that wait to be taken.
const SIGNALS: usize = 8;

bitflags! {
    /// Updates. Each stays set until it is taken; setting it twice has no further effect.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Updates: u32 {
        /// A tick is due.
        const TICK = 1 << 0;
        /// A signal asks for everything to be paged back in.
        const STOP = 1 << 1;
        /// The guest or the machine is gone.
        const GONE = 1 << 2;
        /// A batch is done.
        const DONE = 1 << 3;
        /// The target has changed.
        const TARGET = 1 << 4;
        /// The guest's size has changed.
        const RESIDENT = 1 << 5;
        /// A scan is done.
        const SCANNED = 1 << 6;
        /// An operator has sent a request.
        const ASKED = 1 << 7;
        /// A thread has panicked.
        const PANICKED = 1 << 8;
        /// A worker has ended, and the batch that it had is lost.
        const WORKER_LOST = 1 << 9;
        /// A reader is done.
        const READ = 1 << 10;
    }
}

/// The inbox, shared by all threads of the pager.
#[derive(Debug)]
pub(super) struct Inbox {
    updates: AtomicU32,
    over: AtomicBool,
    lost: Mutex<Option<Lost>>,
    done: Mutex<Vec<Batch>>,
    read: Mutex<Vec<Reading>>,
    scanned: Mutex<Option<Scan>>,
    memory: Mutex<GuestMemoryBounds>,
    asked: Mutex<Vec<(Request, ControlClient)>>,
    /// When an operator sent the signals that have not been taken yet.
    signals: Mutex<Vec<Instant>>,
    event: EventChannel,
    is_unwoken: AtomicBool,
    unwoken: Mutex<Repeated>,
}

/// How a pager loses a guest that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// The guest has another pager now.
    Replaced,
    /// Paging was disabled.
    Disabled,
}

impl Lost {
    /// The error with which a pager ends that had so many pages out.
    pub(super) fn error(self, out_pages: u64) -> ShellError {
        match self {
            Self::Replaced => ShellError::Replaced { out_pages },
            Self::Disabled => ShellError::Disabled { out_pages },
        }
    }
}

/// The memory that the guest has and may have, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
struct GuestMemoryBounds {
    /// The target that the guest's operator set. Below zero, it means the maximum.
    target: Option<i64>,
    /// The most pages that the guest may have while the host is short of memory.
    allowed: Option<u64>,
    resident: Option<u64>,
}

impl GuestMemoryBounds {
    fn own_target(&self) -> Option<u64> {
        self.target.and_then(|target| u64::try_from(target).ok())
    }

    /// The lower of the two, for the core.
    fn target(&self) -> i64 {
        let both = self.own_target().into_iter().chain(self.allowed);
        let lower = both.min().map(i64::try_from);
        lower.and_then(Result::ok).unwrap_or(-1)
    }
}

impl Inbox {
    /// Creates an empty inbox for this many batches. The main thread waits on `event`.
    pub(super) fn new(event: EventChannel, batches: usize) -> Self {
        Self {
            updates: AtomicU32::new(0),
            over: AtomicBool::new(false),
            lost: Mutex::default(),
            done: Mutex::new(Vec::with_capacity(batches)),
            read: Mutex::new(Vec::with_capacity(batches)),
            scanned: Mutex::new(None),
            memory: Mutex::default(),
            asked: Mutex::default(),
            signals: Mutex::default(),
            event,
            is_unwoken: AtomicBool::new(false),
            unwoken: Mutex::default(),
        }
    }

    /// Wakes the main thread with these updates.
    pub(super) fn notify(&self, updates: Updates) {
        // The data of an update is stored before its bit: pairs with the swap in `take`.
        self.updates.fetch_or(updates.bits(), Ordering::Release);
        match self.event.kick() {
            Ok(()) if !self.is_unwoken.load(Ordering::Relaxed) => {}
            Ok(()) => {
                self.is_unwoken.store(false, Ordering::Relaxed);
                let over = self.unwoken.lock().over(Instant::now(), Duration::ZERO);
                if let Some(over) = over {
                    tracing::warn!(
                        "the main thread can be woken again, after {:.1?}",
                        over.lasted
                    );
                }
            }
            Err(errno) => {
                self.is_unwoken.store(true, Ordering::Relaxed);
                if self.unwoken.lock().happened(Instant::now()) {
                    tracing::error!(%errno, "the main thread cannot be woken");
                }
            }
        }
    }

    /// Returns a batch to the main thread.
    pub(super) fn return_batch(&self, batch: Batch) {
        self.done.lock().push(batch);
        self.notify(Updates::DONE);
    }

    /// Returns what a reader was told to read to the main thread.
    pub(super) fn return_reading(&self, reading: Reading) {
        self.read.lock().push(reading);
        self.notify(Updates::READ);
    }

    /// Returns the scan to the main thread. There is one scan at a time.
    pub(super) fn return_scan(&self, scan: Scan) {
        *self.scanned.lock() = Some(scan);
        self.notify(Updates::SCANNED);
    }

    /// Passes on a notice of the machine.
    pub(super) fn on_machine_event(&self, event: MachineEvent) {
        match event {
            MachineEvent::Target(pages) => {
                self.memory.lock().target = Some(pages);
                self.notify(Updates::TARGET);
            }
            MachineEvent::Resident(pages) => {
                self.memory.lock().resident = Some(pages);
                self.notify(Updates::RESIDENT);
            }
            MachineEvent::DomainGone => self.notify(Updates::GONE),
            MachineEvent::Replaced => self.lose(Lost::Replaced),
            MachineEvent::Disabled => self.lose(Lost::Disabled),
        }
    }

    fn lose(&self, how: Lost) {
        self.lost.lock().get_or_insert(how);
        self.notify(Updates::GONE);
    }

    /// Sets how many pages the guest may have resident. `None`: the host is not short of memory.
    pub(super) fn allow(&self, pages: Option<u64>) {
        let before = std::mem::replace(&mut self.memory.lock().allowed, pages);
        if before != pages {
            self.notify(Updates::TARGET);
        }
    }

    /// The host's limit and the guest's own target, where they are set.
    pub(super) fn bounds(&self) -> (Option<u64>, Option<u64>) {
        let memory = self.memory.lock();
        (memory.allowed, memory.own_target())
    }

    /// Notes that the main thread has ended, so that nothing is sent to it any more.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether the main thread has ended.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Main thread: whether [`Updates::GONE`] means that the guest lives and is not paged by this pager
    /// any more.
    pub(super) fn lost(&self) -> Option<Lost> {
        *self.lost.lock()
    }

    /// Passes on an operator's request.
    pub(super) fn push_request(&self, request: Request, client: ControlClient) {
        self.asked.lock().push((request, client));
        self.notify(Updates::ASKED);
    }

    /// Passes on an operator's signal.
    pub(super) fn push_signal(&self) {
        let mut signals = self.signals.lock();
        // An operator insists with two. More of them tell the pager nothing.
        if signals.len() < SIGNALS {
            signals.push(Instant::now());
        }
        drop(signals);
        self.notify(Updates::STOP);
    }

    /// Main thread: when an operator sent signals.
    pub(super) fn signals(&self) -> Vec<Instant> {
        std::mem::take(&mut *self.signals.lock())
    }

    /// Main thread: the next request of an operator.
    pub(super) fn asked(&self) -> Option<(Request, ControlClient)> {
        self.asked.lock().pop()
    }

    /// Main thread: takes the updates.
    pub(super) fn take(&self) -> Updates {
        if self.updates.load(Ordering::Relaxed) == 0 {
            return Updates::empty();
        }
        Updates::from_bits_retain(self.updates.swap(0, Ordering::Acquire))
    }

    /// Main thread: the next batch that is done.
    pub(super) fn done(&self) -> Option<Batch> {
        self.done.lock().pop()
    }

    /// Main thread: what a reader is done with.
    pub(super) fn read(&self) -> Option<Reading> {
        self.read.lock().pop()
    }

    /// Main thread: the scan, once it is done.
    pub(super) fn scanned(&self) -> Option<Scan> {
        self.scanned.lock().take()
    }

    /// Main thread: the target, or the host's limit if that is lower.
    pub(super) fn target(&self) -> i64 {
        self.memory.lock().target()
    }

    /// Main thread: the guest's last known size, if the machine reports it.
    pub(super) fn resident(&self) -> Option<u64> {
        self.memory.lock().resident
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c4_the_lower_of_target_and_allowance_counts() {
        for (target, allowed, both) in [
            (None, None, -1),
            (Some(-1), None, -1),
            (Some(70), None, 70),
            (None, Some(50), 50),
            (Some(-1), Some(50), 50),
            (Some(70), Some(50), 50),
            (Some(30), Some(50), 30),
            (Some(0), Some(0), 0),
        ] {
            let memory = GuestMemoryBounds {
                target,
                allowed,
                resident: None,
            };
            assert_eq!(memory.target(), both, "{target:?} {allowed:?}");
        }
    }
}
