// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much the store can hold, as far as it has shown.

use p2m_paging::Gfn;

use super::batch::PageError;
use super::event::Report;
use super::outage::Ticks;

/// What is known of a store that refused a page.
///
/// Page-out goes on within what the store has proven to hold. At each tick a little more is tried, so
/// that an operator who makes room need not tell the pager: one page first, then twice as many each
/// time it works, until a whole batch fits and the limit is forgotten.
#[derive(Debug, Default)]
pub(super) struct StoreCapacity {
    limit: Option<Limit>,
}

#[derive(Debug)]
struct Limit {
    proven_pages: u64,
    /// What may be tried beyond that until the next tick.
    probe_pages: u64,
    /// What may be tried at the next tick.
    window_pages: u64,
    ticks: u64,
}

impl StoreCapacity {
    /// How many pages may be out, of those that are wanted out.
    pub(super) fn allowed(&self, wanted_pages: u64) -> u64 {
        self.limit.as_ref().map_or(wanted_pages, |limit| {
            wanted_pages.min(limit.proven_pages.saturating_add(limit.probe_pages))
        })
    }

    /// For how long not as many pages have fit as when one was refused; `None` if they have since.
    pub(super) fn limited_for(&self) -> Option<Ticks> {
        self.limit.as_ref().map(|limit| Ticks(limit.ticks))
    }

    /// Pages have been written; now the store holds so many.
    pub(super) fn written(&mut self, held_pages: u64, whole_batch: u64) -> Option<Report> {
        let limit = self
            .limit
            .as_mut()
            .filter(|limit| held_pages > limit.proven_pages)?;
        limit.proven_pages = held_pages;
        limit.probe_pages = 0;
        limit.window_pages = limit.window_pages.saturating_mul(2);
        if limit.window_pages <= whole_batch {
            return None;
        }
        let lasted = Ticks(limit.ticks);
        self.limit = None;
        Some(Report::StoreRecovered { lasted })
    }

    /// A page could not be written, while the store held so many.
    pub(super) fn refused(
        &mut self,
        held_pages: u64,
        gfn: Gfn,
        error: PageError,
    ) -> Option<Report> {
        let before = self.limit.as_ref().map(|limit| limit.ticks);
        self.limit = Some(Limit {
            proven_pages: held_pages,
            probe_pages: 0,
            window_pages: 1,
            ticks: before.unwrap_or(0),
        });
        before.is_none().then_some(match error {
            PageError::Store(crate::store::StoreError::Full) => Report::StoreFull {
                pages_out: held_pages,
            },
            error => Report::StoreFailed { gfn, error },
        })
    }

    /// Some time passed; the store holds so many pages, whatever was made of each write.
    pub(super) fn tick(&mut self, held_pages: u64) {
        if let Some(limit) = &mut self.limit {
            limit.proven_pages = limit.proven_pages.max(held_pages);
            limit.probe_pages = limit.window_pages;
            limit.ticks += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    const FULL: PageError = PageError::Store(StoreError::Full);

    #[test]
    fn a_full_store_is_reported_once_and_probed_with_ever_more_pages() {
        let gfn = Gfn::new_truncate(1);
        let mut room = StoreCapacity::default();
        assert_eq!(room.allowed(1000), 1000);
        assert_eq!(
            room.refused(100, gfn, FULL),
            Some(Report::StoreFull { pages_out: 100 })
        );
        assert_eq!(room.allowed(1000), 100);
        room.tick(100);
        assert_eq!(room.allowed(1000), 101);
        assert_eq!(room.refused(100, gfn, FULL), None, "said once");
        assert_eq!(room.allowed(1000), 100);
        // There is room again.
        let mut held = 100;
        for window in [1, 2, 4] {
            room.tick(held);
            assert_eq!(room.allowed(1000), held + window);
            held += window;
            let back = room.written(held, 4);
            let lasted = Ticks(4);
            let recovered = Report::StoreRecovered { lasted };
            assert_eq!(back, (window == 4).then_some(recovered));
        }
        assert_eq!(room.allowed(1000), 1000);
    }
    /// The probe's page was written with another for which there was no room, so nobody said that it had fit.
    #[test]
    fn what_is_out_is_proven() {
        let mut room = StoreCapacity::default();
        room.refused(3, Gfn::new_truncate(1), FULL);
        room.tick(2);
        assert_eq!(room.allowed(36), 4);
        room.tick(4);
        assert_eq!(room.allowed(36), 5);
    }
}
