// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several areas: which one a page goes to, and what becomes of a bad one (row C5).

use p2m_paging::Gfn;

use super::cases::step;
use super::sim::{Entry, Sim};
use crate::store::{Slot, SlotRange, StoreError};
use crate::{Batch, Config, DrainError, Event, Page, PageError, Report, Step, Ticks};

pub(super) fn range(first: u32, slots: u32, priority: i32) -> SlotRange {
    SlotRange {
        first: Slot(first),
        slots,
        priority,
    }
}

/// A guest of 100 pages over these areas, with nothing out; few are moved at a time.
pub(super) fn guest(areas: &[SlotRange]) -> Sim {
    let config = Config {
        areas: areas.to_vec(),
        prefetch_batch: 8,
        ..Config::new(100)
    };
    Sim::new(100, 16, config, 0)
}

pub(super) fn target(sim: &mut Sim, pages: i64) {
    sim.event(Event::Target(pages));
    sim.settle();
}

pub(super) fn held(sim: &Sim, area: SlotRange) -> usize {
    sim.store
        .keys()
        .filter(|slot| area.contains(**slot))
        .count()
}

#[test]
fn c5_areas_are_filled_by_priority_and_when_all_are_full_copies_make_room() {
    let (low, high) = (range(0, 30, 0), range(64, 40, 7));
    let mut sim = guest(&[low, high]);
    target(&mut sim, 60);
    assert_eq!((held(&sim, low), held(&sim, high)), (0, 40));
    target(&mut sim, 0);
    assert_eq!((held(&sim, low), held(&sim, high)), (30, 40));
    assert_eq!(sim.reports, [Report::StoreFull { pages_out: 70 }]);
    // A page comes in, and another goes out in its slot.
    for round in 0..5 {
        let out = sim.entries.iter().rposition(|entry| *entry == Entry::Paged);
        sim.access(round, out.unwrap(), true);
        sim.settle();
        sim.event(Event::Tick);
        sim.settle();
        let progress = sim.pager.progress();
        assert_eq!((progress.out_pages, sim.pager.slots_taken()), (70, 70));
    }
    assert_eq!(sim.store.len(), 70);
    assert_eq!(sim.reports.len(), 1, "said once");
}

#[test]
fn c5_an_area_that_fails_is_left_alone_while_another_has_room() {
    let (bad, good) = (range(0, 100, 5), range(128, 70, 0));
    let mut sim = guest(&[bad, good]);
    target(&mut sim, 90);
    assert_eq!((held(&sim, bad), held(&sim, good)), (10, 0));
    sim.bad_area = Some(bad);
    target(&mut sim, 30);
    for _ in 0..3 {
        sim.event(Event::Tick);
        sim.settle();
    }
    // Those that were in it stay readable; nothing waits.
    assert_eq!((held(&sim, bad), held(&sim, good)), (10, 60));
    assert_eq!(sim.pager.progress().out_pages, 70);
    let is_bad = |report: &Report| match report {
        Report::AreaFailed { slot, error } => {
            let io = StoreError::Io {
                slot: *slot,
                errno: 5,
            };
            bad.contains(*slot) && *error == PageError::Store(io)
        }
        _ => false,
    };
    assert!(
        sim.reports.len() == 1 && is_bad(&sim.reports[0]),
        "said once"
    );
    // When there is no other it is tried again, and page-out waits.
    target(&mut sim, 10);
    assert_eq!(sim.pager.progress().out_pages, 80);
    assert!(matches!(sim.reports[1..], [Report::StoreFailed { .. }]));
    sim.bad_area = None;
    for _ in 0..20 {
        sim.event(Event::Tick);
        sim.settle();
    }
    assert_eq!(sim.pager.progress().out_pages, 90);
    assert_eq!(sim.finish().unreadable_pages, 0);
}

/// Some time passes.
fn ticks(sim: &mut Sim, ticks: usize) {
    for _ in 0..ticks {
        sim.event(Event::Tick);
        sim.settle();
    }
}

#[test]
fn c5_slots_come_back_when_their_device_does() {
    let area = range(0, 100, 0);
    let mut sim = guest(&[area]);
    sim.bad_area = Some(area);
    target(&mut sim, 0);
    ticks(&mut sim, 500);
    assert_eq!((sim.pager.progress().out_pages, sim.store.len()), (0, 0));
    assert!(
        matches!(sim.reports[..], [Report::StoreFailed { .. }]),
        "said once"
    );
    assert!(sim.writes < 200, "{} writes", sim.writes);
    sim.bad_area = None;
    ticks(&mut sim, 600);
    assert_eq!(sim.pager.progress().out_pages, 100);
    assert_eq!(sim.reports.len(), 1);
    assert_eq!(sim.finish().unreadable_pages, 0);
}

