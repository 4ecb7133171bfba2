// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pager itself: what it knows, and what it does about an event.
//!
//! What changes together is a part with rules of its own; what a request or a batch does to several
//! parts is in `requests`, `page_in`, `page_out_steps` and `moves`.

mod adopt;
mod drain;
mod goal;
mod leftovers;
mod loss;
mod moves;
mod page_in;
mod page_out;
mod page_out_steps;
mod placement;
mod prefetch;
mod probe;
mod problem_pages;
mod read_ahead_lane;
mod requests;
mod rounds;

use std::ops::RangeInclusive;

use p2m_paging::Gfn;

use super::batch::{AnyLane, Batch};
use super::config::{Config, Progress};
use super::event::{Action, Actions, Event, Report, Summary};
use super::flight::Flights;
use super::lanes::Lanes;
use super::locations::Location;
use super::pending::PendingRequests;
use super::policy::Policy;
use super::scan::{Scan, Scanner};
use super::slots::AreaFigures;
pub use adopt::Adoption;
use drain::Drains;
use goal::{Goal, Phase};
use loss::Losses;
use page_out::PageOut;
use placement::Placement;
use prefetch::Prefetch;
use probe::Probe;
use problem_pages::ProblemPages;
use read_ahead_lane::ReadAheadLane;

/// The pager's core. See the [crate](super) for how pages move through it.
#[derive(Debug)]
pub struct Pager {
    config: Config,
    policy: Box<dyn Policy>,
    scanner: Scanner,
    goal: Goal,
    lanes: Lanes,
    flights: Flights,
    pending: PendingRequests,
    pub(super) placement: Placement,
    page_out: PageOut,
    prefetch: Prefetch,
    probe: Probe,
    read_ahead: ReadAheadLane,
    drains: Drains,
    problem_pages: ProblemPages,
    losses: Losses,
    /// To be reported with the first event.
    adoption_report: Option<Report>,
    /// What has been counted. Figures that can be derived are filled in by [`Self::progress`].
    progress: Progress,
}

impl Pager {
    /// A pager with nothing out. It pages nothing out before the first [`Event::Target`].
    pub fn new(config: Config, policy: Box<dyn Policy>) -> Self {
        let config = config.clamped();
        Self {
            scanner: Scanner::new(&config.memory, policy.wants_scans()),
            policy,
            goal: Goal::new(config.max_pages),
            lanes: Lanes::new(&config),
            flights: Flights::with_room_for(Lanes::pages(&config)),
            pending: PendingRequests::with_room_for(config.requests),
            placement: Placement::new(&config.areas),
            page_out: PageOut::with_room_for(Lanes::pages_to_restore(&config)),
            prefetch: Prefetch::default(),
            probe: Probe::default(),
            read_ahead: ReadAheadLane::new(config.read_ahead, config.requests),
            drains: Drains::default(),
            problem_pages: ProblemPages::default(),
            losses: Losses::default(),
            adoption_report: None,
            progress: Progress::default(),
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

    /// Where the guest has memory.
    pub fn memory(&self) -> &[RangeInclusive<u64>] {
        &self.config.memory
    }

    /// A list for the actions, large enough that no fault makes it grow.
    pub fn actions(&self) -> Actions {
        let batch = self.config.out_batch.max(self.config.prefetch_batch);
        Actions::with_capacity(4 * (batch + self.config.requests))
    }

    /// Takes one event; what is to be done about it is added to `actions`.
    pub fn handle(&mut self, event: Event<'_>, actions: &mut Actions) {
        actions.extend(self.adoption_report.take().map(Action::Report));
        match event {
            Event::Requests(requests) if self.goal.is_alive() => {
                for request in requests {
                    self.request(request, actions);
                }
            }
            Event::Requests(_) => {}
            Event::Done(batch) => self.done(batch, actions),
            Event::Target(pages) => {
                self.goal.set_target(pages);
                self.page_out.start_soon();
                self.prefetch.target_changed();
            }
            Event::Resident(pages) => {
                let in_flight = self.flights.len() as u64;
                self.goal.set_resident(pages, self.out_pages(), in_flight);
            }
            Event::Tick => self.tick(actions),
            Event::Scanned(scan) => self.scanned(scan, actions),
            Event::AreaAdded(area) => self.area_added(area, actions),
            Event::Drain(area) => self.drain(area),
            Event::Stop => self.stop(actions),
            Event::DomainGone => {
                if self.goal.guest_gone() {
                    self.pending.clear();
                }
            }
        }
        self.go_on(actions);
    }

    /// How many more requests may be taken off the ring now.
    ///
    /// A shell that takes more makes the list of requests grow; none is lost.
    pub fn room(&self) -> usize {
        self.config.requests.saturating_sub(self.pending.len())
    }

    /// How many batches can be under way: the number of buffer sets that a shell prepares.
    pub fn batches(&self) -> usize {
        self.lanes.len()
    }

    /// How many buffers the set of batch `index` needs; 0 where no pages are loaded.
    pub fn buffers(&self, index: usize) -> usize {
        match index.checked_sub(self.config.requests) {
            None => self.config.requests,
            Some(0 | 1) => self.config.prefetch_batch,
            Some(_) => 0,
        }
    }

    /// Figures.
    pub fn progress(&self) -> Progress {
        let resident = self.goal.resident_pages(self.out_pages());
        Progress {
            size_pages: self.goal.size_pages(),
            used_pages: self.scanner.used_pages().map(|used| used.min(resident)),
            out_pages: self.out_pages(),
            copies: self.placement.locations.copies(),
            read_ahead_outcome: self.read_ahead.streams.outcome(),
            wanted_out_pages: self.goal.wanted_out(),
            unreadable_pages: self.problem_pages.unreadable.len(),
            lost_pages: self.problem_pages.lost.len(),
            corrupt_pages: self.losses.corrupt_pages(),
            nominated_pages: self.problem_pages.nominated.len(),
            paging_out_pages: self.lanes.paging_out_pages() + self.page_out.to_restore.len() as u64,
            waiting_requests: self.pending.len() as u64,
            ..self.progress
        }
    }

    /// How the store's areas stand, the one that is written to next first.
    pub fn areas(&self) -> impl Iterator<Item = AreaFigures> + '_ {
        self.placement.slots.figures()
    }

    /// The pages that are out and did not read back, in order.
    pub fn unreadable(&self) -> impl Iterator<Item = Gfn> + '_ {
        self.problem_pages
            .unreadable
            .iter()
            .filter_map(|(gfn, ())| Gfn::try_new(gfn))
    }

