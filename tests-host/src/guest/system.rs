// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel with everything that runs on it: tasks, their phases, and accesses of processes, each
//! compared with the flat memory.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use fastrand::Rng;
use p2m_paging::Gfn;

use super::Kernel;
use super::address_space::{Region, SpaceId};
use super::cpu::{Cpu, Task};
use super::faults::Refused;
use super::model::Flat;
use super::processes::Plan;
use super::reclaim::OutOfMemory;
use super::tables::{PageFault, Virt};
use super::wait::relax;
use crate::machine::Page;

/// What the guest is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Any actions.
    Run,
    /// Nothing new.
    Rest,
    /// Each process reads all its memory, then rests.
    ReadAll,
}

/// A kernel with everything that runs on it.
#[derive(Debug)]
pub struct Guest {
    /// The kernel.
    pub kernel: Kernel,
    pub(super) plan: Plan,
    pub(super) flat: RefCell<Flat>,
    pub(super) rng: RefCell<Rng>,
    /// Tasks that no vcpu has yet.
    born: RefCell<Vec<Task>>,
    /// The present phase, and the number of the order that began it.
    pub(super) phase: Cell<(Phase, u32)>,
    /// Processes.
    pub(super) living: Cell<usize>,
    /// Processes that have done all that this phase requires.
    rested: Cell<usize>,
    /// Tasks in the middle of something.
    working: Cell<usize>,
    accesses: Cell<u64>,
}

impl Guest {
    /// A guest with this memory, about to boot.
    pub fn new(gfns: impl Iterator<Item = Gfn>, plan: Plan) -> Rc<Self> {
        let guest = Rc::new(Self {
            kernel: Kernel::new(gfns),
            plan,
            flat: RefCell::default(),
            rng: RefCell::new(Rng::with_seed(plan.seed)),
            born: RefCell::default(),
            phase: Cell::new((Phase::Run, 0)),
            living: Cell::new(0),
            rested: Cell::new(0),
            working: Cell::new(0),
            accesses: Cell::new(0),
        });
        guest.begin(|guest, cpu| async move { guest.boot(&cpu).await });
        guest
    }

    /// Takes the tasks that are to run from now on, on any vcpu.
    pub fn take_born(&self) -> Vec<Task> {
        std::mem::take(&mut self.born.borrow_mut())
    }

    /// Begins a phase.
    pub fn enter(&self, phase: Phase) {
        let (_, number) = self.phase.get();
        self.phase.set((phase, number + 1));
        self.rested.set(0);
        self.kernel.idle.wake_all();
    }

    /// Whether every process has done what this phase requires, and no action is unfinished.
    pub fn is_at_rest(&self) -> bool {
        self.rested.get() == self.living.get() && self.working.get() == 0
    }

    /// Loads and stores that succeeded.
    pub fn accesses(&self) -> u64 {
        self.accesses.get()
    }

    /// Panics unless every process would find the right contents. `memory` yields the contents of a
    /// page of the guest, wherever it is.
    pub fn check(&self, memory: &dyn Fn(Gfn) -> Page) {
        let flat = self.flat.borrow();
        for (space, virt) in flat.pages() {
            let found = self.kernel.view(space, virt, memory);
            let expected = flat.page(space, virt);
            assert_eq!(found.0, expected.0, "{space:?} {virt:?}: found, expected");
        }
    }

