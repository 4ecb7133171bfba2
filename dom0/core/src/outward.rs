// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way out: nominate, save, evict, and restore what stays (rows B5, B7).

use p2m_paging::{Errno, Gfn};

use super::event::{Action, Actions, Batch, Lane, Page, PageError, Report, Step};
use super::flight::{Fate, Way};
use super::homes::Home;
use super::pager::Pager;
use super::slots::CLUSTER;
use crate::store::{Like, Saved, Slot, StoreError};

/// Copies that are given up together when the store is full.
const COPIES_AT_ONCE: usize = 512;
/// Pages looked at for that.
const COPIES_REACH: usize = 4096;

impl Pager {
    /// Starts a batch towards the target, of as many victims as there are.
    pub(super) fn start_out(&mut self, actions: &mut Actions) {
        let deficit = self.out_deficit();
        if deficit == 0 {
            self.eager = false;
        }
        let deficit = deficit.saturating_sub(self.leaving);
        if deficit == 0 || self.dry || (deficit < self.config.out_threshold && !self.eager) {
            return;
        }
        let Some(mut batch) = self.unpark(Lane::Out) else {
            return;
        };
        let want = usize::try_from(deficit)
            .unwrap_or(usize::MAX)
            .min(self.config.out_batch);
        for _ in 0..want {
            let Some(gfn) = self.policy.choose() else {
                self.dry = true;
                break;
            };
            // A page has one flight: a second one would be evicted with the copy of the first.
            if self.flights.contains(gfn) || self.homes.is_out(gfn) {
                debug_assert!(false, "{gfn} is chosen while it is under way or out");
                continue;
            }
            let had_copy = self.homes.copy(gfn).is_some();
            let Some((slot, like)) = self.place_out(gfn, actions) else {
                self.policy.abandoned(gfn);
                let held = self.homes.out_pages() + self.leaving + batch.pages.len() as u64;
                let full = PageError::Store(StoreError::Full);
                let report = self.room.refused(held, gfn, full);
                actions.extend(report.map(Action::Report));
                break;
            };
            self.flights.start(gfn, Way::Out);
            batch.add_to_save(gfn, Home::Slot(slot), like, had_copy);
        }
        if batch.pages.is_empty() {
            self.park(batch)
        } else {
            self.leaving += batch.pages.len() as u64;
            batch.run(Step::Nominate, actions)
        }
    }

    /// A step is done: the next one for the pages that go on.
    pub(super) fn advance_out(&mut self, mut batch: Batch, actions: &mut Actions) {
        let step = batch.step;
        let mut pages = std::mem::take(&mut batch.pages);
        if matches!(step, Step::Nominate | Step::Save | Step::Evict) {
            self.leaving -= (pages.len() + batch.aside.len()) as u64;
        }
        // What the target still wants of this batch: it may have been raised meanwhile.
        let mut wanted = self.out_deficit().saturating_sub(self.leaving);
        match step {
            Step::Nominate => {
                pages.retain(|page| self.nominated(page, &mut wanted, actions));
            }
            Step::Save => {
                self.note_room(&pages, &batch.aside, actions);
                for page in &mut pages {
                    self.settle_slot(page, actions);
                }
                if pages.iter().any(|page| self.compares(page)) {
                    let others = pages.extract_if(.., |page| !self.compares(page));
                    batch.aside.extend(others);
                    self.leaving += (pages.len() + batch.aside.len()) as u64;
                    batch.pages = pages;
                    return batch.run(Step::Save, actions);
                }
                pages.append(&mut batch.aside);
                pages.retain(|page| self.saved(page, &mut wanted, actions));
            }
            Step::Evict => {
                self.saved -= pages.len() as u64;
                pages
                    .drain(..)
                    .for_each(|page| self.evicted(&page, actions));
                self.asks.memory_freed();
            }
            Step::Restore | Step::Load | Step::Prep | Step::Move => {
                pages
                    .drain(..)
                    .for_each(|page| self.restored(&page, actions));
            }
        }
        batch.pages = pages;
        if !batch.pages.is_empty() {
            let going = batch.pages.len() as u64;
            self.leaving += going;
            let next = if step == Step::Nominate {
                Step::Save
            } else {
                self.saved += going;
                Step::Evict
            };
            return batch.run(next, actions);
        }
        if self.to_restore.is_empty() {
            return self.park(batch);
        }
        batch.pages.append(&mut self.to_restore);
        // Pages that were asked for while they were evicted can be loaded now, and go first.
        self.start_demand(actions);
        batch.run(Step::Restore, actions);
    }

