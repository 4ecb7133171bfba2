// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a pager is told at the start, and the figures it keeps.

use std::ops::RangeInclusive;

use p2m_paging::Gfn;
use p2m_paging::ring::abi::SLOTS;

use super::read_ahead::ReadAheadOutcome;
use crate::store::SlotRange;

/// The longest batch: more pages together gain nothing and make a fault wait.
const MAX_BATCH: usize = 4096;

/// What a pager is told at the start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the guest has memory. May include holes: the hypervisor refuses what is not memory.
    pub memory: Vec<RangeInclusive<u64>>,
    /// The guest's size in pages (`max_pages`), the bound of any target.
    pub max_pages: u64,
    /// Pages that go out together at most.
    pub out_batch: usize,
    /// Pages that come in together ahead of need at most, or are moved. A fault waits for such a batch at worst.
    pub prefetch_batch: usize,
    /// Page-out starts when at least so many pages are to go, or at the next tick: single pages are
    /// not worth a batch each.
    pub out_threshold: u64,
    /// Requests that can be under way together: the slots of the ring.
    pub requests: usize,
    /// Pages that come in beside one that is asked for, at most (row C8): fewer than `requests`; 0 for none.
    pub read_ahead: usize,
    /// Where the store has slots: ranges that do not overlap.
    pub areas: Vec<SlotRange>,
    /// Accessed bits are read while nothing is to be out, too: somebody wants to know how much is used.
    pub watch_uses: bool,
    /// Pages were out when the pager came that it knows nothing of: a pager before it took them out, and was killed. When it hears of a drop
    /// that may be one of those, it brings its own page in to see whether that is gone.
    pub takes_over: bool,
    /// How often an unreadable page is read before its request is over, and before a stop gives up.
    pub read_attempts: u32,
}

impl Config {
    /// The usual figures for a guest of so many pages, all of them from gfn 0 on.
    pub fn new(max_pages: u64) -> Self {
        Self {
            memory: vec![0..=max_pages.saturating_sub(1)],
            max_pages,
            out_batch: 512,
            prefetch_batch: 64,
            out_threshold: 32,
            requests: SLOTS as usize,
            read_ahead: SLOTS as usize - 1,
            areas: vec![SlotRange::EVERYTHING],
            watch_uses: false,
            takes_over: false,
            read_attempts: 5,
        }
    }

    /// Whether the guest may have memory at this page.
    pub(super) fn has(&self, gfn: Gfn) -> bool {
        let mut memory = self.memory.iter();
        memory.any(|range| range.contains(&gfn.get()))
    }

    /// The same with sizes of zero, or far too large, clamped to what works.
    pub(super) fn clamped(mut self) -> Self {
        self.out_batch = self.out_batch.clamp(1, MAX_BATCH);
        self.prefetch_batch = self.prefetch_batch.clamp(1, MAX_BATCH);
        self.requests = self.requests.clamp(1, MAX_BATCH);
        self.read_ahead = self.read_ahead.min(self.requests - 1);
        self
    }
}

/// Row B1: a number of pages below zero or above the maximum means the maximum.
pub fn clamp_num_pages(num_pages: i64, max_pages: u64) -> u64 {
    u64::try_from(num_pages).map_or(max_pages, |pages| pages.min(max_pages))
}

/// How far it is, and what happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Pages that the guest has, in memory and out.
    pub size_pages: u64,
    /// Of those in memory, the ones that it has used lately; `None` where that is not known.
    pub used_pages: Option<u64>,
    /// Pages out now.
    pub out_pages: u64,
    /// Pages that are to be out.
    pub wanted_out_pages: u64,
    /// Of those out, the ones that did not read back.
    pub unreadable_pages: u64,
    /// Of those out, the ones that are lost: a pager before this one took them out, and nothing says
    /// where they lie.
    pub lost_pages: u64,
    /// Of those that did not read back, the ones whose store has something else.
    pub corrupt_pages: u64,
    /// Pages that are nominated although they are to stay.
    pub nominated_pages: u64,
    /// Pages on their way out that may be nominated: their batch has not come back yet.
    pub paging_out_pages: u64,
    /// Requests that wait for their page.
    pub waiting_requests: u64,
    /// Pages that are in and have a copy in the store (row C7).
    pub copies: u64,
    /// Pages that were out when the pager came, and whose contents it has.
    pub adopted: u64,
    /// Pages evicted since the start.
    pub evicted: u64,
    /// Pages written to the store.
    pub written: u64,
    /// Pages that went out unwritten: their copy was compared and is the same.
    pub unchanged: u64,
    /// Pages that went out unwritten: another page's slot holds the same (row C6).
    pub deduplicated: u64,
    /// Pages that went out as zeros, without a slot.
    pub zeros: u64,
    /// Pages moved from one slot to another, because their area was to go.
    pub moved: u64,
    /// Pages brought home since the start, asked for or not.
    pub paged_in: u64,
    /// Of those, the ones brought back although nobody had asked for them.
    pub prefetched: u64,
    /// Pages that came in beside one that was asked for.
    pub read_ahead: u64,
    /// What has become of those.
    pub read_ahead_outcome: ReadAheadOutcome,
    /// Copies forgotten because the guest gave the page back (row B10).
    pub dropped: u64,
    /// Nominations and evictions that the hypervisor refused.
    pub refused: u64,
    /// Requests that needed no I/O (row B8).
    pub answered_resident: u64,
}

impl Progress {
    /// Pages in memory, as far as the pager has counted.
    pub fn resident_pages(&self) -> u64 {
        self.size_pages.saturating_sub(self.out_pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b1_num_pages_out_of_range_is_the_maximum() {
        for (asked, got) in [(-1, 100), (i64::MIN, 100), (0, 0), (100, 100), (101, 100)] {
            assert_eq!(clamp_num_pages(asked, 100), got);
        }
    }
}
