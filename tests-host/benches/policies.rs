// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cost of policies in guests of 2^16 to 2^28 pages (a terabyte): memory, and time for each
//! decision. Also all memory that a pager keeps for a page, with every page out, up to 2^20.
//!
//! `cargo bench -p tests-host --bench policies [-- 28]`: up to 2^28 pages; by default 2^24.

use std::time::Instant;

use pager_core::policy::{PART_PAGES, Policy, PolicyName, ScanPart, SweepOptions};
use pager_core::{Action, Actions, Config, Event, Pager};

/// Victims chosen at a time, and how often.
const BATCH: u64 = 512;
const BATCHES: u64 = 200;

fn main() {
    let most = std::env::args().skip(1).find_map(|arg| arg.parse().ok());
    let most: u32 = most.unwrap_or(24);
    println!(
        "| pages | policy | bytes a page | decision, ns: mean | worst batch | scan, ns a page |"
    );
    println!("|---|---|---|---|---|---|");
    for log in (16..=most).step_by(4) {
        for name in PolicyName::ALL {
            measure(name, 1 << log);
        }
    }
    println!(
        "\n| pages, all out | bytes a page, slots and policy | ns to go out | ns to come in |"
    );
    println!("|---|---|---|---|");
    for log in (16..=most.min(20)).step_by(4) {
        whole_pager(1 << log);
    }
}

/// Half of memory is out. Then pages come in at random and others go out.
fn measure(name: PolicyName, pages: u64) {
    let options = SweepOptions {
        mru_pages: 1024,
        ..SweepOptions::default()
    };
    let mut policy = name.policy(&[0..=pages - 1], &options);
    let mut random = Random(pages);
    let mut out = Vec::new();
    for nth in 0..pages / 2 {
        let victim = policy.choose().expect("half of memory is in");
        policy.paged_out(victim);
        // Some of them, to come in again: from all over memory.
        if nth % (pages / 2 / (BATCH * BATCHES).min(pages / 4)) == 0 {
            out.push(victim);
        }
    }
    let scan = policy.wants_scans().then(|| {
        (0..3)
            .map(|_| scan(&mut *policy, pages, &mut random))
            .fold(f64::MAX, f64::min)
    });
    let (mut whole, mut worst) = (0.0, 0.0);
    for _ in 0..BATCHES {
        let start = Instant::now();
        for _ in 0..BATCH {
            let nth = random.below(out.len() as u64);
            let gfn = &mut out[usize::try_from(nth).expect("a small list")];
            policy.paged_in(*gfn, true);
            *gfn = policy.choose().expect("half of memory is in");
            policy.paged_out(*gfn);
        }
        let ns = nanoseconds(start) / BATCH as f64;
        whole += ns;
        worst = f64::max(worst, ns);
    }
    let scan = scan.map_or_else(|| "-".into(), |ns| format!("{ns:.2}"));
    println!(
        "| 2^{} | {} | {:.3} | {:.0} | {worst:.0} | {scan} |",
        pages.ilog2(),
        name.name(),
        policy.table_bytes() as f64 / pages as f64,
        whole / BATCHES as f64,
    );
}

/// Scans all of memory, with every eighth page used; yields nanoseconds for each page.
fn scan(policy: &mut dyn Policy, pages: u64, random: &mut Random) -> f64 {
    let mut accessed = [0; PART_PAGES / 64];
    let start = Instant::now();
    for first in (0..pages).step_by(PART_PAGES) {
        for word in &mut accessed {
            *word = random.word() & random.word() & random.word();
        }
        policy.referenced(&ScanPart {
            first,
            accessed: &accessed,
        });
    }
    policy.scanned();
    nanoseconds(start) / pages as f64
}

/// Everything goes out, and everything comes in.
fn whole_pager(pages: u64) {
    let policy = PolicyName::Reuse.policy(&[0..=pages - 1], &SweepOptions::default());
    let mut pager = Pager::new(Config::new(pages), policy);
    let mut actions = pager.actions();
    let start = Instant::now();
    run(&mut pager, &mut actions, Event::Target(0));
    while pager.progress().out_pages < pages {
        run(&mut pager, &mut actions, Event::Tick);
    }
    let (out, bytes) = (nanoseconds(start), pager.table_bytes());
    let start = Instant::now();
    run(&mut pager, &mut actions, Event::Stop);
    assert_eq!(pager.progress().out_pages, 0);
    println!(
        "| 2^{} | {:.3} | {:.0} | {:.0} |",
        pages.ilog2(),
        bytes as f64 / pages as f64,
        out / pages as f64,
        nanoseconds(start) / pages as f64,
    );
}

/// A shell that does everything at once, with success.
fn run(pager: &mut Pager, actions: &mut Actions, event: Event<'_>) {
    pager.handle(event, actions);
    let mut todo = Vec::new();
    loop {
        todo.extend(actions.drain());
        if todo.is_empty() {
            return;
        }
        for action in todo.drain(..) {
            match action {
                Action::Run(mut batch) => {
                    let pages = batch.pages_mut().iter_mut();
                    pages.for_each(|page| page.outcome = Ok(()));
                    pager.handle(Event::Done(batch), actions);
                }
                Action::Scan(mut scan) => {
                    scan.outcome = Ok(());
                    pager.handle(Event::Scanned(scan), actions);
                }
                _ => {}
            }
        }
    }
}

fn nanoseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e9
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.word() % bound
    }
}
