// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that were nominated, were to stay, and could not be restored. While the pager runs, such a
//! page is restored when it is chosen again or requested. Before the pager ends, all are restored: on
//! Xen's C the guest's next write to a nominated page needs a pager.

use p2m_paging::Gfn;

use super::Pager;
use crate::batch::{Lane, Page, PageOutStep};
use crate::event::Actions;
use crate::flight::{Direction, FlightOutcome};
use crate::locations::Location;

impl Pager {
    /// After a stop, restores what is still nominated, a batch at each tick.
    pub(super) fn restore_leftovers(&mut self, actions: &mut Actions) {
        let problem_pages = &self.problem_pages;
        if self.goal.is_running()
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
