// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest that pages by itself, on this machine's vcpus. Its kernel and processes are those of
//! [`guest`](crate::guest), each a task of the guest's scheduler. Each of their accesses may find
//! its page out, which pauses the vcpu. A task that waits for the guest's own disk or lock blocks,
//! and another runs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use p2m_paging::Gfn;
use p2m_paging::p2m::Access;
use pager_store::{Saved, StoreError};

use super::guest::{Touched, vcpu_id};
use super::scenario::{Knob, Scenario};
use super::tasks::{Ask, Tasks, cpu};
use super::world::World;
use crate::guest::{Guest, Machine, Phase, Plan, Pte, Stalled, Step, Task, Virt, Wakeup};
use crate::machine::Page;
use crate::scheduler::{Nice, Policy, State, TaskId, Waker};
use crate::tasks::{Kernel, Mm};

/// The most orders of a vcpu that are carried out while nobody else does anything.
const BURST: usize = 8;
/// The bit position at which CR3 has the number of a page.
const PAGE_SHIFT: u32 = 12;
/// CR3 in the kernel's own address space: page 0 is the zero page, so no process has it for a
/// table.
const KERNEL_ROOT: Gfn = Gfn::new_truncate(0);

/// The guest.
pub(super) struct Running {
    pub(super) guest: Rc<Guest>,
    /// Its tasks, and whether each was woken.
    tasks: Vec<(TaskId, Arc<Wakeup>)>,
    spaces: Rc<Spaces>,
    /// A page that it needs is lost. Nothing of it runs any more.
    halted: bool,
}

/// What processes do in a scenario.
pub(super) fn plan(scenario: &Scenario) -> Plan {
    let processes = scenario.get(Knob::Kernel);
    Plan {
        seed: scenario.seed,
        processes: processes as usize,
        most: processes as usize + 1,
        // Together considerably more than there is memory.
        pages: scenario.get(Knob::Gfns) * 3 / (2 * processes.max(1)),
        stores: scenario.get(Knob::Writes),
        forks: 15,
    }
}

