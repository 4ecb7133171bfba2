// SPDX-License-Identifier: MIT OR Apache-2.0
//! Against the same lists kept as lists. In a guest of fewer pages than a list has sets, the order is
//! exact, so the two must agree page by page.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::policy::PART_PAGES;

const PAGES: u64 = 12;

/// Rows C2 and C3, with lists; oldest first.
#[derive(Debug, Default)]
struct Model {
    inactive: VecDeque<(u64, bool)>,
    active: VecDeque<(u64, bool)>,
    batch: VecDeque<u64>,
    vain_scans: u32,
}

impl Model {
    fn choose(&mut self) -> Option<u64> {
        if self.batch.is_empty() {
            self.scan();
        }
        self.batch.pop_front()
    }

    fn scan(&mut self) {
        let first = if self.vain_scans < 3 { 12 } else { 0 };
        for priority in (0..=first).rev() {
            let (active, inactive) = (self.active.len(), self.inactive.len());
            if active > inactive {
                for _ in 0..(active >> priority).max(1) {
                    match self.active.pop_front() {
                        Some((gfn, true)) => self.active.push_back((gfn, false)),
                        Some((gfn, false)) => self.inactive.push_back((gfn, false)),
                        None => {}
                    }
                }
            }
            for _ in 0..(inactive >> priority).max(1) {
                match self.inactive.pop_front() {
                    Some((gfn, true)) => self.inactive.push_back((gfn, false)),
                    Some((gfn, false)) => self.batch.push_back(gfn),
                    None => {}
                }
            }
            assert!(self.batch.len() < 32, "the guest is smaller than a batch");
        }
        if self.batch.is_empty() {
            self.vain_scans += 1;
        }
    }

    fn joins(&mut self, gfn: u64) {
        self.vain_scans = 0;
        self.inactive.push_back((gfn, false));
    }

    fn referenced(&mut self, gfn: u64) {
        if let Some(page) = self.active.iter_mut().find(|page| page.0 == gfn) {
            page.1 = true;
        }
        let Some(at) = self.inactive.iter().position(|page| page.0 == gfn) else {
            return;
        };
        if self.inactive[at].1 {
            self.inactive.remove(at);
            self.active.push_back((gfn, false));
        } else {
            self.inactive[at].1 = true;
        }
    }
}

fn scan_of(policy: &mut Lru2, accessed: u64) {
    let mut bits = [0; PART_PAGES / 64];
    bits[0] = accessed;
    policy.referenced(&ScanPart {
        first: 0,
        accessed: &bits,
    });
}

fn empty() -> Lru2 {
    let mut policy = Lru2::new(&[0..=PAGES - 1], &SweepOptions::default());
    while let Some(gfn) = policy.choose() {
        policy.paged_out(gfn);
    }
    policy.vain_scans = 0;
    policy
}

proptest! {
    #[test]
    fn c2_c3_it_does_what_lists_would(
        ops in prop::collection::vec((0..3_u8, any::<u64>()), 0..25),
    ) {
        let (mut ours, mut model) = (empty(), Model::default());
        let mut out: Vec<_> = (0..PAGES).collect();
        for (op, pick) in ops {
            match op {
                0 if !out.is_empty() => {
                    let at = usize::try_from(pick % out.len() as u64).unwrap();
                    let gfn = out.swap_remove(at);
                    ours.paged_in(Gfn::new_truncate(gfn), true);
                    model.joins(gfn);
                }
                1 => {
                    let accessed = pick & ((1 << PAGES) - 1);
                    scan_of(&mut ours, accessed);
                    ones(accessed).for_each(|gfn| model.referenced(gfn));
                }
                _ => {
                    let victim = ours.choose().map(Gfn::get);
                    prop_assert_eq!(victim, model.choose());
                    out.extend(victim);
                }
            }
        }
    }
}

#[test]
fn c2_a_page_moves_up_at_the_second_reference_and_down_without_one() {
    let mut policy = empty();
    policy.paged_in(Gfn::new_truncate(3), true);
    scan_of(&mut policy, 1 << 3);
    assert_eq!(policy.active.len(&policy.states), 0);
    scan_of(&mut policy, 1 << 3);
    assert_eq!(policy.active.len(&policy.states), 1);
    assert_eq!(policy.choose(), Some(Gfn::new_truncate(3)), "down, and out");
}

#[test]
fn c3_victims_come_in_batches_oldest_first() {
    let mut policy = Lru2::new(&[0..=999], &SweepOptions::default());
    assert_eq!(policy.choose(), Some(Gfn::new_truncate(0)));
    assert_eq!(policy.batch.len(), BATCH - 1);
    let counts = ScanCounts {
        scanned: 32,
        reclaimed: 32,
    };
    assert_eq!(policy.counts(), counts);
}

#[test]
fn c10_where_nothing_is_left_only_the_last_priority_is_scanned() {
    let mut policy = empty();
    (0..VAIN_SCANS).for_each(|_| assert_eq!(policy.choose(), None));
    assert_eq!(policy.vain_scans, VAIN_SCANS);
    policy.paged_in(Gfn::new_truncate(1), true);
    assert_eq!(policy.vain_scans, 0);
}

#[test]
fn a_guest_that_uses_everything_is_scanned_so_far_and_no_further() {
    let pages = 64 * 1024;
    let mut policy = Lru2::new(&[0..=pages - 1], &SweepOptions::default());
    for first in (0..pages).step_by(PART_PAGES) {
        policy.referenced(&ScanPart {
            first,
            accessed: &[!0; PART_PAGES / 64],
        });
    }
    assert!(policy.choose().is_some());
    let scanned = policy.counts().scanned;
    assert!(scanned <= SCAN_LIMIT + BATCH as u64, "{scanned} pages");
}
