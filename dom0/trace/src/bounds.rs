// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bounds to compare a policy with: Belady's optimum, exact LRU, and the best set of pages that
//! never changes. Each takes a trace and a number of pages that fit into memory, and counts the
//! accesses to pages that are not in memory. Memory is empty at first.

use std::collections::{BinaryHeap, HashMap};

use pager_accesses::Trace;

/// Evicts the page that is needed last. No policy does better, and no real policy knows this page.
pub fn belady(trace: &Trace, capacity: usize) -> u64 {
    let next_use = next_uses(trace);
    // For each page that is in: when it is needed next.
    let mut due: Vec<Option<usize>> = vec![None; trace.pages as usize];
    // The page that is needed last is on top. An entry is skipped if its page has been used since.
    let mut last_needed = BinaryHeap::new();
    let (mut held, mut misses) = (0, 0);
    for (&page, &next) in trace.accesses.iter().zip(&next_use) {
        if due[page as usize].is_none() {
            misses += 1;
            if held == capacity {
                while let Some((when, victim)) = last_needed.pop() {
                    if due[victim as usize] == Some(when) {
                        due[victim as usize] = None;
                        held -= 1;
                        break;
                    }
                }
            }
            held += 1;
        }
        due[page as usize] = Some(next);
        last_needed.push((next, page));
    }
    misses
}

/// For each access, when its page is accessed again. A page that is not accessed again gets a time
/// after the end, different for each page, so that no two entries are equal.
fn next_uses(trace: &Trace) -> Vec<usize> {
    let length = trace.accesses.len();
    let mut next: Vec<_> = (0..trace.pages as usize)
        .map(|page| length + page)
        .collect();
    let mut uses = vec![0; length];
    for (at, &page) in trace.accesses.iter().enumerate().rev() {
        uses[at] = std::mem::replace(&mut next[page as usize], at);
    }
    uses
}

/// Evicts the page that was used longest ago. One pass over the stack distances gives the misses
/// for any number of pages.
#[derive(Debug)]
pub struct Lru {
    /// The number of accesses for each number of other pages used since.
    distances: Vec<u64>,
    accesses: u64,
}

impl Lru {
    /// Reads a trace.
    pub fn new(trace: &Trace) -> Self {
        let mut marks = Marks::new(trace.accesses.len());
        let mut last = HashMap::new();
        let mut distances = vec![0; trace.pages as usize];
        for (at, &page) in trace.accesses.iter().enumerate() {
            if let Some(before) = last.insert(page, at) {
                distances[marks.after(before)] += 1;
                marks.clear(before);
            }
            marks.set(at);
        }
        Self {
            distances,
            accesses: trace.accesses.len() as u64,
        }
    }

    /// The misses if this many pages fit.
    pub fn misses(&self, capacity: usize) -> u64 {
        self.accesses - self.distances.iter().take(capacity).sum::<u64>()
    }
}

/// A Fenwick tree of ones, at the latest access of each page.
struct Marks {
    sums: Vec<usize>,
    all: usize,
}

impl Marks {
    fn new(places: usize) -> Self {
        Self {
            sums: vec![0; places + 1],
            all: 0,
        }
    }

    fn set(&mut self, place: usize) {
        self.all += 1;
        let mut at = place + 1;
        while let Some(sum) = self.sums.get_mut(at) {
            *sum += 1;
            at += at & at.wrapping_neg();
        }
    }

    fn clear(&mut self, place: usize) {
        self.all -= 1;
        let mut at = place + 1;
        while let Some(sum) = self.sums.get_mut(at) {
            *sum -= 1;
            at += at & at.wrapping_neg();
        }
    }

    /// The number of ones after this place.
    fn after(&self, place: usize) -> usize {
        let (mut at, mut up_to) = (place + 1, 0);
        while at > 0 {
            up_to += self.sums[at];
            at &= at - 1;
        }
        self.all - up_to
    }
}

/// The hottest pages are known beforehand, come in once and stay. All other pages are never kept.
pub fn best_static(trace: &Trace, capacity: usize) -> u64 {
    let mut counts = vec![0_u64; trace.pages as usize];
    for &page in &trace.accesses {
        counts[page as usize] += 1;
    }
    counts.sort_unstable_by_key(|&count| std::cmp::Reverse(count));
    let touched = counts.iter().take(capacity).filter(|count| **count > 0);
    touched.count() as u64 + counts.iter().skip(capacity).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trace(accesses: &[u32]) -> Trace {
        Trace {
            pages: 6,
            accesses: accesses.to_vec(),
        }
    }

    /// The fewest possible misses, found by trying every victim.
    fn fewest(accesses: &[u32], held: &[u32], capacity: usize) -> u64 {
        let Some((page, rest)) = accesses.split_first() else {
            return 0;
        };
        if held.contains(page) {
            return fewest(rest, held, capacity);
        }
        let with = |held: &[u32]| 1 + fewest(rest, &[held, &[*page]].concat(), capacity);
        if held.len() < capacity {
            return with(held);
        }
        let without = |at| [&held[..at], &held[at + 1..]].concat();
        (0..held.len())
            .map(|at| with(&without(at)))
            .min()
            .unwrap_or(0)
    }

    fn lru(accesses: &[u32], capacity: usize) -> u64 {
        let mut held: Vec<u32> = Vec::new();
        let mut misses = 0;
        for page in accesses {
            match held.iter().position(|other| other == page) {
                Some(at) => drop(held.remove(at)),
                None => misses += 1,
            }
            held.push(*page);
            if held.len() > capacity {
                held.remove(0);
            }
        }
        misses
    }

    proptest! {
        #[test]
        fn the_optimum_is_the_fewest_and_lru_is_lru(
            accesses in prop::collection::vec(0..6_u32, 1..14),
            capacity in 1..5_usize,
        ) {
            let trace = trace(&accesses);
            prop_assert_eq!(belady(&trace, capacity), fewest(&accesses, &[], capacity));
            prop_assert_eq!(Lru::new(&trace).misses(capacity), lru(&accesses, capacity));
        }
    }

    #[test]
    fn the_best_static_set_brings_its_pages_in_once() {
        let trace = trace(&[0, 1, 0, 2, 0, 1, 3]);
        assert_eq!(best_static(&trace, 2), 2 + 2);
        assert_eq!(best_static(&trace, 10), 4);
    }
}