impl World<'_> {
    /// Boots a guest.
    pub(super) fn boot(&self, plan: Plan) -> Rc<Guest> {
        let guest = Guest::new((0..self.pages()).map(|page| self.gfn(page)), plan);
        *self.kernel.borrow_mut() = Some(Running {
            guest: Rc::clone(&guest),
            tasks: Vec::new(),
            spaces: Rc::default(),
            halted: false,
        });
        self.tasks.get_or_init(|| Tasks::new(self.vcpus()));
        self.adopt();
        guest
    }

    pub(super) fn has_kernel(&self) -> bool {
        self.kernel.borrow().is_some()
    }

    /// The kernel's guest, while it runs.
    pub(super) fn running(&self) -> Option<Rc<Guest>> {
        let kernel = self.kernel.borrow();
        let running = kernel.as_ref().filter(|running| !running.halted)?;
        let is_dead = self.guest.borrow().is_dead;
        (!is_dead).then(|| Rc::clone(&running.guest))
    }

    pub(super) fn is_halted(&self) -> bool {
        self.has_kernel() && self.running().is_none()
    }

    /// A page that the kernel needs is lost.
    pub(super) fn halt(&self) {
        self.note("the guest's kernel halts", [0, 0]);
        if let Some(running) = &mut *self.kernel.borrow_mut() {
            running.halted = true;
        }
    }

    /// A vcpu runs its tasks.
    pub(super) fn kernel_runs(&self, tasks: &Tasks, vcpu: usize) {
        let Some(guest) = self.running() else { return };
        let about_ns = self.burst(tasks, vcpu);
        self.adopt();
        self.start_lanes(&guest);
        if self.strikes(Knob::Balloon) {
            let pages = self.below(self.pages() / 4);
            guest.kernel.set_balloon_target(pages);
        }
        self.wake_tasks(Waker::Task);
        if self.running().is_none() {
            return;
        }
        if tasks.has_work(vcpu) && !self.machine().is_stopped(vcpu_id(vcpu)) {
            self.schedule_vcpu(vcpu, about_ns);
        }
        self.wake_halted(tasks);
    }

    /// Some orders of a vcpu's tasks are carried out while nobody else does anything. Yields in how
    /// many nanoseconds the vcpu goes on.
    fn burst(&self, tasks: &Tasks, vcpu: usize) -> u64 {
        for _ in 0..=self.below(BURST) {
            let went = match self.run_tasks(tasks, vcpu) {
                Some(Ask::Order(cpu)) => cpu.carry_out(&OnVcpu { world: self, vcpu }).is_ok(),
                Some(Ask::Relax) => false,
                Some(ask) => unreachable!("{ask:?} by the kernel"),
                None => true,
            };
            if !went {
                return 40_000;
            }
            self.wake_tasks(Waker::Task);
            let goes_on = tasks.has_work(vcpu) && self.running().is_some();
            if !goes_on || self.machine().is_stopped(vcpu_id(vcpu)) {
                break;
            }
        }
        16_000
    }

    /// Something has come to the kernel from outside.
    pub(super) fn interrupt_kernel(&self) {
        if let Some(tasks) = self.tasks.get() {
            self.adopt();
            self.wake_tasks(Waker::Interrupt);
            self.wake_halted(tasks);
        }
    }

    /// Assigns vcpus to tasks that were begun.
    fn adopt(&self) {
        let (Some(guest), Some(tasks)) = (self.running(), self.tasks.get()) else {
            return;
        };
        let spaces = self
            .kernel
            .borrow()
            .as_ref()
            .map(|running| Rc::clone(&running.spaces));
        for task in guest.take_born() {
            let spaces = spaces.clone().expect("it runs");
            let nice = Nice::try_new(self.rng.borrow_mut().i8(-5..=5)).unwrap_or_default();
            let vcpu = self.below(self.vcpus());
            let wakeup = Arc::clone(task.wakeup());
            let policy = Policy::Normal(nice);
            let id = tasks.kernel.spawn(policy, None, cpu(vcpu), move |kernel| {
                live(kernel, task, &spaces)
            });
            if let Some(running) = &mut *self.kernel.borrow_mut() {
                running.tasks.push((id, wakeup));
            }
        }
    }

    /// Wakes the tasks that are to be woken.
    fn wake_tasks(&self, by: Waker) {
        let (Some(running), Some(tasks)) = (&*self.kernel.borrow(), self.tasks.get()) else {
            return;
        };
        for (task, wakeup) in &running.tasks {
            if wakeup.has_come() {
                tasks.kernel.wake(*task, by);
            }
        }
    }

    /// No CPU uses a page table that does not exist any more.
    pub(super) fn check_page_tables(&self) {
        let (Some(guest), Some(tasks)) = (self.running(), self.tasks.get()) else {
            return;
        };
        for vcpu in 0..self.vcpus() {
            let root = page_table(tasks, vcpu);
            let is_valid = root == KERNEL_ROOT || guest.kernel.is_root(root);
            assert!(is_valid, "v{vcpu} has {root} for a page table");
        }
    }

    /// Every process would find the contents that it must find.
    pub(super) fn check_processes(&self) {
        let Some(guest) = self.running() else { return };
        guest.check(&|gfn: Gfn| {
            let page = self.page(gfn).expect("a page of the guest");
            let contents = self.guest.borrow().pages[page].contents;
            contents.expect("a page that it has")
        });
    }

    /// A page was written to the pager's store.
    pub(super) fn meter_save(&self, gfn: Gfn, contents: &Page, saved: Result<Saved, StoreError>) {
        let is_known = self
            .running()
            .is_some_and(|guest| guest.kernel.is_on_disk(gfn, contents));
        self.meter.count(|counts| match saved {
            Ok(Saved::Written) => {
                counts.host_writes += 1;
                counts.known_to_guest += u64::from(is_known);
            }
            Ok(Saved::Unchanged) => counts.host_compares += 1,
            Ok(Saved::Zeros) => counts.host_zeros += 1,
            Ok(Saved::DedupCandidate(_)) => {}
            Err(_) => {}
        });
    }

    pub(super) fn is_kernel_at_rest(&self) -> bool {
        self.running()
            .is_none_or(|guest| guest.is_at_rest() && self.are_lanes_idle())
    }

    /// Nothing new is begun.
    pub(super) fn processes_rest(&self) {
        self.enter(Phase::Rest);
    }

    /// With all pages out, every process reads all that it has.
    pub(super) fn processes_read_all(&self) {
        if self.running().is_none() {
            return;
        }
        self.enter(Phase::ReadAll);
        self.until_within(
            READ_ALL_TICKS,
            "all processes read all their memory",
            |world| world.is_kernel_at_rest() && !world.anybody_stopped(),
        );
        self.check_processes();
    }

    fn enter(&self, phase: Phase) {
        let Some(guest) = self.running() else { return };
        guest.enter(phase);
        self.interrupt_kernel();
    }
}

