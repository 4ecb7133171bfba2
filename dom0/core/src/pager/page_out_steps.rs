// SPDX-License-Identifier: MIT OR Apache-2.0
//! The steps of page-out: nominate, save, evict, and restore what stays (rows B5, B7).

use p2m_paging::{Errno, Gfn};

use super::Pager;
use crate::batch::{Lane, LaneBatch, Page, PageError, PageOutStep};
use crate::event::{Action, Actions, Report};
use crate::flight::{Direction, FlightOutcome};
use crate::locations::Location;
use crate::store::{CompareWith, Saved, StoreError};

impl Pager {
    /// How many more pages may go out, those in flight included.
    fn out_deficit(&self) -> u64 {
        self.page_out
            .capacity
            .allowed(self.goal.wanted_out())
            .saturating_sub(self.out_pages())
    }

    /// Starts a batch towards the target, of as many victims as there are.
    pub(super) fn start_page_out(&mut self, actions: &mut Actions) {
        let evicting = self.lanes.evicting_pages();
        let (deficit, threshold) = (self.out_deficit(), self.config.out_threshold);
        let Some(rest) = self.page_out.next_batch(deficit, evicting, threshold) else {
            return;
        };
        let Some(mut batch) = self.lanes.page_out.take(Lane::Out) else {
            return;
        };
        let want = usize::try_from(rest)
            .unwrap_or(usize::MAX)
            .min(self.config.out_batch);
        for _ in 0..want {
            let Some(gfn) = self.policy.choose() else {
                self.page_out.no_victim = true;
                break;
            };
            if self.flights.outcome(gfn) == FlightOutcome::Leftover {
                // It is being restored.
                self.policy.refused(gfn);
                continue;
            }
            // A page is in one batch only: from a second one it would be evicted with the copy of the
            // first.
            if self.flights.contains(gfn) || self.placement.locations.is_out(gfn) {
                debug_assert!(false, "{gfn} is chosen while it is in flight or out");
                continue;
            }
            let had_copy = self.placement.locations.copy(gfn).is_some();
            let slot = self.placement.allocate_slot(gfn, &self.flights, actions);
            let Some((slot, compare_with)) = slot else {
                self.policy.abandoned(gfn);
                let held = self.out_pages() + evicting + batch.pages.len() as u64;
                let full = PageError::Store(StoreError::Full);
                let report = self.page_out.capacity.refused(held, gfn, full);
                actions.extend(report.map(Action::Report));
                break;
            };
            self.flights.start(gfn, Direction::Out);
            batch.add_to_save(gfn, Location::Slot(slot), compare_with, had_copy);
        }
        if batch.pages.is_empty() {
            self.lanes.page_out.park(batch)
        } else {
            self.lanes
                .page_out
                .run(batch, PageOutStep::Nominate, actions)
        }
    }

    /// A step is done: the next one for the pages that go on.
    pub(super) fn page_out_step_done(
        &mut self,
        mut batch: LaneBatch<PageOutStep>,
        actions: &mut Actions,
    ) {
        let mut pages = std::mem::take(&mut batch.pages);
        // What the target still wants of this batch: it may have been raised meanwhile.
        let evicting = self.lanes.evicting_pages();
        let mut wanted = self.out_deficit().saturating_sub(evicting);
        let next = match batch.step {
            PageOutStep::Nominate => {
                pages.retain(|page| self.nominated(page, &mut wanted, actions));
                PageOutStep::Save
            }
            PageOutStep::Save => {
                self.note_capacity(&pages, &batch.aside, actions);
                for page in &mut pages {
                    self.record_slot(page, actions);
                }
                if pages.iter().any(|page| self.compares(page)) {
                    let others = pages.extract_if(.., |page| !self.compares(page));
                    batch.aside.extend(others);
                    batch.pages = pages;
                    return self.lanes.page_out.run(batch, PageOutStep::Save, actions);
                }
                pages.append(&mut batch.aside);
                pages.retain(|page| self.saved(page, &mut wanted, actions));
                PageOutStep::Evict
            }
            PageOutStep::Evict => {
                pages
                    .drain(..)
                    .for_each(|page| self.evicted(&page, actions));
                self.pending.memory_freed();
                PageOutStep::Restore
            }
            PageOutStep::Restore | PageOutStep::RestoreLeftovers => {
                pages
                    .drain(..)
                    .for_each(|page| self.restored(&page, actions));
                PageOutStep::Restore
            }
            PageOutStep::Probe => {
                pages.drain(..).for_each(|page| self.probed(&page, actions));
                PageOutStep::Restore
            }
        };
        batch.pages = pages;
        if !batch.pages.is_empty() {
            return self.lanes.page_out.run(batch, next, actions);
        }
        if self.page_out.to_restore.is_empty() {
            return self.lanes.page_out.park(batch);
        }
        batch.pages.append(&mut self.page_out.to_restore);
        // Pages that were asked for while they were evicted can be loaded now, and go first.
        self.start_demand(actions);
        self.lanes
            .page_out
            .run(batch, PageOutStep::Restore, actions);
    }

