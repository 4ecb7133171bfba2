// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hypervisor, guest, pager and disk in one deterministic run, from one seed, with injected faults.
//!
//! The crate and the pager's core run unchanged on the [machine](crate::machine), through the real
//! bytes of the ring. After every event all properties are checked (`check`), and every operation
//! is compared with the state machine's table. In the end injected faults stop, and all pages must
//! become resident. A run that fails prints its scenario, made as simple as possible. The same
//! scenario gives the same run on every machine.

mod areas;
mod block;
mod check;
mod coverage;
mod cpus;
mod disk;
mod event_queue;
mod foreign;
mod guest;
mod index;
mod kernel;
mod kill_everywhere;
mod many;
mod measured_guest;
mod operations;
mod pager;
mod picture;
mod programs;
mod scanner;
mod scenario;
mod take_over;
mod tasks;
mod trace;
mod worker;
mod world;

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};

use p2m_paging::pause::VcpuCell;

pub use coverage::Coverage;
pub use kill_everywhere::{KillTally, kill_everywhere};
pub use many::{Tally, run_many};
pub use measured_guest::{Counts, MeasuredGuest};
pub use picture::{Lane, Look, draw};
pub use scenario::{KNOBS, Knob, NoScenario, Scenario};
pub use take_over::Deaths;
pub use trace::{Line, Trace};
use world::World;

/// The result of a run without a breach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Hash of everything that happened; of many runs, it does not depend on their order.
    pub hash: u64,
    /// Things that happened.
    pub happened: u64,
    /// Accesses of vcpus that succeeded.
    pub accesses: u64,
    /// Faults.
    pub faults: u64,
    /// Pages evicted.
    pub evicted: u64,
    /// The longest time that a vcpu has waited, in virtual nanoseconds.
    pub longest_wait_ns: u64,
    /// Switches from one task of a guest to another.
    pub switches: u64,
    /// Cells of the state machine's table that were hit.
    pub coverage: Coverage,
    /// Deaths of pagers with an index.
    pub deaths: Deaths,
}

impl Passed {
    /// Adds another run's.
    fn add(&mut self, other: &Self) {
        self.hash = self.hash.wrapping_add(other.hash);
        self.happened += other.happened;
        self.accesses += other.accesses;
        self.faults += other.faults;
        self.evicted += other.evicted;
        self.longest_wait_ns = self.longest_wait_ns.max(other.longest_wait_ns);
        self.switches += other.switches;
        self.coverage.add(&other.coverage);
        self.deaths.add(&other.deaths);
    }
}

/// A run with a breach.
#[derive(Clone, Debug)]
pub struct Failed {
    /// What was breached.
    pub what: String,
    /// How many events had happened.
    pub step: u64,
}

/// Runs a scenario.
pub fn run(scenario: &Scenario, trace: &Trace) -> Result<Passed, Failed> {
    let cells: Vec<_> = (0..scenario.get(Knob::Vcpus))
        .map(|_| VcpuCell::new())
        .collect();
    let step = std::cell::Cell::new(0);
    let ran = quietly(|| {
        let world = World::new(*scenario, &cells, trace);
        for _ in 0..scenario.get(Knob::Steps) {
            world.go();
            step.set(world.happened.get());
            world.check();
        }
        world.quiesce();
        let guest = world.guest.borrow();
        Passed {
            hash: trace.hash(),
            happened: world.happened.get(),
            accesses: guest.accesses,
            faults: guest.faults,
            evicted: world
                .paging
                .counters()
                .get(p2m_paging::paging::Count::Evicted),
            longest_wait_ns: guest.longest_wait_ns,
            switches: world.tasks.get().map_or(0, |tasks| tasks.all_switches()),
            coverage: world.coverage.borrow().clone(),
            deaths: *world.deaths.borrow(),
        }
    });
    ran.map_err(|what| Failed {
        what,
        step: step.get(),
    })
}

/// Makes a scenario that fails as simple as possible. Each knob is turned towards its quiet value
/// as long as the run fails, with whatever failure. At most `runs` runs are made.
pub fn shrink(scenario: &Scenario, mut runs: u32) -> Scenario {
    let mut smallest = *scenario;
    loop {
        let fails = |simpler: &Scenario| {
            runs = runs.saturating_sub(1);
            runs > 0 && run(simpler, &Trace::new()).is_err()
        };
        match smallest.simpler().into_iter().find(fails) {
            Some(simpler) => smallest = simpler,
            None => return smallest,
        }
    }
}

thread_local! {
    /// While a run's panics are caught: the message of the last one.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
    static CATCHING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs something. A panic becomes its message and its place.
fn quietly<R>(work: impl FnOnce() -> R) -> Result<R, String> {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if CATCHING.get() {
                SAID.set(Some(info.to_string()));
            } else {
                before(info);
            }
        }));
    });
    CATCHING.set(true);
    let ran = panic::catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(false);
    ran.map_err(|_| SAID.take().unwrap_or_default())
}
