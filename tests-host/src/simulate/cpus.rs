// SPDX-License-Identifier: MIT OR Apache-2.0
//! Physical CPUs that vcpus share. A vcpu that is paused is descheduled, one that is unpaused is
//! woken.

use std::cell::{Cell, RefCell};

use fastrand::Rng;

use super::event_queue::SimEvent;
use super::guest::vcpu_id;
use super::scenario::{Knob, Scenario};
use super::world::World;
use crate::scheduler::{Call, CpuId, Nice, Policy, Scheduler, State, TaskId, Waker};

/// A CPU's ticks: a vcpu's slice ends after some of its accesses.
const CPU_TICK_NS: u64 = 1_000;
/// The most ticks that a CPU makes up for after it had nothing to do.
const MOST_TICKS: u64 = 64;

/// The CPUs. A vcpu's number is its task's.
pub(super) struct Cpus {
    pub(super) scheduler: RefCell<Scheduler>,
    cpus: Vec<Clock>,
    /// By vcpu: it has something to do after its present action.
    goes_on: Vec<Cell<bool>>,
}

#[derive(Debug, Default)]
struct Clock {
    /// The CPU is in the event queue.
    is_scheduled: Cell<bool>,
    ticked_ns: Cell<u64>,
}

impl Cpus {
    /// As many as the scenario says; `None`: each vcpu has its own.
    pub(super) fn new(scenario: &Scenario) -> Option<Self> {
        let count = scenario.get(Knob::Cpus);
        if count == 0 {
            return None;
        }
        let vcpus = scenario.get(Knob::Vcpus);
        let mut rng = Rng::with_seed(scenario.seed);
        let mut scheduler = Scheduler::new(count as usize, CPU_TICK_NS);
        for vcpu in 0..vcpus {
            let nice = Nice::try_new(rng.i8(-5..=5)).unwrap_or_default();
            scheduler.add(Policy::Normal(nice), CpuId(vcpu % count), 0);
        }
        Some(Self {
            scheduler: RefCell::new(scheduler),
            cpus: (0..count).map(|_| Clock::default()).collect(),
            goes_on: (0..vcpus).map(|_| Cell::new(false)).collect(),
        })
    }

    /// Whether a vcpu is about to run.
    pub(super) fn is_scheduled(&self, vcpu: usize) -> bool {
        let (scheduler, vcpu) = (self.scheduler.borrow(), task(vcpu));
        let cpu = scheduler.cpu_of(vcpu);
        scheduler.state(vcpu) == State::Running && self.clock(cpu).is_scheduled.get()
    }

    /// A vcpu is paused.
    pub(super) fn stop(&self, vcpu: usize, now_ns: u64) {
        self.scheduler.borrow_mut().suspend(task(vcpu), now_ns);
    }

    /// Panics unless exactly those vcpus can run that are not paused, or have halted, and unless
    /// every CPU with something to do is about to do it.
    pub(super) fn check(&self, is_stopped: impl Fn(usize) -> bool, is_whole: bool) {
        let scheduler = self.scheduler.borrow();
        if is_whole {
            scheduler.check();
        }
        for vcpu in 0..self.goes_on.len() {
            let (state, is_stopped) = (scheduler.state(task(vcpu)), is_stopped(vcpu));
            let fits = is_stopped == (state == State::Uninterruptible);
            assert!(fits, "v{vcpu} is stopped: {is_stopped}, and {state:?}");
        }
        for (cpu, clock) in (0..).map(CpuId).zip(&self.cpus) {
            let is_idle = scheduler.running(cpu) == 0;
            assert!(is_idle || clock.is_scheduled.get(), "{cpu:?} does not run");
        }
    }

    fn clock(&self, cpu: CpuId) -> &Clock {
        &self.cpus[cpu.0 as usize]
    }
}

impl World<'_> {
    /// A CPU runs the vcpu whose turn it is.
    pub(super) fn cpu_runs(&self, cpu: u8) {
        let cpus = self.cpus.as_ref().expect("there are CPUs");
        let (cpu, now_ns) = (CpuId(cpu.into()), self.now());
        let clock = cpus.clock(cpu);
        clock.is_scheduled.set(false);
        if self.guest.borrow().is_dead {
            return;
        }
        let vcpu = {
            let scheduler = &mut *cpus.scheduler.borrow_mut();
            let passed = now_ns - clock.ticked_ns.replace(now_ns);
            (0..(passed / CPU_TICK_NS).min(MOST_TICKS)).for_each(|_| scheduler.tick(cpu, now_ns));
            let current = scheduler.current(cpu);
            let can_go_on = current.is_some_and(|vcpu| scheduler.state(vcpu) == State::Running);
            if scheduler.needs_resched(cpu) || !can_go_on {
                scheduler.schedule(cpu, now_ns, Call::Direct);
            }
            scheduler.current(cpu)
        };
        let Some(vcpu) = vcpu else { return };
        let number = vcpu.0 as usize;
        assert!(
            !self.machine().is_stopped(vcpu_id(number)),
            "v{number} is stopped and runs"
        );
        self.note("runs", [cpu.0.into(), vcpu.0.into()]);
        cpus.goes_on[number].set(false);
        self.vcpu_runs(number);
        if !cpus.goes_on[number].get() && !self.machine().is_stopped(vcpu_id(number)) {
            let mut scheduler = cpus.scheduler.borrow_mut();
            scheduler.set_state(vcpu, State::Interruptible);
        }
        self.schedule_cpu(cpu, 2_000);
    }

    /// A vcpu has something to do, on any CPU that has time.
    pub(super) fn wake_vcpu(&self, cpus: &Cpus, vcpu: usize, about_ns: u64) {
        if self.machine().is_stopped(vcpu_id(vcpu)) {
            // The unpause wakes it.
            return;
        }
        cpus.goes_on[vcpu].set(true);
        let cpu = {
            let scheduler = &mut *cpus.scheduler.borrow_mut();
            scheduler.wake(task(vcpu), Waker::Interrupt, self.now());
            scheduler.cpu_of(task(vcpu))
        };
        self.schedule_cpu(cpu, about_ns);
    }

    fn schedule_cpu(&self, cpu: CpuId, about_ns: u64) {
        let cpus = self.cpus.as_ref().expect("there are CPUs");
        if !cpus.clock(cpu).is_scheduled.replace(true) {
            let number = u8::try_from(cpu.0).expect("few CPUs");
            self.soon(about_ns, SimEvent::Cpu(number));
        }
    }
}

fn task(vcpu: usize) -> TaskId {
    TaskId(u32::try_from(vcpu).expect("few vcpus"))
}
