// SPDX-License-Identifier: MIT OR Apache-2.0
//! When refused pages are tried again (row B6).
//!
//! When there was no other victim, at a tick: the first time after one tick, then after two, and so on up
//! to [`LIMIT_TICKS`]; one that goes out after all resets this. So a guest that pins its memory is not asked about
//! every page ten times a second, while its other pages come and go, and one that lets go of it is noticed.

use p2m_paging::Gfn;

use crate::sparse::SparseSet;

/// About 13 seconds.
const LIMIT_TICKS: u32 = 128;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct RetryBackoff {
    /// A choice found nothing since the last tick that granted retries.
    fruitless: bool,
    waited_ticks: u32,
    wait_ticks: u32,
    /// Refused pages that may be tried again now.
    retries: u64,
    /// Those that are being tried.
    tried: SparseSet,
    cursor: u64,
}

impl Default for RetryBackoff {
    fn default() -> Self {
        Self {
            fruitless: false,
            waited_ticks: 0,
            wait_ticks: 1,
            retries: 0,
            tried: SparseSet::default(),
            cursor: 0,
        }
    }
}

impl RetryBackoff {
    /// There is no other victim: the next refused page in turn, if one may be tried. `next_around`: the first from a
    /// number on, or from the start.
    pub(super) fn retry(&mut self, next_around: impl FnOnce(u64) -> Option<u64>) -> Option<Gfn> {
        let found = (self.retries > 0)
            .then(|| next_around(self.cursor))
            .flatten();
        let Some(gfn) = found.and_then(Gfn::try_new) else {
            self.fruitless = true;
            self.retries = 0;
            return None;
        };
        self.retries -= 1;
        self.cursor = gfn.get() + 1;
        self.tried.insert(gfn.get(), ());
        Some(gfn)
    }

    /// A page went out.
    pub(super) fn went_out(&mut self, gfn: Gfn) {
        if self.tried.remove(gfn.get()).is_some() {
            self.wait_ticks = 1;
        }
    }

    /// A page was refused, or not tried after all.
    pub(super) fn stayed(&mut self, gfn: Gfn) {
        self.tried.remove(gfn.get());
    }

    /// Memory in use, in bytes.
    pub(super) fn table_bytes(&self) -> usize {
        self.tried.table_bytes()
    }

    /// Some time passed; so many pages are refused.
    pub(super) fn tick(&mut self, refused: u64) {
        if !self.fruitless || refused == 0 {
            return;
        }
        self.waited_ticks += 1;
        if self.waited_ticks < self.wait_ticks {
            return;
        }
        self.waited_ticks = 0;
        self.wait_ticks = (self.wait_ticks * 2).min(LIMIT_TICKS);
        self.fruitless = false;
        self.retries = refused;
    }
}
