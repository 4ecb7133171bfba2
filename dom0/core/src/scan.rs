// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages are used: accessed bits, read and cleared part by part, at a bounded rate.
//!
//! A *pass* goes over all of the guest's memory, a part ([`PART_PAGES`]) at a time, one part under way. It begins
//! when as many pages have come in since the last one began as an eighth of those that are resident, or after
//! [`LONGEST_TICKS`], at a tick; and it goes on by at most [`PARTS_A_TICK`] parts a tick. So a guest whose pages stay where
//! they are costs next to nothing, one of a terabyte is gone over in minutes, and what the guest pays for a
//! pass (its next use of each page that was used costs it a walk, or on the embedded host a fault) is in
//! proportion to the faults that it has anyway.

use std::ops::RangeInclusive;

use p2m_paging::{Errno, Gfn};

use super::policy::{PART_PAGES, ScanPart};

/// Passes while as many pages come in as are resident.
const PASSES_A_TURN: u64 = 8;

/// Ten seconds.
const LONGEST_TICKS: u32 = 100;

/// 256 MiB of guest memory.
const PARTS_A_TICK: u32 = 4;

/// A part of guest memory whose accessed bits are to be read and cleared. It goes out in an action and comes
/// back in an event.
#[derive(Debug)]
#[must_use = "a scan has to come back with Event::Scanned"]
pub struct Scan {
    first: Gfn,
    /// To be filled: bit n of word m stands for gfn `first + 64 * m + n`. Zeros when it goes out.
    pub accessed: Box<[u64; PART_PAGES / 64]>,
    /// Set by the shell; [`Errno::EOPNOTSUPP`] when it goes out. After an error there are no more scans.
    pub outcome: Result<(), Errno>,
}

impl Scan {
    fn new() -> Self {
        Self {
            first: Gfn::new_truncate(0),
            accessed: Box::new([0; PART_PAGES / 64]),
            outcome: Err(Errno::EOPNOTSUPP),
        }
    }

    /// The first page, a multiple of [`PART_PAGES`]. Not all pages of a part need be memory.
    pub fn first(&self) -> Gfn {
        self.first
    }

