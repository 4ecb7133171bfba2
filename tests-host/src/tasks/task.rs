// SPDX-License-Identifier: MIT OR Apache-2.0
//! A task (row D1): its stack, its hardware context, its address space.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use super::context::{Context, Execution, Life, Stack};
use super::cpu::Cpu;
use super::mm::Mm;
use super::thread::Thread;
use crate::scheduler::TaskId;

/// A task. Its descriptor, at the base of its stack, leads here.
pub(super) struct Task {
    pub(super) context: Context,
    pub(super) execution: Cell<Execution>,
    /// `None` only while it is dropped.
    stack: Option<Stack>,
    /// Its number in the scheduler; `None`: an idle task.
    pub(super) id: Option<TaskId>,
    pub(super) thread: RefCell<Thread>,
    /// Its own address space; `None`: a kernel task.
    pub(super) mm: RefCell<Option<Rc<Mm>>>,
    /// The address space that it runs in: its own, or, for a kernel task, that of the task before.
    pub(super) active_mm: RefCell<Option<Rc<Mm>>>,
    /// The CPU that it runs on, or last ran on.
    cpu: RefCell<Rc<RefCell<Cpu>>>,
    pub(super) life: Cell<Option<Life>>,
    /// It is to unwind and end as soon as it runs.
    pub(super) is_killed: Cell<bool>,
}

impl Task {
    /// A task that begins its life when it is first switched to.
    pub(super) fn new(
        id: Option<TaskId>,
        mm: Option<Rc<Mm>>,
        cpu: Rc<RefCell<Cpu>>,
        life: Life,
    ) -> rustix::io::Result<Rc<Self>> {
        super::overflow::watch();
        let stack = Stack::new()?;
        let number = id.map_or(u32::MAX - cpu.borrow().number, |id| id.0);
        let task = Rc::new(Self {
            context: Context::default(),
            execution: Cell::new(Execution::Fresh),
            id,
            thread: RefCell::new(Thread::new(number, stack.top())),
            active_mm: RefCell::new(mm.clone()),
            mm: RefCell::new(mm),
            cpu: RefCell::new(cpu),
            life: Cell::new(Some(life)),
            is_killed: Cell::new(false),
            stack: Some(stack),
        });
        task.stack.iter().for_each(|stack| stack.plant(&task));
        Ok(task)
    }

    pub(super) fn cpu(&self) -> Rc<RefCell<Cpu>> {
        self.cpu.borrow().clone()
    }

    /// Does something with that CPU.
    pub(super) fn on_cpu<R>(&self, work: impl FnOnce(&mut Cpu) -> R) -> R {
        work(&mut self.cpu.borrow().borrow_mut())
    }

    /// It runs on this CPU next.
    pub(super) fn move_to(&self, cpu: &Rc<RefCell<Cpu>>) {
        self.cpu.replace(cpu.clone());
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if matches!(
            self.execution.get(),
            Execution::Running | Execution::Suspended
        ) {
            // Something may still refer to objects on the stack: it is leaked, not freed.
            std::mem::forget(self.stack.take());
        }
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("id", &self.id)
            .field("execution", &self.execution.get())
            .finish_non_exhaustive()
    }
}
