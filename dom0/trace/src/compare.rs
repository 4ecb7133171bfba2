// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compares all policies with the bounds, on a trace and at several sizes of memory.

use pager_accesses::Trace;
use pager_core::policy::{PolicyName, SweepOptions};

use super::ahead::{Cluster, Leap, Nothing, Predictor, Streams};
use super::bounds::{Lru, belady, best_static};
use super::replay::{Counts, Visibility, replay};

/// Accessed bits are read after a number of accesses or misses: the number of pages that fit into
/// memory, divided by this.
pub const SCANS_A_TURN: u64 = 8;

/// A column of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Belady's optimum.
    Optimum,
    /// Exact LRU.
    Lru,
    /// The hottest pages, always in memory.
    Static,
    /// A policy that learns accessed bits.
    Scans(PolicyName),
    /// A policy that learns accessed bits as rarely as in a shell.
    Paced(PolicyName),
    /// A policy that learns of page-ins only.
    Blind(PolicyName),
}

/// A way of reading ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Nothing.
    Nothing,
    /// The pager's read-ahead.
    Streams,
    /// Clusters around a miss, as in Linux's swap.
    Cluster,
    /// Along the stride that most of the last differences share (Leap).
    Leap,
}

impl Column {
    /// The column's heading.
    pub fn name(self) -> &'static str {
        match self {
            Self::Optimum => "optimum",
            Self::Lru => "exact LRU",
            Self::Static => "best static set",
            Self::Scans(PolicyName::Sweep)
            | Self::Paced(PolicyName::Sweep)
            | Self::Blind(PolicyName::Sweep) => "sweep",
            Self::Paced(PolicyName::Lru2) => "lru2, paced",
            Self::Paced(PolicyName::Reuse) => "reuse, paced",
            Self::Scans(PolicyName::Lru2) => "lru2",
            Self::Scans(PolicyName::Reuse) => "reuse",
            Self::Blind(PolicyName::Lru2) => "lru2, blind",
            Self::Blind(PolicyName::Reuse) => "reuse, blind",
        }
    }

    /// What the policy knows when it chooses a victim.
    pub fn sees(self) -> &'static str {
        match self {
            Self::Optimum => "the future",
            Self::Lru => "every access",
            Self::Static => "how hot pages are",
            Self::Scans(PolicyName::Sweep) | Self::Paced(PolicyName::Sweep) | Self::Blind(_) => {
                "page-ins alone"
            }
            Self::Scans(_) | Self::Paced(_) => "accessed bits",
        }
    }

    /// The columns for these policies, bounds first.
    pub fn of(policies: &[PolicyName]) -> Vec<Self> {
        let mut columns = vec![Self::Optimum, Self::Lru, Self::Static];
        for &policy in policies {
            // Sweep does not use accessed bits.
            if policy != PolicyName::Sweep {
                columns.push(Self::Scans(policy));
                columns.push(Self::Paced(policy));
            }
            columns.push(Self::Blind(policy));
        }
        columns
    }
}

/// A trace with what is known of it.
#[derive(Debug)]
pub struct Subject {
    /// The name of the trace.
    pub name: String,
    /// What it is, in a few words.
    pub about: String,
    trace: Trace,
    lru: Lru,
    /// The number of pages that are accessed. The size of memory is relative to it.
    pub touched: u64,
}

impl Subject {
    /// Prepares a trace.
    pub fn new(name: String, about: String, trace: Trace) -> Self {
        let mut touched = vec![false; trace.pages as usize];
        for &page in &trace.accesses {
            touched[page as usize] = true;
        }
        Self {
            name,
            about,
            lru: Lru::new(&trace),
            touched: touched.iter().filter(|touched| **touched).count() as u64,
            trace,
        }
    }

    /// The number of accesses.
    pub fn accesses(&self) -> u64 {
        self.trace.accesses.len() as u64
    }

    /// The accesses to pages that are not in memory, if memory holds this percentage of the pages.
    pub fn misses(&self, column: Column, percent: u64) -> u64 {
        let pages = self.pages(percent);
        let capacity = usize::try_from(pages).unwrap_or(usize::MAX);
        let replay = |name, visibility| self.replay(name, percent, visibility, &mut Nothing).misses;
        match column {
            Column::Optimum => belady(&self.trace, capacity),
            Column::Lru => self.lru.misses(capacity),
            Column::Static => best_static(&self.trace, capacity),
            Column::Paced(name) => {
                let misses = (pages / SCANS_A_TURN).max(1);
                replay(name, Visibility::Paced { misses })
            }
            Column::Blind(name) => replay(name, Visibility::Blind),
            Column::Scans(name) => {
                let every = (pages / SCANS_A_TURN).max(1);
                replay(name, Visibility::Scans { every })
            }
        }
    }

    /// What comes in if memory holds this percentage of the pages and pages are read ahead in this
    /// way. The policy learns accessed bits as rarely as in a shell.
    pub fn read_ahead(&self, reader: Reader, policy: PolicyName, percent: u64) -> Counts {
        let misses = (self.pages(percent) / SCANS_A_TURN).max(1);
        let visibility = Visibility::Paced { misses };
        self.replay(policy, percent, visibility, &mut *reader.predictor())
    }

