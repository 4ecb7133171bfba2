// SPDX-License-Identifier: MIT OR Apache-2.0
//! Replays a trace against a policy and a predictor: the pager's side of both, and a memory that
//! holds a limited number of pages.

use p2m_paging::Gfn;
use pager_accesses::Trace;
use pager_core::policy::{PART_PAGES, Policy, ScanPart};

use super::ahead::Predictor;

/// What a policy learns besides page-ins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// The accessed bits of all pages, read and cleared after a number of accesses.
    Scans {
        /// The number of accesses.
        every: u64,
    },
    /// The accessed bits, read after a number of misses. Shells do this, since they cannot count
    /// accesses.
    Paced {
        /// The number of misses.
        misses: u64,
    },
    /// Nothing.
    Blind,
}

/// The pages that came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accesses to pages that were not in memory.
    pub misses: u64,
    /// Pages that were read ahead.
    pub brought: u64,
    /// Pages that were read ahead and accessed before they went out.
    pub used: u64,
}

/// Replays a trace in a memory of `capacity` pages. All pages are out at first. `policy` is for a
/// guest with the trace's pages, from gfn 0 on. `predictor` names the pages that come in beside one
/// that is missed.
pub fn replay(
    trace: &Trace,
    policy: &mut dyn Policy,
    capacity: u64,
    visibility: Visibility,
    predictor: &mut dyn Predictor,
) -> Counts {
    while let Some(gfn) = policy.choose() {
        policy.paged_out(gfn);
    }
    let pages = trace.pages as usize;
    let mut memory = Memory {
        policy,
        predictor,
        capacity,
        resident: vec![false; pages],
        unasked: vec![false; pages],
        accessed: vec![[0; PART_PAGES / 64]; pages.div_ceil(PART_PAGES)],
        held: 0,
        counts: Counts::default(),
    };
    let mut scanned = 0;
    for (&page, nth) in trace.accesses.iter().zip(1_u64..) {
        memory.access(page as usize);
        let is_due = match visibility {
            Visibility::Scans { every } => nth % every == 0,
            Visibility::Paced { misses: every } => {
                let misses = memory.counts.misses;
                let due = misses >= scanned + every;
                scanned = if due { misses } else { scanned };
                due
            }
            Visibility::Blind => false,
        };
        if is_due {
            memory.scan();
        }
    }
    assert!(memory.held <= capacity, "the policy had no victim");
    memory.counts
}

struct Memory<'a> {
    policy: &'a mut dyn Policy,
    predictor: &'a mut dyn Predictor,
    capacity: u64,
    resident: Vec<bool>,
    /// Read ahead, and not accessed yet.
    unasked: Vec<bool>,
    accessed: Vec<[u64; PART_PAGES / 64]>,
    held: u64,
    counts: Counts,
}

impl Memory<'_> {
    fn access(&mut self, page: usize) {
        if !self.resident[page] {
            self.counts.misses += 1;
            self.bring(page, true);
            let beside = self.predictor.missed(page as u64);
            // The number is limited, so that they do not push out the requested page.
            for (page, _) in beside.into_iter().zip(0..self.capacity / 2) {
                let page = usize::try_from(page).unwrap_or(usize::MAX);
                if self.resident.get(page) == Some(&false) {
                    self.bring(page, false);
                    self.unasked[page] = true;
                    self.counts.brought += 1;
                    self.predictor.brought(page as u64);
                }
            }
        } else if std::mem::take(&mut self.unasked[page]) {
            self.counts.used += 1;
            self.predictor.used(page as u64);
        }
        self.accessed[page / PART_PAGES][page % PART_PAGES / 64] |= 1 << (page % 64);
    }

    fn bring(&mut self, page: usize, asked: bool) {
        if self.held == self.capacity
            && let Some(victim) = self.policy.choose()
        {
            self.policy.paged_out(victim);
            let victim = usize::try_from(victim.get()).unwrap_or(usize::MAX);
            self.resident[victim] = false;
            self.accessed[victim / PART_PAGES][victim % PART_PAGES / 64] &= !(1 << (victim % 64));
            self.held -= 1;
            self.unasked[victim] = false;
            self.predictor.out(victim as u64);
        }
        self.policy.paged_in(Gfn::new_truncate(page as u64), asked);
        self.resident[page] = true;
        self.held += 1;
    }

    fn scan(&mut self) {
        for (accessed, first) in self.accessed.iter_mut().zip((0..).step_by(PART_PAGES)) {
            let part = ScanPart { first, accessed };
            self.policy.referenced(&part);
            self.predictor.seen(&part);
            accessed.fill(0);
        }
        self.policy.scanned();
    }
}
