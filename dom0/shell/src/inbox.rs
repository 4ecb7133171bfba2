// SPDX-License-Identifier: MIT OR Apache-2.0
//! What other threads have for the main thread.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bitflags::bitflags;
use pager_core::{Batch, Scan};
use parking_lot::Mutex;

use super::control_request::{ControlClient, Request};
use super::event_channel::EventChannel;
use super::machine::MachineEvent;

bitflags! {
    /// Updates. Each stays until it is taken; the same twice is once.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Updates: u32 {
        /// Time has passed.
        const TICK = 1 << 0;
        /// A signal says to bring everything back.
        const STOP = 1 << 1;
        /// The guest is gone, or the machine.
        const GONE = 1 << 2;
        /// A batch is done.
        const DONE = 1 << 3;
        /// The target has changed.
        const TARGET = 1 << 4;
        /// The guest's size has changed.
        const RESIDENT = 1 << 5;
        /// A scan is done.
        const SCANNED = 1 << 6;
        /// An operator asks for something.
        const ASKED = 1 << 7;
    }
}

/// Shared by all threads of the pager.
#[derive(Debug)]
pub(super) struct Inbox {
    updates: AtomicU32,
    over: AtomicBool,
    done: Mutex<Vec<Batch>>,
    scanned: Mutex<Option<Scan>>,
    memory: Mutex<GuestMemoryBounds>,
    asked: Mutex<Vec<(Request, ControlClient)>>,
    event: EventChannel,
}

/// What is known of the memory that the guest has and may have.
#[derive(Clone, Copy, Debug, Default)]
struct GuestMemoryBounds {
    /// As the guest's operator set it; below zero it is the maximum.
    target: Option<i64>,
    /// What the guest may have while the host is short of memory.
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
    /// An empty one, with room for so many batches. `event` is where the main thread waits.
    pub(super) fn new(event: EventChannel, batches: usize) -> Self {
        Self {
            updates: AtomicU32::new(0),
            over: AtomicBool::new(false),
            done: Mutex::new(Vec::with_capacity(batches)),
            scanned: Mutex::new(None),
            memory: Mutex::default(),
            asked: Mutex::default(),
            event,
        }
    }

    /// Tells the main thread.
    pub(super) fn notify(&self, updates: Updates) {
        // What an update is about is stored before its bit: pairs with the swap in `take`.
        self.updates.fetch_or(updates.bits(), Ordering::Release);
        if let Err(errno) = self.event.kick() {
            tracing::error!(%errno, "the main thread cannot be woken");
        }
    }

    /// Hands a batch back.
    pub(super) fn return_batch(&self, batch: Batch) {
        self.done.lock().push(batch);
        self.notify(Updates::DONE);
    }

    /// Hands the scan back: there is one at a time.
    pub(super) fn return_scan(&self, scan: Scan) {
        *self.scanned.lock() = Some(scan);
        self.notify(Updates::SCANNED);
    }

    /// Passes on what the machine tells.
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
        }
    }

    /// What the guest may have in memory while the host is short of it; `None`: the host is not.
    pub(super) fn allow(&self, pages: Option<u64>) {
        let before = std::mem::replace(&mut self.memory.lock().allowed, pages);
        if before != pages {
            self.notify(Updates::TARGET);
        }
    }

    /// What the host allows, and what the guest's own target is, if it bounds anything.
    pub(super) fn bounds(&self) -> (Option<u64>, Option<u64>) {
        let memory = self.memory.lock();
        (memory.allowed, memory.own_target())
    }

    /// The main thread has ended: there is nobody to tell.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether the main thread has ended.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Passes an operator's request on.
    pub(super) fn push_request(&self, request: Request, client: ControlClient) {
        self.asked.lock().push((request, client));
        self.notify(Updates::ASKED);
    }

    /// Main thread: an operator's request.
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

    /// Main thread: a batch that is done.
    pub(super) fn done(&self) -> Option<Batch> {
        self.done.lock().pop()
    }

    /// Main thread: the scan that is done.
    pub(super) fn scanned(&self) -> Option<Scan> {
        self.scanned.lock().take()
    }

    /// Main thread: the target, or what the host allows if that is less.
    pub(super) fn target(&self) -> i64 {
        self.memory.lock().target()
    }

    /// Main thread: the last size, where the machine tells.
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
