//! Several areas: which one a page goes to, and what becomes of a bad one (row C5).

use super::sim::{Entry, Sim};
use crate::core::{Config, Event, PageError, Report};
use crate::store::{Slot, SlotRange, StoreError};

pub(super) fn range(first: u32, slots: u32, priority: i32) -> SlotRange {
    SlotRange {
        first: Slot(first),
        slots,
        priority,
    }
}

/// A guest of 100 pages over these areas, with nothing out.
fn guest(areas: &[SlotRange]) -> Sim {
    let config = Config {
        areas: areas.to_vec(),
        ..Config::new(100)
    };
    Sim::new(100, 16, config, 0)
}

fn target(sim: &mut Sim, pages: i64) {
    sim.event(Event::Target(pages));
    sim.settle();
}

fn held(sim: &Sim, area: SlotRange) -> usize {
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
    let slot = Slot(10);
    let error = PageError::Store(StoreError::Io { slot, errno: 5 });
    assert_eq!(sim.reports, [Report::AreaFailed { slot, error }]);
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
