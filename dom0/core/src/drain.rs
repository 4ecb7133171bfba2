// SPDX-License-Identifier: MIT OR Apache-2.0
//! Areas that come and go while pages lie in them (row C5).
//!
//! A page of an area that is to go is *moved*: loaded from its slot and written to one elsewhere. Neither guest nor hypervisor
//! hears of it; who asks for the page meanwhile waits for the end of the step, as for any page under way. Copies of pages that are in
//! are given up. A slot that several pages share is moved once: where to is remembered until the area is gone, and the others follow
//! without being read. No slot of the area is taken any more, so each round over the pages leaves fewer there, until none is
//! taken: what was on its way out when it began is found in a later round.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use p2m_paging::Gfn;

use super::event::{Action, Actions, Batch, DrainError, Lane, Page, PageError, Report, Step};
use super::flight::{Fate, Way};
use super::homes::Home;
use super::pager::Pager;
use crate::store::{Saved, Slot, SlotRange, StoreError};

/// Pages looked at in one go.
const REACH: usize = 1 << 14;

/// An area that is to go: rounds over all pages with a home, lowest first.
#[derive(Debug)]
pub(super) struct Drain {
    area: SlotRange,
    cursor: u64,
    /// Not before the next tick.
    waits: bool,
    /// A page found no slot elsewhere: the end, once what is being moved has been.
    no_room: bool,
    /// This round left a page where it was because it could not be read or written.
    failed: bool,
    /// This round emptied a slot.
    fruitful: bool,
    /// Rounds in a row that failed and emptied none.
    vain_rounds: u32,
    /// Of slots that had more owners when they were moved, where to. Owned by the drain as well, so that they stay what they are.
    followed: HashMap<Slot, Slot, RandomState>,
}

impl Pager {
    /// The store has one more area.
    pub(super) fn area_added(&mut self, area: SlotRange, actions: &mut Actions) {
        self.slots.add(area);
        let room = std::mem::take(&mut self.room);
        if room.is_limited() {
            actions.push(Action::Report(Report::StoreBack));
        }
        self.eager = true;
    }

    /// An area is to go.
    pub(super) fn drain(&mut self, area: SlotRange) {
        if self.drains.iter().any(|drain| drain.area == area) {
            return;
        }
        self.slots.set_leaving(area, true);
        self.drains.push(Drain {
            area,
            cursor: 0,
            waits: false,
            no_room: false,
            failed: false,
            fruitful: false,
            vain_rounds: 0,
            followed: HashMap::default(),
        });
    }

    /// What failed is tried again.
    pub(super) fn tick_drains(&mut self) {
        self.drains.iter_mut().for_each(|drain| drain.waits = false);
    }

    /// Starts a batch of pages that lie in the first of the areas that are to go.
    pub(super) fn start_move(&mut self, actions: &mut Actions) {
        let Some(&Drain {
            area,
            mut cursor,
            waits,
            no_room,
            ..
        }) = self.drains.first()
        else {
            return;
        };
        if self.slots.taken_in(area) == 0 {
            self.slots.remove(area);
            return self.end_drain(Ok(()), actions);
        }
        if waits || !self.is_running() {
            return;
        }
        let Some(mut batch) = self.unpark(Lane::Move) else {
            return;
        };
        if no_room {
            let pages = self.slots.taken_in(area);
            self.end_drain(Err(DrainError::NoRoom { pages }), actions);
            return self.park(batch);
        }
        for _ in 0..REACH {
            let next = self.homes.from(cursor).next();
            let Some((gfn, home)) = next else {
                self.next_drain_round(batch.pages.is_empty(), actions);
                cursor = 0;
                break;
            };
            cursor = gfn.get() + 1;
            let Some(slot) = home.slot().filter(|slot| area.contains(*slot)) else {
                continue;
            };
            if self.flights.contains(gfn) {
                continue;
            }
            if !self.homes.is_out(gfn) {
                self.free_home(gfn, actions);
                self.drain_is_fruitful();
                continue;
            }
            if self.slots.is_shared(slot) && batch.pages.iter().any(|page| page.home == home) {
                // It follows in a later round.
                continue;
            }
            if let Some(moved) = self.followed(slot) {
                self.is_moved(gfn, Home::Slot(moved), actions);
                continue;
            }
            self.flights.start(gfn, Way::In);
            batch.add(gfn, home);
            if batch.pages.len() == self.config.ahead_batch {
                break;
            }
        }
        if let Some(drain) = self.drains.first_mut() {
            drain.cursor = cursor;
        }
        if batch.pages.is_empty() {
            self.park(batch)
        } else {
            batch.run(Step::Load, actions)
        }
    }

    /// A step is done: the next one for the pages that go on.
    pub(super) fn advance_move(&mut self, mut batch: Batch, actions: &mut Actions) {
        let mut pages = std::mem::take(&mut batch.pages);
        if batch.step == Step::Load {
            pages.retain_mut(|page| self.read_to_move(page, actions));
        } else {
            pages.drain(..).for_each(|page| self.moved(&page, actions));
        }
        batch.pages = pages;
        if batch.pages.is_empty() {
            self.park(batch)
        } else {
            batch.run(Step::Move, actions)
        }
    }

