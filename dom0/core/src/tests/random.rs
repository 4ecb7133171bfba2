// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random interleavings of guest, hypervisor, store and pager.

use proptest::prelude::*;

use super::areas::range;
use super::sim::{Entry, Sim};
use crate::store::{Slot, SlotRange};
use crate::{Config, Event};

const PAGES: usize = 24;
const VCPUS: usize = 12;

#[derive(Clone, Debug)]
pub(super) enum Op {
    Access {
        vcpu: usize,
        page: usize,
        write: bool,
    },
    Foreign(usize),
    Balloon(usize),
    Race,
    Drain,
    Execute {
        which: usize,
        pages: usize,
    },
    Tick,
    Target(i64),
    Fault(u8),
    Store(usize),
    RestoreAsks(bool),
    Resident,
    /// An area is drained, or added if it is gone.
    Area(usize),
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0..VCPUS, 0..PAGES, any::<bool>())
            .prop_map(|(vcpu, page, write)| Op::Access { vcpu, page, write }),
        2 => (0..PAGES).prop_map(Op::Foreign),
        3 => (0..PAGES).prop_map(Op::Balloon),
        2 => Just(Op::Race),
        8 => Just(Op::Drain),
        24 => (0..4_usize, 1..6_usize).prop_map(|(which, pages)| Op::Execute { which, pages }),
        3 => Just(Op::Tick),
        2 => (-1..PAGES as i64 + 2).prop_map(Op::Target),
        3 => (0..8_u8).prop_map(Op::Fault),
        1 => (0..PAGES).prop_map(Op::Store),
        1 => any::<bool>().prop_map(Op::RestoreAsks),
        1 => Just(Op::Resident),
        2 => (0..3_usize).prop_map(Op::Area),
    ]
}

/// Two that take turns and are soon full, and one with room for all.
fn areas() -> Vec<SlotRange> {
    vec![range(0, 5, 1), range(64, 8, 1), range(128, 1000, 0)]
}

pub(super) fn sim(mru_pages: usize, alike: bool) -> Sim {
    let mut config = Config::new(PAGES as u64);
    (
        config.out_batch,
        config.prefetch_batch,
        config.out_threshold,
    ) = (7, 3, 2);
    config.areas = areas();
    let mut sim = Sim::new(PAGES, VCPUS, config, mru_pages);
    if alike {
        sim = sim.with_alike_pages();
    }
    sim.event(Event::Target(8));
    sim
}

pub(super) fn apply(sim: &mut Sim, op: Op) {
    match op {
        Op::Access { vcpu, page, write } => sim.access(vcpu, page, write),
        Op::Foreign(page) => sim.foreign(page),
        Op::Balloon(page) => sim.balloon(page),
        Op::Race => sim.race(),
        Op::Drain => sim.drain_ring(),
        Op::Execute { which, pages } => sim.execute(which, pages),
        Op::Tick => sim.event(Event::Tick),
        Op::Target(pages) => sim.event(Event::Target(pages)),
        Op::Fault(which) => {
            let faults = &mut sim.faults;
            let fault = match which {
                0 => &mut faults.nominate,
                1 => &mut faults.evict,
                2 => &mut faults.restore,
                3 => &mut faults.unmapped,
                4 => &mut faults.write,
                5 => &mut faults.read,
                6 => &mut faults.no_memory,
                _ => &mut faults.not_done,
            };
            *fault += 1;
        }
        Op::Store(pages) => sim.store_pages = pages,
        Op::RestoreAsks(pending) => sim.restore_asks = pending,
        Op::Resident => {
            let resident = |entry: &&Entry| {
                matches!(
                    entry,
                    Entry::Ram(_) | Entry::PagingOut(_) | Entry::InStart(Some(_))
                )
            };
            let pages = sim.entries.iter().filter(resident).count();
            sim.event(Event::Resident(pages as u64));
        }
        Op::Area(which) => {
            let area = areas()[which];
            let end = sim.drained.iter().rfind(|drained| drained.0 == area);
            if end.is_some_and(|drained| drained.1.is_ok()) {
                sim.drained.retain(|drained| drained.0 != area);
                sim.event(Event::AreaAdded(area));
            } else {
                sim.draining.push(area);
                sim.event(Event::Drain(area));
            }
        }
    }
}

/// Everything is where it belongs after a stop.
pub(super) fn check_home(sim: &Sim) {
    for (n, entry) in sim.entries.iter().enumerate() {
        assert!(
            matches!(entry, Entry::Ram(_) | Entry::Gone),
            "page {n} is left as {entry:?}"
        );
    }
    assert!(
        sim.waits.iter().all(Option::is_none),
        "{:?} wait for ever",
        sim.waits
    );
    assert_eq!(sim.unanswered, []);
    sim.check_owners();
}

proptest! {
    /// Each step checks that every page's bytes are in exactly one trusted place, every request is
    /// answered once and not too early, and no slot is written while another owner has it.
    #[test]
    fn no_interleaving_loses_a_page_or_a_request(
        ops in prop::collection::vec(op(), 0..400),
        mru_pages in 0..12_usize,
        alike: bool,
    ) {
        let mut sim = sim(mru_pages, alike);
        ops.into_iter().for_each(|op| apply(&mut sim, op));
        sim.faults = Default::default();
        for _ in 0..40 {
            sim.event(Event::Tick);
            sim.settle();
        }
        prop_assert_eq!(&sim.draining, &[], "never drained: {:?}", sim.pager);
        let summary = sim.finish();
        prop_assert_eq!(summary.unreadable_pages, 0);
        sim.settle();
        check_home(&sim);
    }

    /// A slot that never reads back costs its own page and nothing else, and the summary says so.
    #[test]
    fn an_unreadable_page_is_never_given_to_the_guest(
        ops in prop::collection::vec(op(), 0..200),
        bad in prop::collection::vec(0..12_u32, 1..4),
        alike: bool,
    ) {
        let mut sim = sim(0, alike);
        sim.bad_slots = bad.into_iter().map(Slot).collect();
        ops.into_iter().for_each(|op| apply(&mut sim, op));
        sim.faults = Default::default();
        sim.finish();
        // It goes on serving requests, so that those that stood in line come to their turn.
        for _ in 0..40 {
            sim.event(Event::Tick);
            sim.settle();
        }
        let lost: Vec<_> = sim.pager.unreadable().collect();
        for (n, entry) in sim.entries.iter().enumerate() {
            let out = matches!(entry, Entry::Paged | Entry::InStart(None));
            prop_assert_eq!(out, lost.iter().any(|gfn| gfn.get() == n as u64));
        }
        prop_assert!(sim.waits.iter().all(Option::is_none), "{:?} wait for ever", sim.waits);
        // Once the device works again, stopping once more brings them home too.
        sim.bad_slots.clear();
        sim.finished = None;
        prop_assert_eq!(sim.finish().unreadable_pages, 0);
        sim.settle();
        check_home(&sim);
    }

    /// When the guest is gone nothing more is asked for, whatever was under way.
    #[test]
    fn a_guest_that_goes_away_ends_the_pager(ops in prop::collection::vec(op(), 0..100)) {
        let mut sim = sim(2, true);
        ops.into_iter().for_each(|op| apply(&mut sim, op));
        let under_way = sim.running.len();
        sim.guest_gone = true;
        sim.event(Event::DomainGone);
        for _ in 0..2 * under_way {
            sim.execute(0, usize::MAX);
        }
        prop_assert!(sim.running.is_empty());
        prop_assert_eq!(sim.finished.map(|summary| summary.domain_alive), Some(false));
    }
}
