// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that are alike share a slot (row C6).

use p2m_paging::Gfn;

use super::areas::{drained, guest, held, range, target};
use super::sim::{Entry, Sim};
use crate::Event;
use crate::store::SlotRange;

/// A guest of 100 pages with three different contents, in turn.
fn alike(areas: &[SlotRange]) -> Sim {
    guest(areas).with_alike_pages()
}

fn settle_with_ticks(sim: &mut Sim) {
    for _ in 0..30 {
        sim.settle();
        sim.event(Event::Tick);
    }
    sim.settle();
    sim.check_owners();
}

#[test]
fn c6_pages_that_are_alike_take_one_slot_which_is_free_when_the_last_has_gone() {
    let mut sim = alike(&[range(0, 200, 0)]);
    target(&mut sim, 0);
    let progress = sim.pager.progress();
    assert_eq!((progress.out_pages, progress.deduplicated), (100, 97));
    assert_eq!((sim.store.len(), sim.pager.slots_taken()), (3, 3));
    sim.check_owners();
    // All pages of one kind are given back, then all come home.
    (0..100).step_by(3).for_each(|page| sim.balloon(page));
    sim.settle();
    assert_eq!((sim.store.len(), sim.pager.slots_taken()), (2, 2));
    sim.check_owners();
    assert_eq!(sim.finish().unreadable_pages, 0);
    assert_eq!((sim.store.len(), sim.pager.slots_taken()), (0, 0));
}

#[test]
fn c6_c7_what_comes_in_keeps_its_share_and_gives_it_up_when_it_has_changed() {
    let mut sim = alike(&[range(0, 200, 0)]);
    target(&mut sim, 0);
    let writes = sim.writes;
    // Three of a kind come in, one of them is written.
    [0, 3, 6]
        .into_iter()
        .for_each(|page| sim.access(page, page, false));
    sim.settle();
    sim.entries[3] = Entry::Ram(1 << 40);
    sim.truth[3] = Some(1 << 40);
    settle_with_ticks(&mut sim);
    assert_eq!(sim.writes - writes, 1, "the others are compared");
    assert_eq!(sim.pager.progress().out_pages, 100);
    assert_eq!((sim.store.len(), sim.pager.slots_taken()), (4, 4));
    assert_eq!(sim.finish().unreadable_pages, 0);
}

#[test]
fn c5_c6_a_drain_moves_a_shared_slot_once_while_its_pages_are_asked_for() {
    let areas = [range(0, 100, 5), range(128, 50, 0)];
    for asked_after in 0..12 {
        let mut sim = alike(&areas);
        target(&mut sim, 0);
        assert_eq!((held(&sim, areas[0]), held(&sim, areas[1])), (3, 0));
        let writes = sim.writes;
        sim.draining.push(areas[0]);
        sim.event(Event::Drain(areas[0]));
        (0..asked_after).for_each(|_| sim.execute(0, 1));
        // One of each kind.
        (0..3).for_each(|page| sim.access(page, page, true));
        assert_eq!(drained(&mut sim), [Ok(())]);
        assert_eq!(held(&sim, areas[0]), 0);
        sim.check_owners();
        assert!(
            sim.writes - writes <= 3 + 3,
            "moved once, and what was written"
        );
        assert!(sim.pager.progress().moved >= 97);
        assert_eq!(sim.finish().unreadable_pages, 0);
    }
}

#[test]
fn c5_c6_areas_are_full_in_turn_and_pages_that_are_alike_need_no_room() {
    let areas = [range(0, 5, 2), range(64, 5, 1), range(128, 5, 0)];
    let mut sim = alike(&areas);
    // Pages that are like none, as many as there are slots for but two.
    for page in 0..10 {
        let value = 1 << (40 + page);
        (sim.entries[page], sim.truth[page]) = (Entry::Ram(value), Some(value));
    }
    target(&mut sim, 0);
    for _ in 0..200 {
        sim.event(Event::Tick);
        sim.settle();
    }
    let held = areas.map(|area| held(&sim, area));
    assert_eq!((held[0], held.iter().sum()), (5, 13), "{held:?}");
    assert_eq!(sim.pager.progress().out_pages, 100);
    sim.check_owners();
    // A page that does not read back takes those with it that share its slot, and no others.
    let gfn = Gfn::new_truncate(50);
    let bad = sim
        .pager
        .location_of(gfn)
        .and_then(|home| home.slot())
        .unwrap();
    sim.bad_slots = vec![bad];
    let left = sim.finish().unreadable_pages;
    assert_eq!(left, 30);
    sim.bad_slots.clear();
    sim.finished = None;
    assert_eq!(sim.finish().unreadable_pages, 0);
}
