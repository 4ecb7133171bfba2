// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that are gone for good: nothing says where they lie, or their store has something else. As long
//! as nobody needs such a page, nothing is done about it. When it is requested, or when the pager is to
//! end, the shell is told once to stop the guest.
//!
//! The guest may be paused then and request nothing. So its page is read again now and then.

use p2m_paging::Gfn;

use super::Pager;
use crate::batch::{Lane, PageError, PageInStep};
use crate::event::{Action, Actions, Loss, LossCause, Need, Report};
use crate::flight::Direction;
use crate::sparse::SparseSet;
use crate::store::StoreError;

/// Ticks between two attempts to read the page for which the guest was stopped: five seconds.
const AGAIN_TICKS: u32 = 50;

/// What is known of pages that are gone.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Of the unreadable pages, those whose store has something else.
    corrupt: SparseSet,
    /// The last of them that was read.
    example: Option<(Gfn, StoreError)>,
    /// The page for which the guest was stopped.
    stopped_for: Option<Gfn>,
    /// Ticks since this page was last read.
    ticks: u32,
}

impl Losses {
    pub(super) fn corrupt_pages(&self) -> u64 {
        self.corrupt.len()
    }

    pub(super) fn table_bytes(&self) -> usize {
        self.corrupt.table_bytes()
    }

    /// Some time passed.
    pub(super) fn tick(&mut self) {
        self.ticks = self.ticks.saturating_add(1);
    }

    /// A page did not read back. Returns the store's error if its contents are gone.
    pub(super) fn read_failed(&mut self, gfn: Gfn, error: PageError) -> Option<StoreError> {
        match error {
            PageError::Store(error) if error.is_loss() => {
                self.corrupt.insert(gfn.get(), ());
                self.example = Some((gfn, error));
                Some(error)
            }
            // Whether they are is not known any more.
            _ => {
                self.is_not_corrupt(gfn);
                None
            }
        }
    }

    fn is_not_corrupt(&mut self, gfn: Gfn) {
        self.corrupt.remove(gfn.get());
        self.example.take_if(|(example, _)| *example == gfn);
    }
}

impl Pager {
    /// Somebody needs this page, or the pager does.
    pub(super) fn stop_guest(&mut self, loss: Loss, actions: &mut Actions) {
        if self.losses.stopped_for.is_none() {
            self.losses.stopped_for = Some(loss.gfn);
            self.losses.ticks = 0;
            actions.push(Action::StopGuest(loss));
        }
    }

    /// Everything has come back that can: the guest has to give up the rest, if that is lost.
    pub(super) fn stop_guest_at_end(&mut self, actions: &mut Actions) {
        let corrupt = self.losses.example;
        let corrupt = corrupt.map(|(gfn, error)| (gfn, LossCause::Store(error)));
        let lost = self.lost().next().map(|gfn| (gfn, LossCause::NoEntry));
        if let Some((gfn, cause)) = lost.or(corrupt) {
            let need = Need::Stopping;
            self.stop_guest(Loss { gfn, cause, need }, actions);
        }
    }

    /// The page was read, or is not out any more.
    pub(super) fn not_lost(&mut self, gfn: Gfn, actions: &mut Actions) {
        self.losses.is_not_corrupt(gfn);
        if self
            .losses
            .stopped_for
            .take_if(|page| *page == gfn)
            .is_some()
        {
            actions.push(Action::Report(Report::LossOver { gfn }));
        }
    }

    /// Reads the page again for which the guest was stopped, if it is time. Of a page without an entry
    /// there is nothing to read.
    pub(super) fn read_lost_again(&mut self, actions: &mut Actions) {
        let due = |_: &Gfn| self.losses.ticks >= AGAIN_TICKS && !self.goal.is_stopped();
        let Some(gfn) = self.losses.stopped_for.filter(due) else {
            return;
        };
        let Some(location) = self.placement.locations.out(gfn) else {
            return;
        };
        if self.flights.contains(gfn) {
            return;
        }
        let Some(mut batch) = self.lanes.page_in.take(Lane::Prefetch) else {
            return;
        };
        self.losses.ticks = 0;
        self.flights.start(gfn, Direction::In);
        batch.add(gfn, location);
        self.lanes.page_in.run(batch, PageInStep::Load, actions);
    }
}