    /// Whether a page goes on to be saved.
    fn nominated(&mut self, page: &Page, wanted: &mut u64, actions: &mut Actions) -> bool {
        if page.outcome.is_ok() {
            self.problem_pages.not_nominated(page.gfn);
        }
        match (page.outcome, self.flights.outcome(page.gfn)) {
            (Ok(()), FlightOutcome::Proceed) if self.continues(page, wanted) => return true,
            (Ok(()), FlightOutcome::Dropped) => self.stays(page, actions),
            (Ok(()), _) => self.stays_nominated(page, true, actions),
            (Err(error), _) => {
                self.pending.answer(page.gfn, actions);
                self.mark_unmoved(page, error);
                self.stays(page, actions);
            }
        }
        // Nothing was written to it.
        match page.location {
            Location::Slot(slot) if page.compare_with == CompareWith::Own => {
                self.placement.slots.written(slot);
            }
            Location::Slot(slot) => _ = self.placement.slots.give(slot),
            Location::Zeros => {}
        }
        false
    }

    /// Whether a page that has been saved goes on to be evicted.
    fn saved(&mut self, page: &Page, wanted: &mut u64, actions: &mut Actions) -> bool {
        let outcome = self.flights.outcome(page.gfn);
        let proceeds = page.outcome.is_ok() && outcome == FlightOutcome::Proceed;
        if proceeds && self.continues(page, wanted) {
            return true;
        }
        if outcome == FlightOutcome::Dropped {
            self.stays(page, actions);
        } else {
            let again = !matches!(page.outcome, Err(PageError::Unmapped(_)));
            self.stays_nominated(page, again, actions);
        }
        false
    }

    /// Records what became of the slot of a page that was to be saved. From here on it belongs to the
    /// page, whether the page goes out or stays, or to nobody; unless the page is to be compared first.
    fn record_slot(&mut self, page: &mut Page, actions: &mut Actions) {
        let (gfn, Location::Slot(slot)) = (page.gfn, page.location) else {
            return;
        };
        if page.compare_with == CompareWith::Own {
            self.placement.locations.forget(gfn);
        }
        match (page.outcome, page.saved, page.compare_with) {
            (Ok(()), Saved::Zeros, _) => {
                self.placement.free_location(gfn, actions);
                self.placement.give_back(slot, actions);
                page.location = Location::Zeros;
            }
            (Ok(()), Saved::Unchanged, CompareWith::Slot(other)) => {
                // Its copy is there, and trusted from here on.
                self.placement.give_back(slot, actions);
                page.location = Location::Slot(other);
            }
            (Ok(()), Saved::DedupCandidate(other), _) if self.compares(page) => {
                let is_shared = self.placement.slots.share(other);
                if is_shared {
                    self.placement.free_location(gfn, actions);
                    self.placement.locations.keep(gfn, other);
                }
                page.compare_with = if is_shared {
                    CompareWith::Slot(other)
                } else {
                    CompareWith::Nothing
                };
                if std::mem::take(&mut page.had_copy) {
                    // The page is not what it was.
                    self.read_ahead.streams.hit(gfn);
                }
            }
            (Ok(()), Saved::DedupCandidate(_), _) => _ = self.placement.give_back(slot, actions),
            (Ok(()), saved, _) => {
                self.progress.written += u64::from(saved == Saved::Written);
                self.placement.saved_in(slot, saved);
                self.placement.free_location(gfn, actions);
                self.placement.locations.keep(gfn, slot);
            }
            (Err(error @ PageError::Store(_)), ..) => {
                self.placement.not_written(slot, error, actions);
            }
            (Err(_), ..) => _ = self.placement.give_back(slot, actions),
        }
    }

