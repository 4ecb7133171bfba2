// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prefetch: pages that the target does not want out any more are paged in before anybody asks for
//! them (row B4).

use super::Pager;
use super::rounds::Rounds;
use crate::batch::{Lane, PageInStep};
use crate::event::{Actions, Report};
use crate::flight::Direction;
use crate::outage::Outage;

/// How far prefetch is. It goes over the pages that are out in rounds.
#[derive(Debug, Default)]
pub(super) struct Prefetch {
    rounds: Rounds,
    /// Pages cannot be given to the guest.
    delay: Outage,
}

impl Prefetch {
    /// Some time passed. Returns what has ended.
    pub(super) fn tick(&mut self) -> Option<Report> {
        self.rounds.waits = false;
        self.delay.tick();
        let lasted = self.delay.end_if_quiet()?;
        Some(Report::DelayOver { lasted })
    }

    /// The pager finishes. Returns what has ended.
    pub(super) fn finish(&mut self) -> Option<Report> {
        let lasted = self.delay.end()?;
        Some(Report::DelayOver { lasted })
    }

    /// The target has changed: what waited for a tick is tried now.
    pub(super) fn target_changed(&mut self) {
        self.rounds.waits = false;
    }

    /// Everything is to be paged in: the rounds begin anew.
    pub(super) fn restart(&mut self) {
        self.rounds = Rounds::default();
    }

    /// A page was paged in, in whatever lane.
    pub(super) fn paged_in(&mut self) {
        self.rounds.makes_progress();
    }

    /// A page did not read back.
    pub(super) fn read_failed(&mut self) {
        self.rounds.fails();
    }

    /// A page could not be given to the guest, most likely for want of memory: pages that somebody
    /// waits for go first. Returns whether this is to be reported.
    pub(super) fn delayed(&mut self) -> bool {
        self.rounds.fails();
        self.rounds.waits = true;
        self.delay.happens()
    }

    /// Whether so many rounds in a row were stalled.
    pub(super) fn is_stalled(&self, rounds: u32) -> bool {
        self.rounds.stalled_rounds >= rounds
    }

    /// A round is over. Returns whether the next one may begin now: after a round with failures it
    /// waits for a tick.
    fn next_round(&mut self) -> bool {
        let round = self.rounds.next_round();
        if round.failed {
            self.rounds.stalled_rounds = if round.progress {
                0
            } else {
                self.rounds.stalled_rounds + 1
            };
            self.rounds.waits = true;
        }
        !self.rounds.waits
    }
}

impl Pager {
    /// Starts a batch of pages that the target no longer wants out.
    pub(super) fn start_prefetch(&mut self, actions: &mut Actions) {
        let surplus = self.out_pages().saturating_sub(self.goal.wanted_out());
        if surplus == 0 || self.prefetch.rounds.waits || self.goal.is_stopped() {
            return;
        }
        let Some(mut batch) = self.lanes.page_in.take(Lane::Prefetch) else {
            return;
        };
        let want = usize::try_from(surplus)
            .unwrap_or(usize::MAX)
            .min(self.config.prefetch_batch);
        let mut rounds = 0;
        while batch.pages.len() < want {
            let cursor = self.prefetch.rounds.cursor;
            let Some((gfn, location)) = self.placement.locations.next_out(cursor) else {
                // Once around is enough: what is left is in flight already.
                rounds += 1;
                if !self.prefetch.next_round() || rounds > 1 {
                    break;
                }
                continue;
            };
            self.prefetch.rounds.cursor = gfn.get() + 1;
            if !self.flights.contains(gfn) {
                self.flights.start(gfn, Direction::In);
                batch.add(gfn, location);
            }
        }
        if batch.pages.is_empty() {
            self.lanes.page_in.park(batch)
        } else {
            self.lanes.page_in.run(batch, PageInStep::Load, actions)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outage::Ticks;

    #[test]
    fn a_round_with_failures_waits_for_a_tick_and_others_do_not() {
        let mut prefetch = Prefetch::default();
        assert!(prefetch.next_round(), "nothing failed");
        prefetch.read_failed();
        prefetch.paged_in();
        assert!(!prefetch.next_round());
        prefetch.tick();
        assert!(prefetch.next_round());
    }

    #[test]
    fn only_rounds_that_fail_without_progress_are_stalled() {
        let mut prefetch = Prefetch::default();
        for stalled in 1..=3 {
            prefetch.read_failed();
            prefetch.next_round();
            assert!(prefetch.is_stalled(stalled) && !prefetch.is_stalled(stalled + 1));
        }
        prefetch.next_round();
        assert!(prefetch.is_stalled(3), "an empty round says nothing");
        prefetch.read_failed();
        prefetch.paged_in();
        prefetch.next_round();
        assert!(!prefetch.is_stalled(1));
    }

    #[test]
    fn a_delay_is_reported_when_it_begins_and_when_it_ends() {
        let mut prefetch = Prefetch::default();
        assert!(prefetch.delayed());
        for _ in 0..30 {
            assert!(!prefetch.delayed());
            prefetch.target_changed();
            assert_eq!(prefetch.tick(), None);
        }
        let ended: Vec<_> = (0..30).filter_map(|_| prefetch.tick()).collect();
        let lasted = Ticks(29);
        assert_eq!(ended, [Report::DelayOver { lasted }]);
        assert!(prefetch.delayed());
    }
}
