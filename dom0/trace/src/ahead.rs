// SPDX-License-Identifier: MIT OR Apache-2.0
//! Predictors of the pages to bring in beside a page that is missed: the pager's own, and others to
//! compare it with.

use p2m_paging::Gfn;
use pager_core::policy::ScanPart;
use pager_core::read_ahead::{ReadAhead, ReadAheadRange};

/// The most pages that come in beside one that is missed: the size of the pager's batches.
const MOST: u64 = 7;

/// Predicts pages and learns from the results.
pub trait Predictor {
    /// A page is missed. Returns the pages that should come in with it. Pages that are in, or do
    /// not exist, are skipped.
    fn missed(&mut self, page: u64) -> Vec<u64>;
    /// A predicted page comes in.
    fn brought(&mut self, page: u64) {
        let _ = page;
    }
    /// A predicted page is accessed for the first time. A pager does not see this, but a kernel
    /// that reads ahead does.
    fn used(&mut self, page: u64) {
        let _ = page;
    }
    /// Accessed bits have been read.
    fn seen(&mut self, part: &ScanPart<'_>) {
        let _ = part;
    }
    /// A page goes out.
    fn out(&mut self, page: u64) {
        let _ = page;
    }
}

/// Predicts nothing.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl Predictor for Nothing {
    fn missed(&mut self, _: u64) -> Vec<u64> {
        Vec::new()
    }
}

/// The pager's read-ahead: `core::read_ahead`.
#[derive(Debug)]
pub struct Streams {
    inner: ReadAhead,
    wanted: Option<ReadAheadRange>,
    brought: u64,
}

/// An aligned cluster of pages around the missed one. Its size depends on how useful the last
/// clusters were. Linux's swap without vmas works like this (`mm/swap_state.c`).
#[derive(Debug)]
pub struct Cluster {
    hits: u64,
    last_pages: u64,
    last_missed: u64,
}

/// The stride is the majority among the last differences between accesses: Al Maruf and Chowdhury,
/// "Effectively Prefetching Remote Memory with Leap", USENIX ATC 2020, algorithms 1 and 2.
#[derive(Debug, Default)]
pub struct Leap {
    differences: [i64; Self::HISTORY],
    newest: usize,
    last: u64,
    trend: i64,
    hits: u64,
    window: u64,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            inner: ReadAhead::new(MOST),
            wanted: None,
            brought: 0,
        }
    }
}

impl Streams {
    /// Completes the previous window.
    fn settle(&mut self) {
        if let Some(wanted) = self.wanted.take() {
            self.inner.brings(wanted, std::mem::take(&mut self.brought));
        }
    }
}

impl Predictor for Streams {
    fn missed(&mut self, page: u64) -> Vec<u64> {
        self.settle();
        self.wanted = self.inner.fault(Gfn::new_truncate(page));
        self.wanted
            .map_or_else(Vec::new, |wanted| wanted.pages().collect())
    }

    fn brought(&mut self, page: u64) {
        let place = self.wanted.and_then(|wanted| wanted.place(page));
        self.brought |= place.map_or(0, |place| 1 << place);
    }

    fn seen(&mut self, part: &ScanPart<'_>) {
        self.settle();
        self.inner.scanned(part);
    }

    fn out(&mut self, page: u64) {
        // A page of the window that is still coming in is not judged yet.
        if self.wanted.and_then(|wanted| wanted.place(page)).is_none() {
            self.inner.wasted(Gfn::new_truncate(page));
        }
    }
}

impl Default for Cluster {
    /// The values with which Linux starts.
    fn default() -> Self {
        Self {
            hits: 4,
            last_pages: 0,
            last_missed: 0,
        }
    }
}

impl Predictor for Cluster {
    fn missed(&mut self, page: u64) -> Vec<u64> {
        let hits = std::mem::take(&mut self.hits);
        let is_neighbour = page.abs_diff(self.last_missed) == 1;
        let pages = match hits {
            0 if !is_neighbour => 1,
            0 => 2,
            hits => (hits + 2).next_power_of_two().clamp(4, MOST + 1),
        };
        let pages = pages.max(self.last_pages / 2);
        (self.last_pages, self.last_missed) = (pages, page);
        let first = page - page % pages;
        (first..first + pages)
            .filter(|beside| *beside != page)
            .collect()
    }

    fn used(&mut self, _: u64) {
        self.hits += 1;
    }
}

impl Leap {
    const HISTORY: usize = 32;

    fn accessed(&mut self, page: u64) {
        self.newest = (self.newest + 1) % Self::HISTORY;
        self.differences[self.newest] = page.cast_signed() - self.last.cast_signed();
        self.last = page;
    }

    /// The difference that more than half of the last ones share. Tries a short history first.
    fn majority(&self) -> Option<i64> {
        let mut among = Self::HISTORY / 8;
        while among <= Self::HISTORY {
            let last = (0..among)
                .map(|back| self.differences[(self.newest + Self::HISTORY - back) % Self::HISTORY]);
            let (mut candidate, mut votes) = (0, 0_u32);
            for difference in last.clone() {
                match votes {
                    0 => (candidate, votes) = (difference, 1),
                    _ if candidate == difference => votes += 1,
                    _ => votes -= 1,
                }
            }
            if last.filter(|difference| *difference == candidate).count() > among / 2 {
                return Some(candidate);
            }
            among *= 2;
        }
        None
    }
}

impl Predictor for Leap {
    fn missed(&mut self, page: u64) -> Vec<u64> {
        let follows = page.cast_signed() - self.last.cast_signed() == self.trend;
        self.accessed(page);
        let hits = std::mem::take(&mut self.hits);
        let window = match hits {
            0 => u64::from(follows),
            hits => (hits + 1).next_power_of_two().min(MOST),
        };
        self.window = window.max(self.window / 2);
        self.trend = self.majority().unwrap_or(self.trend);
        let steps = 1..=self.window.cast_signed();
        steps
            .filter_map(|nth| page.checked_add_signed(self.trend * nth))
            .filter(|beside| *beside != page)
            .collect()
    }

    fn used(&mut self, page: u64) {
        self.hits += 1;
        self.accessed(page);
    }
}
