// SPDX-License-Identifier: MIT OR Apache-2.0
//! Row B6: linear from the current gfn, wrapping.
//!
//! Never chosen: pages that are out, pages tried and refused, the most recently paged-in ones (MRU),
//! pages outside the guest's memory, and those that the operator excluded. The sweep starts in the
//! middle of the guest's memory, so that the BIOS is left alone while the guest boots (row B1). One
//! full turn without a victim means there is none.
//!
//! Refused pages are tried again when a whole turn found no other victim, after a while: see [`RetryBackoff`].

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use p2m_paging::Gfn;

use super::Policy;
use super::retry::RetryBackoff;
use crate::sparse::SparseSet;

/// Pages that came in last and do not go out (64 MiB).
pub const DEFAULT_MRU_PAGES: usize = 16_384;

/// What a [`Sweep`] leaves alone.
#[derive(Clone, Debug)]
pub struct SweepOptions {
    /// How many of the last pages that came in are not victims. Any number; 0 for none.
    pub mru_pages: usize,
    /// Frame numbers that are never victims.
    pub never: Vec<RangeInclusive<u64>>,
    /// If not empty: only these are.
    pub only: Vec<RangeInclusive<u64>>,
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self {
            mru_pages: DEFAULT_MRU_PAGES,
            never: Vec::new(),
            only: Vec::new(),
        }
    }
}

/// The policy of row B6: linear from the current gfn, wrapping; see the head of this file.
#[derive(Debug)]
pub struct Sweep {
    /// What may be chosen now.
    eligible: SparseSet,
    /// Tried and refused.
    refused: SparseSet,
    /// Oldest first. A page in here is in neither set.
    mru: VecDeque<Gfn>,
    mru_pages: usize,
    /// Where the next turn starts.
    cursor: u64,
    retry: RetryBackoff,
}

impl Sweep {
    /// A sweep over the guest's memory, all of it resident.
    pub fn new(memory: &[RangeInclusive<u64>], options: &SweepOptions) -> Self {
        let mut eligible = SparseSet::default();
        for range in memory {
            insert_within(&mut eligible, range, &options.only);
        }
        for range in &options.never {
            remove_range(&mut eligible, range);
        }
        // More than there are pages protects no more pages, and need not be allocated.
        let pages = usize::try_from(eligible.len()).unwrap_or(usize::MAX);
        let mru_pages = options.mru_pages.min(pages);
        Self {
            eligible,
            refused: SparseSet::default(),
            mru: VecDeque::with_capacity(mru_pages),
            mru_pages,
            cursor: middle(memory),
            retry: RetryBackoff::default(),
        }
    }

    fn make_eligible(&mut self, gfn: Gfn) {
        self.eligible.insert(gfn.get(), ());
    }
}

impl Policy for Sweep {
    fn choose(&mut self) -> Option<Gfn> {
        let Some(gfn) = next_around(&self.eligible, self.cursor) else {
            let refused = |from| next_around(&self.refused, from);
            let gfn = self.retry.retry(refused)?;
            self.refused.remove(gfn.get());
            return Some(gfn);
        };
        self.eligible.remove(gfn);
        self.cursor = gfn + 1;
        Gfn::try_new(gfn)
    }

    fn adopted(&mut self, gfn: Gfn) {
        self.eligible.remove(gfn.get());
    }

    fn paged_out(&mut self, gfn: Gfn) {
        self.retry.went_out(gfn);
    }

    fn paged_in(&mut self, gfn: Gfn, _asked: bool) {
        if self.mru_pages == 0 {
            return self.make_eligible(gfn);
        }
        if self.mru.len() == self.mru_pages
            && let Some(oldest) = self.mru.pop_front()
        {
            self.make_eligible(oldest);
        }
        self.mru.push_back(gfn);
    }

    fn refused(&mut self, gfn: Gfn) {
        self.retry.stayed(gfn);
        self.refused.insert(gfn.get(), ());
    }

    fn abandoned(&mut self, gfn: Gfn) {
        self.retry.stayed(gfn);
        self.make_eligible(gfn);
    }