    /// Whether a page goes on to be saved.
    fn nominated(&mut self, page: &Page, wanted: &mut u64, actions: &mut Actions) -> bool {
        if page.outcome.is_ok() {
            self.nominated.remove(page.gfn.get());
        }
        match (page.outcome, self.flights.fate(page.gfn)) {
            (Ok(()), Fate::Going) if self.goes_on(page, wanted) => return true,
            (Ok(()), Fate::Dropped) => self.stays(page, actions),
            (Ok(()), _) => self.stays_nominated(page, true, actions),
            (Err(error), _) => {
                self.asks.answer(page.gfn, actions);
                self.mark_unmoved(page, error);
                self.stays(page, actions);
            }
        }
        // Nothing was written to it.
        match page.home {
            Home::Slot(slot) if page.like == Like::Own => self.slots.written(slot),
            Home::Slot(slot) => _ = self.slots.give(slot),
            Home::Zeros => {}
        }
        false
    }

    /// Whether a page that has been saved goes on to be evicted.
    fn saved(&mut self, page: &Page, wanted: &mut u64, actions: &mut Actions) -> bool {
        let fate = self.flights.fate(page.gfn);
        if page.outcome.is_ok() && fate == Fate::Going && self.goes_on(page, wanted) {
            return true;
        }
        if fate == Fate::Dropped {
            self.stays(page, actions);
        } else {
            let again = !matches!(page.outcome, Err(PageError::Unmapped(_)));
            self.stays_nominated(page, again, actions);
        }
        false
    }

    /// What becomes of the slot of a page that was to be saved. From here on it is the page's, whether the
    /// page goes out or stays, or nobody's; unless the page is to be compared first.
    fn settle_slot(&mut self, page: &mut Page, actions: &mut Actions) {
        let (gfn, Home::Slot(slot)) = (page.gfn, page.home) else {
            return;
        };
        if page.like == Like::Own {
            self.homes.forget(gfn);
        }
        match (page.outcome, page.saved, page.like) {
            (Ok(()), Saved::Zeros, _) => {
                self.free_home(gfn, actions);
                self.give_back(slot, actions);
                page.home = Home::Zeros;
            }
            (Ok(()), Saved::Unchanged, Like::Slot(other)) => {
                // Its copy is there, and trusted from here on.
                self.give_back(slot, actions);
                page.home = Home::Slot(other);
            }
            (Ok(()), Saved::SeemsLike(other), _) if self.compares(page) => {
                let is_shared = self.slots.share(other);
                if is_shared {
                    self.free_home(gfn, actions);
                    self.homes.keep(gfn, other);
                }
                page.like = if is_shared {
                    Like::Slot(other)
                } else {
                    Like::Nothing
                };
                if std::mem::take(&mut page.had_copy) {
                    // It is not what it was.
                    self.read_ahead.hit(gfn);
                }
            }
            (Ok(()), Saved::SeemsLike(_), _) => _ = self.give_back(slot, actions),
            (Ok(()), saved, _) => {
                self.progress.written += u64::from(saved == Saved::Written);
                self.slots.written(slot);
                self.free_home(gfn, actions);
                self.homes.keep(gfn, slot);
            }
            (Err(error @ PageError::Store(_)), ..) => self.not_written(slot, error, actions),
            (Err(_), ..) => _ = self.give_back(slot, actions),
        }
    }

