// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a pager takes over from one that was killed, before it hears of any event.

use p2m_paging::Gfn;

use super::Pager;
use crate::event::{Actions, Loss, LossCause, Need, Report};
use crate::locations::Location;

/// A pager that does not run yet, and is told what another has left.
#[derive(Debug)]
#[must_use = "the pager is in it"]
pub struct Adoption {
    pager: Pager,
}

impl Pager {
    /// The pager takes over a guest from one that was killed. Only before anything has happened.
    pub fn adopt(mut self) -> Adoption {
        // Drops may be about a page-out of the other pager.
        self.config.takes_over = true;
        Adoption { pager: self }
    }

    /// Somebody needs a lost page. Its requests wait like those of a page that does not read back.
    /// Returns the place in the list of requests at which the search goes on: a request that has waited
    /// long enough is answered, and then the next ones have moved up.
    pub(super) fn lost_is_needed(&mut self, gfn: Gfn, next: usize, actions: &mut Actions) -> usize {
        let (cause, need) = (LossCause::NoEntry, Need::Requested);
        self.stop_guest(Loss { gfn, cause, need }, actions);
        let before = self.pending.len();
        self.pending
            .read_failed(gfn, true, self.config.read_attempts, actions);
        next - (before - self.pending.len()).min(next)
    }
}

impl Adoption {
    /// A page is out, and its contents lie there. If there is no such slot, it is lost. Returns whether
    /// it is not.
    pub fn out(&mut self, gfn: Gfn, location: Location) -> bool {
        if self.is_known(gfn) {
            return true;
        }
        let placement = &mut self.pager.placement;
        if location
            .slot()
            .is_some_and(|slot| !placement.slots.adopt(slot))
        {
            self.lost(gfn);
            return false;
        }
        placement.locations.goes_out(gfn, location);
        self.pager.policy.adopted(gfn);
        self.pager.progress.adopted += 1;
        true
    }

    /// A page is out, and nothing says where it lies.
    pub fn lost(&mut self, gfn: Gfn) {
        if self.is_known(gfn) {
            return;
        }
        self.pager.problem_pages.lost.insert(gfn.get(), ());
        self.pager.policy.adopted(gfn);
    }

    /// A page is nominated. It is restored when it is chosen or requested, and before the pager ends.
    pub fn nominated(&mut self, gfn: Gfn) {
        self.pager.problem_pages.nominated.insert(gfn.get(), ());
    }

    /// Ranges of memory may overlap: a page is told twice then.
    fn is_known(&self, gfn: Gfn) -> bool {
        self.pager.placement.locations.is_out(gfn)
            || self.pager.problem_pages.lost.contains(gfn.get())
    }

    /// That was all.
    pub fn finish(mut self) -> Pager {
        let pages = self.pager.problem_pages.lost.len();
        let first = self.pager.lost().next();
        self.pager.adoption_report = first.map(|first| Report::Lost { pages, first });
        self.pager
    }
}
