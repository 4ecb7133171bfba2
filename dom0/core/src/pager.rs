// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pager itself: what it knows, and what it does about an event. What a request does to it is
//! in `requests`, how a batch goes from step to step in `outward`, `inward` and `drain`.

use p2m_paging::Gfn;

use super::config::{Config, Progress, clamp_num_pages};
use super::drain::Drain;
use super::event::{Action, Actions, Batch, Event, Lane, Page, PageError, Report, Step, Summary};
use super::flight::{Asks, Flights};
use super::homes::{Home, Homes};
use super::policy::Policy;
use super::read_ahead::{Ahead as Wanted, ReadAhead};
use super::room::StoreRoom;
use super::scan::{Scan, Scanner};
use super::slots::{AreaFigures, Slots};
use super::sparse::SparseSet;
use crate::store::{Like, Saved};

/// Batches going out at a time: while the shell works on one, the core takes the next step of the other.
const OUT_BATCHES: usize = 2;

/// The pager's core. See the [module](super) for how pages move through it.
#[derive(Debug)]
pub struct Pager {
    pub(super) config: Config,
    pub(super) policy: Box<dyn Policy>,
    pub(super) slots: Slots,
    pub(super) homes: Homes,
    pub(super) flights: Flights,
    pub(super) asks: Asks,
    pub(super) room: StoreRoom,
    /// Batches that are not under way, by index: demand, then one ahead, one that moves, then those out.
    parked: Vec<Option<Batch>>,
    /// Pages going out that stay after all, nominated. The next batch that ends takes them.
    pub(super) to_restore: Vec<Page>,
    /// Pages in batches going out that are not to stay so far.
    pub(super) leaving: u64,
    /// Of these, the ones that the store has.
    pub(super) saved: u64,
    /// Out, and did not read back when last tried.
    pub(super) unreadable: SparseSet,
    /// Found gone when they were brought in: the drop is still to be told.
    pub(super) gone: SparseSet,
    /// Stayed nominated although told to be restored.
    pub(super) nominated: SparseSet,
    pub(super) ahead: Ahead,
    /// Areas that are to go, in order.
    pub(super) drains: Vec<Drain>,
    pub(super) scanner: Scanner,
    pub(super) read_ahead: ReadAhead,
    /// What is to come in beside the pages asked for.
    pub(super) beside: Vec<Wanted>,
    phase: Phase,
    target_pages: Option<u64>,
    /// What the guest has altogether, in and out.
    pub(super) size_pages: u64,
    /// The policy had no victim; not asked again before the next tick or page home.
    pub(super) dry: bool,
    /// Even a page-out below the threshold is to start.
    pub(super) eager: bool,
    pub(super) delay_reported: bool,
    pub(super) progress: Progress,
    /// Where the search for copies to give up goes on.
    pub(super) copies_cursor: u64,
}

/// Where page-in ahead of need stands: rounds over the pages that are out, lowest first.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    pub(super) cursor: u64,
    /// Not before the next tick.
    pub(super) waits: bool,
    /// This round passed over pages that it could not bring in.
    pub(super) failed: bool,
    /// This round brought some in.
    pub(super) fruitful: bool,
    /// Rounds in a row that brought in nothing.
    pub(super) vain_rounds: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Stopping,
    /// Everything that can be is home; requests are still answered.
    Stopped,
    /// The guest is gone.
    Gone,
    /// The same, and said so.
    Over,
}

impl Pager {
    /// A pager with nothing out. It pages nothing out before the first [`Event::Target`].
    pub fn new(config: Config, policy: Box<dyn Policy>) -> Self {
        let config = config.cut_to_reason();
        let (out, ahead, requests) = (config.out_batch, config.ahead_batch, config.requests);
        let mut parked: Vec<_> = (0..requests)
            .map(|index| Some(Batch::new(index, Lane::Demand, requests)))
            .collect();
        parked.push(Some(Batch::new(requests, Lane::Ahead, ahead)));
        parked.push(Some(Batch::new(requests + 1, Lane::Move, ahead)));
        let outward = requests + 2..requests + 2 + OUT_BATCHES;
        parked.extend(outward.map(|index| Some(Batch::new(index, Lane::Out, OUT_BATCHES * out))));
        Self {
            size_pages: config.max_pages,
            scanner: Scanner::new(&config.memory, policy.wants_scans()),
            policy,
            slots: Slots::new(&config.areas),
            homes: Homes::default(),
            flights: Flights::with_room_for(OUT_BATCHES * out + 2 * ahead + requests),
            asks: Asks::with_room_for(requests),
            room: StoreRoom::default(),
            parked,
            to_restore: Vec::with_capacity(OUT_BATCHES * out),
            leaving: 0,
            saved: 0,
            unreadable: SparseSet::default(),
            gone: SparseSet::default(),
            nominated: SparseSet::default(),
            ahead: Ahead::default(),
            drains: Vec::new(),
            read_ahead: ReadAhead::new(config.read_ahead as u64),
            beside: Vec::with_capacity(requests),
            phase: Phase::Running,
            target_pages: None,
            dry: false,
            eager: false,
            delay_reported: false,
            progress: Progress::default(),
            copies_cursor: 0,
            config,
        }
    }