    /// Begins a task.
    pub fn begin<F: Future<Output = ()> + 'static>(
        self: &Rc<Self>,
        code: impl FnOnce(Rc<Self>, Cpu) -> F,
    ) {
        self.working.set(self.working.get() + 1);
        let task = Task::new(|cpu| {
            let guest = Rc::clone(self);
            let code = code(Rc::clone(self), cpu);
            async move {
                code.await;
                guest.working.set(guest.working.get() - 1);
            }
        });
        self.born.borrow_mut().push(task);
    }

    /// A new address space.
    pub async fn new_space(&self, cpu: &Cpu, regions: Vec<Region>) -> Result<SpaceId, OutOfMemory> {
        let space = self.kernel.new_space(cpu, &regions).await?;
        self.flat.borrow_mut().begin(space, regions);
        Ok(space)
    }

    /// A copy of an address space, which nobody may access meanwhile.
    pub async fn fork(&self, cpu: &Cpu, parent: SpaceId) -> Result<SpaceId, OutOfMemory> {
        let child = self.kernel.fork(cpu, parent).await?;
        self.flat.borrow_mut().fork(parent, child);
        Ok(child)
    }

    /// The end of an address space, which no other task runs in.
    pub async fn end(&self, cpu: &Cpu, space: SpaceId) {
        self.flat.borrow_mut().end(space);
        cpu.leave_space().await;
        self.kernel.end_space(cpu, space).await;
    }

    /// A process loads a word, or stores one, until it succeeds. Yields the old word, which is the
    /// expected one.
    pub async fn access(
        self: &Rc<Self>,
        cpu: &Cpu,
        space: SpaceId,
        virt: Virt,
        word: usize,
        store: Option<u64>,
    ) -> Result<u64, Refused> {
        let root = self.kernel.state.borrow().space(space).root;
        cpu.enter_space(root).await;
        loop {
            let guest = Rc::clone(self);
            let witness = move |found| guest.hold_against_flat(space, virt, word, store, found);
            let done = cpu.process(root, virt, word, store, Rc::new(witness)).await;
            match done {
                Ok(found) => return Ok(found),
                Err(PageFault) => {
                    self.kernel.fault(cpu, space, virt, store.is_some()).await?;
                }
            }
        }
    }

    /// A process stores a word that was never stored before.
    pub async fn store(
        self: &Rc<Self>,
        cpu: &Cpu,
        space: SpaceId,
        virt: Virt,
        word: usize,
    ) -> Result<u64, Refused> {
        let value = self.flat.borrow_mut().fresh_value();
        self.access(cpu, space, virt, word, Some(value)).await?;
        Ok(value)
    }

    fn hold_against_flat(
        &self,
        space: SpaceId,
        virt: Virt,
        word: usize,
        store: Option<u64>,
        found: u64,
    ) {
        let mut flat = self.flat.borrow_mut();
        let expected = flat.page(space, virt).0[word];
        assert_eq!(
            found, expected,
            "{space:?} {virt:?} word {word}: found, expected"
        );
        if let Some(value) = store {
            flat.store(space, virt, word, value);
        }
        self.accesses.set(self.accesses.get() + 1);
    }

    /// No action is unfinished until there is something to do.
    async fn idle_until(&self, wake: impl Fn() -> bool) {
        self.working.set(self.working.get() - 1);
        self.kernel.idle.until(|| wake().then_some(())).await;
        self.working.set(self.working.get() + 1);
    }

    /// A process has done all that this phase requires, and waits for another phase.
    pub(super) async fn rest(&self, phase: (Phase, u32)) {
        if self.phase.get() == phase {
            self.rested.set(self.rested.get() + 1);
            self.idle_until(|| self.phase.get() != phase).await;
        }
    }

    async fn boot(self: &Rc<Self>, cpu: &Cpu) {
        self.kernel.boot(cpu).await;
        self.begin(|guest, cpu| async move { guest.reclaim(&cpu).await });
        self.begin(|guest, cpu| async move { guest.balloon(&cpu).await });
        for _ in 0..self.plan.processes {
            self.begin_process(None);
        }
    }

    /// The kernel's task that keeps some memory free.
    async fn reclaim(&self, cpu: &Cpu) {
        loop {
            self.idle_until(|| self.kernel.is_low() && self.is_running())
                .await;
            self.kernel.reclaim_in_background(cpu).await;
            relax().await;
        }
    }

    /// The kernel's task that follows the balloon's target.
    async fn balloon(&self, cpu: &Cpu) {
        loop {
            self.idle_until(|| self.kernel.is_balloon_off() && self.is_running())
                .await;
            self.kernel.adjust_balloon(cpu).await;
            relax().await;
        }
    }

    fn is_running(&self) -> bool {
        self.phase.get().0 == Phase::Run
    }
}
