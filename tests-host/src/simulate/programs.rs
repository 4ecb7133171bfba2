// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs on the guest's vcpus: tasks that access pages, sleep, wait for each other and use the
//! registers of a CPU.

use std::cell::Cell;
use std::rc::Rc;

use fastrand::Rng;
use p2m_paging::p2m::Access;

use super::guest::Want;
use super::scenario::{Knob, Scenario};
use super::tasks::{Ask, Tasks};
use super::world::World;
use crate::scheduler::{CpuId, Nice, Policy, RealTime, State, TaskId};
use crate::tasks::{Kernel, Mm, WaitQueue};

/// Address spaces that tasks share.
const PROCESSES: u64 = 3;

/// All programs.
pub(super) struct Programs {
    count: u32,
    /// Tasks are to end.
    rest: Rc<Cell<bool>>,
    queue: Rc<WaitQueue>,
}

/// What a task knows.
struct Program {
    rng: Rng,
    pages: usize,
    writes: u32,
    hot: u32,
    balloon: u32,
    is_real_time: bool,
    rest: Rc<Cell<bool>>,
    queue: Rc<WaitQueue>,
}

impl Programs {
    /// Begins as many tasks as the scenario says.
    pub(super) fn begin(scenario: &Scenario, tasks: &Tasks) -> Self {
        let count = scenario.get(Knob::Tasks);
        let vcpus = scenario.get(Knob::Vcpus);
        let (rest, queue) = (Rc::new(Cell::new(false)), Rc::default());
        let mut rng = Rng::with_seed(!scenario.seed);
        let spaces: Vec<_> = (1..=PROCESSES).map(|n| Mm::new(n << 12, n % 2)).collect();
        for task in 0..count {
            let priority = RealTime::try_new(rng.u8(1..100)).expect("a priority");
            let nice = Nice::try_new(rng.i8(-20..20)).expect("a nice value");
            let policy = match rng.u32(0..8) {
                0 => Policy::Fifo(priority),
                1 => Policy::RoundRobin(priority),
                _ => Policy::Normal(nice),
            };
            let mut program = Program {
                rng: rng.fork(),
                pages: scenario.get(Knob::Gfns) as usize,
                writes: scenario.get(Knob::Writes),
                hot: scenario.get(Knob::Hot),
                balloon: scenario.get(Knob::Balloon),
                is_real_time: policy.is_real_time(),
                rest: Rc::clone(&rest),
                queue: Rc::clone(&queue),
            };
            // Every fourth one is a task of the kernel itself.
            let space = spaces.get(task as usize % (spaces.len() + 1)).cloned();
            tasks
                .kernel
                .spawn(policy, space, CpuId(task % vcpus), move |kernel| {
                    program.runs(kernel);
                });
        }
        Self { count, rest, queue }
    }

    /// Tasks end when their current action has succeeded.
    pub(super) fn rest(&self, tasks: &Tasks) {
        self.rest.set(true);
        self.queue.wake_all(&tasks.kernel);
    }

    /// All have ended.
    pub(super) fn are_over(&self, tasks: &Tasks) -> bool {
        let scheduler = tasks.kernel.scheduler();
        (0..self.count).all(|task| scheduler.state(TaskId(task)) == State::Dead)
    }
}

impl Program {
    fn runs(&mut self, kernel: &Kernel<Ask>) {
        let mut fpu = 0;
        while !self.rest.get() {
            let local = self.rng.u64(..) | 1;
            match self.rng.u32(0..16) {
                0 => kernel.yield_now(),
                1 => {
                    let _ = kernel.sleep_ns(self.rng.u64(0..80_000));
                }
                2 => kernel.fpu(|registers| {
                    assert_eq!(registers.xmm[7], fpu, "another's FPU registers");
                    fpu = u128::from(local);
                    registers.xmm[7] = fpu;
                }),
                3 => {
                    let rest = Rc::clone(&self.rest);
                    let is_there = || rest.get() || self.rng.u32(0..3) == 0;
                    let _ = self
                        .queue
                        .wait_until(kernel, State::Interruptible, is_there);
                }
                4 | 5 => self.queue.wake_all(kernel),
                6 => {
                    kernel.set_tls(0, local);
                    kernel.permit_ports(0x70..0x72, true);
                    self.access(kernel);
                    assert_eq!(kernel.tls(), Ok(local));
                    assert!(kernel.port(0x70).is_ok() && kernel.port(0x72).is_err());
                }
                _ => self.access(kernel),
            }
            if self.is_real_time {
                // It would keep all others from running.
                let _ = kernel.sleep_ns(self.rng.u64(20_000..100_000));
            }
        }
        self.queue.wake_all(kernel);
    }

    fn access(&mut self, kernel: &Kernel<Ask>) {
        let mut page = self.rng.usize(0..self.pages);
        if self.rng.u32(0..1000) < self.balloon {
            return kernel.trap(Ask::Balloon(page));
        }
        if self.rng.u32(0..1000) < self.hot {
            page %= 2.min(self.pages);
        }
        let access = if self.rng.u32(0..1000) < self.writes {
            Access::READ | Access::WRITE
        } else if self.rng.u32(0..5) == 0 {
            Access::FETCH
        } else {
            Access::READ
        };
        kernel.trap(Ask::Access(page, access));
    }
}

impl World<'_> {
    /// The next action of a vcpu's tasks. `None`: it halts.
    pub(super) fn program_wants(&self, tasks: &Tasks, vcpu: usize) -> Option<Want> {
        let ask = self.run_tasks(tasks, vcpu);
        self.wake_halted(tasks);
        Some(match ask? {
            Ask::Access(page, access) => Want::Access(page, access),
            Ask::Balloon(page) if self.guest.borrow().pages[page].contents.is_some() => {
                Want::GiveBack(page)
            }
            Ask::Balloon(page) => Want::Take(page),
            ask @ (Ask::Order(_) | Ask::Relax) => unreachable!("{ask:?} by a program"),
        })
    }
}
