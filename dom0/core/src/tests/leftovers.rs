// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that were nominated, were to stay, and could not be restored at first; and what is said of
//! things that fail again and again.

use super::cases::{guest, paged};
use super::sim::{Entry, Sim};
use crate::store::Slot;
use crate::{Event, Report};

/// Three pages stay nominated.
fn with_leftovers(restore_faults: u32) -> Sim {
    let mut sim = guest(100);
    (sim.faults.evict, sim.faults.restore) = (3, restore_faults);
    sim.event(Event::Target(50));
    sim.settle();
    assert_eq!(sim.pager.progress().nominated_pages, 3);
    sim
}

fn nominated(sim: &Sim) -> Vec<usize> {
    let entries = sim.entries.iter().enumerate();
    let nominated = entries.filter(|(_, entry)| matches!(entry, Entry::PagingOut(_)));
    nominated.map(|(page, _)| page).collect()
}

#[test]
fn b7_nothing_is_nominated_when_the_pager_has_finished() {
    for restore_asks in [false, true] {
        // Each page is refused four times.
        let mut sim = with_leftovers(12);
        sim.restore_asks = restore_asks;
        assert_eq!(nominated(&sim).len(), 3);
        assert_eq!(sim.finish().unreadable_pages, 0);
        assert_eq!(nominated(&sim), [], "left nominated");
        assert_eq!(sim.unanswered, []);
        assert!(matches!(
            sim.reports[..],
            [Report::StaysNominated { .. }, Report::AllRestored { .. }]
        ));
    }
}

#[test]
fn b7_a_write_to_a_leftover_and_a_late_drop_of_one_are_answered() {
    let mut sim = with_leftovers(1_000_000);
    let left = nominated(&sim);
    sim.event(Event::Stop);
    sim.event(Event::Tick);
    assert_eq!(sim.running.len(), 2, "page-in, and a batch that restores");
    sim.access(0, left[0], true);
    sim.balloon(left[1]);
    sim.settle();
    assert_eq!((sim.waits[0], &sim.unanswered[..]), (None, &[][..]));
    sim.faults.restore = 0;
    assert_eq!(sim.finish().unreadable_pages, 0);
    assert_eq!(nominated(&sim), []);
}

/// A device that does not read for a while: one line when it begins and one when it ends, whatever
/// the number of pages.
#[test]
fn what_fails_again_and_again_is_said_twice() {
    let mut sim = paged(100, 20);
    sim.bad_slots = (0..1000).map(Slot).collect();
    sim.event(Event::Target(100));
    for _ in 0..30 {
        sim.settle();
        sim.event(Event::Tick);
    }
    assert_eq!(sim.pager.progress().unreadable_pages, 80);
    assert!(
        matches!(sim.reports[..], [Report::Unreadable { .. }]),
        "{} reports",
        sim.reports.len()
    );
    sim.bad_slots.clear();
    for _ in 0..30 {
        sim.settle();
        sim.event(Event::Tick);
    }
    assert_eq!(sim.pager.progress().unreadable_pages, 0);
    assert!(matches!(sim.reports[1..], [Report::ReadableAgain { lasted }] if lasted.0 >= 29));
}