/// The better of two areas is used again once it works, and each of both is said once.
#[test]
fn c5_an_area_that_failed_is_used_again_when_it_works() {
    let (bad, good) = (range(0, 100, 5), range(128, 100, 0));
    let mut sim = guest(&[bad, good]);
    sim.bad_area = Some(bad);
    target(&mut sim, 60);
    for pages in (50..60).rev() {
        target(&mut sim, pages);
        ticks(&mut sim, 10);
    }
    assert_eq!((held(&sim, bad), held(&sim, good)), (0, 50));
    assert!(matches!(sim.reports[..], [Report::AreaFailed { .. }]));
    sim.bad_area = None;
    ticks(&mut sim, 600);
    // One page is tried, then all go there.
    target(&mut sim, 45);
    assert_eq!((held(&sim, bad), held(&sim, good)), (1, 54));
    target(&mut sim, 20);
    assert_eq!((held(&sim, bad), held(&sim, good)), (26, 54));
    ticks(&mut sim, 601);
    let recovered = Report::AreaRecovered { slot: bad.first };
    assert_eq!(sim.reports[1..], [recovered]);
    assert_eq!(sim.finish().unreadable_pages, 0);
}

/// One place of the device is bad. It costs a page now and then, and no other slot.
#[test]
fn c5_a_bad_place_is_tried_ever_less_often() {
    let area = range(0, 100, 0);
    let mut sim = guest(&[area]);
    sim.bad_area = Some(range(7, 1, 0));
    target(&mut sim, 0);
    let mut failures = 0;
    let mut seen = sim.store.len();
    for round in 0..3000 {
        let before = sim.writes;
        ticks(&mut sim, 1);
        failures += usize::from(sim.writes > before && sim.store.len() == seen);
        seen = sim.store.len();
        assert!(sim.store.len() <= 99, "{round}");
    }
    assert_eq!(sim.pager.progress().out_pages, 99);
    assert!(failures < 40, "{failures} writes that failed");
    assert_eq!(sim.reports.len(), 1, "{:?}", sim.reports);
    sim.bad_area = None;
    ticks(&mut sim, 700);
    assert_eq!(sim.pager.progress().out_pages, 100);
}

/// Half of a guest of 100 pages is out, all of it in the first of two areas, with copies of some more.
fn half_out(areas: &[SlotRange; 2]) -> Sim {
    let mut sim = guest(areas);
    target(&mut sim, 30);
    target(&mut sim, 50);
    assert_eq!((held(&sim, areas[0]), held(&sim, areas[1])), (70, 0));
    sim
}

/// Ticks until the drains that were begun are over.
pub(super) fn drained(sim: &mut Sim) -> Vec<Result<(), DrainError>> {
    for _ in 0..20 {
        sim.settle();
        sim.event(Event::Tick);
    }
    sim.drained.drain(..).map(|(_, outcome)| outcome).collect()
}

#[test]
fn c5_a_drained_area_is_empty_and_its_pages_lie_elsewhere() {
    let areas = [range(0, 100, 5), range(128, 50, 0)];
    let mut sim = half_out(&areas);
    let entries = sim.entries.clone();
    sim.event(Event::Drain(areas[0]));
    assert_eq!(step(&sim), [Step::Load]);
    assert_eq!(drained(&mut sim), [Ok(())]);
    assert_eq!(sim.entries, entries, "the guest is not touched");
    assert_eq!((held(&sim, areas[0]), held(&sim, areas[1])), (0, 50));
    assert_eq!(sim.pager.progress().moved, 50);
    // It can be had again, and is as good as before.
    sim.event(Event::AreaAdded(areas[0]));
    target(&mut sim, 20);
    assert_eq!((held(&sim, areas[0]), held(&sim, areas[1])), (30, 50));
    assert_eq!(sim.finish().unreadable_pages, 0);
}

