// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small run of each seed, once for each action of its pager: the pager is killed after it.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use super::{Deaths, Failed, Knob, Passed, Scenario, Trace, run};

/// The result of many runs in which the pager is killed.
#[derive(Clone, Debug, Default)]
pub struct KillTally {
    /// Seeds of which every run held.
    pub seeds: u64,
    /// Runs in which the pager was killed.
    pub kill_points: u64,
    /// What happened in them.
    pub deaths: Deaths,
    /// The first run that failed, of the lowest seed that did: its scenario names the kill point.
    pub failed: Option<(Scenario, Failed)>,
}

impl KillTally {
    fn kill(&mut self, passed: &Passed) {
        self.kill_points += 1;
        self.deaths.add(&passed.deaths);
    }

    fn add(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.kill_points += other.kill_points;
        self.deaths.add(&other.deaths);
        if let Some((scenario, failed)) = other.failed {
            let before = self.failed.as_ref().map(|(before, _)| before.seed);
            if before.is_none_or(|before| scenario.seed < before) {
                self.failed = Some((scenario, failed));
            }
        }
    }

    /// All runs of a seed, up to the first that fails.
    fn run_seed(&mut self, seed: u64) -> Result<(), Box<(Scenario, Failed)>> {
        let mut scenario = Scenario::to_kill_everywhere(seed);
        let fails = |scenario: &Scenario| {
            run(scenario, &Trace::new()).map_err(|failed| Box::new((*scenario, failed)))
        };
        let points = fails(&scenario)?.deaths.points;
        for point in 1..=points {
            scenario.set(Knob::Death, u32::try_from(point).unwrap_or(u32::MAX));
            self.kill(&fails(&scenario)?);
        }
        self.seeds += 1;
        Ok(())
    }
}

/// Runs these seeds on this many threads, until the moment given or the first failure. If a seed
/// fails, all lower ones are run.
pub fn kill_everywhere(seeds: Range<u64>, until: Option<Instant>, threads: usize) -> KillTally {
    let next = AtomicU64::new(seeds.start);
    let end = AtomicU64::new(seeds.end);
    let total = Mutex::new(KillTally::default());
    let work = || {
        let mut tally = KillTally::default();
        while until.is_none_or(|until| Instant::now() < until) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end.load(Ordering::Relaxed) {
                break;
            }
            if let Err(failed) = tally.run_seed(seed) {
                end.fetch_min(seed, Ordering::Relaxed);
                tally.failed = Some(*failed);
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
