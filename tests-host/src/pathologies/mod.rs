// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes wrong when a host pages a guest that pages by itself: the pathologies that VSwapper
//! (Amit, Tsafrir and Schuster, ASPLOS 2014) names, and paging the same page twice. Each is
//! produced and measured. Beside it the same work is done with the guest's balloon in place of the
//! pager.

mod cases;

use std::fmt;

use crate::simulate::{Counts, Knob, MeasuredGuest, Scenario};

pub use cases::CASES;

/// The number of the policy that uses accessed bits.
const REUSE: u32 = 2;

/// How the host gets memory from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Its pager takes pages in turn.
    Pages,
    /// Its pager takes pages that are unused according to accessed bits.
    PagesByUse,
    /// The guest's balloon gives them.
    Balloons,
}

/// One pathology.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// Produces it, and yields what was counted meanwhile.
    pub produce: fn(&MeasuredGuest<'_>, Host) -> Counts,
}

/// A line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The case.
    pub name: &'static str,
    /// How the host got memory.
    pub host: Host,
    /// What was counted.
    pub counts: Counts,
}

/// Produces every case in every way.
pub fn measure() -> Vec<Row> {
    let all = [Host::Pages, Host::PagesByUse, Host::Balloons];
    let rows = CASES.iter().flat_map(|case| all.map(|host| (case, host)));
    rows.map(|(case, host)| Row {
        name: case.name,
        host,
        counts: case.measure(host),
    })
    .collect()
}

impl Case {
    /// Produces it, on a guest of its own.
    pub fn measure(&self, host: Host) -> Counts {
        let mut scenario: Scenario = cases::SCENARIO.parse().expect("a scenario");
        if host == Host::PagesByUse {
            scenario.set(Knob::Policy, REUSE);
        }
        MeasuredGuest::with(&scenario, |setup| (self.produce)(setup, host))
    }
}

/// The head of the table.
pub const HEAD: &str = "\
| case | host | host writes | of them the guest has | compared | zeros | host reads | of them in order | to be read over | written twice \
| nested faults | guest's faults | disk reads | of them in order | disk writes |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match self.host {
            Host::Pages => "sweep",
            Host::PagesByUse => "reuse",
            Host::Balloons => "balloon",
        };
        let Counts {
            host_writes,
            known_to_guest,
            host_compares,
            host_zeros,
            host_reads,
            host_next,
            stale_reads,
            written_twice,
            nested_faults,
            guest_next,
            guest,
        } = self.counts;
        write!(
            f,
            "| {} | {host} | {host_writes} | {known_to_guest} | {host_compares} | {host_zeros} | {host_reads} | {host_next} | {stale_reads} | \
             {written_twice} | {nested_faults} | {} | {} | {guest_next} | {} |",
            self.name,
            guest.faults,
            guest.file_reads + guest.swap_reads,
            guest.file_writes + guest.swap_writes,
        )
    }
}
