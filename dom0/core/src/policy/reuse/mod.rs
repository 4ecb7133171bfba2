// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps the pages that are likely to be used again soonest, by what became of pages like them.
//!
//! Of every page, in or out, is remembered how often it has been used and how long ago ([`history`]).
//! When a page is used, what it was like just before is noted, and that is the whole of what is learned:
//! [`forecast`] makes a ranking of it. The pager is in a better place than a cache in front of a disk, which
//! forgets a page when it evicts it: every page has a state for ever, and a page that is out says when it
//! is used, for it has to be asked for. So the ranking is right about pages that were never kept, and
//! loops, scans, hot sets and plain recency are all learned in the same way.
//!
//! Time is counted in *ticks*. A tick has passed when an eighth as many pages as are in have become young: came in,
//! or were used again after they had been old. A guest that does nothing does not age.
//!
//! A page that comes in unasked is *spared*: spared until it is seen used or so many others have come in after it. Whoever goes
//! through memory for the hundredth time needs it in a moment, and not again for as long as any page there is.
//!
//! Victims are taken from the least valuable history that has any page, by gfn from a cursor on; of old pages those first
//! that were used longest ago. Pages that nobody has seen used go before all others.
//!
//! **Where accessed bits are read**, a tick takes place in the course of a scan: pages that were used become young, all others
//! older. **Where they are not**, a page in memory is never seen used: it ages from when it came
//! in, and a hand goes over memory, a bit for each victim, to age it. What is learned then comes
//! from pages that were out; that pages that are in are not seen used counts a little, so
//! that histories which look good are doubted, and tried, after a while.

mod forecast;
mod history;
mod spared;

use std::ops::RangeInclusive;

use p2m_paging::Gfn;

use super::retry::RetryBackoff;
use super::states::{LEAF_PAGES, NONE, Selection, StateMap, ones};
use super::{Policy, ScanPart, SweepOptions, eligible, sweep};
use forecast::Forecast;
use history::{
    CLASSES, FRESH, History, NEW, REFUSED, STATES, UNKNOWN_IN, UNKNOWN_OUT, YOUNG, older,
};
use spared::SparedReadAhead;

/// Ticks while as many pages become young as are in.
const TICKS_A_TURN: u64 = 8;

/// So large a part of the pages in may be spared as one in so many.
const SPARED_OF: u64 = 16;

/// How much it counts that a page in memory was not seen used where nobody looks.
const UNSEEN_WEIGHT: f64 = 0.1;

/// See the head of this file.
#[derive(Debug)]
pub struct Reuse {
    states: StateMap<STATES>,
    /// In, in the state of pages that are out.
    spared: SparedReadAhead,
    forecast: Forecast,
    /// Ticks that have begun.
    ticks: u64,
    /// Pages that have become young since the last tick.
    rejuvenated: u64,
    sight: Sight,
    cursor: u64,
    retry: RetryBackoff,
    random: u64,
}

/// How pages are seen to be used.
#[derive(Clone, Copy, Debug)]
enum Sight {
    /// By scans of accessed bits.
    Scans {
        /// The scan under way is a tick.
        ticking: bool,
        /// Victims since the last scan.
        victims: u64,
    },
    /// By page-ins alone.
    Blind {
        /// The next leaf to age; past the last when the tick is done with all of them.
        hand: usize,
    },
}

