// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page-in: load and prep, for those who wait (row B8) and before anybody asks (row B4).

use p2m_paging::{Errno, Gfn};

use super::Pager;
use crate::batch::{Lane, LaneBatch, Page, PageError, PageInStep};
use crate::event::{Action, Actions, Loss, LossCause, Need, Report};
use crate::flight::{Direction, FlightOutcome};

impl Pager {
    /// Starts a batch of all pages that somebody waits for and that can be loaded now, and what
    /// read-ahead wants with them.
    pub(super) fn start_demand(&mut self, actions: &mut Actions) {
        let mut nth = 0;
        let mut filling: Option<LaneBatch<PageInStep>> = None;
        while let Some((found, gfn)) = self.pending.ready(nth) {
            nth = found + 1;
            if self.flights.contains(gfn) {
                continue;
            }
            let Some(location) = self.placement.locations.out(gfn) else {
                if self.problem_pages.lost.contains(gfn.get()) {
                    nth = self.lost_is_needed(gfn, nth, actions);
                }
                continue;
            };
            let batch = filling.take();
            let Some(mut batch) = batch.or_else(|| self.lanes.page_in.take(Lane::Demand)) else {
                break;
            };
            self.flights.start(gfn, Direction::In);
            batch.add(gfn, location);
            if batch.pages.len() < self.config.requests {
                filling = Some(batch);
            } else {
                self.lanes.page_in.run(batch, PageInStep::Load, actions);
            }
        }
        if let Some(mut batch) = filling {
            self.add_read_ahead(&mut batch);
            self.lanes.page_in.run(batch, PageInStep::Load, actions);
        }
        self.read_ahead.clear_wanted();
    }

    /// Adds pages that read-ahead wants, as far as there is room and each is still out.
    fn add_read_ahead(&mut self, batch: &mut LaneBatch<PageInStep>) {
        for nth in 0.. {
            let Some(range) = self.read_ahead.wanted(nth) else {
                return;
            };
            let mut added = 0;
            for (gfn, place) in range.pages().zip(0..) {
                if batch.pages.len() == self.config.requests {
                    break;
                }
                let Some(gfn) = Gfn::try_new(gfn) else { break };
                let is_free = !self.flights.contains(gfn)
                    && !self.problem_pages.unreadable.contains(gfn.get());
                if is_free && let Some(location) = self.placement.locations.out(gfn) {
                    self.flights.start(gfn, Direction::In);
                    batch.add(gfn, location);
                    added |= 1 << place;
                }
            }
            self.read_ahead.streams.brings(range, added);
        }
    }

    /// A step is done: the next one for the pages that go on.
    pub(super) fn page_in_step_done(
        &mut self,
        mut batch: LaneBatch<PageInStep>,
        actions: &mut Actions,
    ) {
        let lane = batch.lane;
        let mut pages = std::mem::take(&mut batch.pages);
        match batch.step {
            PageInStep::Load => pages.retain(|page| self.loaded(page, actions)),
            PageInStep::Prep => pages
                .drain(..)
                .for_each(|page| self.prepped(&page, lane, actions)),
        }
        batch.pages = pages;
        if batch.pages.is_empty() {
            self.lanes.page_in.park(batch)
        } else {
            self.lanes.page_in.run(batch, PageInStep::Prep, actions)
        }
    }

    /// Whether a page can be given to the guest.
    fn loaded(&mut self, page: &Page, actions: &mut Actions) -> bool {
        match page.outcome {
            Ok(()) if self.flights.outcome(page.gfn).goes_in() => return true,
            _ if self.flights.end(page.gfn) == FlightOutcome::Dropped => {
                self.forget(page.gfn, actions);
            }
            Err(error @ PageError::Store(_)) => self.read_failed(page.gfn, error, actions),
            Err(error) => self.delayed(page.gfn, error, actions),
            Ok(()) => {}
        }
        self.read_ahead.streams.wasted(page.gfn);
        false
    }

    fn prepped(&mut self, page: &Page, lane: Lane, actions: &mut Actions) {
        let gfn = page.gfn;
        let outcome = self.flights.end(gfn);
        if page.outcome.is_err() {
            self.read_ahead.streams.wasted(gfn);
        }
        match page.outcome {
            Ok(()) => self.paged_in(gfn, lane, actions),
            Err(_) if outcome == FlightOutcome::Dropped => self.forget(gfn, actions),
            Err(PageError::Refused(Errno::ENOENT)) => self.found_removed(gfn, outcome, actions),
            Err(error) => self.delayed(gfn, error, actions),
        }
    }