    /// Whether a page that has not been written, as it seems to be like another, is to be compared with that.
    fn compares(&self, page: &Page) -> bool {
        page.outcome.is_ok()
            && matches!(page.saved, Saved::SeemsLike(_))
            && self.flights.fate(page.gfn) == Fate::Going
    }

    fn evicted(&mut self, page: &Page, actions: &mut Actions) {
        match (page.outcome, self.flights.fate(page.gfn)) {
            // Whatever was said of it meanwhile, unless it was dropped: the slot is its only home.
            (Ok(()), Fate::Going | Fate::MaybeDropped | Fate::Stays { .. }) => {
                self.flights.end(page.gfn);
                self.homes.goes_out(page.gfn, page.home);
                if page.saved == Saved::Written && page.had_copy {
                    self.read_ahead.hit(page.gfn);
                } else {
                    self.read_ahead.wasted(page.gfn);
                }
                self.policy.paged_out(page.gfn);
                self.progress.evicted += 1;
                let is_unwritten = page.saved == Saved::Unchanged;
                self.progress.unchanged += u64::from(is_unwritten && page.had_copy);
                self.progress.alike += u64::from(is_unwritten && !page.had_copy);
                self.progress.zeros += u64::from(page.saved == Saved::Zeros);
            }
            (Ok(()), Fate::Dropped) => self.stays(page, actions),
            (Err(error), fate) => {
                self.mark_unmoved(page, error);
                if fate == Fate::Dropped {
                    self.stays(page, actions);
                } else {
                    self.stays_nominated(page, error == PageError::NotDone, actions);
                }
            }
        }
    }

    fn restored(&mut self, page: &Page, actions: &mut Actions) {
        // A page that the guest gave back meanwhile is not there to be restored.
        let is_gone = matches!(
            page.outcome,
            Err(PageError::Refused(Errno::ENOENT) | PageError::Unmapped(Errno::ENOENT))
        );
        if let Err(error) = page.outcome
            && !is_gone
            && self.flights.fate(page.gfn) != Fate::Dropped
        {
            self.nominated.insert(page.gfn.get(), ());
            actions.push(Action::Report(Report::StaysNominated {
                gfn: page.gfn,
                error,
            }));
        }
        self.asks.answer(page.gfn, actions);
        self.stays(page, actions);
    }

    /// A page that somebody asked for, or that the target does not want out any more, does not go on.
    fn goes_on(&mut self, page: &Page, wanted: &mut u64) -> bool {
        if *wanted == 0 || self.asks.has(page.gfn) {
            return false;
        }
        *wanted -= 1;
        true
    }

    /// The page's contents stay in the guest and whoever waits for it is answered. Its type is still
    /// to be put right, even where a request with `EVICT_FAIL` has been answered: that one may have
    /// been sent during an earlier nomination.
    fn stays_nominated(&mut self, page: &Page, again: bool, actions: &mut Actions) {
        let asked = self.asks.answer(page.gfn, actions) > 0;
        if self.flights.fate(page.gfn) == Fate::Going {
            let again = again && !asked;
            self.flights.set_fate(page.gfn, Fate::Stays { again });
        }
        self.to_restore.push(*page);
    }

    /// The hypervisor would not take this step; a step that was not taken at all says nothing about
    /// the page.
    fn mark_unmoved(&mut self, page: &Page, error: PageError) {
        let again = error == PageError::NotDone;
        if self.flights.fate(page.gfn) == Fate::Going {
            self.flights.set_fate(page.gfn, Fate::Stays { again });
        }
        self.progress.refused += u64::from(!again);
    }

    /// The end of a flight that led nowhere.
    fn stays(&mut self, page: &Page, actions: &mut Actions) {
        if !self.is_running() {
            self.free_home(page.gfn, actions);
        }
        match self.flights.end(page.gfn) {
            Fate::Dropped => self.forget(page.gfn, actions),
            Fate::Stays { again: true } | Fate::Going | Fate::MaybeDropped => {
                self.policy.abandoned(page.gfn);
            }
            Fate::Stays { again: false } => self.policy.refused(page.gfn),
        }
    }

