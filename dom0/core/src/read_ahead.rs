// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages come in with one that is asked for (row C8).
//!
//! Where somebody goes through memory page by page, up or down, the pages after the one that is asked
//! for come in with it: one read of neighbouring slots instead of many, and one fault. Who goes through memory is
//! told by the faults: a few *streams* are remembered by the page at which each goes on, so that several
//! vcpus can do it at once. The second fault in a row makes a stream. A fault somewhere else brings in
//! nothing beside its own page.
//!
//! What comes in unasked is judged, a *window* of pages at a time: a page was a *hit* if its stream went on
//! past it, if it was asked for on its way, or if it is seen to have been used before it goes out; else it was
//! *wasted*. While windows are mostly hits they double, up to what fits a batch; otherwise they halve.
//! At their smallest, every so many faults of a stream bring in two pages, so that it is noticed when it begins to pay.

use std::ops::Range;

use p2m_paging::Gfn;

use super::policy::ScanPart;

/// Streams remembered: more than vcpus usually go through memory at a time.
const STREAMS: usize = 16;
/// Windows that are not judged yet, at most.
const WINDOWS: usize = 64;
/// The largest window: pages and bits of [`Window::pending`].
pub(super) const MAX_WINDOW: u64 = 63;
/// With windows shut, one fault of a stream in so many tries.
const TRY_ONE_IN: u32 = 16;

/// What has become of pages that came in unasked, beside another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadAheadOutcome {
    /// Used.
    pub hits: u64,
    /// Not seen to be used before they went out, or for long.
    pub wasted: u64,
}

/// Pages to come in unasked: `pages` of them, from `first` on in steps of 1 or, `down`, of -1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadAheadRange {
    /// The first to come in.
    pub first: u64,
    /// How many.
    pub pages: u64,
    /// Whether the others lie below it.
    pub down: bool,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    /// The page that was asked for last.
    last: u64,
    /// Where it goes on beyond its window, once it has a direction.
    next: u64,
    down: bool,
    established: bool,
    window: u64,
    used_at: u64,
}

/// Pages that came in unasked with one fault.
#[derive(Clone, Copy, Debug)]
struct Window {
    range: ReadAheadRange,
    /// Bit n: the nth page came in and is not judged.
    pending: u64,
    /// Those of them whose accessed bits have not been read and cleared yet ([`ScanPart::shows_use`]).
    unread: u64,
    hits: u32,
    wasted: u32,
}

/// See the [module](self).
#[derive(Debug)]
pub struct ReadAhead {
    streams: Vec<Stream>,
    windows: Vec<Window>,
    /// The next window is the one after this, around.
    newest: usize,
    max_window: u64,
    /// What a window may be at present.
    limit: u64,
    faults: u64,
    tries: u32,
    judged: ReadAheadOutcome,
}

impl ReadAheadRange {
    /// Its pages, in order.
    pub fn pages(self) -> impl Iterator<Item = u64> {
        (0..self.pages).filter_map(move |n| {
            if self.down {
                self.first.checked_sub(n)
            } else {
                self.first.checked_add(n)
            }
        })
    }

    /// Which of its pages this is.
    pub fn place(self, gfn: u64) -> Option<u64> {
        let place = if self.down {
            self.first.checked_sub(gfn)
        } else {
            gfn.checked_sub(self.first)
        };
        place.filter(|place| *place < self.pages)
    }
}

impl ReadAhead {
    /// Windows of so many pages at most; 0: no read-ahead.
    pub fn new(max_window: u64) -> Self {
        let max_window = max_window.min(MAX_WINDOW);
        Self {
            streams: Vec::with_capacity(STREAMS),
            windows: Vec::with_capacity(WINDOWS),
            newest: 0,
            max_window,
            limit: max_window,
            faults: 0,
            tries: 0,
            judged: ReadAheadOutcome::default(),
        }
    }

    /// A page that is out is asked for; what is to come in with it.
    pub fn fault(&mut self, gfn: Gfn) -> Option<ReadAheadRange> {
        if self.max_window == 0 {
            return None;
        }
        self.faults += 1;
        let gfn = gfn.get();
        let Some(at) = self.streams.iter().position(|stream| stream.takes(gfn)) else {
            self.new_stream(gfn);
            return None;
        };
        let stream = &mut self.streams[at];
        let goes_on = stream.established && stream.window > 0 && stream.is_past_window(gfn);
        stream.used_at = self.faults;
        if !stream.established {
            stream.down = gfn < stream.last;
        }
        let (was_at, down) = (stream.last, stream.down);
        if goes_on {
            // It went through all of its window.
            self.passed(&(was_at.min(gfn)..was_at.max(gfn)));
        }
        self.tries += u32::from(self.limit == 0);
        let limit = if self.limit == 0 && self.tries.is_multiple_of(TRY_ONE_IN) {
            self.max_window.min(2)
        } else {
            self.limit
        };
        let stream = &mut self.streams[at];
        stream.established = true;
        stream.window = (2 * stream.window).max(2).min(self.max_window).min(limit);
        stream.last = gfn;
        let first = if down { gfn.checked_sub(1)? } else { gfn + 1 };
        let pages = stream.window;
        stream.next = if down {
            first.saturating_sub(pages)
        } else {
            first.saturating_add(pages)
        };
        (pages > 0).then_some(ReadAheadRange { first, pages, down })
    }