    /// Whether a page that has not been written, because it seems to be a duplicate, is to be compared.
    fn compares(&self, page: &Page) -> bool {
        page.outcome.is_ok()
            && matches!(page.saved, Saved::DedupCandidate(_))
            && self.flights.outcome(page.gfn) == FlightOutcome::Proceed
    }

    fn evicted(&mut self, page: &Page, actions: &mut Actions) {
        match (page.outcome, self.flights.outcome(page.gfn)) {
            (Ok(()), FlightOutcome::Dropped) => self.stays(page, actions),
            // Whatever was requested meanwhile: the slot is the page's only location.
            (
                Ok(()) | Err(PageError::Uncertain),
                FlightOutcome::Proceed
                | FlightOutcome::DropUncertain
                | FlightOutcome::Leftover
                | FlightOutcome::Probe
                | FlightOutcome::Cancelled { .. },
            ) => {
                self.flights.end(page.gfn);
                self.placement.locations.goes_out(page.gfn, page.location);
                if page.saved == Saved::Written && page.had_copy {
                    self.read_ahead.streams.hit(page.gfn);
                } else {
                    self.read_ahead.streams.wasted(page.gfn);
                }
                self.policy.paged_out(page.gfn);
                self.progress.evicted += 1;
                let is_unwritten = page.saved == Saved::Unchanged;
                self.progress.unchanged += u64::from(is_unwritten && page.had_copy);
                self.progress.deduplicated += u64::from(is_unwritten && !page.had_copy);
                self.progress.zeros += u64::from(page.saved == Saved::Zeros);
                if page.outcome.is_err() {
                    // A prep finds it if it is not out, and a restore if it is nominated.
                    self.stays_in_books(page, actions);
                }
            }
            (Err(error), outcome) => {
                self.mark_unmoved(page, error);
                if outcome == FlightOutcome::Dropped {
                    self.stays(page, actions);
                } else {
                    self.stays_nominated(page, error == PageError::NotDone, actions);
                }
            }
        }
    }

    fn restored(&mut self, page: &Page, actions: &mut Actions) {
        // A page that the guest gave back meanwhile is not there to be restored.
        let is_removed = matches!(
            page.outcome,
            Err(PageError::Refused(Errno::ENOENT) | PageError::Unmapped(Errno::ENOENT))
        );
        match page.outcome {
            Err(_) if !is_removed && self.flights.outcome(page.gfn) != FlightOutcome::Dropped => {
                self.stays_in_books(page, actions);
            }
            Ok(()) | Err(_) => self.problem_pages.not_nominated(page.gfn),
        }
        // If it was not known whether the page is out, its requests wait for the prep.
        if !self.placement.locations.is_out(page.gfn) {
            self.pending.answer(page.gfn, actions);
        }
        if !self.leftover_restored(page) {
            self.stays(page, actions);
        }
    }

    /// The page may be nominated although it is not to be: it is restored before the pager ends.
    fn stays_in_books(&mut self, page: &Page, actions: &mut Actions) {
        let (gfn, is_news) = (page.gfn, self.problem_pages.restore_failed(page.gfn));
        if let Err(error) = page.outcome
            && is_news
        {
            actions.push(Action::Report(Report::StaysNominated { gfn, error }));
        }
    }

