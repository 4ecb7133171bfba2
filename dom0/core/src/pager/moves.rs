// SPDX-License-Identifier: MIT OR Apache-2.0
//! Areas that come and go while pages lie in them (row C5).
//!
//! A page of an area that is to go is *moved*: loaded from its slot and written to one elsewhere. Neither
//! guest nor hypervisor hears of it; who asks for the page meanwhile waits for the end of the step, as for
//! any page in flight. Copies of resident pages are given up. A slot that several pages share is moved
//! once: where to is remembered until the area is gone, and the others follow without being read. No slot
//! of the area is taken any more, so each round over the pages leaves fewer there, until none is taken:
//! what was being paged out when the drain began is found in a later round.

use p2m_paging::Gfn;

use super::Pager;
use super::drain::Drain;
use crate::batch::{Lane, LaneBatch, MoveStep, Page, PageError};
use crate::event::{Action, Actions, DrainError, Report};
use crate::flight::{Direction, FlightOutcome};
use crate::locations::Location;
use crate::store::{Saved, Slot, SlotRange};

/// Pages looked at in one call.
const REACH: usize = 1 << 14;

impl Pager {
    /// The store has one more area.
    pub(super) fn area_added(&mut self, area: SlotRange, actions: &mut Actions) {
        self.placement.slots.add(area);
        let capacity = std::mem::take(&mut self.page_out.capacity);
        let recovered = capacity
            .limited_for()
            .map(|lasted| Report::StoreRecovered { lasted });
        actions.extend(recovered.map(Action::Report));
        self.page_out.start_soon();
    }

    /// An area is to go.
    pub(super) fn drain(&mut self, area: SlotRange) {
        if self.drains.add(area) {
            self.placement.slots.set_leaving(area, true);
        }
    }

    /// Starts a batch of pages that lie in the first of the areas that are to go.
    pub(super) fn start_move(&mut self, actions: &mut Actions) {
        let Some(&Drain {
            area,
            ref rounds,
            no_room,
            ..
        }) = self.drains.current()
        else {
            return;
        };
        let (mut cursor, waits) = (rounds.cursor, rounds.waits);
        if self.placement.slots.taken_in(area) == 0 {
            self.placement.slots.remove(area);
            return self.end_drain(Ok(()), actions);
        }
        if waits || !self.goal.is_running() {
            return;
        }
        let Some(mut batch) = self.lanes.moves.take(Lane::Move) else {
            return;
        };
        if no_room {
            let pages = self.placement.slots.taken_in(area);
            self.end_drain(Err(DrainError::NoRoom { pages }), actions);
            return self.lanes.moves.park(batch);
        }
        for _ in 0..REACH {
            let next = self.placement.locations.from(cursor).next();
            let Some((gfn, location)) = next else {
                self.next_drain_round(batch.pages.is_empty(), actions);
                cursor = 0;
                break;
            };
            cursor = gfn.get() + 1;
            let Some(slot) = location.slot().filter(|slot| area.contains(*slot)) else {
                continue;
            };
            if self.flights.contains(gfn) {
                continue;
            }
            if !self.placement.locations.is_out(gfn) {
                self.placement.free_location(gfn, actions);
                self.drains.makes_progress();
                continue;
            }
            if self.placement.slots.is_shared(slot)
                && batch.pages.iter().any(|page| page.location == location)
            {
                // It follows in a later round.
                continue;
            }
            if let Some(moved) = self.followed(slot) {
                self.is_moved(gfn, Location::Slot(moved), actions);
                continue;
            }
            self.flights.start(gfn, Direction::In);
            batch.add(gfn, location);
            if batch.pages.len() == self.config.prefetch_batch {
                break;
            }
        }
        if let Some(drain) = self.drains.current_mut() {
            drain.rounds.cursor = cursor;
        }
        if batch.pages.is_empty() {
            self.lanes.moves.park(batch)
        } else {
            self.lanes.moves.run(batch, MoveStep::Load, actions)
        }
    }

    /// A step is done: the next one for the pages that go on.
    pub(super) fn move_step_done(&mut self, mut batch: LaneBatch<MoveStep>, actions: &mut Actions) {
        let mut pages = std::mem::take(&mut batch.pages);
        match batch.step {
            MoveStep::Load => pages.retain_mut(|page| self.read_to_move(page, actions)),
            MoveStep::Write => pages.drain(..).for_each(|page| self.moved(&page, actions)),
        }
        batch.pages = pages;
        if batch.pages.is_empty() {
            self.lanes.moves.park(batch)
        } else {
            self.lanes.moves.run(batch, MoveStep::Write, actions)
        }
    }