    /// These are coming in with a fault: bit n of `which` for the nth page. They are to be judged.
    pub fn brings(&mut self, range: ReadAheadRange, which: u64) {
        if which == 0 {
            return;
        }
        let window = Window {
            range,
            pending: which,
            unread: which,
            hits: 0,
            wasted: 0,
        };
        if self.windows.len() < WINDOWS {
            self.windows.push(window);
            self.newest = self.windows.len() - 1;
            return;
        }
        self.newest = (self.newest + 1) % WINDOWS;
        let old = std::mem::replace(&mut self.windows[self.newest], window);
        // Nobody has seen them used for long.
        self.judged.wasted += u64::from(old.pending.count_ones());
        self.learn(old.hits, old.wasted + old.pending.count_ones());
    }

    /// A page is seen to be used.
    pub(super) fn hit(&mut self, gfn: Gfn) {
        self.judge(gfn, true);
    }

    /// A page goes out, or failed to come in, and nobody has seen it used.
    pub fn wasted(&mut self, gfn: Gfn) {
        self.judge(gfn, false);
    }

    /// Accessed bits have been read and cleared.
    pub fn scanned(&mut self, part: &ScanPart<'_>) {
        for window in 0..self.windows.len() {
            let Window {
                range,
                pending,
                unread,
                ..
            } = self.windows[window];
            if pending == 0 {
                continue;
            }
            for (gfn, n) in range.pages().zip(0..) {
                let bit = 1 << n;
                let mut first_look = unread & bit != 0;
                let is_used = part.shows_use(gfn, &mut first_look);
                if !first_look {
                    self.windows[window].unread &= !bit;
                }
                if is_used && pending & bit != 0 {
                    self.settle(window, n, true);
                }
            }
        }
    }

    /// A stream went on past these pages.
    fn passed(&mut self, pages: &Range<u64>) {
        for window in 0..self.windows.len() {
            let Window { range, pending, .. } = self.windows[window];
            for (gfn, n) in range.pages().zip(0..) {
                if pending >> n & 1 == 1 && pages.contains(&gfn) {
                    self.settle(window, n, true);
                }
            }
        }
    }

    /// What has become of them so far.
    pub(super) fn outcome(&self) -> ReadAheadOutcome {
        self.judged
    }

    fn new_stream(&mut self, gfn: u64) {
        let stream = Stream {
            last: gfn,
            next: gfn,
            down: false,
            established: false,
            window: 0,
            used_at: self.faults,
        };
        if self.streams.len() < STREAMS {
            return self.streams.push(stream);
        }
        if let Some(oldest) = self.streams.iter_mut().min_by_key(|stream| stream.used_at) {
            *oldest = stream;
        }
    }

    fn judge(&mut self, gfn: Gfn, is_hit: bool) {
        let places = self.windows.iter().zip(0..);
        let mut places = places.filter_map(|(window, at)| {
            let n = window.range.place(gfn.get())?;
            (window.pending >> n & 1 == 1).then_some((at, n))
        });
        if let Some((window, n)) = places.next() {
            self.settle(window, n, is_hit);
        }
    }

    fn settle(&mut self, window: usize, n: u64, is_hit: bool) {
        let window = &mut self.windows[window];
        window.pending &= !(1 << n);
        if is_hit {
            window.hits += 1;
            self.judged.hits += 1;
        } else {
            window.wasted += 1;
            self.judged.wasted += 1;
        }
        let (hits, wasted) = (window.hits, window.wasted);
        if window.pending == 0 {
            (window.hits, window.wasted) = (0, 0);
            self.learn(hits, wasted);
        }
    }

    /// A window has been judged.
    fn learn(&mut self, hits: u32, wasted: u32) {
        if hits + wasted == 0 {
            return;
        }
        self.limit = if hits >= wasted {
            (2 * self.limit).max(2).min(self.max_window)
        } else {
            self.limit / 2
        };
    }
}

impl Stream {
    /// Whether a fault there belongs to it: in its window, which it may have lost since, or not far beyond.
    fn takes(&self, gfn: u64) -> bool {
        if !self.established {
            return gfn.abs_diff(self.last) == 1;
        }
        let near = self.window / 2 + 1;
        let (low, high) = if self.down {
            (self.next.saturating_sub(near), self.last)
        } else {
            (self.last, self.next.saturating_add(near))
        };
        (low..=high).contains(&gfn) && gfn != self.last
    }