    /// The pages that were found to be used.
    pub fn used(&self) -> impl Iterator<Item = Gfn> + '_ {
        let words = self.accessed.iter().zip((self.first.get()..).step_by(64));
        let pages = words.flat_map(|(word, first)| {
            (0..64)
                .filter(move |n| word >> n & 1 == 1)
                .map(move |n| first + n)
        });
        pages.filter_map(Gfn::try_new)
    }

    /// For the policy.
    pub(super) fn part(&self) -> ScanPart<'_> {
        ScanPart {
            first: self.first.get(),
            accessed: &self.accessed,
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Scanner {
    /// `None` while it is under way, and where nothing is scanned at all.
    parked: Option<Scan>,
    under_way: bool,
    /// Parts that hold memory, by number, in order and apart.
    parts: Vec<RangeInclusive<u64>>,
    /// In the middle of a pass: the part that is next.
    next: Option<u64>,
    /// Parts that may be begun before the next tick.
    budget: u32,
    /// Since the last pass began.
    paged_in: u64,
    ticks: u32,
    uses: Uses,
}

/// How many pages are used: what passes of ten seconds or more found, added up. A guest that is scanned more often than that is
/// one whose pages come in, so that a page counted twice does not make an idle one look busy.
#[derive(Debug, Default)]
struct Uses {
    /// What the first pass finds is of all the time before.
    is_known: bool,
    ticks: u32,
    found: u64,
    last: Option<u64>,
}

impl Uses {
    fn pass_done(&mut self) {
        if !self.is_known || self.ticks >= LONGEST_TICKS {
            self.last = self.is_known.then_some(self.found);
            (self.is_known, self.ticks, self.found) = (true, 0, 0);
        }
    }
}

impl Scanner {
    /// For a guest with this memory; one that never scans if the policy has no use for it.
    pub(super) fn new(memory: &[RangeInclusive<u64>], wanted: bool) -> Self {
        let number = |gfn: u64| gfn.min(Gfn::MAX.get()) / PART_PAGES as u64;
        let mut ranges: Vec<_> = memory
            .iter()
            .filter(|range| !range.is_empty())
            .map(|range| number(*range.start())..=number(*range.end()))
            .collect();
        ranges.sort_unstable_by_key(|range| *range.start());
        let mut parts: Vec<RangeInclusive<u64>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match parts.last_mut() {
                Some(last) if *range.start() <= last.end() + 1 => {
                    *last = *last.start()..=*range.end().max(last.end());
                }
                _ => parts.push(range),
            }
        }
        Self {
            parked: (wanted && !parts.is_empty()).then(Scan::new),
            under_way: false,
            parts,
            next: None,
            budget: 0,
            paged_in: 0,
            // The first pass tells what has been used since the guest booted.
            ticks: LONGEST_TICKS,
            uses: Uses::default(),
        }
    }

    /// How many pages have been used lately, as far as that is known.
    pub(super) fn used_pages(&self) -> Option<u64> {
        self.uses.last
    }

    /// Whether a part is with the shell.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way
    }

    pub(super) fn paged_in(&mut self) {
        self.paged_in += 1;
    }

    pub(super) fn tick(&mut self) {
        self.budget = PARTS_A_TICK;
        self.ticks = self.ticks.saturating_add(1);
        self.uses.ticks = self.uses.ticks.saturating_add(1);
    }

    /// The next part, if one is due where so many pages are resident.
    pub(super) fn start(&mut self, resident: u64) -> Option<Scan> {
        if self.budget == 0 {
            return None;
        }
        let is_due =
            self.paged_in * PASSES_A_TURN >= resident.max(1) || self.ticks >= LONGEST_TICKS;
        let number = match self.next {
            Some(next) => next,
            None if is_due => *self.parts.first()?.start(),
            None => return None,
        };
        let mut scan = self.parked.take()?;
        if self.next.is_none() {
            (self.paged_in, self.ticks) = (0, 0);
        }
        self.next = self.after(number);
        self.budget -= 1;
        self.under_way = true;
        scan.first = Gfn::new_truncate(number * PART_PAGES as u64);
        scan.accessed.fill(0);
        scan.outcome = Err(Errno::EOPNOTSUPP);
        Some(scan)
    }

    fn after(&self, number: u64) -> Option<u64> {
        let later = self.parts.iter().find(|range| *range.end() > number)?;
        Some((number + 1).max(*later.start()))
    }

    /// A part has come back; whether the pass is complete. After an error there is no other.
    pub(super) fn done(&mut self, scan: Scan) -> bool {
        self.under_way = false;
        if scan.outcome.is_err() {
            self.next = None;
            self.uses.last = None;
            return false;
        }
        self.uses.found += scan
            .accessed
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum::<u64>();
        self.parked = Some(scan);
        let complete = self.next.is_none();
        if complete {
            self.uses.pass_done();
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: u64 = PART_PAGES as u64;

    fn firsts(scanner: &mut Scanner, ticks: u32) -> Vec<u64> {
        let mut firsts = Vec::new();
        for _ in 0..ticks {
            scanner.tick();
            while let Some(mut scan) = scanner.start(1000) {
                firsts.push(scan.first().get() / PART);
                scan.outcome = Ok(());
                if scanner.done(scan) {
                    firsts.push(u64::MAX);
                }
            }
        }
        firsts
    }

    #[test]
    fn a_pass_goes_over_every_part_that_holds_memory_once() {
        let memory = [9 * PART..=9 * PART, 0..=PART, 3 * PART - 1..=4 * PART];
        let mut scanner = Scanner::new(&memory, true);
        assert_eq!(firsts(&mut scanner, 1), [0, 1, 2, 3]);
        assert_eq!(firsts(&mut scanner, 1), [4, 9, u64::MAX]);
        assert_eq!(firsts(&mut scanner, LONGEST_TICKS - 2), []);
        assert_eq!(firsts(&mut scanner, 1), [0, 1, 2, 3]);
    }

    #[test]
    fn a_pass_is_due_after_so_many_pages_in_but_not_before_a_tick() {
        let mut scanner = Scanner::new(&[0..=10], true);
        assert_eq!(firsts(&mut scanner, 1), [0, u64::MAX]);
        (0..124).for_each(|_| scanner.paged_in());
        assert_eq!(firsts(&mut scanner, 1), []);
        scanner.paged_in();
        assert_eq!(firsts(&mut scanner, 2), [0, u64::MAX]);
        // A huge number of page-ins makes no more than the parts of a tick.
        (0..100_000).for_each(|_| scanner.paged_in());
        assert_eq!(firsts(&mut scanner, 3), [0, u64::MAX]);
    }

    #[test]
    fn one_part_is_under_way_at_a_time_and_an_error_is_the_end() {
        let mut scanner = Scanner::new(&[0..=3 * PART], true);
        scanner.tick();
        let scan = scanner.start(1).unwrap();
        assert!(scanner.is_under_way() && scanner.start(1).is_none());
        assert!(!scanner.done(scan), "not done by anybody: refused");
        assert_eq!(firsts(&mut scanner, 3 * LONGEST_TICKS), []);
        assert!(!scanner.is_under_way());
    }

    #[test]
    fn uses_are_those_of_ten_seconds_and_not_of_all_the_time_before() {
        let mut scanner = Scanner::new(&[0..=2 * PART - 1], true);
        let mut pass = |found: u64, ticks: u32| {
            (0..ticks).for_each(|_| scanner.tick());
            scanner.paged_in = 1000;
            while let Some(mut scan) = scanner.start(1000) {
                scan.accessed[0] = (1 << found) - 1;
                scan.outcome = Ok(());
                scanner.done(scan);
                if scanner.next.is_none() {
                    break;
                }
            }
            scanner.used_pages()
        };
        assert_eq!(pass(9, 1), None, "since the guest booted");
        assert_eq!(pass(3, LONGEST_TICKS), Some(6));
        // Short passes add up.
        assert_eq!(pass(1, LONGEST_TICKS / 2), Some(6));
        assert_eq!(pass(2, LONGEST_TICKS / 2), Some(6));
        assert_eq!(pass(0, LONGEST_TICKS), Some(0));
    }

    #[test]
    fn who_has_no_use_for_it_does_not_scan() {
        assert_eq!(firsts(&mut Scanner::new(&[0..=100], false), 500), []);
        let nothing = RangeInclusive::new(1, 0);
        assert_eq!(firsts(&mut Scanner::new(&[nothing], true), 500), []);
    }
}
