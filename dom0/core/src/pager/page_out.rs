// SPDX-License-Identifier: MIT OR Apache-2.0
//! When page-out starts a batch, and with how many pages (row B5).

use crate::batch::Page;
use crate::capacity::StoreCapacity;

/// What page-out has to go by.
#[derive(Debug)]
pub(super) struct PageOut {
    pub(super) capacity: StoreCapacity,
    /// Nominated pages that stay after all. The next batch that ends restores them.
    pub(super) to_restore: Vec<Page>,
    /// The policy had no victim. It is not asked again before the next tick, or before a page was
    /// paged in.
    pub(super) no_victim: bool,
    /// Even fewer pages than the threshold are worth a batch.
    below_threshold_ok: bool,
}

impl PageOut {
    /// With room for so many pages that are to be restored.
    pub(super) fn with_room_for(pages: usize) -> Self {
        Self {
            capacity: StoreCapacity::default(),
            to_restore: Vec::with_capacity(pages),
            no_victim: false,
            below_threshold_ok: false,
        }
    }

    /// Some time passed, while so many pages are out.
    pub(super) fn tick(&mut self, out_pages: u64) {
        self.capacity.tick(out_pages);
        self.no_victim = false;
        self.below_threshold_ok = true;
    }

    /// The target, or what the store can hold, has changed: page-out starts even below the threshold.
    pub(super) fn start_soon(&mut self) {
        self.below_threshold_ok = true;
    }

    /// A page was paged in, so there is a victim.
    pub(super) fn paged_in(&mut self) {
        self.no_victim = false;
    }

    /// How many pages the next batch may take where `deficit` pages are to be paged out and `evicting`
    /// of them are in flight. `None`: no batch is to start.
    pub(super) fn next_batch(
        &mut self,
        deficit: u64,
        evicting: u64,
        threshold: u64,
    ) -> Option<u64> {
        if deficit == 0 {
            self.below_threshold_ok = false;
        }
        let rest = deficit.saturating_sub(evicting);
        let starts = rest > 0 && !self.no_victim && (rest >= threshold || self.below_threshold_ok);
        starts.then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_starts_at_the_threshold_or_after_a_tick() {
        let mut page_out = PageOut::with_room_for(1);
        assert_eq!(page_out.next_batch(31, 0, 32), None);
        assert_eq!(page_out.next_batch(32, 0, 32), Some(32));
        assert_eq!(page_out.next_batch(40, 9, 32), None, "in flight already");
        page_out.tick(0);
        assert_eq!(page_out.next_batch(40, 9, 32), Some(31));
        assert_eq!(page_out.next_batch(40, 40, 32), None);
        // At the target the threshold counts again.
        assert_eq!(page_out.next_batch(0, 0, 32), None);
        assert_eq!(page_out.next_batch(31, 0, 32), None);
    }

    #[test]
    fn without_victims_nothing_starts_until_there_may_be_one() {
        let mut page_out = PageOut::with_room_for(1);
        for there_may_be in [PageOut::paged_in, |page_out: &mut PageOut| page_out.tick(0)] {
            page_out.no_victim = true;
            assert_eq!(page_out.next_batch(100, 0, 32), None);
            page_out.start_soon();
            assert_eq!(page_out.next_batch(100, 0, 32), None);
            there_may_be(&mut page_out);
            assert_eq!(page_out.next_batch(100, 0, 32), Some(100));
        }
    }
}
