// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that stay unreadable are probed now and then. The guest may have given such a page back and
//! taken it again, while the pager did not know which page the guest's drop was about. A prep would
//! tell that the page is resident, but a prep needs contents. A nomination tells it too: only a resident
//! page can be nominated.

use p2m_paging::Gfn;

use super::Pager;
use crate::batch::{Lane, Page, PageOutStep};
use crate::event::Actions;
use crate::flight::{Direction, FlightOutcome};

/// Ticks between two probes: five seconds.
const PROBE_TICKS: u32 = 50;

/// When pages are probed, and which.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// Ticks since the last probe while some page was unreadable.
    ticks: u32,
    /// The page at which the next probe begins.
    cursor: u64,
}

impl Probe {
    /// Some time passed.
    pub(super) fn tick(&mut self, any_unreadable: bool) {
        self.ticks = if any_unreadable {
            self.ticks.saturating_add(1)
        } else {
            0
        };
    }
}

impl Pager {
    /// Probes a batch of unreadable pages, if it is time.
    pub(super) fn start_probe(&mut self, actions: &mut Actions) {
        if self.probe.ticks < PROBE_TICKS || self.goal.is_stopped() {
            return;
        }
        let Some(mut batch) = self.lanes.page_out.take(Lane::Out) else {
            return;
        };
        let from = std::mem::take(&mut self.probe.cursor);
        for (gfn, ()) in self.problem_pages.unreadable.iter_from(from) {
            if batch.pages.len() == self.config.out_batch {
                self.probe.cursor = gfn;
                break;
            }
            // A page that is being loaded is probed when it has failed again.
            if let Some(gfn) = Gfn::try_new(gfn)
                && !self.flights.contains(gfn)
                && let Some(location) = self.placement.locations.out(gfn)
            {
                self.flights.start(gfn, Direction::Out);
                self.flights.set_outcome(gfn, FlightOutcome::Probe);
                batch.add(gfn, location);
            }
        }
        if batch.pages.is_empty() {
            return self.lanes.page_out.park(batch);
        }
        self.probe.ticks = 0;
        self.lanes.page_out.run(batch, PageOutStep::Probe, actions);
    }

    /// A page that could be nominated is resident. What the store has of it is outdated.
    pub(super) fn probed(&mut self, page: &Page, actions: &mut Actions) {
        let gfn = page.gfn;
        let outcome = self.flights.outcome(gfn);
        match (page.outcome, outcome) {
            (Ok(()), _) => {
                self.flights.set_outcome(gfn, FlightOutcome::Leftover);
                self.found_removed(gfn, outcome, actions);
                self.page_out.to_restore.push(*page);
            }
            (Err(_), FlightOutcome::Dropped) => {
                self.flights.end(gfn);
                self.forget(gfn, actions);
            }
            (Err(_), _) => _ = self.flights.end(gfn),
        }
    }
}
