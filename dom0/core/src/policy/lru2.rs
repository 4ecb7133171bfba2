// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows C2, C3 and C10: two lists, scanned with a priority.
//!
//! A page that comes in joins the *inactive* list. Seen accessed once it is *referenced*, seen again it
//! moves up to the *active* list. A scan of the active list, which is due when that is the longer one,
//! moves its oldest pages down, but for those that are referenced: they lose the mark and go round
//! again. A scan of the inactive list takes its oldest pages as victims, but for those
//! that are referenced, which get another turn too.
//!
//! How much is scanned at a time grows as the *priority* goes from 12 down to 0: at most `length >>
//! priority` pages of each list, until a batch of 32 victims is found (row C3). The batch lies apart
//! from both lists and is handed out page by page (row C10). A whole scan at priority 0 that finds
//! nothing means there is none; a policy that has found none for several scans is *all unreclaimable*, and then scans at
//! priority 0 only, until a page comes to one of the lists.
//!
//! Row C10's vectors of pages that wait to be added, and the private list that a scan works on without
//! the lock, keep several CPUs off one lock. Here is one thread and no lock: neither exists.
//!
//! Pages that may not be touched (row C1: reserved, locked, in use by somebody else) are those
//! excluded by the operator and those refused by the hypervisor.
//!
//! A list is a queue of at most [`GENERATIONS`] sets: a page joins the youngest set, and the oldest set
//! goes first, by gfn. That is a list in all but the order of neighbours, and it takes a byte a page
//! where links take eight.

use std::ops::RangeInclusive;

use p2m_paging::Gfn;

use super::retry::RetryBackoff;
use super::states::{NONE, State, StateMap, ones};
use super::{Policy, ScanPart, SweepOptions, eligible};

/// Victims looked for at a time (`SWAP_CLUSTER_MAX`).
const BATCH: usize = 32;

/// The first and gentlest priority (`DEF_PRIORITY`).
const FIRST_PRIORITY: u32 = 12;

/// Pages looked at for one batch at most: beyond that the oldest inactive pages go, referenced or not, so that
/// a decision takes bounded time in a guest of any size.
const SCAN_LIMIT: u64 = 4096;

/// Sets in a list at most.
const GENERATIONS: u8 = 32;

/// Vain scans before the policy is all unreclaimable.
const VAIN_SCANS: u32 = 3;

// What a state says, beside the generation in its low bits.
const LISTED: State = 0x80;
const ACTIVE: State = 0x40;
const REFERENCED: State = 0x20;
const REFUSED: State = 1;

/// Two lists, scanned with a priority; see the head of this file.
#[derive(Debug)]
pub struct Lru2 {
    states: StateMap<256>,
    inactive: List,
    active: List,
    /// Victims found and not yet handed out.
    batch: Vec<Gfn>,
    vain_scans: u32,
    retry: RetryBackoff,
    counts: ScanCounts,
}

/// What scans have done since the start (row C10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanCounts {
    /// Pages looked at.
    pub scanned: u64,
    /// Pages found to be victims.
    pub reclaimed: u64,
}

/// A queue of sets; what is in them is in the states.
#[derive(Debug)]
struct List {
    kind: State,
    oldest: u8,
    youngest: u8,
    cursor: u64,
}

impl Lru2 {
    /// Both lists, over the guest's memory: all of it resident, and inactive.
    pub fn new(memory: &[RangeInclusive<u64>], options: &SweepOptions) -> Self {
        let mut policy = Self {
            states: StateMap::new(memory),
            inactive: List::new(LISTED),
            active: List::new(LISTED | ACTIVE),
            batch: Vec::with_capacity(BATCH),
            vain_scans: 0,
            retry: RetryBackoff::default(),
            counts: ScanCounts::default(),
        };
        for range in eligible(memory, options) {
            policy.states.fill(range, LISTED);
        }
        policy
    }

    /// What scans have done so far.
    pub fn counts(&self) -> ScanCounts {
        self.counts
    }

    fn join_inactive(&mut self, gfn: u64) {
        self.vain_scans = 0;
        self.inactive.push(&mut self.states, gfn);
    }

    /// Fills the batch, from the gentlest priority to the last.
    fn scan(&mut self) {
        let first = if self.vain_scans < VAIN_SCANS {
            FIRST_PRIORITY
        } else {
            0
        };
        let mut budget = SCAN_LIMIT;
        for priority in (0..=first).rev() {
            let (active, inactive) = (
                self.active.len(&self.states),
                self.inactive.len(&self.states),
            );
            if active > inactive {
                self.scan_active(share(active, priority).min(budget));
            }
            let scan = share(inactive, priority).min(budget);
            self.scan_inactive(scan, false);
            budget -= scan;
            if self.batch.len() >= BATCH {
                break;
            }
            if budget == 0 {
                self.scan_inactive(BATCH as u64, true);
                break;
            }
        }
        if self.batch.is_empty() {
            self.vain_scans = self.vain_scans.saturating_add(1);
        }
        // The oldest is handed out first.
        self.batch.reverse();
    }

