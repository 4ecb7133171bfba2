//! A guest that pages by itself, on this machine's vcpus: its kernel and processes are
//! [`guest`](crate::guest)'s, every access of theirs may find its page out.

use std::collections::VecDeque;
use std::rc::Rc;

use p2m_paging::Gfn;
use p2m_paging::p2m::Access;
use xenpaging::store::{Saved, StoreError};

use super::guest::{Touched, vcpu_id};
use super::scenario::{Knob, Scenario};
use super::world::World;
use crate::guest::{Guest, Machine, Phase, Plan, Stalled, Task, Turn};
use crate::machine::Page;

/// Turns that a task has at most while nobody else does anything.
const BURST: usize = 8;

/// The guest's kernel, on its vcpus.
pub(super) struct Running {
    pub(super) guest: Rc<Guest>,
    /// Tasks by vcpu; the first one has its turn next.
    tasks: Vec<VecDeque<Task>>,
    /// A page is lost that it cannot do without. Nothing of it runs any more.
    halted: bool,
}

/// What processes do in a scenario.
pub(super) fn plan(scenario: &Scenario) -> Plan {
    let processes = scenario.get(Knob::Kernel);
    Plan {
        seed: scenario.seed,
        processes: processes as usize,
        most: processes as usize + 1,
        // Together a good deal more than there is memory.
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
            tasks: (0..self.vcpus()).map(|_| VecDeque::new()).collect(),
            halted: false,
        });
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

    /// A page is lost.
    pub(super) fn halt(&self) {
        self.note("the guest's kernel halts", [0, 0]);
        if let Some(running) = &mut *self.kernel.borrow_mut() {
            running.halted = true;
        }
    }

    /// A task of this vcpu has its turn.
    pub(super) fn kernel_runs(&self, vcpu: usize) {
        let Some(guest) = self.running() else { return };
        self.adopt(&guest);
        let mut turn = Turn::Waits;
        for _ in 0..self.tasks_of(vcpu, |tasks| tasks.len()) {
            let task = self.tasks_of(vcpu, VecDeque::pop_front);
            let mut task = task.expect("as many as there are");
            turn = self.burst(vcpu, &mut task);
            match turn {
                Turn::Went | Turn::Stalled => {
                    self.tasks_of(vcpu, |tasks| tasks.push_front(task));
                    break;
                }
                Turn::Waits => self.tasks_of(vcpu, |tasks| tasks.push_back(task)),
                Turn::Over => break,
            }
        }
        self.start_lanes(&guest);
        if self.strikes(Knob::Balloon) {
            let pages = self.below(self.pages() / 4);
            guest.kernel.set_balloon_target(pages);
        }
        if self.running().is_some() && !self.machine().is_stopped(vcpu_id(vcpu)) {
            let in_ns = match turn {
                Turn::Went | Turn::Over => 16_000,
                Turn::Stalled | Turn::Waits => 40_000,
            };
            self.schedule_vcpu(vcpu, in_ns);
        }
    }

    fn burst(&self, vcpu: usize, task: &mut Task) -> Turn {
        let machine = OnVcpu { world: self, vcpu };
        let mut turn = Turn::Went;
        for _ in 0..=self.below(BURST) {
            turn = task.turn(&machine);
            if turn != Turn::Went {
                break;
            }
        }
        turn
    }

    fn tasks_of<R>(&self, vcpu: usize, what: impl FnOnce(&mut VecDeque<Task>) -> R) -> R {
        let mut kernel = self.kernel.borrow_mut();
        let running = kernel.as_mut().expect("there is a kernel");
        what(&mut running.tasks[vcpu])
    }

    /// Tasks that were begun get their vcpus.
    fn adopt(&self, guest: &Guest) {
        for task in guest.take_born() {
            let vcpu = self.below(self.vcpus());
            self.tasks_of(vcpu, |tasks| tasks.push_back(task));
        }
    }

    /// Every process would find what it must.
    pub(super) fn check_processes(&self) {
        let Some(guest) = self.running() else { return };
        guest.check(&|gfn: Gfn| {
            let page = self.page(gfn).expect("a page of the guest");
            let contents = self.guest.borrow().pages[page].contents;
            contents.expect("a page that it has")
        });
    }

    /// A page was brought to the pager's store.
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

    /// With everything out, every process reads all that it has.
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
        (0..self.vcpus()).for_each(|vcpu| self.schedule_vcpu(vcpu, 1_000));
    }
}

/// Ticks that processes have to read all their memory, page by page.
const READ_ALL_TICKS: u64 = 8_000;

/// The machine as the guest's code finds it on a vcpu.
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
}
