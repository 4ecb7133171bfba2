// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine, a guest, a pager and everybody else: one event after another, and several at once
//! where locks are released.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::{Rc, Weak};

use fastrand::Rng;
use p2m_paging::p2m::table::{Event, Outcome, State, transition};
use p2m_paging::paging::{Attachment, Paging};
use p2m_paging::pause::VcpuCell;
use p2m_paging::{Gfn, VcpuId};

use super::areas::Stands;
use super::block::BackEnd;
use super::coverage::Coverage;
use super::cpus::Cpus;
use super::disk::Disk;
use super::event_queue::{EventQueue, SimEvent};
use super::foreign::Foreign;
use super::guest::Guest;
use super::index::Index;
use super::kernel::{Running, plan};
use super::measured_guest::Meter;
use super::pager::Process;
use super::programs::Programs;
use super::scenario::{Knob, Scenario};
use super::take_over::Deaths;
use super::tasks::Tasks;
use super::trace::Trace;
use crate::machine::{Format, Machine, Page, Surroundings};

/// The pager's ticks, in nanoseconds: far more often than in reality, so that short runs have some.
pub(super) const TICK_NS: u64 = 400_000;
/// How many events may be nested in each other.
const MOST_AT_ONCE: u32 = 3;
/// The first gfn above the hole.
const HIGH_GFN: u64 = 0x10_0000;
/// The owner of contents that several pages have: not a gfn of the guest.
const ALIKE_GFN: u64 = 0xa_11ce;

/// One run.
pub(super) struct World<'d> {
    pub(super) scenario: Scenario,
    pub(super) paging: Paging<'d, Machine<'d>>,
    pub(super) trace: &'d Trace,
    pub(super) rng: RefCell<Rng>,
    pub(super) event_queue: RefCell<EventQueue>,
    pub(super) guest: RefCell<Guest>,
    pub(super) pager: RefCell<Option<Process>>,
    pub(super) disk: RefCell<Disk>,
    pub(super) index: RefCell<Index>,
    pub(super) deaths: RefCell<Deaths>,
    /// The areas as the last pager has left them.
    pub(super) areas_left: RefCell<[Stands; 2]>,
    pub(super) foreign: RefCell<Foreign<'d>>,
    /// Physical CPUs, if vcpus share them.
    pub(super) cpus: Option<Cpus>,
    /// The guest's tasks on its vcpus, if it has any; without, vcpus act by themselves.
    pub(super) tasks: OnceCell<Tasks>,
    /// What the tasks do, if the guest does not page by itself.
    pub(super) programs: Option<Programs>,
    /// A guest that pages by itself.
    pub(super) kernel: RefCell<Option<Running>>,
    pub(super) block: RefCell<BackEnd>,
    pub(super) coverage: RefCell<Coverage>,
    pub(super) meter: Meter,
    /// Injected faults are over.
    pub(super) quiesced: Cell<bool>,
    /// Events so far.
    pub(super) happened: Cell<u64>,
    busy: Cell<u64>,
    at_once: Cell<u32>,
}

impl<'d> World<'d> {
    /// A guest with all its memory resident, and a pager.
    pub(super) fn new(scenario: Scenario, cells: &'d [VcpuCell], trace: &'d Trace) -> Rc<Self> {
        let knob = |knob| scenario.get(knob) as usize;
        let format = if knob(Knob::Npt) == 0 {
            Format::Ept
        } else {
            Format::Npt
        };
        let frames = knob(Knob::Gfns) + knob(Knob::Spare);
        let tasks = OnceCell::new();
        let programs = (knob(Knob::Tasks) > 0).then(|| {
            let tasks = tasks.get_or_init(|| Tasks::new(cells.len()));
            Programs::begin(&scenario, tasks)
        });
        let machine = Machine::new(format, frames, cells.len());
        let world = Rc::new(Self {
            scenario,
            paging: Paging::new(machine, cells),
            trace,
            rng: RefCell::new(Rng::with_seed(scenario.seed)),
            event_queue: RefCell::default(),
            guest: RefCell::new(Guest::new(knob(Knob::Gfns), cells.len())),
            pager: RefCell::new(None),
            disk: RefCell::new(Disk::new(&scenario)),
            index: RefCell::default(),
            deaths: RefCell::default(),
            areas_left: RefCell::new([Stands::In; 2]),
            foreign: RefCell::new(Foreign::new(knob(Knob::Mappers))),
            cpus: Cpus::new(&scenario),
            tasks,
            programs,
            kernel: RefCell::new(None),
            block: RefCell::default(),
            coverage: RefCell::default(),
            meter: Meter::default(),
            quiesced: Cell::new(false),
            happened: Cell::new(0),
            busy: Cell::new(0),
            at_once: Cell::new(0),
        });
        let around: Weak<dyn Surroundings + 'd> = Rc::<Self>::downgrade(&world);
        world.machine().surround(around);
        for page in 0..knob(Knob::Gfns) {
            let contents = world.contents(world.gfn(page), 0);
            assert!(
                world
                    .machine()
                    .with(|core| core.give(world.gfn(page), contents))
            );
            world.guest.borrow_mut().pages[page].contents = Some(contents);
        }
        if knob(Knob::Kernel) > 0 {
            world.boot(plan(&scenario));
        }
        world.start_everybody();
        world
    }

