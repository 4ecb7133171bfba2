//! When refused pages are tried again (row B6).
//!
//! When there was no other victim, at a tick: the first time after one tick, then after two, and so on up
//! to [`LIMIT_TICKS`]; a page that goes out resets this. So a guest that pins its memory is not asked about
//! every page ten times a second, and one that lets go of it is noticed.

use p2m_paging::Gfn;

use super::states::{State, StateMap};

/// About 13 seconds.
const LIMIT_TICKS: u32 = 128;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Patience {
    /// A choice found nothing since the last tick that granted retries.
    fruitless: bool,
    waited_ticks: u32,
    wait_ticks: u32,
    /// Refused pages that may be tried again now.
    retries: u64,
    cursor: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            fruitless: false,
            waited_ticks: 0,
            wait_ticks: 1,
            retries: 0,
            cursor: 0,
        }
    }
}

impl Patience {
    /// There is no other victim: a refused page, if one may be tried.
    pub(super) fn retry<const STATES: usize>(
        &mut self,
        states: &StateMap<STATES>,
        refused: State,
    ) -> Option<Gfn> {
        let next = (self.retries > 0)
            .then(|| states.next_around(refused, self.cursor))
            .flatten();
        let Some(gfn) = next else {
            self.fruitless = true;
            self.retries = 0;
            return None;
        };
        self.retries -= 1;
        self.cursor = gfn + 1;
        Gfn::try_new(gfn)
    }

    /// A page went out.
    pub(super) fn went_out(&mut self) {
        self.wait_ticks = 1;
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
