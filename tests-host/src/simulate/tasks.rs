// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's kernel as its vcpus run it: tasks under the guest's own scheduler. A vcpu that is
//! paused stops the task that runs on it; the others go on on other vcpus. A vcpu without a task to
//! run halts until an interrupt.

use std::cell::{Cell, RefCell, RefMut};

use p2m_paging::p2m::Access;

use super::event_queue::SimEvent;
use super::guest::vcpu_id;
use super::world::World;
use crate::guest::{self, Pte, Virt};
use crate::scheduler::{CpuId, TaskId};
use crate::tasks::{Booted, Exit, Kernel};

/// A vcpu's ticks: a slice ends after some accesses.
const GUEST_TICK_NS: u64 = 2_000;
/// The most ticks that a vcpu makes up for: time in which it did not run is not its tasks'.
const MOST_TICKS: u64 = 16;

/// Walks that a vcpu's CPU remembers.
const WAYS: usize = 8;

/// What a task needs from its vcpu's host.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Access(usize, Access),
    /// The balloon gives this page back, or takes it.
    Balloon(usize),
    /// An order of the code of a kernel that pages by itself.
    Order(guest::Cpu),
    /// It waits for others without sleeping.
    Relax,
}

/// The guest's kernel on its vcpus.
pub(super) struct Tasks {
    pub(super) kernel: Booted<Ask>,
    vcpus: Vec<Vcpu>,
    timer: Cell<Option<u64>>,
}

#[derive(Debug, Default)]
struct Vcpu {
    ticked_ns: Cell<u64>,
    /// Its number of switches when it was paused.
    stopped_at: Cell<u64>,
    /// The task that ran last, for the trace.
    ran: Cell<Option<TaskId>>,
    tlb: RefCell<Tlb>,
}

/// The walks for processes that a CPU remembers until it loads a page table.
#[derive(Debug, Default)]
struct Tlb {
    /// Its number of loads of a page table.
    loads: u64,
    ways: [Option<(Virt, Pte)>; WAYS],
}

impl Tasks {
    /// No tasks, on so many vcpus.
    pub(super) fn new(vcpus: usize) -> Self {
        Self {
            kernel: Kernel::boot(vcpus, GUEST_TICK_NS),
            vcpus: (0..vcpus).map(|_| Vcpu::default()).collect(),
            timer: Cell::new(None),
        }
    }

    fn switches(&self, vcpu: usize) -> u64 {
        self.kernel.scheduler().switches(cpu(vcpu))
    }

    /// A vcpu is paused.
    pub(super) fn stop(&self, vcpu: usize) {
        self.vcpus[vcpu].stopped_at.set(self.switches(vcpu));
    }

    /// A vcpu is unpaused: nothing has run on it.
    pub(super) fn let_go(&self, vcpu: usize) {
        let before = self.vcpus[vcpu].stopped_at.get();
        assert_eq!(
            self.switches(vcpu),
            before,
            "v{vcpu} switched while it was stopped"
        );
    }

    /// How often tasks were switched.
    pub(super) fn all_switches(&self) -> u64 {
        (0..self.vcpus.len()).map(|vcpu| self.switches(vcpu)).sum()
    }

    /// The number of the task that a vcpu runs.
    pub(super) fn running(&self, vcpu: usize) -> Option<u32> {
        let task = self.kernel.scheduler().current(cpu(vcpu));
        task.map(|task| task.0)
    }

    /// Whether a vcpu has a task to run.
    pub(super) fn has_work(&self, vcpu: usize) -> bool {
        self.kernel.has_work(cpu(vcpu))
    }

    fn tlb(&self, vcpu: usize) -> RefMut<'_, Tlb> {
        let loads = self.kernel.cpu(cpu(vcpu)).cr3_loads;
        let mut tlb = self.vcpus[vcpu].tlb.borrow_mut();
        if tlb.loads != loads {
            let ways = [None; WAYS];
            *tlb = Tlb { loads, ways };
        }
        tlb
    }

    /// The entry in which a walk for a process's page ended on this vcpu, if it is remembered.
    pub(super) fn recall(&self, vcpu: usize, virt: Virt) -> Option<Pte> {
        let (of, entry) = self.tlb(vcpu).ways[way(virt)]?;
        (of == virt).then_some(entry)
    }

    /// A vcpu remembers the walk.
    pub(super) fn remember(&self, vcpu: usize, virt: Virt, entry: Pte) {
        self.tlb(vcpu).ways[way(virt)] = Some((virt, entry));
    }

    /// Panics unless the guest's scheduler is consistent.
    pub(super) fn check(&self) {
        self.kernel.scheduler().check();
    }
}

impl World<'_> {
    /// Runs a vcpu until one of its tasks needs something from the host. `None`: it halts.
    pub(super) fn run_tasks(&self, tasks: &Tasks, vcpu: usize) -> Option<Ask> {
        assert!(
            !self.machine().is_stopped(vcpu_id(vcpu)),
            "v{vcpu} is stopped and runs"
        );
        let now_ns = self.now();
        tasks.kernel.advance(now_ns);
        let Vcpu { ticked_ns, ran, .. } = &tasks.vcpus[vcpu];
        let passed = now_ns - ticked_ns.replace(now_ns);
        let ticks = (passed / GUEST_TICK_NS).min(MOST_TICKS);
        (0..ticks).for_each(|_| tasks.kernel.tick(cpu(vcpu)));
        let (task, ask) = match tasks.kernel.run(cpu(vcpu)) {
            Exit::Trap(task, ask) => (Some(task), Some(ask)),
            Exit::Halt => (None, None),
        };
        if ran.replace(task) != task {
            match task {
                Some(task) => self.note("task", [vcpu as u64, task.0.into()]),
                None => self.note("halts", [vcpu as u64, 0]),
            }
        }
        ask
    }

    /// The guest's timer sends its interrupt.
    pub(super) fn guest_timer(&self) {
        if let Some(tasks) = self.tasks.get() {
            tasks.timer.set(None);
            tasks.kernel.advance(self.now());
            self.wake_halted(tasks);
        }
    }

    /// A vcpu that is neither paused nor about to run has nothing to do.
    pub(super) fn check_halted(&self, tasks: &Tasks) {
        for vcpu in 0..self.vcpus() {
            let rests = !tasks.has_work(vcpu)
                || self.machine().is_stopped(vcpu_id(vcpu))
                || self.is_scheduled(vcpu)
                || self.is_guest_over();
            assert!(rests, "v{vcpu} has halted with tasks that can run");
        }
    }

    /// Interrupts of one vcpu, or of the timer, reach the vcpus that have halted.
    pub(super) fn wake_halted(&self, tasks: &Tasks) {
        if self.is_guest_over() {
            return;
        }
        for vcpu in 0..self.vcpus() {
            if tasks.has_work(vcpu) && !self.machine().is_stopped(vcpu_id(vcpu)) {
                self.schedule_vcpu(vcpu, 2_000);
            }
        }
        let next = tasks.kernel.next_timer();
        if let Some(at_ns) = next
            && tasks.timer.get().is_none_or(|set| at_ns < set)
        {
            tasks.timer.set(next);
            self.add(at_ns.saturating_sub(self.now()), SimEvent::GuestTimer);
        }
    }

    /// None of its tasks will ever run again.
    fn is_guest_over(&self) -> bool {
        self.guest.borrow().is_dead || self.is_halted()
    }
}

fn way(virt: Virt) -> usize {
    virt.0 as usize % WAYS
}

pub(super) fn cpu(vcpu: usize) -> CpuId {
    CpuId(u32::try_from(vcpu).expect("few vcpus"))
}
