// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that are gone for good: what is done about one that somebody needs, and that nothing is done
//! about the others.

use p2m_paging::Gfn;

use super::cases::paged;
use super::sim::{Entry, Sim};
use crate::{Event, Location, Loss, LossCause, Need, Report};

/// Pages that are out and not zeros.
fn out(sim: &Sim) -> Vec<usize> {
    let lies = |n: &usize| sim.pager.location_of(Gfn::new_truncate(*n as u64));
    let pages = 0..sim.entries.len();
    let out = pages.filter(|n| lies(n).is_some_and(|location| location != Location::Zeros));
    out.collect()
}

fn ticks(sim: &mut Sim, ticks: u32) {
    for _ in 0..ticks {
        sim.settle();
        sim.event(Event::Tick);
    }
    sim.settle();
}

/// The slots of these pages hold something else.
fn spoil(sim: &mut Sim, pages: &[usize]) {
    let lies = |n: &usize| sim.pager.location_of(Gfn::new_truncate(*n as u64));
    sim.bad_slots = pages
        .iter()
        .filter_map(lies)
        .filter_map(Location::slot)
        .collect();
    sim.bad_is_gone = true;
}

/// A pager that has taken over, and does not know where two of the pages lie.
fn with_lost_pages() -> (Sim, [usize; 2]) {
    let mut sim = paged(100, 20);
    let pages = out(&sim);
    let lost = [pages[3], pages[7]];
    for page in lost {
        sim.index.remove(&page);
    }
    sim.take_over(true);
    assert_eq!(sim.pager.progress().lost_pages, 2);
    (sim, lost)
}

fn loss(page: usize, cause: LossCause, need: Need) -> Loss {
    let gfn = Gfn::new_truncate(page as u64);
    Loss { gfn, cause, need }
}

#[test]
fn the_guest_is_stopped_once_for_a_lost_page_that_it_needs() {
    let (mut sim, lost) = with_lost_pages();
    ticks(&mut sim, 20);
    assert_eq!(sim.losses, [], "nobody needs it");
    let needed = loss(lost[1], LossCause::NoEntry, Need::Requested);
    sim.access(0, lost[1], false);
    sim.settle();
    assert_eq!(sim.losses, [needed]);
    for vcpu in 0..4 {
        sim.access(vcpu, lost[vcpu % 2], true);
        ticks(&mut sim, 20);
    }
    assert_eq!(sim.losses, [needed], "again");
    assert_eq!(
        sim.entries[lost[1]],
        Entry::InStart(None),
        "it has contents"
    );
}

#[test]
fn a_stop_needs_lost_pages() {
    let (mut sim, lost) = with_lost_pages();
    sim.event(Event::Target(100));
    ticks(&mut sim, 20);
    assert_eq!(sim.losses, []);
    assert_eq!(sim.finish().unreadable_pages, 2);
    let needed = loss(lost[0], LossCause::NoEntry, Need::Stopping);
    assert_eq!(sim.losses, [needed]);
    sim.finished = None;
    sim.finish();
    assert_eq!(sim.losses, [needed], "again");
}

#[test]
fn a_lost_page_that_the_guest_gives_back_is_none() {
    let (mut sim, lost) = with_lost_pages();
    sim.access(0, lost[0], false);
    ticks(&mut sim, 10);
    assert_eq!(sim.losses.len(), 1);
    sim.balloon(lost[0]);
    sim.settle();
    let gfn = Gfn::new_truncate(lost[0] as u64);
    assert!(sim.reports.contains(&Report::LossOver { gfn }));
    assert_eq!(sim.pager.progress().lost_pages, 1);
}

#[test]
fn a_page_is_gone_when_its_store_says_so_again_and_a_store_that_fails_does_not_say_it() {
    for is_gone in [false, true] {
        let mut sim = paged(100, 20);
        let page = out(&sim)[5];
        spoil(&mut sim, &[page]);
        sim.bad_is_gone = is_gone;
        sim.access(0, page, false);
        sim.settle();
        assert_eq!(sim.losses, [], "at the first attempt");
        ticks(&mut sim, 100);
        assert_eq!(sim.losses.len(), usize::from(is_gone), "{:?}", sim.losses);
        let progress = sim.pager.progress();
        let pages = (progress.unreadable_pages, progress.corrupt_pages);
        assert_eq!(pages, (1, u64::from(is_gone)));
        if let [loss] = sim.losses[..] {
            assert_eq!((loss.gfn.get(), loss.need), (page as u64, Need::Requested));
            assert!(matches!(loss.cause, LossCause::Store(_)));
        }
    }
}

#[test]
fn a_page_that_is_gone_and_that_nobody_needs_stops_no_guest() {
    let mut sim = paged(100, 20);
    let page = out(&sim)[5];
    spoil(&mut sim, &[page]);
    sim.event(Event::Target(100));
    ticks(&mut sim, 100);
    assert_eq!(sim.pager.progress().corrupt_pages, 1);
    assert_eq!(sim.losses, []);
    assert_eq!(sim.finish().unreadable_pages, 1);
    assert_eq!(sim.losses.len(), 1);
    assert_eq!(sim.losses[0].need, Need::Stopping);
}

/// The guest is paused meanwhile, and requests nothing.
#[test]
fn a_page_that_can_be_read_again_comes_in_and_this_is_said() {
    let mut sim = paged(100, 20);
    let page = out(&sim)[5];
    spoil(&mut sim, &[page]);
    sim.access(0, page, false);
    ticks(&mut sim, 5);
    assert_eq!(sim.losses.len(), 1);
    assert_eq!((sim.waits[0], &sim.unanswered[..]), (None, &[][..]));
    ticks(&mut sim, 100);
    assert_eq!(sim.entries[page], Entry::InStart(None));
    sim.bad_slots.clear();
    ticks(&mut sim, 60);
    assert!(matches!(sim.entries[page], Entry::Ram(_)));
    let gfn = Gfn::new_truncate(page as u64);
    assert!(sim.reports.contains(&Report::LossOver { gfn }));
    assert_eq!(sim.losses.len(), 1);
    assert_eq!(sim.pager.progress().corrupt_pages, 0);
}
