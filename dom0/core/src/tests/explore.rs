// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every order, for a while: two pages, two slots, and all who can ask for them (row C7).
//!
//! From each point of a page's way out and back every sequence of so many choices is tried: who asks, what is brought ahead, given
//! back or moved, which batch goes on, which is handed back. That no page is in two batches and no slot written while it is used is checked by
//! the [simulated shell](super::sim) whenever a batch begins; so is every page's contents, after each choice. At the end nobody may
//! be left waiting.

use super::areas::range;
use super::sim::{Entry, Sim};
use crate::{Config, Event};

/// Choices in a row, after which all that is under way ends.
const DEPTH: usize = 3;
/// Beginnings: steps of both pages' way out, and back.
const BEGINNINGS: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Access(usize, usize),
    Foreign(usize),
    GiveBack(usize),
    TakeRequests,
    Execute(usize),
    /// Everything is to be in, or out.
    Target(i64),
    Drain,
}

fn choices(sim: &Sim) -> Vec<Choice> {
    let accesses = [(0, 0), (1, 0), (2, 1)].map(|(vcpu, page)| Choice::Access(vcpu, page));
    let may = |choice: &Choice| match *choice {
        Choice::Access(vcpu, page) => sim.waits[vcpu].is_none() && !is_in(sim, page),
        _ => true,
    };
    let mut choices: Vec<_> = accesses.into_iter().filter(may).collect();
    if !is_in(sim, 0) {
        choices.extend([Choice::Foreign(0), Choice::GiveBack(0)]);
    }
    if !sim.ring.is_empty() {
        choices.push(Choice::TakeRequests);
    }
    choices.extend((0..sim.running.len()).map(Choice::Execute));
    let wants_out = sim.pager.progress().wanted_out_pages > 0;
    choices.push(Choice::Target(if wants_out { 2 } else { 0 }));
    if sim.draining.is_empty() && sim.drained.is_empty() {
        choices.push(Choice::Drain);
    }
    choices
}

fn is_in(sim: &Sim, page: usize) -> bool {
    matches!(sim.entries[page], Entry::Ram(_) | Entry::Gone)
}

fn make(sim: &mut Sim, choice: Choice) {
    match choice {
        Choice::Access(vcpu, page) => sim.access(vcpu, page, true),
        Choice::Foreign(page) => sim.foreign(page),
        Choice::GiveBack(page) => sim.balloon(page),
        Choice::TakeRequests => sim.drain_ring(),
        Choice::Execute(which) => sim.execute(which, 1),
        Choice::Target(pages) => sim.event(Event::Target(pages)),
        Choice::Drain => {
            let area = range(0, 2, 1);
            sim.draining.push(area);
            sim.event(Event::Drain(area));
        }
    }
}

/// Two pages, alike or not, in two small areas; one page goes out at a time, or both.
fn begin(alike: bool, batch: usize, beginning: usize) -> Sim {
    let config = Config {
        areas: vec![range(0, 2, 1), range(64, 2, 0)],
        out_batch: batch,
        prefetch_batch: 2,
        out_threshold: 1,
        requests: 3,
        ..Config::new(2)
    };
    let mut sim = Sim::new(2, 3, config, 0);
    if alike {
        sim = sim.with_alike_pages();
        (sim.entries[1], sim.truth[1]) = (sim.entries[0], sim.truth[0]);
    }
    sim.event(Event::Target(0));
    for _ in 0..beginning {
        match (&sim.running[..], sim.ring.is_empty()) {
            ([], true) if is_in(&sim, 0) => sim.event(Event::Tick),
            ([], true) => sim.access(0, 0, true),
            (_, false) => sim.drain_ring(),
            ([..], true) => sim.execute(0, 1),
        }
    }
    sim
}

/// How many sequences there are from here.
fn explore(begin: &dyn Fn() -> Sim, so_far: &mut Vec<Choice>) -> u64 {
    let mut sim = begin();
    so_far.iter().for_each(|choice| make(&mut sim, *choice));
    if so_far.len() == DEPTH {
        end(sim);
        return 1;
    }
    let mut sequences = 0;
    for choice in choices(&sim) {
        so_far.push(choice);
        sequences += explore(begin, so_far);
        so_far.pop();
    }
    sequences
}

/// All that is under way ends, and everybody has what he waited for.
fn end(mut sim: Sim) {
    for _ in 0..8 {
        sim.settle();
        sim.event(Event::Tick);
    }
    sim.settle();
    assert_eq!(sim.waits, [None; 3], "they wait for ever");
    assert_eq!((&*sim.unanswered, &*sim.draining), (&[][..], &[][..]));
    assert_eq!(sim.finish().unreadable_pages, 0);
    sim.settle();
    sim.check_owners();
}

#[test]
fn c7_in_every_order_a_slot_is_read_once_and_nobody_sees_half_a_page_or_waits_for_ever() {
    let mut sequences = 0;
    for (alike, batch) in [(false, 1), (false, 2), (true, 1), (true, 2)] {
        for beginning in 0..BEGINNINGS {
            let mut so_far = Vec::new();
            let explored = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                explore(&|| begin(alike, batch, beginning), &mut so_far)
            }));
            match explored {
                Ok(more) => sequences += more,
                Err(panic) => {
                    eprintln!("alike {alike}, batch {batch}, beginning {beginning}: {so_far:?}");
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
    assert!(sequences > 10_000, "{sequences}");
}