impl Reuse {
    /// For a guest's memory, all of it resident, none of it seen used.
    pub fn new(memory: &[RangeInclusive<u64>], options: &SweepOptions) -> Self {
        let mut states = StateMap::new(memory);
        for range in eligible(memory, options) {
            states.fill(range, UNKNOWN_IN);
        }
        Self {
            states,
            spared: SparedReadAhead::default(),
            forecast: Forecast::new(),
            ticks: 0,
            rejuvenated: 0,
            sight: Sight::Blind { hand: 0 },
            cursor: sweep::middle(memory),
            retry: RetryBackoff::default(),
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Pages that are in and may be chosen.
    fn residents(&self) -> u64 {
        let seen = History::all().map(|history| residents_like(&self.states, history));
        seen.sum::<u64>() + self.states.count(UNKNOWN_IN)
    }

    /// A number from 0 up to 1 (xorshift).
    fn chance(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A page was used that had not been for a while; what it is like now, at this age.
    fn used(&mut self, before: History, age: usize) -> History {
        self.forecast.used(before);
        self.rejuvenated += 1;
        let class = before.next_class(self.chance());
        History::new(class, age)
    }

    /// A page that was out, or is spared, is used.
    fn used_again(&mut self, gfn: Gfn, age: usize) {
        let now = match History::of_away(self.states.get(gfn.get())) {
            Some(before) => self.used(before, age),
            None => {
                self.rejuvenated += 1;
                History::new(NEW, age)
            }
        };
        self.states.set(gfn.get(), now.resident());
    }

    fn turn_is_due(&self) -> bool {
        self.rejuvenated * TICKS_A_TURN >= self.residents().max(1)
    }

    fn tick_is_over(&mut self, unseen_weight: f64) {
        self.ticks += 1;
        self.rejuvenated = 0;
        let states = &self.states;
        self.forecast.tick(|history| {
            let resident = residents_like(states, history) as f64;
            states.count(history.away()) as f64 + resident * unseen_weight
        });
    }

    /// Makes pages of a leaf a tick older.
    fn age(&mut self, leaf: usize, selection: Option<&Selection>) {
        let mut to = std::array::from_fn(|_| NONE);
        for (state, to) in (0..=u8::MAX).zip(&mut to) {
            *to = older(state, self.ticks);
        }
        self.states.remap(leaf, selection, &to);
    }

    /// Where nobody reads accessed bits: so far as one victim goes.
    fn go_on_blindly(&mut self) {
        let residents = self.residents().max(1);
        let leaf = match &mut self.sight {
            Sight::Scans { victims, .. } if *victims <= residents => {
                *victims += 1;
                return;
            }
            // A memory's worth of victims without a scan: there will be none.
            Sight::Scans { .. } => 0,
            Sight::Blind { hand } => *hand,
        };
        let leaves = self.states.leaves();
        let due = leaves as u64 * self.rejuvenated * TICKS_A_TURN / residents;
        if leaf < leaves && (leaf as u64) < due {
            self.age(leaf, None);
            self.sight = Sight::Blind { hand: leaf + 1 };
        } else if self.turn_is_due() {
            self.tick_is_over(UNSEEN_WEIGHT);
            self.sight = Sight::Blind { hand: 0 };
        }
    }
}

impl Policy for Reuse {
    fn choose(&mut self) -> Option<Gfn> {
        self.go_on_blindly();
        if let Some(gfn) = self.states.next_around(UNKNOWN_IN, self.cursor) {
            self.cursor = gfn + 1;
            self.states.set(gfn, UNKNOWN_OUT);
            return Gfn::try_new(gfn);
        }
        for history in self.forecast.order() {
            for state in history.residents().rev() {
                if let Some(gfn) = self.states.next_around(state, self.cursor) {
                    self.cursor = gfn + 1;
                    self.states.set(gfn, history.away());
                    return Gfn::try_new(gfn);
                }
            }
        }
        if let Some(gfn) = self.spared.pop() {
            return Some(gfn);
        }
        let refused = |from| self.states.next_around(REFUSED, from);
        let gfn = self.retry.retry(refused)?;
        self.states.set(gfn.get(), UNKNOWN_OUT);
        Some(gfn)
    }

    fn adopted(&mut self, gfn: Gfn) {
        self.states.set(gfn.get(), UNKNOWN_OUT);
    }

    fn paged_out(&mut self, gfn: Gfn) {
        self.retry.went_out(gfn);
    }

    fn paged_in(&mut self, gfn: Gfn, asked: bool) {
        if asked {
            return self.used_again(gfn, FRESH);
        }
        let limit = self.residents() / SPARED_OF;
        if let Some(gfn) = self.spared.push(gfn, limit) {
            // It was not seen used: as it was before it came in.
            let before = History::of_away(self.states.get(gfn.get()));
            let state = before.map_or(UNKNOWN_IN, History::resident);
            self.states.set(gfn.get(), state);
        }
    }

    fn refused(&mut self, gfn: Gfn) {
        self.retry.stayed(gfn);
        self.states.set(gfn.get(), REFUSED);
    }

    fn abandoned(&mut self, gfn: Gfn) {
        self.retry.stayed(gfn);
        let before = History::of_away(self.states.get(gfn.get()));
        let state = before.map_or(UNKNOWN_IN, History::resident);
        self.states.set(gfn.get(), state);
    }

    fn dropped(&mut self, gfn: Gfn) {
        self.spared.remove(gfn);
        self.states.set(gfn.get(), UNKNOWN_IN);
    }

    fn tick(&mut self) {
        self.retry.tick(self.states.count(REFUSED));
    }

    fn referenced(&mut self, part: &ScanPart<'_>) {
        let Some((leaf, 0)) = self.states.find(part.first) else {
            return;
        };
        for gfn in self.spared.scanned(part) {
            self.used_again(gfn, FRESH);
        }
        let ticking = matches!(self.sight, Sight::Scans { ticking: true, .. });
        // Those to age: all but the ones that are found to have been used.
        let mut rest: Selection = [!0; LEAF_PAGES / 64];
        for ((word, base), rest) in part
            .accessed
            .iter()
            .zip((part.first..).step_by(64))
            .zip(&mut rest)
        {
            for bit in ones(*word) {
                let gfn = base + bit;
                let state = self.states.get(gfn);
                let now = match History::of_resident(state) {
                    // Seen already, by the page-in.
                    Some(before) if before.age() == FRESH => continue,
                    Some(before) if before.age() == YOUNG => {
                        self.forecast.used(before);
                        before
                    }
                    Some(before) => self.used(before, YOUNG),
                    None if state == UNKNOWN_IN => {
                        self.rejuvenated += 1;
                        History::new(NEW, YOUNG)
                    }
                    None => continue,
                };
                *rest &= !(1 << bit);
                self.states.set(gfn, now.resident());
            }
        }
        if ticking {
            self.age(leaf, Some(&rest));
        } else {
            self.states.remap(leaf, None, &grown_up());
        }
    }

    fn scanned(&mut self) {
        if matches!(self.sight, Sight::Scans { ticking: true, .. }) {
            self.tick_is_over(1.0);
        }
        self.sight = Sight::Scans {
            ticking: self.turn_is_due(),
            victims: 0,
        };
    }

    fn wants_scans(&self) -> bool {
        true
    }

    fn table_bytes(&self) -> usize {
        self.states.table_bytes() + self.spared.table_bytes() + self.retry.table_bytes()
    }
}

/// By state: what it is after a scan that is no tick. Fresh pages are young.
fn grown_up() -> [u8; STATES] {
    let mut to = std::array::from_fn(|_| NONE);
    for (state, to) in (0..=u8::MAX).zip(&mut to) {
        *to = state;
    }
    for class in 0..CLASSES {
        let fresh = History::new(class, FRESH).resident();
        to[usize::from(fresh)] = History::new(class, YOUNG).resident();
    }
    to
}

/// Pages that are in, with this history.
fn residents_like(states: &StateMap<STATES>, history: History) -> u64 {
    let residents = history.residents();
    residents.map(|state| states.count(state)).sum()
}

#[cfg(test)]
mod tests;