    fn dropped(&mut self, gfn: Gfn) {
        self.make_eligible(gfn);
    }

    fn tick(&mut self) {
        self.retry.tick(self.refused.len());
    }

    fn table_bytes(&self) -> usize {
        self.eligible.table_bytes()
            + self.refused.table_bytes()
            + self.retry.table_bytes()
            + self.mru.capacity() * size_of::<Gfn>()
    }
}

/// The first from this number on, or from the start.
fn next_around(set: &SparseSet, from: u64) -> Option<u64> {
    let found = set.next(from).or_else(|| set.next(0));
    found.map(|(gfn, ())| gfn)
}

/// The gfn with as much memory below it as above.
pub(super) fn middle(memory: &[RangeInclusive<u64>]) -> u64 {
    let last = Gfn::MAX.get();
    let pages =
        |range: &RangeInclusive<u64>| (last.min(*range.end()) + 1).saturating_sub(*range.start());
    let mut half = memory.iter().map(pages).fold(0, u64::saturating_add) / 2;
    for range in memory {
        if half < pages(range) {
            return range.start() + half;
        }
        half -= pages(range);
    }
    0
}

fn insert_within(set: &mut SparseSet, range: &RangeInclusive<u64>, only: &[RangeInclusive<u64>]) {
    let last = *range.end().min(&Gfn::MAX.get());
    if only.is_empty() {
        return set.insert_range(*range.start()..=last, ());
    }
    for part in only {
        set.insert_range(*range.start().max(part.start())..=last.min(*part.end()), ());
    }
}

