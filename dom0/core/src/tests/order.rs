// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads of a guest that goes through its memory after it went about it at random ("decayed sequentiality"): the pager with
//! a shell that always succeeds at once, and counts.

use p2m_paging::ring::abi::PagingFlags;

use super::cases::request;
use crate::policy::{PART_PAGES, PolicyName, SweepOptions};
use crate::store::{Slot, SlotRange};
use crate::{Action, Actions, Config, Event, Lane, Page, Pager, Scan, Step};

const PAGES: usize = 4096;

struct Guest {
    pager: Pager,
    actions: Actions,
    resident: Vec<bool>,
    accessed: Vec<bool>,
    random: u64,
    visits: u64,
    /// Calls of the store for what was asked for, and their pages.
    reads: u64,
    pages_read: u64,
    /// Calls of the store that write, and their pages.
    writes: u64,
    pages_written: u64,
}

/// Stretches of neighbouring slots.
fn calls(pages: &[Page]) -> u64 {
    let slots: Vec<Slot> = pages
        .iter()
        .filter_map(|page| page.location().slot())
        .collect();
    slots.chunk_by(|a, b| a.0 + 1 == b.0).count() as u64
}

impl Guest {
    fn new(policy: PolicyName, slots: u32) -> Self {
        let area = SlotRange {
            slots,
            ..SlotRange::EVERYTHING
        };
        let config = Config {
            areas: vec![area],
            ..Config::new(PAGES as u64)
        };
        let options = SweepOptions {
            mru_pages: 256,
            ..SweepOptions::default()
        };
        let policy = policy.policy(&config.memory, &options);
        let pager = Pager::new(config, policy);
        Self {
            actions: pager.actions(),
            pager,
            resident: vec![true; PAGES],
            accessed: vec![false; PAGES],
            random: 1,
            visits: 0,
            reads: 0,
            pages_read: 0,
            writes: 0,
            pages_written: 0,
        }
    }

    fn event(&mut self, event: Event<'_>) {
        self.pager.handle(event, &mut self.actions);
        loop {
            let todo: Vec<_> = self.actions.drain().collect();
            if todo.is_empty() {
                return;
            }
            for action in todo {
                match action {
                    Action::Run(mut batch) => {
                        self.count(batch.lane(), batch.step(), batch.pages());
                        let pages = batch.pages_mut().iter_mut();
                        pages.for_each(|page| page.outcome = Ok(()));
                        self.pager.handle(Event::Done(batch), &mut self.actions);
                    }
                    Action::Scan(mut scan) => {
                        self.scan(&mut scan);
                        self.pager.handle(Event::Scanned(scan), &mut self.actions);
                    }
                    _ => {}
                }
            }
        }
    }

    fn count(&mut self, lane: Lane, step: Step, pages: &[Page]) {
        let resident = match step {
            Step::Evict => false,
            Step::Prep => true,
            Step::Save => {
                self.writes += calls(pages);
                self.pages_written += pages.len() as u64;
                return;
            }
            Step::Load if lane == Lane::Demand => {
                self.reads += calls(pages);
                self.pages_read += pages.len() as u64;
                return;
            }
            _ => return,
        };
        for page in pages {
            self.resident[usize::try_from(page.gfn().get()).unwrap()] = resident;
        }
    }

    fn scan(&mut self, scan: &mut Scan) {
        let first = usize::try_from(scan.first().get()).unwrap();
        for (n, used) in self
            .accessed
            .iter_mut()
            .skip(first)
            .take(PART_PAGES)
            .enumerate()
        {
            scan.accessed[n / 64] |= u64::from(std::mem::take(used)) << (n % 64);
        }
        scan.outcome = Ok(());
    }

    fn visit(&mut self, page: usize) {
        self.visits += 1;
        if self.visits.is_multiple_of(64) {
            self.event(Event::Tick);
        }
        if !self.resident[page] {
            self.event(Event::Requests(&[request(
                page as u64,
                PagingFlags::empty(),
            )]));
            assert!(self.resident[page]);
        }
        self.accessed[page] = true;
    }

    /// Visits at random, while the target sinks to half of the memory.
    fn mix(&mut self) {
        for n in 0..128 {
            let target = PAGES - (n + 1) * PAGES / 256;
            self.event(Event::Target(i64::try_from(target).unwrap()));
            for _ in 0..256 {
                self.random = self
                    .random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                self.visit((self.random >> 33) as usize % PAGES);
            }
        }
    }

    /// Reads, and calls to write, for each page; of going through all memory after that.
    fn go_through(&mut self) -> (f64, f64) {
        let writes = self.writes as f64 / self.pages_written as f64;
        (self.reads, self.pages_read) = (0, 0);
        (0..PAGES).for_each(|page| self.visit(page));
        (self.reads as f64 / self.pages_read as f64, writes)
    }
}

#[test]
fn c5_order_does_not_decay() {
    let reads = |policy, slots| {
        let mut guest = Guest::new(policy, slots);
        guest.mix();
        guest.go_through()
    };
    // Victims in turn lie in order anyway. By use half of the pages are in, here and there, between those that are
    // read; lying in the order in which they went out they took 0.85 reads each.
    for (policy, most) in [
        (PolicyName::Sweep, 0.2),
        (PolicyName::Lru2, 0.45),
        (PolicyName::Reuse, 0.5),
    ] {
        let (reads, writes) = reads(policy, 1 << 20);
        println!("{policy:?}: {reads:.3} reads a page, {writes:.3} writes");
        assert!(reads < most, "{policy:?}: {reads} reads a page");
    }
}
