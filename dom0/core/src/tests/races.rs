// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests that meet a page under way, or come late.

use p2m_paging::p2m::P2mType;
use p2m_paging::ring::abi::{PagingFlags, Request};

use super::cases::{guest, one_step, paged, request, step};
use super::sim::{Entry, Sim};
use crate::{Config, Event, Step};

#[test]
fn a_page_wanted_back_on_its_way_out_is_answered_at_once() {
    for steps in 0..2 {
        let mut sim = guest(40);
        sim.event(Event::Target(0));
        sim.execute(0, usize::MAX);
        (0..steps).for_each(|_| one_step(&mut sim));
        sim.access(0, 7, true);
        sim.drain_ring();
        assert_eq!(sim.waits[0], None, "after {steps} steps");
        sim.access(0, 7, true);
        sim.settle();
        assert!(
            matches!(sim.entries[7], Entry::Ram(_)),
            "{:?} after {steps}",
            sim.entries[7]
        );
    }
}

/// Of two vcpus that fault on a nominated page, the second one's request overtakes the one that
/// says `EVICT_FAIL`.
#[test]
fn a_request_that_overtook_another_waits_for_one_step_at_most() {
    let mut sim = guest(40);
    sim.event(Event::Target(0));
    one_step(&mut sim);
    sim.access(0, 7, true);
    let first = sim.unanswered.clone();
    let overtaking = Request {
        p2mt: P2mType::RamPagingInStart,
        ..request(7, PagingFlags::empty())
    };
    sim.unanswered.push(overtaking);
    sim.event(Event::Requests(&[overtaking]));
    assert_eq!(sim.unanswered.len(), 2, "the page may be on its way out");
    sim.execute(0, usize::MAX);
    sim.execute(0, usize::MAX);
    assert_eq!(step(&sim), [Step::Evict]);
    assert_eq!(
        sim.unanswered, first,
        "the page was not evicted, and will not be"
    );
    assert!(
        sim.running[0]
            .0
            .pages()
            .iter()
            .all(|page| page.gfn().get() != 7)
    );
}

#[test]
fn b10_a_page_found_gone_frees_its_slot_and_is_no_victim_before_its_drop_is_heard() {
    let mut sim = paged(100, 0);
    sim.balloon(7);
    sim.balloon(7);
    assert!(
        matches!(sim.entries[7], Entry::Ram(_)),
        "memory again under the same number"
    );
    sim.event(Event::Target(100));
    while !sim.running.is_empty() {
        sim.execute(0, usize::MAX);
    }
    let copies = sim.pager.progress().copies;
    assert_eq!((sim.pager.slots_taken(), copies), (99, 99));
    assert_eq!(sim.reports, []);
    sim.event(Event::Target(0));
    while !sim.running.is_empty() {
        sim.execute(0, usize::MAX);
    }
    assert!(
        matches!(sim.entries[7], Entry::Ram(_)),
        "a late drop would take it"
    );
    sim.settle();
    sim.event(Event::Resident(1));
    sim.event(Event::Tick);
    sim.settle();
    assert_eq!(sim.entries[7], Entry::Paged);
}

/// An empty frame was put in place for it, and that is what the guest gave back before it was filled.
#[test]
fn b10_a_page_found_gone_after_its_drop_was_heard_is_a_victim_again() {
    let mut sim = paged(40, 0);
    sim.access(0, 7, false);
    sim.drain_ring();
    one_step(&mut sim);
    assert_eq!(step(&sim), [Step::Prep]);
    (sim.entries[7], sim.truth[7]) = (Entry::Gone, None);
    let drop = Request {
        p2mt: P2mType::RamPagingIn,
        ..request(7, PagingFlags::DROP_PAGE | PagingFlags::EVICT_FAIL)
    };
    sim.unanswered.push(drop);
    sim.event(Event::Requests(&[drop]));
    while !sim.running.is_empty() {
        sim.execute(0, usize::MAX);
    }
    assert_eq!(sim.pager.slots_taken(), 39);
    // Memory again.
    (sim.entries[7], sim.truth[7]) = (Entry::Ram(70), Some(70));
    sim.event(Event::Resident(1));
    sim.event(Event::Tick);
    sim.settle();
    sim.event(Event::Resident(1));
    sim.event(Event::Target(0));
    sim.settle();
    assert_eq!(sim.entries[7], Entry::Paged);
}

#[test]
fn a_page_wanted_back_while_its_evict_is_under_way_is_loaded_after_it() {
    let mut sim = guest(40);
    sim.event(Event::Target(0));
    one_step(&mut sim);
    one_step(&mut sim);
    assert_eq!(step(&sim), [Step::Evict]);
    sim.execute(0, usize::MAX);
    sim.access(0, 7, true);
    sim.drain_ring();
    assert_eq!(step(&sim), [Step::Evict], "the outcome is not known yet");
    sim.execute(0, usize::MAX);
    assert_eq!(step(&sim), [Step::Load]);
    sim.settle();
    assert_eq!(sim.waits[0], None);
}

