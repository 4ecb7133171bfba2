//! Programs on the guest's vcpus: tasks that access pages, sleep, wait for each other and use what a CPU
//! has, under the guest's own scheduler. A vcpu that is stopped stops the task that runs on it; the others
//! go on elsewhere.

use std::cell::Cell;
use std::rc::Rc;

use fastrand::Rng;
use p2m_paging::p2m::Access;

use super::agenda::Happening;
use super::guest::{Want, vcpu_id};
use super::scenario::{Knob, Scenario};
use super::world::World;
use crate::scheduler::{CpuId, Nice, Policy, RealTime, State, TaskId};
use crate::tasks::{Booted, Exit, Kernel, Mm, WaitQueue};

/// A vcpu's ticks: a slice is over after some accesses.
const GUEST_TICK_NS: u64 = 2_000;
/// Ticks that a vcpu makes up for at most: time in which it did not run is not its tasks'.
const MOST_TICKS: u64 = 16;
/// Address spaces that tasks share.
const PROCESSES: u64 = 3;

/// What a task asks its vcpu's host for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    Access(usize, Access),
    /// The balloon gives this page back, or takes it.
    Balloon(usize),
}

/// The guest's kernel and its tasks.
pub(super) struct Programs {
    kernel: Booted<Ask>,
    tasks: u32,
    /// Tasks are to end.
    rest: Rc<Cell<bool>>,
    queue: Rc<WaitQueue>,
    ticked_ns: Vec<Cell<u64>>,
    /// By vcpu: how often it had switched when it was stopped.
    stopped_at: Vec<Cell<u64>>,
    timer: Cell<Option<u64>>,
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
    /// As many tasks as the scenario says; `None`: vcpus act by themselves.
    pub(super) fn new(scenario: &Scenario) -> Option<Self> {
        let tasks = scenario.get(Knob::Tasks);
        let vcpus = scenario.get(Knob::Vcpus);
        if tasks == 0 {
            return None;
        }
        let kernel = Kernel::boot(vcpus as usize, GUEST_TICK_NS);
        let (rest, queue) = (Rc::new(Cell::new(false)), Rc::default());
        let mut rng = Rng::with_seed(!scenario.seed);
        let spaces: Vec<_> = (1..=PROCESSES).map(|n| Mm::new(n << 12, n % 2)).collect();
        for task in 0..tasks {
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
            // Every fourth is a task of the kernel's own.
            let space = spaces.get(task as usize % (spaces.len() + 1)).cloned();
            kernel.spawn(policy, space, CpuId(task % vcpus), move |kernel| {
                program.runs(kernel);
            });
        }
        let cells = || (0..vcpus).map(|_| Cell::new(0)).collect();
        Some(Self {
            kernel,
            tasks,
            rest,
            queue,
            ticked_ns: cells(),
            stopped_at: cells(),
            timer: Cell::new(None),
        })
    }

    fn switches(&self, vcpu: usize) -> u64 {
        self.kernel.scheduler().switches(cpu(vcpu))
    }

    /// A vcpu is stopped.
    pub(super) fn stop(&self, vcpu: usize) {
        self.stopped_at[vcpu].set(self.switches(vcpu));
    }

    /// A vcpu is let go: nothing has run on it.
    pub(super) fn let_go(&self, vcpu: usize) {
        let before = self.stopped_at[vcpu].get();
        assert_eq!(
            self.switches(vcpu),
            before,
            "v{vcpu} switched while it was stopped"
        );
    }

    /// Tasks end when they have got what they were about.
    pub(super) fn rest(&self) {
        self.rest.set(true);
        self.queue.wake_all(&self.kernel);
    }

    /// All have ended.
    pub(super) fn are_over(&self) -> bool {
        let scheduler = self.kernel.scheduler();
        (0..self.tasks).all(|task| scheduler.state(TaskId(task)) == State::Dead)
    }

    /// How often tasks were switched.
    pub(super) fn all_switches(&self) -> u64 {
        (0..self.ticked_ns.len())
            .map(|vcpu| self.switches(vcpu))
            .sum()
    }

    /// Panics unless the guest's scheduler is sound.
    pub(super) fn check(&self) {
        self.kernel.scheduler().check();
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
    /// Runs a vcpu until one of its tasks wants something of the host. `None`: it halts.
    pub(super) fn program_wants(&self, programs: &Programs, vcpu: usize) -> Option<Want> {
        assert!(
            !self.machine().is_stopped(vcpu_id(vcpu)),
            "v{vcpu} is stopped and runs"
        );
        let now_ns = self.now();
        programs.kernel.advance(now_ns);
        let passed = now_ns - programs.ticked_ns[vcpu].replace(now_ns);
        let ticks = (passed / GUEST_TICK_NS).min(MOST_TICKS);
        (0..ticks).for_each(|_| programs.kernel.tick(cpu(vcpu)));
        let exit = programs.kernel.run(cpu(vcpu));
        self.wake_halted(programs);
        let Exit::Trap(task, ask) = exit else {
            self.note("halts", [vcpu as u64, 0]);
            return None;
        };
        self.note("task", [vcpu as u64, task.0.into()]);
        Some(match ask {
            Ask::Access(page, access) => Want::Access(page, access),
            Ask::Balloon(page) if self.guest.borrow().pages[page].contents.is_some() => {
                Want::GiveBack(page)
            }
            Ask::Balloon(page) => Want::Take(page),
        })
    }

    /// The guest's timer interrupts.
    pub(super) fn guest_timer(&self) {
        if let Some(programs) = &self.programs {
            programs.timer.set(None);
            programs.kernel.advance(self.now());
            self.wake_halted(programs);
        }
    }

    /// A vcpu that is neither stopped nor about to run has nothing to do.
    pub(super) fn check_halted(&self, programs: &Programs) {
        for vcpu in 0..self.vcpus() {
            let rests = !programs.kernel.has_work(cpu(vcpu))
                || self.machine().is_stopped(vcpu_id(vcpu))
                || self.is_scheduled(vcpu)
                || self.guest.borrow().is_dead;
            assert!(rests, "v{vcpu} has halted with tasks that can run");
        }
    }

    /// Interrupts of one vcpu, or of the timer, reach those that have halted.
    pub(super) fn wake_halted(&self, programs: &Programs) {
        if self.guest.borrow().is_dead {
            return;
        }
        for vcpu in 0..self.vcpus() {
            if programs.kernel.has_work(cpu(vcpu)) && !self.machine().is_stopped(vcpu_id(vcpu)) {
                self.schedule_vcpu(vcpu, 2_000);
            }
        }
        let next = programs.kernel.next_timer();
        if let Some(at_ns) = next
            && programs.timer.get().is_none_or(|set| at_ns < set)
        {
            programs.timer.set(next);
            self.add(at_ns.saturating_sub(self.now()), Happening::GuestTimer);
        }
    }
}

fn cpu(vcpu: usize) -> CpuId {
    CpuId(u32::try_from(vcpu).expect("few vcpus"))
}