    fn is_past_window(&self, gfn: u64) -> bool {
        if self.down {
            gfn <= self.next
        } else {
            gfn >= self.next
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PART_PAGES;

    fn gfn(n: u64) -> Gfn {
        Gfn::new_truncate(n)
    }

    /// All that is wanted comes in.
    fn fault(ahead: &mut ReadAhead, n: u64) -> Option<ReadAheadRange> {
        let wanted = ahead.fault(gfn(n))?;
        ahead.brings(wanted, (1 << wanted.pages) - 1);
        Some(wanted)
    }

    /// Goes through pages, of which all are out; how many faults that took.
    fn go_through(ahead: &mut ReadAhead, pages: impl Iterator<Item = u64>) -> u64 {
        let mut present = std::collections::BTreeSet::new();
        let mut faults = 0;
        for page in pages {
            if !present.contains(&page) {
                faults += 1;
                present.extend(
                    fault(ahead, page)
                        .into_iter()
                        .flat_map(ReadAheadRange::pages),
                );
            }
        }
        faults
    }

    #[test]
    fn c8_a_scan_up_or_down_takes_one_fault_for_a_window() {
        for max in [7, 15, 63] {
            let mut up = ReadAhead::new(max);
            let faults = go_through(&mut up, 1000..9000);
            assert!(faults < 8000 / (max + 1) + 10, "{faults} faults");
            let mut down = ReadAhead::new(max);
            let faults = go_through(&mut down, (1000..9000).rev());
            assert!(faults < 8000 / (max + 1) + 10, "{faults} faults");
            let ReadAheadOutcome { hits, wasted } = down.outcome();
            assert!(hits > 6900 && wasted == 0, "{hits} hits, {wasted} wasted");
        }
    }

    #[test]
    fn c8_several_scans_at_once_are_told_apart() {
        let mut ahead = ReadAhead::new(7);
        let mixed = (0..2000_u64).flat_map(|n| [n, 10_000 + n, 50_000 - n, 90_000 + n]);
        let faults = go_through(&mut ahead, mixed);
        assert!(faults < 8000 / 8 + 40, "{faults} faults");
    }

    #[test]
    fn c8_faults_here_and_there_bring_nothing_in() {
        let mut ahead = ReadAhead::new(7);
        let mut n = 1_u64;
        for _ in 0..10_000 {
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            assert_eq!(fault(&mut ahead, n >> 33 << 4), None);
        }
        assert_eq!(ahead.outcome(), ReadAheadOutcome::default());
    }

    #[test]
    fn c8_what_is_never_used_is_brought_in_less_and_less_and_tried_again() {
        let mut ahead = ReadAhead::new(7);
        let mut brought = Vec::new();
        for pair in 0..1000_u64 {
            // Two pages in a row, over and over: what comes in with the second is not used.
            let at = pair * 1000;
            fault(&mut ahead, at);
            let wanted = fault(&mut ahead, at + 1);
            brought.push(wanted.map_or(0, |wanted| wanted.pages));
            for page in wanted.into_iter().flat_map(ReadAheadRange::pages) {
                ahead.wasted(gfn(page));
            }
        }
        let all: u64 = brought.iter().sum();
        assert!((50..200).contains(&all), "{all} pages");
        assert_eq!(ahead.outcome().wasted, all);
        // It pays again, and soon it is as before.
        let faults = go_through(&mut ahead, 5_000_000..5_008_000);
        assert!(faults < 1200, "{faults} faults");
    }

    #[test]
    fn c8_every_page_is_judged_once() {
        let mut ahead = ReadAhead::new(7);
        fault(&mut ahead, 10);
        let wanted = fault(&mut ahead, 11).unwrap();
        assert_eq!(wanted.pages().collect::<Vec<_>>(), [12, 13]);
        for _ in 0..2 {
            ahead.hit(gfn(12));
            ahead.wasted(gfn(12));
            ahead.passed(&(13..14));
        }
        let judged = ReadAheadOutcome { hits: 2, wasted: 0 };
        assert_eq!(ahead.outcome(), judged);
    }

    #[test]
    fn c8_an_accessed_bit_tells_only_from_the_second_look_on() {
        let mut ahead = ReadAhead::new(7);
        fault(&mut ahead, 10);
        fault(&mut ahead, 11);
        let all = [!0; PART_PAGES / 64];
        let part = |first| ScanPart {
            first,
            accessed: &all,
        };
        ahead.scanned(&part(0));
        ahead.scanned(&part(PART_PAGES as u64));
        assert_eq!(ahead.outcome(), ReadAheadOutcome::default());
        ahead.scanned(&part(0));
        assert_eq!(ahead.outcome(), ReadAheadOutcome { hits: 2, wasted: 0 });
    }

    #[test]
    fn c8_switched_off_it_wants_nothing() {
        let mut ahead = ReadAhead::new(0);
        assert_eq!(go_through(&mut ahead, 0..1000), 1000);
    }

    #[test]
    fn c8_at_either_end_of_memory_it_stops() {
        let mut ahead = ReadAhead::new(7);
        go_through(&mut ahead, (0..20).rev());
        let last = Gfn::MAX.get();
        let pages: Vec<_> = (last - 20..=last).collect();
        assert!(go_through(&mut ahead, pages.into_iter()) < 21);
    }
}