#[test]
fn b10_a_slot_dropped_during_its_save_is_not_reused_before_the_save_is_done() {
    let mut sim = guest(40);
    sim.event(Event::Target(0));
    one_step(&mut sim);
    let taken = sim.pager.slots_taken();
    sim.balloon(7);
    sim.drain_ring();
    assert_eq!(
        (step(&sim), sim.pager.slots_taken()),
        (vec![Step::Save], taken)
    );
    sim.settle();
    assert_eq!(sim.pager.slots_taken(), 39);
}

/// A drop that stood in line while its page became memory again and went out anew.
#[test]
fn a_late_drop_does_not_take_the_new_contents() {
    for p2mt in [P2mType::RamPagingOut, P2mType::RamPagingInStart] {
        let mut sim = paged(40, 0);
        let late = Request {
            p2mt,
            ..request(7, PagingFlags::DROP_PAGE | PagingFlags::EVICT_FAIL)
        };
        sim.unanswered.push(late);
        sim.event(Event::Requests(&[late]));
        assert!(sim.unanswered.is_empty());
        sim.finish();
        assert!(
            sim.entries
                .iter()
                .all(|entry| matches!(entry, Entry::Ram(_)))
        );
    }
}

/// The vcpu that asked for it stood in line, and left when the page was given back: the pager hears of
/// the drop alone.
#[test]
fn b10_a_page_dropped_before_its_request_was_heard_is_forgotten() {
    let mut sim = paged(40, 0);
    sim.entries[7] = Entry::Gone;
    sim.truth[7] = None;
    let drop = Request {
        p2mt: P2mType::RamPagingInStart,
        ..request(7, PagingFlags::DROP_PAGE)
    };
    sim.unanswered.push(drop);
    sim.event(Event::Requests(&[drop]));
    assert_eq!(sim.pager.slots_taken(), 39);
    assert_eq!(sim.pager.progress().dropped, 1);
}

/// All of a guest is out, under a pager that has taken over, and a drop of page 7 is about to be told. The
/// page is really removed, or out again since.
fn taken_over(is_gone: bool) -> (Sim, Request) {
    let config = Config {
        takes_over: true,
        ..Config::new(40)
    };
    let mut sim = Sim::new(40, 16, config, 0);
    sim.event(Event::Target(0));
    sim.settle();
    if is_gone {
        sim.entries[7] = Entry::Gone;
        sim.truth[7] = None;
    }
    let drop = request(7, PagingFlags::DROP_PAGE);
    sim.unanswered.push(drop);
    (sim, drop)
}

/// A pager that was killed had taken page 7 out; it was given back, and taken again, and its successor evicts it before it hears of
/// that. Or it is really gone.
#[test]
fn b10_a_pager_that_takes_over_looks_before_it_forgets() {
    for is_gone in [false, true] {
        let (mut sim, drop) = taken_over(is_gone);
        sim.event(Event::Target(40));
        sim.event(Event::Requests(&[drop]));
        sim.settle();
        let dropped = u64::from(is_gone);
        assert_eq!(sim.pager.progress().dropped, dropped);
        assert_eq!(sim.pager.progress().paged_in, 40 - dropped);
        assert_eq!(sim.unanswered, []);
        assert_eq!(matches!(sim.entries[7], Entry::Ram(_)), !is_gone);
        sim.finish();
    }
}

/// As above, and the store does not read until the drop has been answered.
#[test]
fn b10_a_pager_that_takes_over_forgets_nothing_that_it_cannot_read() {
    for is_gone in [false, true] {
        let attempts = Config::new(40).read_attempts;
        let (mut sim, drop) = taken_over(is_gone);
        let home = sim.pager.location_of(drop.gfn).unwrap();
        sim.bad_slots.extend(home.slot());
        sim.event(Event::Requests(&[drop]));
        for _ in 0..attempts {
            sim.settle();
            sim.event(Event::Tick);
        }
        assert_eq!(sim.unanswered, []);
        assert_eq!(sim.pager.progress().dropped, 0, "it is not known yet");
        sim.bad_slots.clear();
        sim.event(Event::Target(40));
        sim.settle();
        sim.event(Event::Tick);
        sim.settle();
        assert_eq!(sim.pager.progress().dropped, u64::from(is_gone));
        assert_eq!(matches!(sim.entries[7], Entry::Ram(_)), !is_gone);
        sim.finish();
    }
}