    fn start_everybody(&self) {
        for vcpu in 0..self.vcpus() {
            self.schedule_vcpu(vcpu, 10_000);
        }
        for mapper in 0..self.scenario.get(Knob::Mappers) {
            self.soon(
                50_000,
                SimEvent::Mapper(u8::try_from(mapper).expect("few mappers")),
            );
        }
        for (knob, what) in [
            (Knob::Tools, SimEvent::Tools),
            (Knob::Areas, SimEvent::Area),
            (Knob::Others, SimEvent::Others),
            (Knob::Rogue, SimEvent::Rogue),
        ] {
            if self.scenario.get(knob) > 0 {
                self.soon(100_000, what);
            }
        }
        // A run of this many steps takes about this long.
        let whole = u64::from(self.scenario.get(Knob::Steps)) * 2_000;
        for _ in 0..self.scenario.get(Knob::Kills) {
            self.soon(whole, SimEvent::Kill);
        }
        if self.scenario.get(Knob::Destroy) > 0 {
            self.soon(whole, SimEvent::Destroy);
        }
        self.start_pager();
        self.add(TICK_NS, SimEvent::Tick);
    }

    pub(super) fn machine(&self) -> &Machine<'d> {
        self.paging.platform()
    }

    /// Pages below the hole have their own numbers as gfns, the others lie above it.
    pub(super) fn gfn(&self, page: usize) -> Gfn {
        let low = self.low_pages();
        let page = page as u64;
        Gfn::new_truncate(if page < low {
            page
        } else {
            HIGH_GFN + page - low
        })
    }

    /// The contents of a page in this version.
    pub(super) fn contents(&self, gfn: Gfn, version: u32) -> Page {
        let page = Page::new(gfn, version);
        let sum = page.checksum();
        if sum % 1000 < self.scenario.get(Knob::Zeros).into() {
            Page::ZERO
        } else if sum / 1000 % 1000 < self.scenario.get(Knob::Alike).into() {
            Page::new(Gfn::new_truncate(ALIKE_GFN), version % 3)
        } else {
            page
        }
    }

    /// The page with this gfn, if it is one of the guest's.
    pub(super) fn page(&self, gfn: Gfn) -> Option<usize> {
        let low = self.low_pages();
        let page = match gfn.get().checked_sub(HIGH_GFN) {
            Some(above) => low + above,
            None if gfn.get() < low => gfn.get(),
            None => return None,
        };
        (page < u64::from(self.scenario.get(Knob::Gfns)))
            .then(|| usize::try_from(page).expect("a small guest"))
    }

    /// Where the memory above the hole begins.
    pub(super) fn first_high_gfn(&self) -> u64 {
        HIGH_GFN
    }

    pub(super) fn low_pages(&self) -> u64 {
        (self.scenario.get(Knob::Gfns) - self.scenario.get(Knob::High)).into()
    }

    pub(super) fn pages(&self) -> usize {
        self.scenario.get(Knob::Gfns) as usize
    }

    pub(super) fn vcpus(&self) -> usize {
        self.scenario.get(Knob::Vcpus) as usize
    }

    pub(super) fn now(&self) -> u64 {
        self.event_queue.borrow().now()
    }

    pub(super) fn note(&self, what: &'static str, numbers: [u64; 2]) {
        self.trace.note(self.now(), what, numbers);
    }

    /// Whether a fault of this kind is injected now.
    pub(super) fn strikes(&self, knob: Knob) -> bool {
        !self.quiesced.get() && self.chance(self.scenario.get(knob))
    }

    pub(super) fn chance(&self, in_a_thousand: u32) -> bool {
        in_a_thousand > 0 && self.rng.borrow_mut().u32(0..1000) < in_a_thousand
    }

    pub(super) fn below(&self, bound: usize) -> usize {
        self.rng.borrow_mut().usize(0..bound.max(1))
    }

    /// In about this many nanoseconds.
    pub(super) fn soon(&self, about_ns: u64, what: SimEvent) {
        let in_ns = about_ns / 4 + self.rng.borrow_mut().u64(0..=about_ns);
        self.add(in_ns, what);
    }

    pub(super) fn add(&self, in_ns: u64, what: SimEvent) {
        let order = self.rng.borrow_mut().u16(..);
        self.event_queue.borrow_mut().add(in_ns, order, what);
    }

    /// Whether any of these actors is in the middle of an action.
    pub(super) fn are_busy(&self, actors: u64) -> bool {
        self.busy.get() & actors != 0
    }

    /// The next thing happens.
    pub(super) fn go(&self) {
        let what = self.event_queue.borrow_mut().next(self.busy.get());
        let Some(what) = what else { return };
        let actor = what.actor();
        self.busy.set(self.busy.get() | actor);
        self.happened.set(self.happened.get() + 1);
        self.happen(what);
        self.busy.set(self.busy.get() & !actor);
    }

    /// Nothing else happens meanwhile.
    pub(super) fn alone(&self, work: impl FnOnce()) {
        let at_once = self.at_once.replace(MOST_AT_ONCE);
        work();
        self.at_once.set(at_once);
    }

    fn happen(&self, what: SimEvent) {
        match what {
            SimEvent::Vcpu(vcpu) => self.vcpu_runs(vcpu.into()),
            SimEvent::Cpu(cpu) => self.cpu_runs(cpu),
            SimEvent::GuestTimer => self.guest_timer(),
            SimEvent::PagerEvent => self.pager_wakes(),
            SimEvent::HypervisorEvent => self.hypervisor_wakes(),
            SimEvent::Tick => self.pager_ticks(),
            SimEvent::Work(batch, pager) => self.works(batch.into(), pager),
            SimEvent::WorkDone(batch, pager) => self.work_is_done(batch.into(), pager),
            SimEvent::Scan(pager) => self.scans(pager),
            SimEvent::ScanDone(pager) => self.scan_is_done(pager),
            SimEvent::Mapper(mapper) => self.mapper_runs(mapper.into()),
            SimEvent::Block(lane) => self.lane_runs(lane.into()),
            SimEvent::Tools => self.toolstack_runs(),
            SimEvent::Area => self.change_areas(),
            SimEvent::Others => self.others_run(),
            SimEvent::Rogue => self.rogue_toolstack_runs(),
            SimEvent::Kill => self.kill_pager(),
            SimEvent::Restart => self.restart_pager(),
            SimEvent::Detach => self.detach(),
            SimEvent::TakeOver => self.take_over(),
            SimEvent::Destroy => self.destroy_guest(),
        }
    }

    /// Sends an event through a channel that may lose, double and delay it.
    pub(super) fn send(&self, what: SimEvent) {
        if self.strikes(Knob::Lost) {
            return self.note("event lost", [what.actor().trailing_zeros().into(), 0]);
        }
        self.soon(8_000, what);
        if self.strikes(Knob::Doubled) {
            self.soon(80_000, what);
        }
    }

    /// The state of a page.
    pub(super) fn state(&self, page: usize) -> State {
        let entry = self.machine().with(|core| core.tables.get(self.gfn(page)));
        State::of(entry.p2mt).expect("a state of paging's")
    }

    /// Compares the result of an operation with the table, unless something else has happened
    /// meanwhile. `changes`: the operation was not made to fail.
    pub(super) fn hold_against_table(&self, before: Before, changes: bool, refused: Option<bool>) {
        let Before {
            page,
            event,
            state,
            happened,
        } = before;
        let by_pager = matches!(
            event,
            Event::Nominate
                | Event::NominateInUse
                | Event::Evict
                | Event::EvictInUse
                | Event::Restore
                | Event::PrepFilled
                | Event::PrepEmpty
        );
        let is_replaced = by_pager && self.paging.attachment() != Attachment::Attached;
        if self.happened.get() != happened || !changes || is_replaced {
            return;
        }
        let log_dirty = self.machine().with(|core| core.log_dirty);
        let outcome = transition(state, event, log_dirty);
        self.coverage.borrow_mut().hit(state, event);
        let expected = match outcome {
            Outcome::To(to) => to,
            Outcome::Refused | Outcome::Ignored => state,
        };
        let now = self.state(page);
        assert_eq!(now, expected, "page {page}: {state:?} + {event:?}");
        if let Some(refused) = refused {
            let should = outcome == Outcome::Refused;
            assert_eq!(
                refused, should,
                "page {page}: refusal of {state:?} + {event:?}"
            );
        }
    }

    /// Before an operation.
    pub(super) fn before(&self, page: usize, event: Event) -> Before {
        Before {
            page,
            event,
            state: self.state(page),
            happened: self.happened.get(),
        }
    }
}

/// A page, and its state before an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    pub(super) page: usize,
    pub(super) event: Event,
    pub(super) state: State,
    happened: u64,
}

impl Surroundings for World<'_> {
    fn others(&self) {
        if self.at_once.get() >= MOST_AT_ONCE || !self.strikes(Knob::Races) {
            return;
        }
        self.at_once.set(self.at_once.get() + 1);
        self.go();
        self.at_once.set(self.at_once.get() - 1);
    }

    fn stopped(&self, vcpu: VcpuId) {
        if let Some(cpus) = &self.cpus {
            cpus.stop(vcpu.index(), self.now());
        }
        if let Some(tasks) = self.tasks.get() {
            tasks.stop(vcpu.index());
        }
    }

    fn let_go(&self, vcpu: VcpuId) {
        self.vcpu_let_go(vcpu.index());
    }

    fn event_deferred(&self) {
        self.send(SimEvent::HypervisorEvent);
    }

    fn pager_notified(&self) {
        self.note("notify pager", [0, 0]);
        self.send(SimEvent::PagerEvent);
    }
}
