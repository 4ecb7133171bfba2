// SPDX-License-Identifier: MIT OR Apache-2.0
//! The calls that tasks can make to their kernel.

use std::cmp::Reverse;
use std::ops::Range;
use std::rc::Rc;

use super::cpu::{Fault, FpuRegisters};
use super::mm::{Mm, switch_mm};
use super::turn::running;
use super::wait::Interrupted;
use super::{Kernel, context};
use crate::scheduler::{Call, State, TaskId};

/// For the tasks themselves: each call acts on the task that runs.
impl<X: 'static> Kernel<X> {
    /// Leaves the guest, so that the host can do something. Returns once it has, and no more urgent
    /// task is to run. In a task that unwinds it only returns.
    pub fn trap(&self, what: X) {
        if std::thread::panicking() {
            return;
        }
        self.trap.set(Some(what));
        context::leave();
        self.goes_on();
    }

    /// The task that runs, found from the stack pointer. `None`: an idle task, or the host.
    pub fn current(&self) -> Option<TaskId> {
        context::current().and_then(|task| task.id)
    }

    /// Lets others go first.
    pub fn yield_now(&self) {
        let (cpu, _) = self.here(&running());
        self.scheduler.borrow_mut().yield_now(cpu);
        self.schedule(Call::Direct);
    }

    /// Sleeps for this long, or until a signal.
    pub fn sleep_ns(&self, ns: u64) -> Result<(), Interrupted> {
        let (task, until) = (self.current().expect("a task sleeps"), self.now_ns() + ns);
        while self.now_ns() < until {
            self.timers.borrow_mut().push(Reverse((until, task)));
            self.set_state(State::Interruptible);
            self.schedule(Call::Direct);
            if self.scheduler.borrow_mut().take_signal(task) {
                return Err(Interrupted);
            }
        }
        Ok(())
    }

    /// The running task declares its next state: it takes effect in [`Self::block`].
    pub fn set_state(&self, state: State) {
        let task = self.current().expect("an idle task is always about to run");
        self.scheduler.borrow_mut().set_state(task, state);
    }

    /// Gives the CPU up directly: sleeps, if the task has declared so and nobody has woken it
    /// since.
    pub fn block(&self) {
        self.schedule(Call::Direct);
    }

    /// Takes the running task's signal; yields whether it had one.
    pub fn take_signal(&self) -> bool {
        let task = self.current();
        task.is_some_and(|task| self.scheduler.borrow_mut().take_signal(task))
    }

    /// Uses the FPU.
    pub fn fpu<R>(&self, use_it: impl FnOnce(&mut FpuRegisters) -> R) -> R {
        let task = running();
        let (cpu, mut thread) = (task.cpu(), task.thread.borrow_mut());
        use_it(thread.fpu(&mut cpu.borrow_mut()))
    }

    /// Uses a port. An error is the signal that a program would get.
    pub fn port(&self, port: u16) -> Result<(), Fault> {
        let task = running();
        task.thread
            .borrow()
            .port(&mut task.cpu().borrow_mut(), port)
    }

    /// Requests the right to use ports, or returns it.
    pub fn permit_ports(&self, ports: Range<u16>, may: bool) {
        let task = running();
        let (cpu, mut thread) = (task.cpu(), task.thread.borrow_mut());
        thread.permit_ports(&mut cpu.borrow_mut(), ports, may);
    }

    /// Requests the right to use all ports, or returns it.
    pub fn permit_all_ports(&self, may: bool) {
        let task = running();
        task.thread.borrow_mut().iopl = if may { 3 } else { 0 };
        task.cpu().borrow_mut().iopl = if may { 3 } else { 0 };
    }

    /// Changes to another address space; `None`: to the kernel's own. CPUs that only borrow the
    /// former one leave it, so that its table can be freed.
    pub fn set_mm(&self, mm: Option<Rc<Mm>>) {
        let task = running();
        let (_, processor) = self.here(&task);
        let next = mm.clone().unwrap_or_else(|| self.init_mm.clone());
        let prev = task.active_mm.replace(Some(next.clone()));
        let prev = prev.expect("it runs in some");
        {
            let mut cpu = processor.cpu.borrow_mut();
            switch_mm(&prev, &next, &mut cpu);
            cpu.lazy_tlb = mm.is_none();
        }
        task.mm.replace(mm);
        self.flush(&prev);
    }

    /// Sets a thread-local segment, 0 to 2, and points GS at it.
    pub fn set_tls(&self, entry: usize, base: u64) {
        let task = running();
        task.thread.borrow_mut().tls[entry] = base;
        let cpu = task.cpu();
        let mut cpu = cpu.borrow_mut();
        cpu.tls[entry] = base;
        cpu.gs = u16::try_from((6 + entry) << 3 | 3).expect("one of three");
    }

    /// Uses its thread-local storage.
    pub fn tls(&self) -> Result<u64, Fault> {
        running().cpu().borrow().gs_instruction()
    }

    /// Sets up to four breakpoints.
    pub fn set_breakpoints(&self, addresses: &[u64]) {
        let task = running();
        let (cpu, mut thread) = (task.cpu(), task.thread.borrow_mut());
        thread.set_breakpoints(&mut cpu.borrow_mut(), addresses);
    }

    /// Reaches an address; yields whether one of its own breakpoints is there.
    pub fn reach(&self, address: u64) -> bool {
        let task = running();
        task.thread
            .borrow()
            .reach(&mut task.cpu().borrow_mut(), address)
    }

    /// Sets whether it may read the time-stamp counter.
    pub fn permit_tsc(&self, may: bool) {
        let task = running();
        task.thread.borrow_mut().no_tsc = !may;
        task.cpu().borrow_mut().no_tsc = !may;
    }

    /// Reads the time-stamp counter.
    pub fn tsc(&self) -> Result<u64, Fault> {
        running().cpu().borrow().tsc_instruction()?;
        Ok(self.now_ns())
    }
}