    /// Whether a page can be written elsewhere.
    fn read_to_move(&mut self, page: &mut Page, actions: &mut Actions) -> bool {
        if page.outcome.is_ok() && self.flights.fate(page.gfn) == Fate::Going {
            if let Some(slot) = self.take_slot(page.gfn, actions) {
                page.home = Home::Slot(slot);
                return true;
            }
            // As long as there are copies to give up, there will be room.
            if self.homes.copies() == 0
                && let Some(drain) = self.drains.first_mut()
            {
                drain.no_room = true;
            }
        }
        self.drain_fails();
        match (self.flights.end(page.gfn), page.outcome) {
            (Fate::Dropped, _) => self.forget(page.gfn, actions),
            (_, Err(error @ PageError::Store(_))) => self.unread(page.gfn, error, actions),
            _ => {}
        }
        false
    }

    /// A page has been written elsewhere, or not.
    fn moved(&mut self, page: &Page, actions: &mut Actions) {
        let fate = self.flights.end(page.gfn);
        let Home::Slot(slot) = page.home else { return };
        match page.outcome {
            Ok(()) if fate != Fate::Dropped => {
                if page.saved == Saved::Zeros {
                    self.give_back(slot, actions);
                    return self.is_moved(page.gfn, Home::Zeros, actions);
                }
                self.slots.written(slot);
                self.note_shared(page.gfn, slot);
                return self.is_moved(page.gfn, page.home, actions);
            }
            Err(error @ PageError::Store(_)) => {
                self.drain_fails();
                self.not_written(slot, error, actions);
            }
            _ => {
                self.drain_fails();
                self.give_back(slot, actions);
            }
        }
        if fate == Fate::Dropped {
            self.forget(page.gfn, actions);
        }
    }

    /// What is out lies elsewhere now.
    fn is_moved(&mut self, gfn: Gfn, home: Home, actions: &mut Actions) {
        self.free_home(gfn, actions);
        self.homes.goes_out(gfn, home);
        self.unreadable.remove(gfn.get());
        self.progress.moved += 1;
        self.drain_is_fruitful();
    }

    /// A page is moved to this slot. If it is not the only owner of the one where it was, the others will follow.
    fn note_shared(&mut self, gfn: Gfn, to: Slot) {
        let from = self.homes.out(gfn).and_then(Home::slot);
        let Some(from) = from.filter(|from| self.slots.is_shared(*from)) else {
            return;
        };
        if self.is_running()
            && let Some(drain) = self.drains.first_mut()
            && !drain.followed.contains_key(&from)
            && self.slots.share(to)
        {
            drain.followed.insert(from, to);
        }
    }

    /// Where a slot's contents have been moved to with another of its owners; this one is another owner there.
    fn followed(&mut self, slot: Slot) -> Option<Slot> {
        let to = *self.drains.first()?.followed.get(&slot)?;
        self.slots.share(to).then_some(to)
    }

    /// Everything is to come home, and nothing is moved any more.
    pub(super) fn nothing_follows(&mut self, actions: &mut Actions) {
        let followed = self
            .drains
            .iter_mut()
            .flat_map(|drain| drain.followed.drain());
        let slots: Vec<_> = followed.map(|(_, to)| to).collect();
        slots
            .into_iter()
            .for_each(|slot| _ = self.give_back(slot, actions));
    }

    /// The store did not take a page into this slot: the slot is nobody's now, and its area has failed.
    pub(super) fn not_written(&mut self, slot: Slot, error: PageError, actions: &mut Actions) {
        self.area_failed(slot, error, actions);
        if error == PageError::Store(StoreError::Full) {
            self.give_back(slot, actions);
        } else {
            // Taken again, it would fail again.
            self.slots.retire(slot);
            actions.push(Action::Free(slot));
        }
    }

    fn drain_is_fruitful(&mut self) {
        if let Some(drain) = self.drains.first_mut() {
            drain.fruitful = true;
        }
    }

    fn drain_fails(&mut self) {
        if let Some(drain) = self.drains.first_mut() {
            drain.failed = true;
        }
    }

    /// A round is over. After one that led nowhere the next one waits for a tick; after several that failed there is none.
    fn next_drain_round(&mut self, nothing_found: bool, actions: &mut Actions) {
        let attempts = self.config.read_attempts;
        let Some(drain) = self.drains.first_mut() else {
            return;
        };
        drain.waits = !drain.fruitful && (drain.failed || nothing_found);
        drain.vain_rounds = match (drain.fruitful, drain.failed) {
            (true, _) => 0,
            (false, failed) => drain.vain_rounds + u32::from(failed),
        };
        (drain.failed, drain.fruitful) = (false, false);
        if drain.vain_rounds >= attempts {
            let pages = self.slots.taken_in(drain.area);
            self.end_drain(Err(DrainError::Failed { pages }), actions);
        }
    }

    /// The first drain is over, one way or the other. An area that stays is used as before.
    fn end_drain(&mut self, outcome: Result<(), DrainError>, actions: &mut Actions) {
        let Drain { area, followed, .. } = self.drains.remove(0);
        followed
            .into_values()
            .for_each(|slot| _ = self.give_back(slot, actions));
        if outcome.is_err() {
            self.slots.set_leaving(area, false);
        }
        actions.push(Action::Drained(area, outcome));
    }

    /// The copy of a page that goes out, unless it lies where nothing is to be written any more.
    pub(super) fn usable_copy(&mut self, gfn: Gfn, actions: &mut Actions) -> Option<Slot> {
        let copy = self.homes.copy(gfn)?;
        if self.slots.is_leaving(copy) {
            self.free_home(gfn, actions);
            return None;
        }
        Some(copy)
    }
}