/// Walks the members, not the range.
fn remove_range(set: &mut SparseSet, range: &RangeInclusive<u64>) {
    while let Some((id, ())) = set.next(*range.start())
        && id <= *range.end()
    {
        set.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gfn(n: u64) -> Gfn {
        Gfn::new_truncate(n)
    }

    fn sweep(memory: RangeInclusive<u64>, options: &SweepOptions) -> Sweep {
        Sweep::new(&[memory], options)
    }

    fn none() -> SweepOptions {
        SweepOptions {
            mru_pages: 0,
            ..SweepOptions::default()
        }
    }

    fn chosen(sweep: &mut Sweep) -> Vec<u64> {
        std::iter::from_fn(|| sweep.choose().map(Gfn::get)).collect()
    }

    #[test]
    fn b1_b6_it_starts_in_the_middle_and_wraps() {
        assert_eq!(chosen(&mut sweep(0..=7, &none())), [4, 5, 6, 7, 0, 1, 2, 3]);
        let split = Sweep::new(&[0..=3, 100..=103], &none());
        assert_eq!(split.cursor, 100);
    }

    #[test]
    fn b6_pages_out_and_pages_refused_are_skipped_until_a_turn_finds_nothing() {
        let mut sweep = sweep(0..=3, &none());
        for _ in 0..4 {
            let victim = sweep.choose().unwrap();
            if victim.get() == 1 {
                sweep.paged_out(victim)
            } else {
                sweep.refused(victim)
            }
        }
        sweep.tick();
        assert_eq!(
            sweep.choose(),
            None,
            "a tick before the fruitless turn forgets nothing"
        );
        sweep.tick();
        assert_eq!(chosen(&mut sweep), [0, 2, 3]);
    }

    #[test]
    fn b6_refused_pages_are_tried_ever_more_rarely() {
        let mut sweep = sweep(0..=0, &none());
        let mut waits = Vec::new();
        for _ in 0..10 {
            let victim = sweep.choose().unwrap();
            sweep.refused(victim);
            let mut ticks = 0;
            while sweep
                .choose()
                .map(|victim| sweep.abandoned(victim))
                .is_none()
            {
                sweep.tick();
                ticks += 1;
            }
            waits.push(ticks);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 128, 128]);
    }

    /// A guest that has ballooned memory away, and thrashes in what is left.
    #[test]
    fn b6_pages_that_come_and_go_do_not_make_it_try_refused_ones_more_often() {
        let mut sweep = sweep(0..=1, &none());
        let (mut waits, mut ticks) = (Vec::new(), 0);
        while waits.len() < 6 {
            while let Some(victim) = sweep.choose() {
                if victim.get() == 0 {
                    sweep.refused(victim);
                    waits.push(ticks);
                    ticks = 0;
                } else {
                    sweep.paged_out(victim);
                }
            }
            sweep.tick();
            ticks += 1;
            sweep.paged_in(gfn(1), true);
        }
        assert_eq!(waits, [0, 1, 2, 4, 8, 16]);
    }

    #[test]
    fn b6_recently_paged_in_pages_are_no_victims() {
        let mut sweep = sweep(
            0..=9,
            &SweepOptions {
                mru_pages: 2,
                ..none()
            },
        );
        for n in chosen(&mut sweep) {
            sweep.paged_out(gfn(n));
        }
        for n in [3, 5, 7] {
            sweep.paged_in(gfn(n), true);
        }
        assert_eq!(chosen(&mut sweep), [3]);
    }

    /// The C pager masks its MRU index with size - 1, which protects the wrong pages unless the size
    /// is a power of two.
    #[test]
    fn defect_9_any_mru_size_protects_exactly_that_many_pages() {
        for mru_pages in [0, 1, 2, 3, 5, 7, 10, 12] {
            let mut sweep = sweep(
                0..=99,
                &SweepOptions {
                    mru_pages,
                    ..none()
                },
            );
            chosen(&mut sweep)
                .into_iter()
                .for_each(|n| sweep.paged_out(gfn(n)));
            (0..50).for_each(|n| sweep.paged_in(gfn(n), true));
            let victims = chosen(&mut sweep);
            assert_eq!(
                victims,
                (0..50 - mru_pages as u64).collect::<Vec<_>>(),
                "size {mru_pages}"
            );
        }
    }

    /// The C pager reads its byte-sized bitmaps as longs, and a skipped word skips 65 gfns.
    #[test]
    fn defect_10_a_memory_size_that_is_no_multiple_of_64_is_swept_whole_and_no_further() {
        for pages in [1, 63, 64, 65, 127, 4095, 4097] {
            let mut sweep = sweep(0..=pages - 1, &none());
            let mut victims = chosen(&mut sweep);
            victims.sort_unstable();
            assert_eq!(victims, (0..pages).collect::<Vec<_>>());
        }
        // Whole words of pages that are out: the page behind them is the next victim.
        let mut sweep = sweep(0..=191, &none());
        chosen(&mut sweep);
        sweep.dropped(gfn(64));
        sweep.dropped(gfn(128));
        assert_eq!(chosen(&mut sweep), [128, 64]);
    }

    /// The C pager takes max_pages for the end of the guest's frame numbers.
    #[test]
    fn defect_6_memory_above_the_mmio_hole_is_a_victim() {
        let mut sweep = Sweep::new(&[0..=2, 0x10_0000..=0x10_0001], &none());
        let mut victims = chosen(&mut sweep);
        victims.sort_unstable();
        assert_eq!(victims, [0, 1, 2, 0x10_0000, 0x10_0001]);
    }

    #[test]
    fn sizes_and_ranges_beyond_memory_are_cut_to_it() {
        let beyond = SweepOptions {
            mru_pages: usize::MAX,
            never: vec![9..=u64::MAX],
            only: vec![],
        };
        assert_eq!(chosen(&mut sweep(8..=15, &beyond)), [8]);
        let all = sweep(Gfn::MAX.get()..=u64::MAX, &none()).eligible;
        assert_eq!(all.iter().collect::<Vec<_>>(), [(Gfn::MAX.get(), ())]);
    }

    #[test]
    fn ranges_are_never_or_the_only_victims() {
        let never = SweepOptions {
            never: vec![2..=3, 5..=5, 90..=99],
            ..none()
        };
        assert_eq!(chosen(&mut sweep(0..=7, &never)), [4, 6, 7, 0, 1]);
        let only = SweepOptions {
            only: vec![2..=3, 6..=200],
            never: vec![7..=7],
            ..none()
        };
        assert_eq!(chosen(&mut sweep(0..=9, &only)), [6, 8, 9, 2, 3]);
    }
}
