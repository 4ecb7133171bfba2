// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many seeds, on all CPUs.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use super::{Failed, Passed, Scenario, Trace, run};

/// The result of many runs.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Runs without a breach.
    pub passed: u64,
    /// Their results together.
    pub sum: Passed,
    /// The lowest seed that failed.
    pub failed: Option<(Scenario, Failed)>,
}

impl Tally {
    fn pass(&mut self, passed: &Passed) {
        self.passed += 1;
        self.sum.add(passed);
    }

    fn fail(&mut self, scenario: Scenario, failed: Failed) {
        let lowest = self
            .failed
            .as_ref()
            .is_none_or(|(before, _)| scenario.seed < before.seed);
        if lowest {
            self.failed = Some((scenario, failed));
        }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.sum.add(&other.sum);
        if let Some((scenario, failed)) = other.failed {
            self.fail(scenario, failed);
        }
    }
}

/// Runs these seeds on this many threads, until the moment given or the first failure. If a seed
/// fails, all lower ones are run.
pub fn run_many(seeds: Range<u64>, until: Option<Instant>, threads: usize) -> Tally {
    let next = AtomicU64::new(seeds.start);
    let end = AtomicU64::new(seeds.end);
    let total = Mutex::new(Tally::default());
    let work = || {
        let mut tally = Tally::default();
        while until.is_none_or(|until| Instant::now() < until) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end.load(Ordering::Relaxed) {
                break;
            }
            let scenario = Scenario::of_seed(seed);
            match run(&scenario, &Trace::new()) {
                Ok(passed) => tally.pass(&passed),
                Err(failed) => {
                    end.fetch_min(seed, Ordering::Relaxed);
                    tally.fail(scenario, failed);
                }
            }
        }
        total.lock().expect("not poisoned").add(tally);
    };
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
    total.into_inner().expect("not poisoned")
}
