// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way from one task to the next, and what each does when it goes on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use super::Kernel;
use super::context::{self, Departure, Execution};
use super::mm::switch_mm;
use super::task::Task;
use crate::scheduler::{Call, State, Switch};

/// The value with which a killed task unwinds.
struct Killed;

impl<X: 'static> Kernel<X> {
    /// Switches to the task that is to run (row D7).
    pub(super) fn schedule(&self, call: Call) {
        if std::thread::panicking() {
            return;
        }
        if let Some(next) = self.choose(call) {
            let last = context::switch(next);
            self.finish_switch(last);
        }
        self.goes_on();
    }

    /// Chooses the task that is to run, if it is another one, and switches to its address space
    /// (row D2).
    fn choose(&self, call: Call) -> Option<Rc<Task>> {
        let prev = running();
        let (number, processor) = self.here(&prev);
        let now_ns = self.now_ns();
        let Switch { next, .. } = self.scheduler.borrow_mut().schedule(number, now_ns, call);
        let next = match next {
            Some(next) => self.tasks.borrow()[next.0 as usize]
                .clone()
                .expect("it can run"),
            None => processor.idle.clone(),
        };
        if Rc::ptr_eq(&prev, &next) {
            return None;
        }
        next.move_to(&processor.cpu);
        let old = prev.active_mm.borrow().clone().expect("it runs in some");
        match &*next.mm.borrow() {
            Some(new) => switch_mm(&old, new, &mut processor.cpu.borrow_mut()),
            None => {
                next.active_mm.replace(Some(old.clone()));
                processor.cpu.borrow_mut().lazy_tlb = true;
            }
        }
        if prev.mm.borrow().is_none() {
            prev.active_mm.take();
            processor.prev_mm.replace(Some(old));
        }
        processor.current.replace(next.clone());
        Some(next)
    }

    /// After a switch, on the stack of the new task: what the task before, `last`, could not do for
    /// itself.
    pub(super) fn finish_switch(&self, last: Option<Rc<Task>>) {
        let (_, processor) = self.here(&running());
        processor.prev_mm.take();
        if let Some(last) = last
            && last.execution.get() == Execution::Ended
            && let Some(id) = last.id
        {
            self.tasks.borrow_mut()[id.0 as usize] = None;
        }
    }

    /// A task goes on: it ends if it was killed, gives way if it must, and finds its CPU as it left
    /// it.
    pub(super) fn goes_on(&self) {
        loop {
            let task = running();
            if task.is_killed.get() {
                drop(task);
                resume_unwind(Box::new(Killed));
            }
            let (number, processor) = self.here(&task);
            let needs_resched = self.scheduler.borrow().needs_resched(number);
            if !needs_resched {
                assert!(
                    Rc::ptr_eq(&task, &processor.current.borrow()),
                    "another's turn"
                );
                let cpu = processor.cpu.borrow();
                task.thread.borrow().check(&cpu);
                if let Some(mm) = &*task.mm.borrow() {
                    assert_eq!(cpu.cr3(), mm.pgd(), "another's address space");
                    assert!(mm.cpus() & 1 << cpu.number != 0, "flushes pass it by");
                }
                return;
            }
            drop(task);
            if let Some(next) = self.choose(Call::Delayed) {
                let last = context::switch(next);
                self.finish_switch(last);
            }
        }
    }

    /// The running task has ended: yields what runs next.
    pub(super) fn end(&self, lived: Result<(), Box<dyn Any + Send>>) -> Departure {
        if let Err(panic) = lived {
            if !panic.is::<Killed>() {
                self.panic.set(Some(panic));
            }
            return Departure::Host;
        }
        let task = running();
        task.thread
            .borrow_mut()
            .drop_ports(&mut task.cpu().borrow_mut());
        // From here on it borrows its own former address space, as a kernel task does.
        task.mm.take();
        task.cpu().borrow_mut().lazy_tlb = true;
        self.set_state(State::Dead);
        drop(task);
        Departure::Next(self.choose(Call::Direct).expect("another one"))
    }

    pub(super) fn idle(&self, last: Option<Rc<Task>>) -> Departure {
        self.finish_switch(last);
        let lived = catch_unwind(AssertUnwindSafe(|| {
            loop {
                self.goes_on();
                context::leave();
            }
        }));
        self.end(lived)
    }
}

/// The task that runs.
pub(super) fn running() -> Rc<Task> {
    context::current().expect("asked for by a task")
}