    /// The same with another policy; only before anything has happened.
    #[must_use]
    pub fn with_policy(self, policy: Box<dyn Policy>) -> Self {
        Self {
            scanner: Scanner::new(&self.config.memory, policy.wants_scans()),
            policy,
            ..self
        }
    }

    /// A list for the actions, large enough that no fault makes it grow.
    pub fn actions(&self) -> Actions {
        let batch = self.config.out_batch.max(self.config.ahead_batch);
        Actions::with_capacity(4 * (batch + self.config.requests))
    }

    /// Takes one event; what is to be done about it is added to `actions`.
    pub fn handle(&mut self, event: Event<'_>, actions: &mut Actions) {
        match event {
            Event::Requests(requests) if self.is_alive() => {
                for request in requests {
                    self.request(request, actions);
                }
            }
            Event::Requests(_) => {}
            Event::Done(batch) => self.done(batch, actions),
            Event::Target(pages) => {
                self.target_pages = Some(clamp_num_pages(pages, self.config.max_pages));
                self.eager = true;
                self.ahead.waits = false;
            }
            Event::Resident(pages) => self.resident(pages),
            Event::Tick => self.tick(),
            Event::Scanned(scan) => self.scanned(scan, actions),
            Event::AreaAdded(area) => self.area_added(area, actions),
            Event::Drain(area) => self.drain(area),
            Event::Stop => self.stop(actions),
            Event::DomainGone if self.is_alive() => {
                self.phase = Phase::Gone;
                self.asks.clear();
            }
            Event::DomainGone => {}
        }
        self.go_on(actions);
    }

    /// How many more requests may be taken off the ring now.
    ///
    /// A shell that takes more makes the list of requests grow; none is lost.
    pub fn room(&self) -> usize {
        self.config.requests.saturating_sub(self.asks.len())
    }

    /// How many batches can be under way: the number of buffer sets that a shell prepares.
    pub fn batches(&self) -> usize {
        self.parked.len()
    }

    /// How many buffers the set of batch `index` needs; 0 where no pages are loaded.
    pub fn buffers(&self, index: usize) -> usize {
        match index.checked_sub(self.config.requests) {
            None => self.config.requests,
            Some(0 | 1) => self.config.ahead_batch,
            Some(_) => 0,
        }
    }

    /// Figures.
    pub fn progress(&self) -> Progress {
        let resident = self.resident_pages();
        Progress {
            size_pages: self.size_pages,
            used_pages: self.scanner.used_pages().map(|used| used.min(resident)),
            out_pages: self.homes.out_pages(),
            copies: self.homes.copies(),
            judged: self.read_ahead.judged(),
            wanted_out_pages: self.wanted_out(),
            unreadable_pages: self.unreadable.len(),
            waiting_requests: self.asks.len() as u64,
            ..self.progress
        }
    }

