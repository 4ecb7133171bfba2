// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the C pager does wrong, by the numbers of the survey, and what comes near it.

use p2m_paging::Gfn;
use p2m_paging::ring::abi::PagingFlags;

use super::cases::{guest, paged, request, run};
use super::sim::Entry;
use crate::policy::{Sweep, SweepOptions};
use crate::store::Slot;
use crate::{Config, Event, Location, Pager, Report};

/// The C pager takes gfn > max_pages for out of range, which lets max_pages itself through to the
/// table behind it.
#[test]
fn defect_5_the_gfn_after_the_last_is_no_page_of_ours_and_does_no_harm() {
    let mut sim = paged(64, 0);
    for paging in [
        PagingFlags::empty(),
        PagingFlags::DROP_PAGE,
        PagingFlags::EVICT_FAIL,
    ] {
        for gfn in [64, Gfn::MAX.get()] {
            sim.unanswered.push(request(gfn, paging));
            let requests = sim.unanswered.clone();
            sim.event(Event::Requests(&requests));
            assert_eq!(sim.unanswered, []);
        }
    }
    assert_eq!(sim.finish().unreadable_pages, 0);
}

/// The C pager takes max_pages for the end of the guest's frame numbers.
#[test]
fn defect_6_memory_above_the_mmio_hole_goes_out_and_comes_back() {
    let memory = vec![0..=9, 0x10_0000..=0x10_0009, (1 << 40) - 10..=(1 << 40) - 1];
    let config = Config {
        memory: memory.clone(),
        ..Config::new(30)
    };
    let policy = Sweep::new(
        &memory,
        &SweepOptions {
            mru_pages: 0,
            ..SweepOptions::default()
        },
    );
    let mut pager = Pager::new(config, Box::new(policy));
    let mut actions = pager.actions();
    run(&mut pager, &mut actions, Event::Target(0));
    assert_eq!(pager.progress().out_pages, 30);
    assert!(pager.location_of(Gfn::MAX).is_some());
    run(&mut pager, &mut actions, Event::Stop);
    assert_eq!(pager.progress().out_pages, 0);
}

/// The C pager sleeps a second in its only thread when there is no memory for a page.
#[test]
fn defect_13_no_memory_for_one_page_holds_up_no_other_and_loses_no_fault() {
    let mut sim = paged(100, 20);
    let out: Vec<_> = (0..100)
        .filter(|&n| sim.entries[n] == Entry::Paged)
        .collect();
    sim.faults.no_memory = 1;
    sim.access(0, out[0], true);
    sim.settle();
    assert_eq!(sim.waits[0].map(Gfn::get), Some(out[0] as u64));
    assert!(matches!(sim.reports[..], [Report::Delayed { .. }]));
    sim.access(1, out[1], true);
    sim.settle();
    assert_eq!(sim.waits[1], None, "others are served meanwhile");
    sim.event(Event::Tick);
    sim.settle();
    assert_eq!(sim.waits[0], None);
}

/// The C pager pages out one page per chain of system calls, and at most 42 between two looks at
/// the ring.
#[test]
fn defect_13_pages_go_out_in_whole_batches() {
    let mut sim = guest(1000);
    sim.event(Event::Target(0));
    assert_eq!(sim.running[0].0.pages().len(), 512);
}

/// The C pager leaves pages behind when it ends by another signal than SIGTERM or SIGINT.
#[test]
fn defect_14_unreadable_pages_are_named_at_the_end_and_their_slots_kept() {
    let mut sim = paged(100, 20);
    sim.bad_slots = vec![Slot(3), Slot(50)];
    let summary = sim.finish();
    assert_eq!(summary.unreadable_pages, 2);
    let locations: Vec<_> = sim
        .pager
        .unreadable()
        .filter_map(|gfn| sim.pager.location_of(gfn))
        .collect();
    assert!(
        [3, 50]
            .iter()
            .all(|slot| locations.contains(&Location::Slot(Slot(*slot))))
    );
    assert_eq!(
        sim.store.len(),
        2,
        "the copies of unreadable pages are kept"
    );
}

/// A page that cannot be read must not take the ring with it: more vcpus than ring slots wait for
/// it, and one for another page.
#[test]
fn an_unreadable_page_is_never_given_to_the_guest_and_holds_up_no_other() {
    let mut sim = paged(100, 20);
    let out: Vec<_> = (0..100)
        .filter(|&n| sim.entries[n] == Entry::Paged)
        .collect();
    let gfn = Gfn::new_truncate(out[0] as u64);
    sim.bad_slots = sim
        .pager
        .location_of(gfn)
        .and_then(Location::slot)
        .into_iter()
        .collect();
    (0..12).for_each(|vcpu| sim.access(vcpu, out[0], false));
    sim.access(12, out[1], false);
    let mut ticks = 0;
    while sim.waits[12].is_some() {
        assert!(
            ticks < 20,
            "the ring is full of requests that nobody can answer"
        );
        sim.settle();
        sim.event(Event::Tick);
        ticks += 1;
    }
    assert_eq!(ticks, 5, "as many as there are attempts");
    assert_eq!(sim.entries[out[0]], Entry::InStart(None));
    assert_eq!(sim.reports.len(), 1, "said once");
    sim.bad_slots.clear();
    sim.access(0, out[0], false);
    sim.settle();
    assert!(
        sim.waits.iter().all(Option::is_none),
        "it reads back: home for all"
    );
    assert!(matches!(sim.entries[out[0]], Entry::Ram(_)));
}

/// One frame of a mapped batch may be missing although the call as a whole succeeds.
#[test]
fn defect_17_a_frame_that_cannot_be_mapped_fails_alone() {
    let mut sim = guest(100);
    sim.faults.unmapped = 1;
    sim.event(Event::Target(0));
    sim.settle();
    assert_eq!(sim.pager.progress().out_pages, 99);
    assert_eq!(sim.store.len(), 99);
}