    /// Where a page is to be written that goes out, and what is known of it.
    fn place_out(&mut self, gfn: Gfn, actions: &mut Actions) -> Option<(Slot, Like)> {
        if let Some(copy) = self.usable_copy(gfn, actions)
            && self.slots.rewrite(copy)
        {
            return Some((copy, Like::Own));
        }
        let slot = self.take_slot(gfn, actions)?;
        // Its copy is shared, and may have been given up to find room.
        Some((slot, self.homes.copy(gfn).map_or(Like::Any, Like::Slot)))
    }

    /// A free slot for a page; where there is none, copies are given up for it.
    pub(super) fn take_slot(&mut self, gfn: Gfn, actions: &mut Actions) -> Option<Slot> {
        let neighbours = self.homes.neighbours(gfn, CLUSTER.into());
        self.slots.take(gfn, neighbours).or_else(|| {
            self.give_up_copies(actions);
            let neighbours = self.homes.neighbours(gfn, CLUSTER.into());
            self.slots.take(gfn, neighbours)
        })
    }

    /// Gives up some copies of pages that are in, which cost no more than a write later. How many slots are
    /// free by that: of many pages that are out, only so many are looked at in one go.
    fn give_up_copies(&mut self, actions: &mut Actions) -> u64 {
        if self.homes.copies() == 0 {
            return 0;
        }
        let mut found = [None; COPIES_AT_ONCE];
        let mut places = found.iter_mut();
        // From the start again, once the end is reached.
        let mut next = 0;
        for ((gfn, _), looked) in self.homes.from(self.copies_cursor).zip(0..) {
            if looked == COPIES_REACH || places.len() == 0 {
                next = gfn.get();
                break;
            }
            if !self.homes.is_out(gfn)
                && !self.flights.contains(gfn)
                && let Some(place) = places.next()
            {
                *place = Some(gfn);
            }
        }
        self.copies_cursor = next;
        let gfns = found.into_iter().flatten();
        gfns.map(|gfn| u64::from(self.free_home(gfn, actions)))
            .sum()
    }

    /// What a save says about the store.
    fn note_room(&mut self, pages: &[Page], aside: &[Page], actions: &mut Actions) {
        let is_saved =
            |page: &&Page| page.outcome.is_ok() && !matches!(page.saved, Saved::SeemsLike(_));
        let saved = pages.iter().chain(aside).filter(is_saved).count() as u64;
        let held = self.homes.out_pages() + self.saved + saved;
        let report = match self.note_failed(pages, actions) {
            Some(_) if self.slots.sound_room() => None,
            Some((gfn, error @ PageError::Store(StoreError::Full))) => {
                let without_copies = held + self.homes.copies();
                let given_up = self.give_up_copies(actions);
                // Where copies are all that is in the way, it goes on at once.
                let goes_on = given_up > 0 && self.wanted_out() <= without_copies;
                (!goes_on)
                    .then(|| self.room.refused(held + given_up, gfn, error))
                    .flatten()
            }
            Some((gfn, error)) => self.room.refused(held, gfn, error),
            None => self.room.written(held, self.config.out_batch as u64),
        };
        actions.extend(report.map(Action::Report));
    }

    /// The first page that the store did not take. Each one's area has failed; said of each area once, where another has
    /// room.
    fn note_failed(&mut self, pages: &[Page], actions: &mut Actions) -> Option<(Gfn, PageError)> {
        let mut first = None;
        for page in pages {
            let (Home::Slot(slot), Err(error @ PageError::Store(_))) = (page.home, page.outcome)
            else {
                continue;
            };
            first = first.or(Some((page.gfn, error)));
            self.area_failed(slot, error, actions);
        }
        first
    }

    /// The slot's area could not take a page.
    pub(super) fn area_failed(&mut self, slot: Slot, error: PageError, actions: &mut Actions) {
        if self.slots.failed(slot) && self.slots.sound_room() {
            actions.push(Action::Report(Report::AreaFailed { slot, error }));
        }
    }
}