#[test]
fn c5_pages_asked_for_while_they_are_moved_come_in_once_they_have_been() {
    let areas = [range(0, 100, 5), range(128, 100, 0)];
    let mut sim = half_out(&areas);
    sim.event(Event::Drain(areas[0]));
    let moving: Vec<_> = sim.running[0]
        .0
        .pages()
        .iter()
        .map(|page| page.gfn())
        .collect();
    let page = |nth: usize| usize::try_from(moving[nth].get()).unwrap();
    sim.access(0, page(0), true);
    sim.drain_ring();
    sim.execute(0, usize::MAX);
    sim.execute(0, usize::MAX);
    assert_eq!(step(&sim), [Step::Move]);
    sim.access(1, page(1), false);
    sim.balloon(page(2));
    sim.drain_ring();
    let mut loads = sim
        .running
        .iter()
        .filter(|(batch, _)| batch.step() == Step::Load);
    let waits = |page: &Page| moving[..2].contains(&page.gfn());
    assert!(loads.all(|(batch, _)| !batch.pages().iter().any(waits)));
    assert_eq!(drained(&mut sim), [Ok(())]);
    assert!(sim.waits.iter().all(Option::is_none));
    assert_eq!(sim.entries[page(2)], Entry::Gone);
    assert_eq!(
        sim.pager.location_of(moving[2]),
        None,
        "given back meanwhile"
    );
    assert_eq!(sim.finish().unreadable_pages, 0);
    assert_eq!(sim.pager.slots_taken(), sim.pager.progress().copies);
}

#[test]
fn c5_nothing_is_written_to_an_area_that_is_to_go() {
    let areas = [range(0, 100, 5), range(128, 100, 0)];
    let mut sim = half_out(&areas);
    // A page comes in, which the drain passes by; then its copy is in the area, and it is another by now.
    let page = sim.entries.iter().position(|entry| *entry == Entry::Paged);
    let page = page.unwrap();
    sim.access(0, page, true);
    sim.drain_ring();
    sim.event(Event::Drain(areas[0]));
    assert_eq!(step(&sim), [Step::Load, Step::Load]);
    let gfn = Gfn::new_truncate(page as u64);
    let has_it = |(batch, _): &(Batch, usize)| batch.pages().iter().any(|page| page.gfn() == gfn);
    while let Some(which) = sim.running.iter().position(has_it) {
        sim.execute(which, usize::MAX);
    }
    sim.access(0, page, true);
    sim.bad_area = Some(areas[0]);
    target(&mut sim, 0);
    assert_eq!(drained(&mut sim), [Ok(())]);
    assert_eq!(sim.reports, []);
}

#[test]
fn c5_without_room_elsewhere_an_area_stays_in_use() {
    let areas = [range(0, 100, 5), range(128, 20, 0)];
    let mut sim = half_out(&areas);
    sim.event(Event::Drain(areas[0]));
    assert_eq!(drained(&mut sim), [Err(DrainError::NoRoom { pages: 30 })]);
    target(&mut sim, 0);
    assert_eq!((held(&sim, areas[0]), held(&sim, areas[1])), (80, 20));
    // More memory for the guest is room, too.
    target(&mut sim, 80);
    sim.event(Event::Drain(areas[0]));
    assert_eq!(drained(&mut sim), [Ok(())]);
    assert_eq!((held(&sim, areas[0]), held(&sim, areas[1])), (0, 20));
}

#[test]
fn c5_an_area_with_pages_that_do_not_read_back_stays_and_its_bad_neighbour_is_not_written() {
    let areas = [range(0, 100, 5), range(128, 100, 4)];
    let mut sim = half_out(&areas);
    let out = |n: u64| sim.pager.location_of(Gfn::new_truncate(n))?.slot();
    sim.bad_slots = (0..100).filter_map(out).take(3).collect();
    sim.event(Event::Drain(areas[0]));
    assert_eq!(drained(&mut sim), [Err(DrainError::Failed { pages: 3 })]);
    sim.bad_slots.clear();
    sim.bad_area = Some(areas[1]);
    sim.event(Event::Drain(areas[0]));
    assert_eq!(drained(&mut sim), [Err(DrainError::Failed { pages: 3 })]);
    sim.bad_area = None;
    sim.event(Event::Drain(areas[0]));
    assert_eq!(drained(&mut sim), [Ok(())]);
    assert_eq!(sim.finish().unreadable_pages, 0);
}

#[test]
fn c5_a_full_store_goes_on_once_an_area_is_added() {
    let areas = [range(0, 30, 0), range(64, 100, 0)];
    let mut sim = guest(&areas[..1]);
    target(&mut sim, 10);
    assert_eq!(sim.reports, [Report::StoreFull { pages_out: 30 }]);
    sim.event(Event::AreaAdded(areas[1]));
    sim.settle();
    assert_eq!(sim.pager.progress().out_pages, 90);
    let lasted = Ticks(0);
    assert_eq!(sim.reports.last(), Some(&Report::StoreRecovered { lasted }));
}

#[test]
fn c5_a_stop_overtakes_a_drain() {
    let areas = [range(0, 100, 5), range(128, 100, 0)];
    let mut sim = half_out(&areas);
    sim.event(Event::Drain(areas[0]));
    assert_eq!(sim.finish().unreadable_pages, 0);
    assert_eq!(sim.pager.slots_taken(), sim.pager.progress().copies);
}