    /// How the store's areas stand, the one that is written to next first.
    pub fn areas(&self) -> impl Iterator<Item = AreaFigures> + '_ {
        self.slots.figures()
    }

    /// The pages that are out and did not read back, in order.
    pub fn unreadable(&self) -> impl Iterator<Item = Gfn> + '_ {
        self.unreadable
            .iter()
            .filter_map(|(gfn, ())| Gfn::try_new(gfn))
    }

    /// Memory in use for what is kept per page, in bytes. The store adds its own.
    pub fn table_bytes(&self) -> usize {
        let sets = [&self.unreadable, &self.gone, &self.nominated];
        self.policy.table_bytes()
            + self.slots.table_bytes()
            + self.homes.table_bytes()
            + sets.into_iter().map(SparseSet::table_bytes).sum::<usize>()
    }

    /// Where the contents of a page lie, if it is out.
    pub fn home_of(&self, gfn: Gfn) -> Option<Home> {
        self.homes.out(gfn)
    }

    /// Slots of the store in use: by pages that are out, copies of pages that are in, and pages under
    /// way.
    pub fn slots_taken(&self) -> u64 {
        self.slots.taken()
    }

    fn done(&mut self, mut batch: Batch, actions: &mut Actions) {
        if !self.is_alive() {
            batch.pages.clear();
            batch.aside.clear();
            return self.park(batch);
        }
        match batch.lane {
            Lane::Out => self.advance_out(batch, actions),
            Lane::Demand | Lane::Ahead => self.advance_in(batch, actions),
            Lane::Move => self.advance_move(batch, actions),
        }
    }

    fn scanned(&mut self, scan: Scan, actions: &mut Actions) {
        match scan.outcome {
            Ok(()) => {
                let part = scan.part();
                self.read_ahead.scanned(&part);
                self.policy.referenced(&part);
            }
            Err(errno) if self.is_alive() => {
                actions.push(Action::Report(Report::NoScans(errno)));
            }
            Err(_) => {}
        }
        if self.scanner.done(scan) {
            self.policy.scanned();
        }
    }

    /// Accessed bits are read while something is to be out, or to go out, or somebody wants to know.
    fn start_scan(&mut self, actions: &mut Actions) {
        let resident = self.resident_pages();
        if self.wanted_out() > 0 || (self.config.watch_uses && self.is_running()) {
            actions.extend(self.scanner.start(resident).map(Action::Scan));
        }
    }

    fn resident_pages(&self) -> u64 {
        self.size_pages.saturating_sub(self.homes.out_pages())
    }

    fn resident(&mut self, pages: u64) {
        // Pages under way may be counted on either side: a difference that they explain is none.
        let size = pages
            .saturating_add(self.homes.out_pages())
            .min(self.config.max_pages);
        if size.abs_diff(self.size_pages) > self.flights.len() as u64 {
            self.size_pages = size;
        }
    }

    fn tick(&mut self) {
        self.policy.tick();
        self.scanner.tick();
        self.asks.tick();
        self.room.tick(self.homes.out_pages());
        self.tick_drains();
        self.ahead.waits = false;
        self.dry = false;
        self.eager = true;
        self.delay_reported = false;
    }

    fn stop(&mut self, actions: &mut Actions) {
        if matches!(self.phase, Phase::Running | Phase::Stopped) {
            self.phase = Phase::Stopping;
            self.nothing_follows(actions);
            self.ahead = Ahead::default();
        }
    }

    /// Starts whatever can be started now: faults first.
    fn go_on(&mut self, actions: &mut Actions) {
        if self.is_alive() {
            self.start_demand(actions);
            self.start_ahead(actions);
            self.start_move(actions);
            self.start_out(actions);
            self.start_scan(actions);
        }
        self.finish_if_done(actions);
    }

    fn finish_if_done(&mut self, actions: &mut Actions) {
        let idle = self.parked.iter().all(Option::is_some) && !self.scanner.is_under_way();
        let unreadable = self.unreadable.len();
        match self.phase {
            Phase::Gone if idle => {
                self.flights.clear();
                self.phase = Phase::Over;
            }
            Phase::Stopping
                if idle
                    && self.homes.out_pages() == unreadable
                    && (unreadable == 0 || self.ahead.vain_rounds >= self.config.read_attempts) =>
            {
                self.phase = Phase::Stopped;
            }
            _ => return,
        }
        actions.push(Action::Finished(Summary {
            domain_alive: self.is_alive(),
            unreadable_pages: unreadable,
            nominated_pages: self.nominated.len(),
        }));
    }

    fn is_alive(&self) -> bool {
        !matches!(self.phase, Phase::Gone | Phase::Over)
    }

    /// Whether pages go out at all: a copy may save a write.
    pub(super) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    /// How many pages the target wants out.
    pub(super) fn wanted_out(&self) -> u64 {
        match (self.phase, self.target_pages) {
            (Phase::Running, Some(target)) => self.size_pages.saturating_sub(target),
            _ => 0,
        }
    }

    /// How many more pages may go out, those that are leaving included.
    pub(super) fn out_deficit(&self) -> u64 {
        self.room
            .allowed(self.wanted_out())
            .saturating_sub(self.homes.out_pages())
    }

    /// A batch of this lane that is not under way.
    pub(super) fn unpark(&mut self, lane: Lane) -> Option<Batch> {
        let of_lane =
            |batch: &&mut Option<Batch>| batch.as_ref().is_some_and(|batch| batch.lane == lane);
        self.parked.iter_mut().find(of_lane)?.take()
    }

    pub(super) fn park(&mut self, batch: Batch) {
        if let Some(place) = self.parked.get_mut(batch.index) {
            *place = Some(batch);
        }
    }
}

impl Batch {
    fn new(index: usize, lane: Lane, capacity: usize) -> Self {
        Self {
            index,
            lane,
            step: Step::Nominate,
            pages: Vec::with_capacity(capacity),
            aside: Vec::new(),
        }
    }

    /// A page to be brought in, or moved.
    pub(super) fn add(&mut self, gfn: Gfn, home: Home) {
        self.add_to_save(gfn, home, Like::Nothing, false);
    }

    pub(super) fn add_to_save(&mut self, gfn: Gfn, home: Home, like: Like, had_copy: bool) {
        let buffer = self.pages.len();
        self.pages.push(Page {
            gfn,
            home,
            like,
            had_copy,
            buffer,
            outcome: Err(PageError::NotDone),
            saved: Saved::Written,
        });
    }

    pub(super) fn run(mut self, step: Step, actions: &mut Actions) {
        self.step = step;
        for page in &mut self.pages {
            page.outcome = Err(PageError::NotDone);
        }
        actions.push(Action::Run(self));
    }
}