    /// The pages that are out since before this pager came, and that nothing says where they lie, in
    /// order.
    pub fn lost(&self) -> impl Iterator<Item = Gfn> + '_ {
        let lost = self.problem_pages.lost.iter();
        lost.filter_map(|(gfn, ())| Gfn::try_new(gfn))
    }

    /// Memory in use for what is kept per page, in bytes. The store adds its own.
    pub fn table_bytes(&self) -> usize {
        self.policy.table_bytes()
            + self.placement.table_bytes()
            + self.problem_pages.table_bytes()
            + self.losses.table_bytes()
    }

    /// Where the contents of a page lie, if it is out.
    pub fn location_of(&self, gfn: Gfn) -> Option<Location> {
        self.placement.locations.out(gfn)
    }

    /// Slots of the store in use: by pages that are out, copies of pages that are in, and pages under
    /// way.
    pub fn slots_taken(&self) -> u64 {
        self.placement.slots.taken()
    }

    fn done(&mut self, batch: Batch, actions: &mut Actions) {
        match batch.0 {
            AnyLane::PageIn(mut batch) => {
                self.lanes.page_in.returned(&batch);
                if self.goal.is_alive() {
                    return self.page_in_step_done(batch, actions);
                }
                batch.clear();
                self.lanes.page_in.park(batch);
            }
            AnyLane::Move(mut batch) => {
                self.lanes.moves.returned(&batch);
                if self.goal.is_alive() {
                    return self.move_step_done(batch, actions);
                }
                batch.clear();
                self.lanes.moves.park(batch);
            }
            AnyLane::PageOut(mut batch) => {
                self.lanes.page_out.returned(&batch);
                if self.goal.is_alive() {
                    return self.page_out_step_done(batch, actions);
                }
                batch.clear();
                self.lanes.page_out.park(batch);
            }
        }
    }

    fn scanned(&mut self, scan: Scan, actions: &mut Actions) {
        match scan.outcome {
            Ok(()) => {
                let part = scan.part();
                self.read_ahead.streams.scanned(&part);
                self.policy.referenced(&part);
            }
            Err(errno) if self.goal.is_alive() => {
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
        let resident = self.goal.resident_pages(self.out_pages());
        if self.goal.wanted_out() > 0 || (self.config.watch_uses && self.goal.is_running()) {
            actions.extend(self.scanner.start(resident).map(Action::Scan));
        }
    }

    /// How many pages are out, lost ones included.
    fn out_pages(&self) -> u64 {
        self.placement.locations.out_pages() + self.problem_pages.lost.len()
    }

    fn tick(&mut self, actions: &mut Actions) {
        let ended = self.problem_pages.tick().into_iter().flatten();
        actions.extend(ended.chain(self.prefetch.tick()).map(Action::Report));
        self.policy.tick();
        self.scanner.tick();
        self.pending.tick();
        self.page_out.tick(self.out_pages());
        self.probe.tick(!self.problem_pages.unreadable.is_empty());
        self.drains.tick();
        self.losses.tick();
        self.placement.tick(actions);
    }

    fn stop(&mut self, actions: &mut Actions) {
        if self.goal.stop() {
            self.stop_drains(actions);
            self.prefetch.restart();
        }
    }

    /// Starts whatever can be started now: faults first.
    fn go_on(&mut self, actions: &mut Actions) {
        if self.goal.is_alive() {
            self.start_demand(actions);
            self.start_prefetch(actions);
            self.read_lost_again(actions);
            self.start_move(actions);
            self.start_page_out(actions);
            self.restore_leftovers(actions);
            self.start_probe(actions);
            self.start_scan(actions);
        }
        self.finish_if_done(actions);
    }

    fn finish_if_done(&mut self, actions: &mut Actions) {
        let idle = self.lanes.are_idle() && !self.scanner.is_under_way();
        let unreadable = self.problem_pages.unreadable.len();
        match self.goal.phase() {
            Phase::Gone if idle => {
                self.flights.clear();
                self.goal.gone_reported();
            }
            Phase::Stopping
                if idle
                    && self.problem_pages.nominated.is_empty()
                    && self.placement.locations.out_pages() == unreadable
                    && (unreadable == 0 || self.prefetch.is_stalled(self.config.read_attempts)) =>
            {
                self.goal.stopped();
                self.stop_guest_at_end(actions);
            }
            _ => return,
        }
        let ended = self.problem_pages.finish().into_iter().flatten();
        actions.extend(ended.chain(self.prefetch.finish()).map(Action::Report));
        actions.push(Action::Finished(Summary {
            domain_alive: self.goal.is_alive(),
            unreadable_pages: unreadable + self.problem_pages.lost.len(),
        }));
    }
}