/// A task's life, on a stack of its own.
fn live(kernel: &Kernel<Ask>, mut task: Task, spaces: &Spaces) {
    loop {
        match task.go_on() {
            Step::Orders => {
                // A vcpu that was paused tries again. So does another one, if the task has moved.
                while task.cpu().has_order() {
                    kernel.trap(Ask::Order(task.cpu().clone()));
                }
            }
            Step::Enters(root) => {
                kernel.set_mm(root.map(|root| spaces.begin(root)));
            }
            Step::Flushes(root) => {
                if let Some(mm) = spaces.of(root) {
                    kernel.flush(&mm);
                }
            }
            Step::Yields => {
                kernel.trap(Ask::Relax);
                kernel.yield_now();
            }
            Step::Waits => {
                kernel.set_state(State::Uninterruptible);
                while !task.wakeup().has_come() {
                    kernel.block();
                    kernel.set_state(State::Uninterruptible);
                }
                kernel.set_state(State::Running);
            }
            Step::Over => return kernel.set_mm(None),
        }
    }
}

/// The address spaces in which tasks run, by the roots of their tables.
#[derive(Debug, Default)]
struct Spaces(RefCell<BTreeMap<Gfn, Weak<Mm>>>);

impl Spaces {
    /// A task begins to run in an address space.
    fn begin(&self, root: Gfn) -> Rc<Mm> {
        let mm = Mm::new(root.get() << PAGE_SHIFT, 0);
        self.0.borrow_mut().insert(root, Rc::downgrade(&mm));
        mm
    }

    /// The address space with this root, unless no task runs in it.
    fn of(&self, root: Gfn) -> Option<Rc<Mm>> {
        self.0.borrow().get(&root)?.upgrade()
    }
}

/// The root of the page table that a vcpu has.
fn page_table(tasks: &Tasks, vcpu: usize) -> Gfn {
    Gfn::new_truncate(tasks.kernel.cpu(cpu(vcpu)).cr3() >> PAGE_SHIFT)
}

/// Ticks within which processes must read all their memory, page by page.
const READ_ALL_TICKS: u64 = 8_000;

/// The machine as the guest's code sees it on a vcpu.
struct OnVcpu<'a, 'd> {
    world: &'a World<'d>,
    vcpu: usize,
}

impl OnVcpu<'_, '_> {
    fn page(&self, gfn: Gfn) -> usize {
        let page = self.world.page(gfn);
        page.unwrap_or_else(|| panic!("the guest takes {gfn} for memory"))
    }

    fn is_running(&self) -> Result<(), Stalled> {
        self.world.running().map(drop).ok_or(Stalled)
    }
}

impl Machine for OnVcpu<'_, '_> {
    fn access(
        &self,
        gfn: Gfn,
        access: Access,
        work: &mut dyn FnMut(&mut Page),
    ) -> Result<(), Stalled> {
        self.is_running()?;
        let page = self.page(gfn);
        match self.world.touch(self.vcpu, page, access) {
            Touched::Frame(mfn) => {
                let who = format!("the kernel on v{}", self.vcpu);
                let mut contents = self.world.read_frame(page, mfn, &who);
                work(&mut contents);
                if access.contains(Access::WRITE) {
                    self.world.write_frame(page, mfn, contents);
                }
                Ok(())
            }
            Touched::NotYet => Err(Stalled),
            Touched::Lost => {
                self.world.halt();
                Err(Stalled)
            }
            Touched::NoMemory => panic!("{gfn} is no memory, and the guest's kernel uses it"),
        }
    }

    fn give_back(&self, gfn: Gfn) -> Result<(), Stalled> {
        self.is_running()?;
        let is_over = self.world.give_back(self.vcpu, self.page(gfn));
        is_over.then_some(()).ok_or(Stalled)
    }

    fn take(&self, gfn: Gfn) -> Result<bool, Stalled> {
        self.is_running()?;
        let page = self.page(gfn);
        self.world.take(page);
        Ok(self.world.guest.borrow().pages[page].contents.is_some())
    }

    fn root(&self, _: Gfn) -> Gfn {
        let tasks = self.world.tasks.get().expect("a task runs");
        page_table(tasks, self.vcpu)
    }

    fn recall(&self, virt: Virt) -> Option<Pte> {
        self.world.tasks.get()?.recall(self.vcpu, virt)
    }

    fn remember(&self, virt: Virt, entry: Pte) {
        if let Some(tasks) = self.world.tasks.get() {
            tasks.remember(self.vcpu, virt, entry);
        }
    }
}
