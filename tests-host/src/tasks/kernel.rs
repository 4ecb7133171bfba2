// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel, as its host uses it: its parts, and how it is started, run, told of events, and
//! ended.

use std::any::Any;
use std::cell::{Cell, Ref, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::{Rc, Weak};

use super::context::{self, Execution};
use super::cpu::Cpu;
use super::mm::{Mm, flush_tlb, switch_mm};
use super::task::Task;
use crate::scheduler::{CpuId, Policy, Scheduler, TaskId, Waker};

/// The reason why a CPU has left its guest.
#[derive(Debug, PartialEq, Eq)]
pub enum Exit<X> {
    /// A task has done something that the host must handle. It goes on when its CPU runs again.
    Trap(TaskId, X),
    /// No task can run.
    Halt,
}

/// A kernel. `X` is the value with which tasks trap.
pub struct Kernel<X> {
    me: Weak<Self>,
    pub(super) scheduler: RefCell<Scheduler>,
    processors: Vec<Processor>,
    pub(super) tasks: RefCell<Vec<Option<Rc<Task>>>>,
    pub(super) timers: RefCell<BinaryHeap<Reverse<(u64, TaskId)>>>,
    now_ns: Cell<u64>,
    pub(super) trap: Cell<Option<X>>,
    pub(super) panic: Cell<Option<Box<dyn Any + Send>>>,
    /// The kernel's own address space.
    pub(super) init_mm: Rc<Mm>,
}

/// One of its CPUs.
pub(super) struct Processor {
    pub(super) cpu: Rc<RefCell<Cpu>>,
    pub(super) idle: Rc<Task>,
    pub(super) current: RefCell<Rc<Task>>,
    /// An address space that a kernel task has borrowed until the present switch has ended.
    pub(super) prev_mm: RefCell<Option<Rc<Mm>>>,
}

/// Owns a kernel: when it is dropped, every task that has not ended is unwound.
pub struct Booted<X: 'static>(Rc<Kernel<X>>);

impl<X: 'static> Kernel<X> {
    /// A kernel on this many CPUs, up to 64, all idle, with a tick of this many nanoseconds. Panics
    /// without memory for their stacks.
    pub fn boot(cpus: usize, tick_ns: u64) -> Booted<X> {
        assert!(cpus <= 64);
        Booted(Rc::new_cyclic(|me: &Weak<Self>| {
            let init_mm = Mm::new(0, 0);
            let number = |n| u32::try_from(n).expect("few CPUs");
            let processor = |n| Processor::new(number(n), me.clone(), &init_mm);
            Self {
                me: me.clone(),
                scheduler: RefCell::new(Scheduler::new(cpus, tick_ns)),
                processors: (0..cpus).map(processor).collect(),
                tasks: RefCell::default(),
                timers: RefCell::default(),
                now_ns: Cell::new(0),
                trap: Cell::new(None),
                panic: Cell::new(None),
                init_mm,
            }
        }))
    }

    /// A new task on a CPU: one of the kernel's own, without an address space. It ends with `main`.
    /// Panics without memory for its stack.
    pub fn spawn(
        &self,
        policy: Policy,
        mm: Option<Rc<Mm>>,
        cpu: CpuId,
        main: impl FnOnce(&Self) + 'static,
    ) -> TaskId {
        let id = self.scheduler.borrow_mut().add(policy, cpu, self.now_ns());
        let me = self.me.clone();
        let life = move |last| {
            let kernel = me.upgrade().expect("it runs its tasks");
            kernel.finish_switch(last);
            let lived = catch_unwind(AssertUnwindSafe(|| {
                kernel.goes_on();
                main(&kernel);
            }));
            kernel.end(lived)
        };
        let on = self.processor(cpu).cpu.clone();
        let task = Task::new(Some(id), mm, on, Box::new(life)).expect("memory for a stack");
        self.tasks.borrow_mut().push(Some(task));
        id
    }

    /// Runs a CPU until it exits. A panic of a task is passed on to the caller.
    pub fn run(&self, cpu: CpuId) -> Exit<X> {
        let task = self.processor(cpu).current.borrow().clone();
        context::enter(task);
        if let Some(panic) = self.panic.take() {
            resume_unwind(panic);
        }
        let current = self.scheduler.borrow().current(cpu);
        match (current, self.trap.take()) {
            (Some(task), Some(what)) => Exit::Trap(task, what),
            (_, None) => Exit::Halt,
            (None, Some(_)) => unreachable!("an idle task traps"),
        }
    }

    /// Sets the time, and wakes the tasks whose time has come.
    pub fn advance(&self, now_ns: u64) {
        self.now_ns.set(self.now_ns().max(now_ns));
        while let Some(at_ns) = self.next_timer()
            && at_ns <= now_ns
        {
            if let Some(Reverse((_, task))) = self.timers.borrow_mut().pop() {
                self.wake(task, Waker::Interrupt);
            }
        }
    }

    /// When the next sleeper is to be woken.
    pub fn next_timer(&self) -> Option<u64> {
        self.timers
            .borrow()
            .peek()
            .map(|Reverse((at_ns, _))| *at_ns)
    }

    /// A CPU's timer ticks.
    pub fn tick(&self, cpu: CpuId) {
        self.scheduler.borrow_mut().tick(cpu, self.now_ns());
    }

    /// The event that a task waits for has come. Yields the CPU that is to run now, if any: it may
    /// be halted.
    pub fn wake(&self, task: TaskId, by: Waker) -> Option<CpuId> {
        self.scheduler.borrow_mut().wake(task, by, self.now_ns())
    }

    /// Sends a task a signal.
    pub fn signal(&self, task: TaskId) -> Option<CpuId> {
        self.scheduler.borrow_mut().signal(task, self.now_ns())
    }

    /// Whether a CPU has anything to run.
    pub fn has_work(&self, cpu: CpuId) -> bool {
        let scheduler = self.scheduler.borrow();
        scheduler.needs_resched(cpu) || scheduler.current(cpu).is_some()
    }

    /// Its scheduler.
    pub fn scheduler(&self) -> Ref<'_, Scheduler> {
        self.scheduler.borrow()
    }

    /// A CPU.
    pub fn cpu(&self, cpu: CpuId) -> Ref<'_, Cpu> {
        self.processor(cpu).cpu.borrow()
    }

    /// Nanoseconds since the start.
    pub fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    /// Entries of an address space have changed: CPUs forget the old ones.
    pub fn flush(&self, mm: &Mm) {
        let cpus = self.processors.iter().map(|processor| &*processor.cpu);
        flush_tlb(mm, self.init_mm.pgd(), cpus);
    }

    pub(super) fn processor(&self, cpu: CpuId) -> &Processor {
        &self.processors[cpu.0 as usize]
    }

    pub(super) fn here(&self, task: &Task) -> (CpuId, &Processor) {
        let number = task.cpu().borrow().number;
        (CpuId(number), self.processor(CpuId(number)))
    }
}