    /// Whether a page can be written elsewhere.
    fn read_to_move(&mut self, page: &mut Page, actions: &mut Actions) -> bool {
        let proceeds = self.flights.outcome(page.gfn) == FlightOutcome::Proceed;
        if page.outcome.is_ok() && proceeds {
            let slot = self.placement.take_slot(page.gfn, &self.flights, actions);
            if let Some(slot) = slot {
                page.location = Location::Slot(slot);
                return true;
            }
            // As long as there are copies to give up, there will be room.
            if self.placement.locations.copies() == 0
                && let Some(drain) = self.drains.current_mut()
            {
                drain.no_room = true;
            }
        }
        self.drains.fails();
        match (self.flights.end(page.gfn), page.outcome) {
            (FlightOutcome::Dropped, _) => self.forget(page.gfn, actions),
            (_, Err(error @ PageError::Store(_))) => self.read_failed(page.gfn, error, actions),
            _ => {}
        }
        false
    }

    /// A page has been written elsewhere, or not.
    fn moved(&mut self, page: &Page, actions: &mut Actions) {
        let outcome = self.flights.end(page.gfn);
        let Location::Slot(slot) = page.location else {
            return;
        };
        match page.outcome {
            Ok(()) if outcome != FlightOutcome::Dropped => {
                if page.saved == Saved::Zeros {
                    self.placement.give_back(slot, actions);
                    return self.is_moved(page.gfn, Location::Zeros, actions);
                }
                self.placement.saved_in(slot, page.saved);
                self.note_shared(page.gfn, slot);
                return self.is_moved(page.gfn, page.location, actions);
            }
            Err(error @ PageError::Store(_)) => {
                self.drains.fails();
                self.placement.not_written(slot, error, actions);
            }
            _ => {
                self.drains.fails();
                self.placement.give_back(slot, actions);
            }
        }
        if outcome == FlightOutcome::Dropped {
            self.forget(page.gfn, actions);
        }
    }

    /// What is out lies elsewhere now. The old slot is given up last.
    fn is_moved(&mut self, gfn: Gfn, location: Location, actions: &mut Actions) {
        actions.push(Action::Moved(gfn, location));
        self.placement.free_location(gfn, actions);
        self.placement.locations.goes_out(gfn, location);
        self.problem_pages.not_unreadable(gfn);
        self.not_lost(gfn, actions);
        self.progress.moved += 1;
        self.drains.makes_progress();
    }

    /// A page is moved to this slot. If it is not the only owner of the one where it was, the others
    /// will follow.
    fn note_shared(&mut self, gfn: Gfn, to: Slot) {
        let from = self.placement.locations.out(gfn).and_then(Location::slot);
        let Some(from) = from.filter(|from| self.placement.slots.is_shared(*from)) else {
            return;
        };
        if self.goal.is_running()
            && let Some(drain) = self.drains.current_mut()
            && drain.moved_to(from).is_none()
            && self.placement.slots.share(to)
        {
            drain.follow(from, to);
        }
    }

    /// Where a slot's contents have been moved to with another of its owners; this one is another owner
    /// there.
    fn followed(&mut self, slot: Slot) -> Option<Slot> {
        let to = self.drains.current()?.moved_to(slot)?;
        self.placement.slots.share(to).then_some(to)
    }

    /// Everything is to be paged in, and nothing is moved any more.
    pub(super) fn stop_drains(&mut self, actions: &mut Actions) {
        for slot in self.drains.stop() {
            self.placement.give_back(slot, actions);
        }
    }

    /// A round is over.
    fn next_drain_round(&mut self, nothing_found: bool, actions: &mut Actions) {
        let attempts = self.config.read_attempts;
        if let Some(drain) = self.drains.current_mut()
            && drain.next_round(nothing_found, attempts)
        {
            let pages = self.placement.slots.taken_in(drain.area);
            self.end_drain(Err(DrainError::Failed { pages }), actions);
        }
    }

    /// The first drain is over, one way or the other. An area that stays is used as before.
    fn end_drain(&mut self, outcome: Result<(), DrainError>, actions: &mut Actions) {
        let Some((area, owned)) = self.drains.end() else {
            return;
        };
        for slot in owned {
            self.placement.give_back(slot, actions);
        }
        if outcome.is_err() {
            self.placement.slots.set_leaving(area, false);
        }
        actions.push(Action::Drained(area, outcome));
    }
}
