// SPDX-License-Identifier: MIT OR Apache-2.0
//! Synthetic traces: the standard cases, the same on every machine.

use clap::ValueEnum;
use pager_accesses::Trace;
use pager_accesses::pattern::{Pattern, Random, Spread};

/// The number of pages of a synthetic trace.
const PAGES: u32 = 8192;

/// The kind of a synthetic trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Synthetic {
    /// Independent accesses, the nth hottest page in proportion to n^-0.99.
    Zipf,
    /// Four vcpus go through all of memory repeatedly, each from its own start.
    Scan,
    /// Loops over parts of memory: three fifths of it, all of it, four fifths, thirty times each.
    Loop,
    /// Zipf over half of memory, a loop over a quarter, a slow pass over the last quarter.
    Mixed,
    /// Zipf over a third of memory, a different third every quarter million accesses.
    Phases,
    /// A working set of a third of memory that moves all the time: the page that was used longest
    /// ago is needed last.
    Drift,
}

impl Synthetic {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Zipf,
        Self::Scan,
        Self::Loop,
        Self::Mixed,
        Self::Phases,
        Self::Drift,
    ];

    /// Generates the trace.
    pub fn trace(self, seed: u64) -> Trace {
        let mut random = Random::new(seed, self as u64);
        let accesses = match self {
            Self::Zipf => zipf(&mut random, PAGES, 5_000_000).collect(),
            Self::Scan => (0..60 * PAGES)
                .map(|nth| (nth % 4 * (PAGES / 4) + nth / 4) % PAGES)
                .collect(),
            Self::Loop => [PAGES / 5 * 3, PAGES, PAGES / 5 * 4]
                .into_iter()
                .flat_map(|length| (0..30 * length).map(move |nth| nth % length))
                .collect(),
            Self::Mixed => mixed(&mut random),
            Self::Phases => phases(&mut random),
            Self::Drift => drift(&mut random),
        };
        Trace {
            pages: PAGES,
            accesses,
        }
    }
}

fn zipf(random: &mut Random, pages: u32, accesses: u64) -> impl Iterator<Item = u32> {
    let spread = Spread::new(Pattern::Zipf, pages.into());
    (0..accesses).map(move |nth| u32::try_from(spread.page(random, 0, nth)).unwrap_or(0))
}

fn mixed(random: &mut Random) -> Vec<u32> {
    let spread = Spread::new(Pattern::Zipf, (PAGES / 2).into());
    let (mut looped, mut passed) = (0, 0);
    (0..1_500_000)
        .map(|nth| match random.below(100) {
            0..70 => u32::try_from(spread.page(random, 0, nth)).unwrap_or(0),
            70..95 => {
                looped = (looped + 1) % (PAGES / 4);
                PAGES / 2 + looped
            }
            _ => {
                passed = (passed + 1) % (PAGES / 4);
                PAGES / 4 * 3 + passed
            }
        })
        .collect()
}

fn phases(random: &mut Random) -> Vec<u32> {
    let mut accesses = Vec::new();
    for phase in 0..6 {
        let start = phase % 3 * (PAGES / 3);
        accesses.extend(zipf(random, PAGES / 3, 250_000).map(|page| start + page));
    }
    accesses
}

fn drift(random: &mut Random) -> Vec<u32> {
    (0..1_000_000_u32)
        .map(|nth| {
            let back = u32::try_from(random.below(u64::from(PAGES / 3))).unwrap_or(0);
            let back = back.min(u32::try_from(random.below(u64::from(PAGES / 3))).unwrap_or(0));
            (PAGES + nth / 25 - back) % PAGES
        })
        .collect()
}
