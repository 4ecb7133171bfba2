// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that were nominated, were to stay, and could not be restored at first; and what is said of
//! things that fail again and again.

use p2m_paging::Gfn;

use super::cases::{guest, paged};
use super::sim::{Entry, Sim};
use crate::store::Slot;
use crate::{Config, Event, Location, Report};

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

/// On Xen's C, the answer to a request of another domain leaves such a page as it was.
#[test]
fn b7_a_leftover_that_another_domain_requests_is_restored_at_once() {
    let mut sim = with_leftovers(3);
    sim.answers_need_vcpu = true;
    let left = nominated(&sim);
    sim.foreign(left[0]);
    sim.settle();
    sim.event(Event::Tick);
    sim.settle();
    assert_eq!(sim.unanswered, []);
    let entry = sim.entries[left[0]];
    assert!(
        matches!(entry, Entry::Ram(_)),
        "the domain waits: {entry:?}"
    );
    assert_eq!(sim.pager.progress().nominated_pages, 0);
    assert_eq!(nominated(&sim), [], "the others");
}

/// As before, but the pager that nominated the page was killed, so this pager does not know.
#[test]
fn b7_a_leftover_of_an_earlier_pager_that_another_domain_requests_is_restored_at_once() {
    let mut sim = paged(100, 80);
    sim.answers_need_vcpu = true;
    let pages = 0..sim.entries.len();
    let mut resident = pages.filter(|page| matches!(sim.entries[*page], Entry::Ram(_)));
    let page = resident.next().unwrap();
    drop(resident);
    sim.entries[page] = Entry::PagingOut(sim.truth[page].unwrap());
    sim.foreign(page);
    sim.settle();
    assert_eq!(sim.unanswered, []);
    let entry = sim.entries[page];
    assert!(
        matches!(entry, Entry::Ram(_)),
        "the domain waits: {entry:?}"
    );
    assert_eq!(sim.pager.progress().nominated_pages, 0);
    assert_eq!(sim.reports, []);
}

/// The slot of a page is lost, and the guest gives the page back and takes it again. The pager has taken
/// over from another one, so it does not know whose page the drop was about.
#[test]
fn b10_an_unreadable_page_that_is_resident_again_is_found_by_a_probe() {
    for is_probed_while_out in [false, true] {
        let config = Config {
            takes_over: true,
            ..Config::new(100)
        };
        let mut sim = Sim::new(100, 16, config, 0);
        sim.event(Event::Target(20));
        sim.settle();
        let mut pages = 0..sim.entries.len();
        let page = pages.find(|n| sim.entries[*n] == Entry::Paged).unwrap();
        let location = sim.pager.location_of(Gfn::new_truncate(page as u64));
        sim.bad_slots = location.and_then(Location::slot).into_iter().collect();
        let ticks = |sim: &mut Sim, ticks| {
            for _ in 0..ticks {
                sim.event(Event::Tick);
                sim.settle();
            }
        };
        if is_probed_while_out {
            sim.access(0, page, false);
            ticks(&mut sim, 200);
            assert_eq!(sim.pager.progress().unreadable_pages, 1, "it is out");
            assert_eq!(sim.pager.progress().out_pages, 80);
        }
        sim.balloon(page);
        ticks(&mut sim, 10);
        assert_eq!(sim.unanswered, []);
        sim.balloon(page);
        assert!(matches!(sim.entries[page], Entry::Ram(_)));
        assert_eq!(sim.pager.progress().unreadable_pages, 1);
        ticks(&mut sim, 100);
        assert_eq!(sim.pager.progress().unreadable_pages, 0, "taken for out");
        assert!(matches!(sim.entries[page], Entry::Ram(_)), "nominated");
        // The slot is used again, maybe for another page.
        sim.bad_slots.clear();
        sim.event(Event::Resident(100 - sim.pager.progress().out_pages));
        sim.event(Event::Target(0));
        ticks(&mut sim, 10);
        assert_eq!(sim.pager.progress().out_pages, 100, "it goes out again");
        assert_eq!(sim.finish().unreadable_pages, 0);
        sim.check_owners();
    }
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
