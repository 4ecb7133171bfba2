// SPDX-License-Identifier: MIT OR Apache-2.0
//! The virtual clock, and the events to come.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Something that happens at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SimEvent {
    /// A vcpu with a CPU of its own runs.
    Vcpu(u8),
    /// A CPU that vcpus share runs one of them.
    Cpu(u8),
    /// The timer of the guest's tasks.
    GuestTimer,
    /// The pager's event arrives.
    PagerEvent,
    /// The hypervisor's event arrives.
    HypervisorEvent,
    /// The pager's clock.
    Tick,
    /// The worker of the pager with this number does the next pages of a batch.
    Work(u8, u32),
    /// A batch is done, and the main thread of the pager with this number is told.
    WorkDone(u8, u32),
    /// The worker of the pager with this number reads accessed bits.
    Scan(u32),
    /// They have been read, and the main thread of that pager is told.
    ScanDone(u32),
    /// A back end outside the guest does something.
    Mapper(u8),
    /// A lane of the back end that serves the guest's disk does something.
    Block(u8),
    /// The toolstack does something.
    Tools,
    /// An area of the pager's store is drained, or added again.
    Area,
    /// Other domains take or return memory.
    Others,
    /// Somebody calls the pager's operations.
    Rogue,
    /// The pager is killed.
    Kill,
    /// A new pager is started.
    Restart,
    /// The toolstack notices that the pager is dead.
    Detach,
    /// A new pager takes over from one that was killed.
    TakeOver,
    /// The guest is destroyed.
    Destroy,
}

const FIRST_WORKER: u8 = 48;
const SCANNER: u8 = 63;
/// The pager's workers, as actors.
pub(super) const WORKERS: u64 = !0 << FIRST_WORKER;

impl SimEvent {
    /// The actor of an event: an actor does one thing at a time.
    pub(super) fn actor(self) -> u64 {
        1 << match self {
            Self::Vcpu(n) | Self::Cpu(n) => n,
            Self::GuestTimer => 47,
            Self::PagerEvent | Self::Tick | Self::WorkDone(..) | Self::ScanDone(_) => 32,
            Self::HypervisorEvent => 33,
            Self::Tools | Self::Area | Self::Kill | Self::Restart => 34,
            Self::Detach | Self::TakeOver | Self::Destroy => 34,
            Self::Others => 35,
            Self::Rogue => 36,
            Self::Mapper(n) => 37 + n,
            Self::Block(n) => 44 + n,
            Self::Work(n, _) => FIRST_WORKER + n,
            Self::Scan(_) => SCANNER,
        }
    }
}

/// The events to come, in order.
#[derive(Debug, Default)]
pub(super) struct EventQueue {
    /// Nanoseconds since the start.
    now: u64,
    sequence: u64,
    /// By moment; at the same moment by a number that is drawn, then first come first.
    queue: BinaryHeap<Reverse<(u64, u16, u64, SimEvent)>>,
}

impl EventQueue {
    /// Nanoseconds since the start.
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// Adds an event that happens in this many nanoseconds. `order` decides among equals.
    pub(super) fn add(&mut self, in_ns: u64, order: u16, what: SimEvent) {
        self.sequence += 1;
        self.queue
            .push(Reverse((self.now + in_ns, order, self.sequence, what)));
    }

    /// The next event whose actor is not busy; its moment is now.
    pub(super) fn next(&mut self, busy: u64) -> Option<SimEvent> {
        let mut passed_over = Vec::new();
        let mut found = None;
        while let Some(Reverse(entry)) = self.queue.pop() {
            if entry.3.actor() & busy == 0 {
                self.now = self.now.max(entry.0);
                found = Some(entry.3);
                break;
            }
            passed_over.push(Reverse(entry));
        }
        self.queue.extend(passed_over);
        found
    }
}