    /// It turns out that the guest gave a page back, which was in flight with this outcome.
    pub(super) fn found_removed(
        &mut self,
        gfn: Gfn,
        outcome: FlightOutcome,
        actions: &mut Actions,
    ) {
        if self.drop_was_heard(gfn, outcome) {
            self.pending.answer(gfn, actions);
            self.forget(gfn, actions);
        } else {
            self.removed_by_guest(gfn, actions);
        }
    }

    /// Whether the guest's drop of a page that turns out to be removed has been heard of. A drop that
    /// may belong to an earlier life of the page is answered at once and leaves the flight uncertain.
    /// Where pages were out before this pager came, the drop stays pending until prep has answered, or is
    /// remembered if the page does not read back meanwhile.
    ///
    /// One rule for both would cost either way: if all drops were pending, each would load its page
    /// once more after a failed prep; if none were, a pager that takes over would forget pages that it
    /// has evicted itself.
    fn drop_was_heard(&self, gfn: Gfn, outcome: FlightOutcome) -> bool {
        matches!(
            outcome,
            FlightOutcome::DropUncertain | FlightOutcome::Dropped
        ) || self.pending.has_drop(gfn)
            || self.problem_pages.maybe_dropped.contains(gfn.get())
    }

    fn paged_in(&mut self, gfn: Gfn, lane: Lane, actions: &mut Actions) {
        let asked = self.pending.answer(gfn, actions) > 0;
        if self.goal.is_running() {
            self.placement.locations.comes_in(gfn);
        } else {
            self.placement.free_location(gfn, actions);
        }
        self.problem_pages.not_unreadable(gfn);
        self.not_lost(gfn, actions);
        self.problem_pages.not_maybe_dropped(gfn);
        self.policy.paged_in(gfn, asked);
        self.scanner.paged_in();
        self.progress.paged_in += 1;
        match lane {
            Lane::Demand => self.progress.read_ahead += u64::from(!asked),
            Lane::Prefetch | Lane::Move | Lane::Out => {
                self.progress.prefetched += u64::from(!asked);
            }
        }
        self.prefetch.paged_in();
        self.page_out.paged_in();
    }

    /// The hypervisor knows nothing of a page that is out: the guest gave it back, and the drop request
    /// is still on its way. Until it comes the page is no victim: it may be memory again by now, and
    /// the late drop would be taken for one of the new contents.
    fn removed_by_guest(&mut self, gfn: Gfn, actions: &mut Actions) {
        self.pending.answer(gfn, actions);
        self.placement.free_location(gfn, actions);
        self.count_dropped(gfn, actions);
        self.problem_pages.removed.insert(gfn.get(), ());
    }

    /// The page did not read back: the guest is not given what the store does not vouch for. After
    /// some attempts its requests are answered all the same: the hypervisor sees that the page is not
    /// resident, whoever waits asks again, and the ring slot serves others meanwhile.
    pub(super) fn read_failed(&mut self, gfn: Gfn, error: PageError, actions: &mut Actions) {
        if self.problem_pages.read_failed(gfn) {
            actions.push(Action::Report(Report::Unreadable { gfn, error }));
        }
        let had_drop = self.pending.has_drop(gfn);
        let gone = self.losses.read_failed(gfn, error);
        let attempts = self.config.read_attempts;
        let is_needed = self
            .pending
            .read_failed(gfn, gone.is_some(), attempts, actions);
        if let Some(error) = gone.filter(|_| is_needed) {
            let (cause, need) = (LossCause::Store(error), Need::Requested);
            self.stop_guest(Loss { gfn, cause, need }, actions);
        }
        if had_drop && !self.pending.has_drop(gfn) {
            // Whether it is removed is not known yet: the prep says, once it reads back.
            self.pending.answer(gfn, actions);
            self.problem_pages.maybe_dropped.insert(gfn.get(), ());
        }
        self.prefetch.read_failed();
    }

    /// The page could not be given to the guest now: most likely there is no memory.
    fn delayed(&mut self, gfn: Gfn, error: PageError, actions: &mut Actions) {
        self.pending.wait_for_memory(gfn);
        if self.prefetch.delayed() {
            actions.push(Action::Report(Report::Delayed { gfn, error }));
        }
    }
}