    fn scan_active(&mut self, pages: u64) {
        for _ in 0..pages {
            let Some((gfn, referenced)) = self.active.pop(&mut self.states) else {
                return;
            };
            self.counts.scanned += 1;
            if referenced {
                self.active.push(&mut self.states, gfn);
            } else {
                self.inactive.push(&mut self.states, gfn);
            }
        }
    }

    fn scan_inactive(&mut self, pages: u64, whatever: bool) {
        for _ in 0..pages {
            if self.batch.len() >= BATCH {
                return;
            }
            let Some((gfn, referenced)) = self.inactive.pop(&mut self.states) else {
                return;
            };
            self.counts.scanned += 1;
            if referenced && !whatever {
                self.inactive.push(&mut self.states, gfn);
            } else if let Some(victim) = Gfn::try_new(gfn) {
                self.counts.reclaimed += 1;
                self.batch.push(victim);
            }
        }
    }
}

/// Row C3's fraction of a list; at least a page, or short lists would wait for the last priority.
fn share(length: u64, priority: u32) -> u64 {
    (length >> priority).max(1)
}

impl List {
    fn new(kind: State) -> Self {
        Self {
            kind,
            oldest: 0,
            youngest: 0,
            cursor: 0,
        }
    }

    fn in_generation(&self, states: &StateMap<256>, generation: u8) -> u64 {
        states.count(self.kind | generation) + states.count(self.kind | generation | REFERENCED)
    }

    fn len(&self, states: &StateMap<256>) -> u64 {
        (0..GENERATIONS)
            .map(|generation| self.in_generation(states, generation))
            .sum()
    }

    fn push(&mut self, states: &mut StateMap<256>, gfn: u64) {
        let after = (self.youngest + 1) % GENERATIONS;
        let full = self.len(states) / u64::from(GENERATIONS) + 1;
        if after != self.oldest && self.in_generation(states, self.youngest) >= full {
            self.youngest = after;
        }
        states.set(gfn, self.kind | self.youngest);
    }

    /// Takes the oldest page off, and whether it was referenced.
    fn pop(&mut self, states: &mut StateMap<256>) -> Option<(u64, bool)> {
        while self.in_generation(states, self.oldest) == 0 {
            if self.oldest == self.youngest {
                return None;
            }
            self.oldest = (self.oldest + 1) % GENERATIONS;
            self.cursor = 0;
        }
        let state = self.kind | self.oldest;
        // From the cursor on, whatever is nearer; what joined behind it is found at the end.
        let next = |from| {
            let plain = states.next(state, from);
            let marked = states.next(state | REFERENCED, from);
            match (plain, marked) {
                (Some(plain), Some(marked)) => Some(plain.min(marked)),
                (plain, marked) => plain.or(marked),
            }
        };
        let gfn = next(self.cursor).or_else(|| next(0))?;
        let referenced = states.get(gfn) & REFERENCED != 0;
        states.set(gfn, NONE);
        self.cursor = gfn + 1;
        Some((gfn, referenced))
    }
}

impl Policy for Lru2 {
    fn choose(&mut self) -> Option<Gfn> {
        if self.batch.is_empty() {
            self.scan();
        }
        if let Some(victim) = self.batch.pop() {
            return Some(victim);
        }
        let refused = |from| self.states.next_around(REFUSED, from);
        let gfn = self.retry.retry(refused)?;
        self.states.set(gfn.get(), NONE);
        Some(gfn)
    }

    fn adopted(&mut self, gfn: Gfn) {
        self.states.set(gfn.get(), NONE);
    }

    fn paged_out(&mut self, gfn: Gfn) {
        self.retry.went_out(gfn);
    }

    fn paged_in(&mut self, gfn: Gfn, _asked: bool) {
        self.join_inactive(gfn.get());
    }

    fn refused(&mut self, gfn: Gfn) {
        self.retry.stayed(gfn);
        self.states.set(gfn.get(), REFUSED);
    }

    fn abandoned(&mut self, gfn: Gfn) {
        self.retry.stayed(gfn);
        self.join_inactive(gfn.get());
    }

    fn dropped(&mut self, gfn: Gfn) {
        self.join_inactive(gfn.get());
    }

    fn tick(&mut self) {
        self.retry.tick(self.states.count(REFUSED));
    }

    /// A bit of a page in the batch comes too late for it: it has been found.
    fn referenced(&mut self, part: &ScanPart<'_>) {
        for (word, base) in part.accessed.iter().zip((part.first..).step_by(64)) {
            for gfn in ones(*word).map(|bit| base + bit) {
                match self.states.get(gfn) {
                    state if state & LISTED == 0 => {}
                    state if state & (ACTIVE | REFERENCED) == REFERENCED => {
                        self.active.push(&mut self.states, gfn);
                    }
                    state => self.states.set(gfn, state | REFERENCED),
                }
            }
        }
    }

    fn wants_scans(&self) -> bool {
        true
    }

    fn table_bytes(&self) -> usize {
        self.states.table_bytes()
            + self.retry.table_bytes()
            + self.batch.capacity() * size_of::<Gfn>()
    }
}

#[cfg(test)]
#[path = "lru2_tests.rs"]
mod tests;
