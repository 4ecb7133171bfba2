// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests from the ring: what can be answered at once, and what waits (rows B8, B10).

use p2m_paging::ring::abi::{PagingFlags, Request, Response};
use p2m_paging::{Gfn, P2mType};

use super::Pager;
use crate::event::{Action, Actions};
use crate::flight::{Direction, Flight, FlightOutcome};

impl Pager {
    pub(super) fn request(&mut self, request: &Request, actions: &mut Actions) {
        let gfn = request.gfn;
        self.note_leftover(request);
        if request.paging.contains(PagingFlags::DROP_PAGE) {
            return self.guest_dropped(request, actions);
        }
        let evict_fails = request.paging.contains(PagingFlags::EVICT_FAIL);
        match self.flights.get(gfn) {
            None if self.problem_pages.lost.contains(gfn.get()) => {
                return self.pending.push(*request);
            }
            None if self.placement.locations.is_out(gfn) => {
                if self.goal.is_running() {
                    self.read_ahead.fault(gfn);
                }
                return self.pending.push(*request);
            }
            Some(Flight {
                outcome: FlightOutcome::Probe | FlightOutcome::Leftover,
                ..
            }) if self.placement.locations.is_out(gfn) => return self.pending.push(*request),
            Some(Flight {
                direction: Direction::In,
                outcome,
            }) if outcome.goes_in() => {
                self.read_ahead.streams.hit(gfn);
                return self.pending.push(*request);
            }
            Some(Flight {
                direction: Direction::Out,
                outcome: FlightOutcome::Proceed,
            }) if !evict_fails => {
                return self.pending.push(*request);
            }
            Some(Flight {
                direction: Direction::Out,
                outcome: FlightOutcome::Proceed,
            }) => {
                self.flights
                    .set_outcome(gfn, FlightOutcome::Cancelled { again: false });
                self.pending.answer(gfn, actions);
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
        self.goal.page_dropped();
        // Asked for or not: what had no frame was out, and has not been paged in since.
        let was_out = !request.paging.contains(PagingFlags::EVICT_FAIL)
            && request.p2mt != P2mType::RamPagingOut;
        if self.problem_pages.removed.remove(gfn.get()).is_some() {
            self.policy.dropped(gfn);
            self.pending.answer(gfn, actions);
            return actions.push(Action::Respond(Response::to(request)));
        }
        let is_away = self.flights.contains(gfn) || self.placement.locations.is_out(gfn);
        if self.config.takes_over && was_out && is_away {
            // Which page was out, the one known or one that was taken out by another pager? Prep will say.
            return self.pending.push(*request);
        }
        actions.push(Action::Respond(Response::to(request)));
        self.pending.answer(gfn, actions);
        match self.flights.get(gfn) {
            Some(Flight {
                outcome: FlightOutcome::Leftover,
                ..
            }) => {}
            Some(_) if was_out => self.flights.set_outcome(gfn, FlightOutcome::Dropped),
            Some(Flight {
                direction: Direction::Out,
                outcome: FlightOutcome::Proceed,
            }) => {
                self.flights
                    .set_outcome(gfn, FlightOutcome::Cancelled { again: true });
            }
            Some(Flight {
                direction: Direction::In,
                outcome: FlightOutcome::Proceed,
            }) => {
                self.flights.set_outcome(gfn, FlightOutcome::DropUncertain);
            }
            Some(_) => {}
            None if was_out && self.problem_pages.lost.remove(gfn.get()).is_some() => {
                self.forget(gfn, actions);
            }
            None if was_out && self.placement.locations.is_out(gfn) => self.forget(gfn, actions),
            None => {}
        }
    }

    /// The end of a page that was dropped: of its flight, or of its stay in the store.
    pub(super) fn forget(&mut self, gfn: Gfn, actions: &mut Actions) {
        self.placement.free_location(gfn, actions);
        self.count_dropped(gfn, actions);
        self.policy.dropped(gfn);
    }

    pub(super) fn count_dropped(&mut self, gfn: Gfn, actions: &mut Actions) {
        self.problem_pages.not_unreadable(gfn);
        self.not_lost(gfn, actions);
        self.problem_pages.not_maybe_dropped(gfn);
        self.progress.dropped += 1;
    }
}