impl Processor {
    fn new<X: 'static>(number: u32, kernel: Weak<Kernel<X>>, init_mm: &Rc<Mm>) -> Self {
        let cpu = Rc::new(RefCell::new(Cpu::new(number)));
        let life = move |last| kernel.upgrade().expect("it runs").idle(last);
        let idle = Task::new(None, None, cpu.clone(), Box::new(life)).expect("memory for a stack");
        idle.active_mm.replace(Some(init_mm.clone()));
        cpu.borrow_mut().tss.sp0 = idle.thread.borrow().sp0;
        Self {
            cpu,
            current: RefCell::new(idle.clone()),
            idle,
            prev_mm: RefCell::default(),
        }
    }
}

impl<X> Deref for Booted<X> {
    type Target = Kernel<X>;
    fn deref(&self) -> &Kernel<X> {
        &self.0
    }
}

impl<X> Drop for Booted<X> {
    fn drop(&mut self) {
        let tasks = self.0.tasks.borrow().clone().into_iter().flatten();
        let idle = self
            .0
            .processors
            .iter()
            .map(|processor| processor.idle.clone());
        for task in tasks.chain(idle).collect::<Vec<_>>() {
            if task.execution.get() == Execution::Suspended {
                task.is_killed.set(true);
                context::enter(task);
            }
        }
        for processor in &self.0.processors {
            let active = processor.current.borrow().active_mm.borrow().clone();
            if let Some(active) = active {
                switch_mm(&active, &self.0.init_mm, &mut processor.cpu.borrow_mut());
            }
        }
        self.0.init_mm.forget_cpus();
    }
}
