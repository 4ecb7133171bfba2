// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that were nominated, were to stay, and could not be restored. While the pager runs, they are
//! restored when one of them is chosen again or requested. Before the pager ends, all are restored: on
//! Xen's C the guest's next write to a nominated page needs a pager.
//!
//! Only a restore shows that such a page is resident. On Xen's C, the answer to a request makes a
//! nominated page resident only if a vcpu was paused for the request. After a request of another
//! domain, the page waits for a restore, and so does the domain.

use p2m_paging::Gfn;
use p2m_paging::ring::abi::{EntryFlags, PagingFlags, Request};

use super::Pager;
use crate::batch::{Lane, Page, PageOutStep};
use crate::event::Actions;
use crate::flight::{Direction, FlightOutcome};
use crate::locations::Location;

impl Pager {
    /// Takes note of a request for a page that is nominated and not in flight. This may be a page that
    /// an earlier pager has nominated.
    pub(super) fn note_leftover(&mut self, request: &Request) {
        let gfn = request.gfn;
        if self.problem_pages.nominated.contains(gfn.get()) {
            self.problem_pages.restore_soon = true;
            return;
        }
        let is_nominated = request.paging == PagingFlags::EVICT_FAIL
            && !request.flags.contains(EntryFlags::VCPU_PAUSED);
        let is_known = self.flights.contains(gfn) || self.placement.locations.is_out(gfn);
        if is_nominated && !is_known && self.config.has(gfn) {
            self.problem_pages.nominated.insert(gfn.get(), ());
            self.problem_pages.restore_soon = true;
        }
    }

    /// Restores what is still nominated, a batch at each tick: after a request for such a page, and
    /// after a stop.
    pub(super) fn restore_leftovers(&mut self, actions: &mut Actions) {
        let problem_pages = &self.problem_pages;
        if (self.goal.is_running() && !problem_pages.restore_soon)
            || problem_pages.restore_waits
            || problem_pages.nominated.is_empty()
        {
            return;
        }
        let Some(mut batch) = self.lanes.page_out.take(Lane::Out) else {
            return;
        };
        let nominated = problem_pages.nominated.iter();
        for gfn in nominated.filter_map(|(gfn, ())| Gfn::try_new(gfn)) {
            if batch.pages.len() == self.config.out_batch {
                break;
            }
            if !self.flights.contains(gfn) {
                self.flights.start(gfn, Direction::Out);
                self.flights.set_outcome(gfn, FlightOutcome::Leftover);
                batch.add(gfn, Location::Zeros);
            }
        }
        if batch.pages.is_empty() {
            return self.lanes.page_out.park(batch);
        }
        self.problem_pages.restore_waits = true;
        self.lanes
            .page_out
            .run(batch, PageOutStep::RestoreLeftovers, actions);
    }

    /// A leftover is not in flight any more. The policy has not heard of its flight.
    pub(super) fn leftover_restored(&mut self, page: &Page) -> bool {
        let is_leftover = self.flights.outcome(page.gfn) == FlightOutcome::Leftover;
        if is_leftover {
            self.flights.end(page.gfn);
        }
        is_leftover
    }
}
