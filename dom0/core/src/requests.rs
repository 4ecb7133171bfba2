// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests from the ring: what can be answered at once, and what waits (rows B8, B10).

use p2m_paging::ring::abi::{PagingFlags, Request, Response};
use p2m_paging::{Gfn, P2mType};

use super::event::{Action, Actions};
use super::flight::{Fate, Flight, Way};
use super::pager::Pager;
use crate::store::Slot;

impl Pager {
    pub(super) fn request(&mut self, request: &Request, actions: &mut Actions) {
        let gfn = request.gfn;
        // Whatever it asks: the answer takes a page that was left nominated home.
        self.nominated.remove(gfn.get());
        if request.paging.contains(PagingFlags::DROP_PAGE) {
            return self.guest_dropped(request, actions);
        }
        let evict_fails = request.paging.contains(PagingFlags::EVICT_FAIL);
        match self.flights.get(gfn) {
            None if self.homes.is_out(gfn) => {
                if self.is_running() && self.beside.len() < self.beside.capacity() {
                    self.beside.extend(self.read_ahead.fault(gfn));
                }
                return self.asks.push(*request);
            }
            Some(Flight { way: Way::In, fate }) if fate.goes_in() => {
                self.read_ahead.hit(gfn);
                return self.asks.push(*request);
            }
            Some(Flight {
                way: Way::Out,
                fate: Fate::Going,
            }) if !evict_fails => {
                return self.asks.push(*request);
            }
            Some(Flight {
                way: Way::Out,
                fate: Fate::Going,
            }) => {
                self.flights.set_fate(gfn, Fate::Stays { again: false });
                self.asks.answer(gfn, actions);
            }
            None | Some(_) => {}
        }
        self.progress.answered_resident += 1;
        actions.push(Action::Respond(Response::to(request)));
    }

    /// The guest gave a page back (rows A6, B10). The copy is forgotten, unless the request is about
    /// an earlier life of the page: see "stale requests" in the [module](super).
    fn guest_dropped(&mut self, request: &Request, actions: &mut Actions) {
        let gfn = request.gfn;
        self.size_pages = self.size_pages.saturating_sub(1);
        // Asked for or not: what had no frame was out, and has not come home since.
        let was_out = !request.paging.contains(PagingFlags::EVICT_FAIL)
            && request.p2mt != P2mType::RamPagingOut;
        let is_away = self.flights.contains(gfn) || self.homes.is_out(gfn);
        if self.config.takes_over && was_out && is_away {
            // Which page was out, the one known or one that was taken out by another pager? Prep will say.
            return self.asks.push(*request);
        }
        actions.push(Action::Respond(Response::to(request)));
        self.asks.answer(gfn, actions);
        match self.flights.get(gfn) {
            Some(_) if was_out => self.flights.set_fate(gfn, Fate::Dropped),
            Some(Flight {
                way: Way::Out,
                fate: Fate::Going,
            }) => {
                self.flights.set_fate(gfn, Fate::Stays { again: true });
            }
            Some(Flight {
                way: Way::In,
                fate: Fate::Going,
            }) => {
                self.flights.set_fate(gfn, Fate::MaybeDropped);
            }
            Some(_) => {}
            None if self.gone.remove(gfn.get()).is_some() => self.policy.dropped(gfn),
            None if was_out && self.homes.is_out(gfn) => self.forget(gfn, actions),
            None => {}
        }
    }

    /// The end of a page that was dropped: of its flight, or of its stay in the store.
    pub(super) fn forget(&mut self, gfn: Gfn, actions: &mut Actions) {
        self.free_home(gfn, actions);
        self.count_dropped(gfn);
        self.policy.dropped(gfn);
    }

    pub(super) fn count_dropped(&mut self, gfn: Gfn) {
        self.unreadable.remove(gfn.get());
        self.progress.dropped += 1;
    }

    /// Nothing in the store is this page's any more. Whether a slot is free now.
    pub(super) fn free_home(&mut self, gfn: Gfn, actions: &mut Actions) -> bool {
        let slot = self.homes.forget(gfn);
        slot.is_some_and(|slot| self.give_back(slot, actions))
    }

    /// An owner gives a slot up. Whether it was the last.
    pub(super) fn give_back(&mut self, slot: Slot, actions: &mut Actions) -> bool {
        let is_free = self.slots.give(slot);
        if is_free {
            actions.push(Action::Free(slot));
        }
        is_free
    }
}