    fn replay(
        &self,
        name: PolicyName,
        percent: u64,
        visibility: Visibility,
        predictor: &mut dyn Predictor,
    ) -> Counts {
        let memory = [0..=u64::from(self.trace.pages.saturating_sub(1))];
        let capacity = self.pages(percent);
        let options = SweepOptions {
            // The default, or less, so that victims are left.
            mru_pages: SweepOptions::default()
                .mru_pages
                .min(usize::try_from(capacity / 4).unwrap_or(usize::MAX)),
            ..SweepOptions::default()
        };
        let mut policy = name.policy(&memory, &options);
        replay(&self.trace, &mut *policy, capacity, visibility, predictor)
    }

    /// The number of pages for a percentage.
    fn pages(&self, percent: u64) -> u64 {
        (self.touched * percent / 100).max(1)
    }
}

impl Reader {
    /// All ways; the first is without read-ahead.
    pub const ALL: [Self; 4] = [Self::Nothing, Self::Streams, Self::Cluster, Self::Leap];

    /// The heading for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Streams => "streams",
            Self::Cluster => "cluster",
            Self::Leap => "Leap",
        }
    }

    fn predictor(self) -> Box<dyn Predictor> {
        match self {
            Self::Nothing => Box::new(Nothing),
            Self::Streams => Box::new(Streams::default()),
            Self::Cluster => Box::new(Cluster::default()),
            Self::Leap => Box::new(Leap::default()),
        }
    }
}

/// The geometric mean.
pub fn geometric_mean(ratios: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, logs) = ratios.fold((0_u32, 0.0), |(count, logs), ratio| {
        (count + 1, logs + ratio.ln())
    });
    (count > 0).then(|| f64::exp(logs / f64::from(count)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Synthetic;

    fn subject(kind: Synthetic, accesses: usize) -> Subject {
        let mut trace = kind.trace(1);
        trace.accesses.truncate(accesses);
        Subject::new(format!("{kind:?}"), String::new(), trace)
    }

    const REUSE: Column = Column::Scans(PolicyName::Reuse);

    #[test]
    fn reuse_is_far_below_lru_in_a_loop_that_does_not_fit() {
        let subject = subject(Synthetic::Loop, 100_000);
        let [optimum, lru, seeing, blind] = [
            Column::Optimum,
            Column::Lru,
            REUSE,
            Column::Blind(PolicyName::Reuse),
        ]
        .map(|column| subject.misses(column, 50) as f64);
        assert_eq!(lru, 100_000.0, "nothing is in when it is needed");
        assert!(seeing < 1.5 * optimum, "{seeing} against {optimum}");
        assert!(blind < 0.8 * lru, "{blind} against {lru}");
    }

    #[test]
    fn reuse_is_below_lru_where_some_pages_are_hot_and_level_where_recency_is_all() {
        let zipf = subject(Synthetic::Zipf, 200_000);
        let [reuse, lru] = [REUSE, Column::Lru].map(|column| zipf.misses(column, 50) as f64);
        assert!(reuse < 0.95 * lru, "{reuse} against {lru}");
        let drift = subject(Synthetic::Drift, 200_000);
        let [reuse, lru] = [REUSE, Column::Lru].map(|column| drift.misses(column, 50) as f64);
        assert!(reuse < 1.03 * lru, "{reuse} against {lru}");
    }

    #[test]
    fn no_policy_is_better_than_the_optimum() {
        let subject = subject(Synthetic::Mixed, 20_000);
        for percent in [25, 75, 100] {
            let optimum = subject.misses(Column::Optimum, percent);
            for column in Column::of(&PolicyName::ALL) {
                assert!(subject.misses(column, percent) >= optimum, "{column:?}");
            }
        }
        assert_eq!(subject.misses(REUSE, 100), subject.touched);
    }
    #[test]
    fn c8_no_page_of_a_loop_or_scan_goes_out_before_it_is_needed() {
        for kind in [Synthetic::Loop, Synthetic::Scan] {
            let subject = subject(kind, 100_000);
            let [without, streams] = [Reader::Nothing, Reader::Streams]
                .map(|reader| subject.read_ahead(reader, PolicyName::Reuse, 50));
            assert_eq!(without.brought, 0);
            let Counts {
                misses,
                brought,
                used,
            } = streams;
            assert!(
                misses * 3 < without.misses,
                "{kind:?}: {misses} against {without:?}"
            );
            assert!(
                (brought - used) * 100 < brought,
                "{kind:?}: {used} of {brought} used"
            );
        }
    }

    #[test]
    fn c8_what_is_used_here_and_there_brings_nothing_in() {
        let subject = subject(Synthetic::Zipf, 100_000);
        let [without, streams] = [Reader::Nothing, Reader::Streams]
            .map(|reader| subject.read_ahead(reader, PolicyName::Reuse, 50));
        assert!(
            streams.misses * 100 < without.misses * 101,
            "{streams:?} against {without:?}"
        );
        assert!(
            streams.brought * 20 < without.misses,
            "{streams:?} against {without:?}"
        );
    }
}
