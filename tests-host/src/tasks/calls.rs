// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tasks can ask of their kernel.

use std::cmp::Reverse;
use std::ops::Range;
use std::rc::Rc;

use super::cpu::{Fault, FpuRegisters};
use super::mm::{Mm, switch_mm};
use super::turn::running;
use super::wait::Interrupted;
use super::{Kernel, context};
use crate::scheduler::{Call, State, TaskId};

/// For the tasks themselves: what they do is done by the one that runs.
impl<X: 'static> Kernel<X> {
    /// Leaves the guest, for the host to see to something; returns once it has, and nobody more urgent is to
    /// run. A task that unwinds only returns.
    pub fn trap(&self, what: X) {
        if std::thread::panicking() {
            return;
        }
        self.trap.set(Some(what));
        context::leave();
        self.goes_on();
    }

    /// Which task runs: found from the stack pointer. `None`: an idle task, or the host.
    pub fn current(&self) -> Option<TaskId> {
        context::current().and_then(|task| task.id)
    }

    /// Lets others go first.
    pub fn yield_now(&self) {
        let (cpu, _) = self.here(&running());
        self.scheduler.borrow_mut().yield_now(cpu);
        self.schedule(Call::Direct);
    }

    /// Sleeps for so long, or until a signal.
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

    /// The running task is about to do this: it takes effect in [`Self::block`].
    pub fn set_state(&self, state: State) {
        let task = self.current().expect("an idle task is always about to run");
        self.scheduler.borrow_mut().set_state(task, state);
    }

    /// Gives the CPU up directly: sleeps, if that is what the task is about and nobody has woken it
    /// since.
    pub fn block(&self) {
        self.schedule(Call::Direct);
    }

    /// Takes the running task's signal; whether it had one.
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

    /// Uses a port. An error is what a signal would say to a program.
    pub fn port(&self, port: u16) -> Result<(), Fault> {
        let task = running();
        task.thread
            .borrow()
            .port(&mut task.cpu().borrow_mut(), port)
    }

    /// Asks for leave to use ports, or gives it back.
    pub fn permit_ports(&self, ports: Range<u16>, may: bool) {
        let task = running();
        let (cpu, mut thread) = (task.cpu(), task.thread.borrow_mut());
        thread.permit_ports(&mut cpu.borrow_mut(), ports, may);
    }

    /// Asks for leave to use all ports, or gives it back.
    pub fn permit_all_ports(&self, may: bool) {
        let task = running();
        task.thread.borrow_mut().iopl = if may { 3 } else { 0 };
        task.cpu().borrow_mut().iopl = if may { 3 } else { 0 };
    }

    /// Goes over to another address space; `None`: to the kernel's own. CPUs that only borrow the one
    /// before leave it, so that its table can be freed.
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

    /// Reaches an address: whether a breakpoint of its own lies there.
    pub fn reach(&self, address: u64) -> bool {
        let task = running();
        task.thread
            .borrow()
            .reach(&mut task.cpu().borrow_mut(), address)
    }

    /// Says whether it may read the time-stamp counter.
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