    /// A page that somebody asked for, or that the target does not want out any more, does not continue.
    fn continues(&mut self, page: &Page, wanted: &mut u64) -> bool {
        if *wanted == 0 || self.pending.has(page.gfn) {
            return false;
        }
        *wanted -= 1;
        true
    }

    /// The page's contents stay in the guest and whoever waits for it is answered. The page is still
    /// to be restored, even where a request with `EVICT_FAIL` has been answered: that one may have
    /// been sent during an earlier nomination.
    fn stays_nominated(&mut self, page: &Page, again: bool, actions: &mut Actions) {
        let asked = self.pending.answer(page.gfn, actions) > 0;
        self.cancel(page, again && !asked);
        self.page_out.to_restore.push(*page);
    }

    /// The hypervisor refused this step. A step that was not done says nothing about the page.
    fn mark_unmoved(&mut self, page: &Page, error: PageError) {
        let again = error == PageError::NotDone;
        self.cancel(page, again);
        self.progress.refused += u64::from(!again);
    }

    /// A page that was to be evicted stays. `again`: it may be chosen again as if nothing had been tried.
    fn cancel(&mut self, page: &Page, again: bool) {
        if self.flights.outcome(page.gfn) == FlightOutcome::Proceed {
            let outcome = FlightOutcome::Cancelled { again };
            self.flights.set_outcome(page.gfn, outcome);
        }
    }

    /// The page is not in flight any more and has not been evicted.
    fn stays(&mut self, page: &Page, actions: &mut Actions) {
        if !self.goal.is_running() {
            self.placement.free_location(page.gfn, actions);
        }
        match self.flights.end(page.gfn) {
            FlightOutcome::Dropped => self.forget(page.gfn, actions),
            FlightOutcome::Cancelled { again: true }
            | FlightOutcome::Proceed
            | FlightOutcome::Leftover
            | FlightOutcome::Probe
            | FlightOutcome::DropUncertain => self.policy.abandoned(page.gfn),
            FlightOutcome::Cancelled { again: false } => self.policy.refused(page.gfn),
        }
    }

    /// Takes note of what a save says about the store.
    fn note_capacity(&mut self, pages: &[Page], aside: &[Page], actions: &mut Actions) {
        let is_saved =
            |page: &&Page| page.outcome.is_ok() && !matches!(page.saved, Saved::DedupCandidate(_));
        let saved = pages.iter().chain(aside).filter(is_saved).count() as u64;
        let held = self.out_pages() + self.lanes.saved_pages() + saved;
        let failed = self.note_failed_areas(pages, actions);
        let capacity = &mut self.page_out.capacity;
        let report = match failed {
            Some(_) if self.placement.slots.has_healthy_free_slot() => None,
            Some((gfn, error @ PageError::Store(StoreError::Full))) => {
                let without_copies = held + self.placement.locations.copies();
                let given_up = self.placement.give_up_copies(&self.flights, actions);
                // Where copies are all that is in the way, page-out goes on at once.
                let goes_on = given_up > 0 && self.goal.wanted_out() <= without_copies;
                (!goes_on)
                    .then(|| capacity.refused(held + given_up, gfn, error))
                    .flatten()
            }
            Some((gfn, error)) => capacity.refused(held, gfn, error),
            None => capacity.written(held, self.config.out_batch as u64),
        };
        actions.extend(report.map(Action::Report));
    }

    /// The area of each page that the store did not take has failed. Returns the first such page.
    fn note_failed_areas(
        &mut self,
        pages: &[Page],
        actions: &mut Actions,
    ) -> Option<(Gfn, PageError)> {
        let mut first = None;
        for page in pages {
            let (Location::Slot(slot), Err(error @ PageError::Store(_))) =
                (page.location, page.outcome)
            else {
                continue;
            };
            first = first.or(Some((page.gfn, error)));
            self.placement.area_failed(slot, error, actions);
        }
        first
    }
}
