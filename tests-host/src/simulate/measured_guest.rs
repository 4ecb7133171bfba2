// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest with a kernel, its pager and its disk, without injected faults, to measure what happens
//! when the host takes memory.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use p2m_paging::pause::VcpuCell;
use pager_core::Location;
use pager_store::Slot;

use super::pager::News;
use super::scenario::{Knob, Scenario};
use super::trace::Trace;
use super::world::World;
use crate::guest::{Cpu, Figures, Guest, Plan};

/// Events within which whatever is waited for must happen.
const PATIENCE: u64 = 4_000_000;

/// Counts of host and guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pages written to the pager's store.
    pub host_writes: u64,
    /// Of these, pages whose contents are on the guest's disk as well.
    pub known_to_guest: u64,
    /// Pages that equalled their copies in the pager's store, and were not written.
    pub host_compares: u64,
    /// Pages of zeros, which are not written.
    pub host_zeros: u64,
    /// Pages read from the pager's store.
    pub host_reads: u64,
    /// Of these, pages that lay behind the one read before.
    pub host_next: u64,
    /// Of these, pages brought in only to be overwritten from the guest's disk.
    pub stale_reads: u64,
    /// Of these, pages brought in to be written to the guest's disk.
    pub written_twice: u64,
    /// Nested faults.
    pub nested_faults: u64,
    /// Reads of the guest's disk that lay behind the one before.
    pub guest_next: u64,
    /// Counts of the guest's kernel.
    pub guest: Figures,
}

/// Counts as they are made.
#[derive(Debug, Default)]
pub(super) struct Meter {
    pub(super) counts: Cell<Counts>,
    last_slot: Cell<Option<u32>>,
    last_block: Cell<Option<u32>>,
}

impl Meter {
    pub(super) fn count(&self, what: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        what(&mut counts);
        self.counts.set(counts);
    }

    /// The pager's store is read.
    pub(super) fn host_read(&self, home: Location) {
        let Location::Slot(Slot(slot)) = home else {
            return;
        };
        let last = self.last_slot.replace(Some(slot));
        self.count(|counts| {
            counts.host_reads += 1;
            counts.host_next += u64::from(last.is_some_and(|last| last + 1 == slot));
        });
    }

    /// The guest's disk is read.
    pub(super) fn guest_read(&self, block: u32) {
        let last = self.last_block.replace(Some(block));
        self.count(|counts| {
            counts.guest_next += u64::from(last.is_some_and(|last| last + 1 == block));
        });
    }
}

/// A guest to be measured.
pub struct MeasuredGuest<'d> {
    world: Rc<World<'d>>,
    guest: Rc<Guest>,
}

impl MeasuredGuest<'_> {
    /// Does something with a guest that has booted and has no process.
    pub fn with<R>(scenario: &Scenario, work: impl FnOnce(&MeasuredGuest<'_>) -> R) -> R {
        let cells: Vec<_> = (0..scenario.get(Knob::Vcpus))
            .map(|_| VcpuCell::new())
            .collect();
        let trace = Trace::new();
        let world = World::new(*scenario, &cells, &trace);
        let guest = world.boot(Plan::default());
        let setup = MeasuredGuest { world, guest };
        setup.until("the guest boots", |setup| setup.guest.is_at_rest());
        work(&setup)
    }

    /// Runs code in the guest to its end.
    pub fn run<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        code: impl FnOnce(Rc<Guest>, Cpu) -> F,
    ) -> T {
        let out = Rc::new(RefCell::new(None));
        let result = Rc::clone(&out);
        self.guest.begin(|guest, cpu| {
            let code = code(guest, cpu);
            async move { *result.borrow_mut() = Some(code.await) }
        });
        self.world.interrupt_kernel();
        self.until("the guest's code ends", |setup| setup.guest.is_at_rest());
        self.world.check();
        self.world.check_processes();
        out.take().expect("it ended")
    }

    /// Sets the pager's target to this many resident pages, and waits until it is reached.
    pub fn page_out(&self, resident: usize) {
        self.world
            .tell_pager(News::Target(i64::try_from(resident).expect("few pages")));
        self.until("the pager reaches its target", |setup| {
            setup.resident() <= resident
        });
    }

    /// Has the guest's balloon leave it this many pages, and waits until it does.
    pub fn balloon_to(&self, resident: usize) {
        let pages = self.world.pages() - resident;
        self.guest.kernel.set_balloon_target(pages);
        self.world.interrupt_kernel();
        self.until("the balloon reaches its target", |setup| {
            setup.guest.kernel.ballooned() == pages && setup.guest.is_at_rest()
        });
    }

    /// Everything counted so far.
    pub fn counts(&self) -> Counts {
        Counts {
            nested_faults: self.world.guest.borrow().faults,
            guest: self.guest.kernel.figures(),
            ..self.world.meter.counts.get()
        }
    }

    /// Pages that have a frame.
    fn resident(&self) -> usize {
        let has_frame = |page: &usize| self.world.state(*page).has_frame();
        (0..self.world.pages()).filter(has_frame).count()
    }

    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = self.world.happened.get() + PATIENCE;
        while !holds(self) {
            assert!(self.world.happened.get() < end, "{what}: not at last");
            self.world.go();
        }
    }
}

impl Counts {
    /// The counts since then.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let guest = Figures {
            faults: self.guest.faults - before.guest.faults,
            zeroed: self.guest.zeroed - before.guest.zeroed,
            copied: self.guest.copied - before.guest.copied,
            reclaimed: self.guest.reclaimed - before.guest.reclaimed,
            file_reads: self.guest.file_reads - before.guest.file_reads,
            file_writes: self.guest.file_writes - before.guest.file_writes,
            swap_reads: self.guest.swap_reads - before.guest.swap_reads,
            swap_writes: self.guest.swap_writes - before.guest.swap_writes,
        };
        Self {
            host_writes: self.host_writes - before.host_writes,
            known_to_guest: self.known_to_guest - before.known_to_guest,
            host_compares: self.host_compares - before.host_compares,
            host_zeros: self.host_zeros - before.host_zeros,
            host_reads: self.host_reads - before.host_reads,
            host_next: self.host_next - before.host_next,
            stale_reads: self.stale_reads - before.stale_reads,
            written_twice: self.written_twice - before.written_twice,
            nested_faults: self.nested_faults - before.nested_faults,
            guest_next: self.guest_next - before.guest_next,
            guest,
        }
    }
}
