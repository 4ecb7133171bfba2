// SPDX-License-Identifier: MIT OR Apache-2.0
//! One thing at a time: the rows of the description.

use p2m_paging::p2m::P2mType;
use p2m_paging::ring::abi::{EntryFlags, PagingFlags, Request};
use p2m_paging::{Gfn, VcpuId};

use super::sim::{Entry, Sim};
use crate::policy::{PolicyName, SweepOptions};
use crate::{Action, Actions, Config, Event, Pager, Step};

/// A guest of so many pages with nothing out.
pub(super) fn guest(pages: usize) -> Sim {
    Sim::new(pages, 16, Config::new(pages as u64), 0)
}

/// The same, paged out down to `resident` pages.
pub(super) fn paged(pages: usize, resident: i64) -> Sim {
    let mut sim = guest(pages);
    sim.event(Event::Target(resident));
    sim.settle();
    assert_eq!(
        sim.pager.progress().out_pages,
        pages as u64 - resident as u64
    );
    sim
}

pub(super) fn step(sim: &Sim) -> Vec<Step> {
    sim.running.iter().map(|(batch, _)| batch.step()).collect()
}

/// Does one whole step of the only batch under way.
pub(super) fn one_step(sim: &mut Sim) {
    sim.execute(0, usize::MAX);
    sim.execute(0, usize::MAX);
}

pub(super) fn request(gfn: u64, paging: PagingFlags) -> Request {
    Request {
        gfn: Gfn::new_truncate(gfn),
        vcpu: VcpuId(0),
        flags: EntryFlags::empty(),
        p2mt: P2mType::RamPaged,
        paging,
    }
}

/// While one batch is saved the next one is nominated, and together they are no more than is wanted.
#[test]
fn b5_two_batches_go_out_at_a_time() {
    let mut sim = guest(2000);
    sim.event(Event::Target(1300));
    let sizes = |sim: &Sim| -> Vec<_> {
        let running = sim.running.iter();
        running.map(|(batch, _)| batch.pages().len()).collect()
    };
    assert_eq!((step(&sim), sizes(&sim)), (vec![Step::Nominate], vec![512]));
    one_step(&mut sim);
    assert_eq!(step(&sim), [Step::Save, Step::Nominate]);
    assert_eq!(sizes(&sim), [512, 188]);
    // The target is raised: the first batch to come by takes what is still wanted.
    sim.event(Event::Target(1900));
    sim.settle();
    assert_eq!(sim.pager.progress().out_pages, 100);
    assert_eq!(sim.pager.slots_taken(), 100 + sim.pager.progress().copies);
}

#[test]
fn b5_pages_go_out_in_batches_down_to_the_target_and_come_back_when_it_rises() {
    let mut sim = paged(1000, 300);
    assert_eq!(sim.store.len(), 700);
    sim.event(Event::Target(900));
    sim.settle();
    assert_eq!(sim.pager.progress().out_pages, 100);
    sim.event(Event::Target(i64::MAX));
    sim.settle();
    let progress = sim.pager.progress();
    assert_eq!((progress.out_pages, progress.copies), (0, 700));
}

#[test]
fn b5_fewer_victims_than_wanted_go_out_all_the_same() {
    let mut sim = guest(100);
    sim.faults.nominate = 60;
    sim.event(Event::Target(0));
    sim.settle();
    assert_eq!(sim.pager.progress().out_pages, 40);
    sim.event(Event::Tick);
    sim.event(Event::Tick);
    sim.settle();
    assert_eq!(
        sim.pager.progress().out_pages,
        100,
        "the refused ones are tried again"
    );
}

#[test]
fn b7_a_refusal_at_any_step_gives_the_slot_back_and_leaves_the_page() {
    for which in 0..4 {
        let mut sim = guest(40);
        let faults = &mut sim.faults;
        let fault = match which {
            0 => &mut faults.nominate,
            1 => &mut faults.unmapped,
            2 => &mut faults.evict,
            _ => &mut faults.not_done,
        };
        *fault = 1;
        sim.event(Event::Target(0));
        sim.settle();
        assert!(sim.pager.progress().out_pages >= 39, "fault {which}");
        assert_eq!(
            sim.pager.slots_taken(),
            sim.pager.progress().out_pages + sim.pager.progress().copies,
            "fault {which}"
        );
        assert!(
            sim.entries
                .iter()
                .all(|entry| matches!(entry, Entry::Paged | Entry::Ram(_)))
        );
    }
}

#[test]
fn b8_a_request_for_a_page_never_evicted_is_answered_without_io() {
    let mut sim = guest(10);
    for gfn in [3, 9, 10, 1 << 39] {
        sim.unanswered.push(request(gfn, PagingFlags::empty()));
        let requests = sim.unanswered.clone();
        sim.event(Event::Requests(&requests));
        assert!(sim.running.is_empty() && sim.unanswered.is_empty());
    }
}

#[test]
fn b8_requests_that_come_together_are_loaded_together_and_each_is_answered() {
    let mut sim = paged(100, 20);
    let out: Vec<_> = (0..100)
        .filter(|&n| sim.entries[n] == Entry::Paged)
        .collect();
    for vcpu in 0..6 {
        sim.access(vcpu, out[vcpu / 2 * 10], true);
    }
    sim.drain_ring();
    assert_eq!(sim.running.len(), 1);
    assert_eq!(
        sim.running[0].0.pages().len(),
        3,
        "two vcpus wait for each page"
    );
    sim.settle();
    assert!(sim.waits.iter().all(Option::is_none));
}

#[test]
fn b8_faults_go_before_page_in_ahead_and_page_out() {
    let mut sim = paged(300, 100);
    let out = sim
        .entries
        .iter()
        .position(|entry| *entry == Entry::Paged)
        .unwrap();
    sim.access(0, out, false);
    sim.event(Event::Target(50));
    assert_eq!(step(&sim), [Step::Nominate]);
    sim.drain_ring();
    assert_eq!(
        step(&sim),
        [Step::Nominate, Step::Load],
        "it does not wait for the page-out"
    );
}

#[test]
fn b10_a_drop_forgets_the_copy_and_lowers_what_is_to_be_out() {
    let mut sim = paged(100, 40);
    let out: Vec<_> = (0..100)
        .filter(|&n| sim.entries[n] == Entry::Paged)
        .collect();
    out[..10].iter().for_each(|&page| sim.balloon(page));
    sim.settle();
    let progress = sim.pager.progress();
    assert_eq!(
        (
            progress.out_pages,
            progress.wanted_out_pages,
            progress.dropped
        ),
        (50, 50, 10)
    );
    assert_eq!(sim.store.len(), 50);
}

#[test]
fn b3_stopping_in_the_middle_of_a_page_out_leaves_nothing_out_and_nothing_nominated() {
    for steps in 0..7 {
        let mut sim = guest(100);
        sim.event(Event::Target(10));
        (0..steps).for_each(|_| sim.execute(0, usize::MAX));
        assert_eq!(sim.finish().unreadable_pages, 0);
        assert!(
            sim.entries
                .iter()
                .all(|entry| matches!(entry, Entry::Ram(_))),
            "{steps}"
        );
        assert_eq!(sim.pager.slots_taken(), 0);
    }
}

/// A page that has come in keeps its copy: it goes out again without a write, unless it was written.
#[test]
fn c7_a_page_not_written_since_it_came_in_goes_out_without_a_write() {
    let mut sim = paged(100, 20);
    let out: Vec<_> = (0..100)
        .filter(|&n| sim.entries[n] == Entry::Paged)
        .collect();
    for round in 0..3 {
        for (vcpu, page) in out[..16].iter().enumerate() {
            sim.access(vcpu, *page, false);
        }
        sim.settle();
        // One of them is written.
        sim.access(0, out[0], true);
        let (writes, before) = (sim.writes, sim.pager.progress());
        sim.event(Event::Target(0));
        sim.settle();
        let progress = sim.pager.progress();
        assert_eq!(progress.out_pages, 100);
        let new = if round == 0 { 20 } else { 0 };
        assert_eq!(sim.writes - writes, new + 1, "round {round}");
        assert_eq!(progress.written - before.written, new as u64 + 1);
        assert_eq!(progress.unchanged - before.unchanged, 15, "round {round}");
    }
    assert_eq!(sim.pager.slots_taken(), 100);
}

#[test]
fn c7_a_page_that_stays_after_it_was_saved_is_not_written_again() {
    let mut sim = guest(40);
    sim.event(Event::Target(0));
    one_step(&mut sim);
    one_step(&mut sim);
    sim.faults.evict = 40;
    sim.settle();
    assert_eq!((sim.pager.progress().out_pages, sim.writes), (0, 40));
    for _ in 0..8 {
        sim.event(Event::Tick);
        sim.settle();
    }
    assert_eq!((sim.pager.progress().out_pages, sim.writes), (40, 40));
}

#[test]
fn c7_zeros_take_no_slot_and_come_back_as_zeros() {
    let mut sim = guest(100);
    for page in 0..60 {
        (sim.entries[page], sim.truth[page]) = (Entry::Ram(0), Some(0));
    }
    sim.event(Event::Target(0));
    sim.settle();
    let progress = sim.pager.progress();
    assert_eq!((progress.out_pages, progress.zeros), (100, 60));
    assert_eq!((sim.pager.slots_taken(), sim.store.len()), (40, 40));
    // A page that had a slot and is zeros now gives it up.
    let page = (0..100).rfind(|&n| sim.entries[n] == Entry::Paged).unwrap();
    sim.access(0, page, false);
    sim.event(Event::Target(1));
    sim.settle();
    (sim.entries[page], sim.truth[page]) = (Entry::Ram(0), Some(0));
    sim.event(Event::Target(0));
    sim.settle();
    assert_eq!((sim.pager.slots_taken(), sim.store.len()), (39, 39));
    for page in 0..60 {
        sim.access(page % 16, page, false);
        sim.settle();
    }
    sim.finish();
}

/// Whoever asks for a page that is being loaded waits for that load.
#[test]
fn c7_a_page_in_flight_is_read_once_for_all_who_ask() {
    let mut sim = paged(100, 20);
    let out = sim.entries.iter().position(|entry| *entry == Entry::Paged);
    let out = out.unwrap();
    sim.access(0, out, false);
    sim.drain_ring();
    assert_eq!(step(&sim), [Step::Load]);
    (1..7).for_each(|vcpu| sim.access(vcpu, out, vcpu % 2 == 0));
    sim.drain_ring();
    assert_eq!(step(&sim), [Step::Load]);
    one_step(&mut sim);
    (7..9).for_each(|vcpu| sim.access(vcpu, out, false));
    sim.drain_ring();
    assert_eq!(step(&sim), [Step::Prep]);
    sim.settle();
    assert!(sim.waits.iter().all(Option::is_none));
}

/// A guest of 100 pages, all of them out, where none goes out again before the next tick.
fn out_for_now(read_ahead: usize) -> Sim {
    let config = Config {
        read_ahead,
        out_threshold: 1000,
        ..Config::new(100)
    };
    let mut sim = Sim::new(100, 16, config, 0);
    sim.event(Event::Target(0));
    sim.settle();
    assert_eq!(sim.pager.progress().out_pages, 100);
    sim
}

/// Pages 20 to 99 are gone through while all are out: how many faults, and reads.
fn go_through(sim: &mut Sim) -> (usize, usize) {
    let (mut faults, mut reads) = (0, 0);
    for page in 20..100 {
        if sim.entries[page] != Entry::Paged {
            continue;
        }
        faults += 1;
        sim.access(0, page, false);
        sim.drain_ring();
        reads += step(sim).iter().filter(|step| **step == Step::Load).count();
        sim.settle();
    }
    (faults, reads)
}

#[test]
fn c8_pages_gone_through_in_order_come_in_together() {
    let mut sim = out_for_now(7);
    let (faults, reads) = go_through(&mut sim);
    assert!(
        faults <= 14 && reads == faults,
        "{faults} faults, {reads} reads"
    );
    let progress = sim.pager.progress();
    assert_eq!(progress.read_ahead, 80 - faults as u64);
    assert!(progress.read_ahead_outcome.hits >= 60 && progress.read_ahead_outcome.wasted == 0);
    // Nobody is seen to use the last window.
    sim.event(Event::Tick);
    sim.settle();
    let judged = sim.pager.progress().read_ahead_outcome;
    assert_eq!(judged.hits + judged.wasted, progress.read_ahead);
    assert!(judged.wasted <= 7);
}

#[test]
fn c8_switched_off_each_page_comes_in_by_itself() {
    let mut sim = out_for_now(0);
    assert_eq!(go_through(&mut sim), (80, 80));
}

/// A page that is asked for while it comes in beside another waits for that, and is a hit.
#[test]
fn c8_a_page_asked_for_while_it_comes_in_beside_another_is_read_once() {
    let mut sim = out_for_now(7);
    for (vcpu, page) in [(2, 40), (3, 41)] {
        sim.access(vcpu, page, false);
        sim.drain_ring();
    }
    assert_eq!(step(&sim), [Step::Load, Step::Load]);
    assert_eq!(sim.running[1].0.pages().len(), 3, "42 and 43 beside 41");
    sim.access(1, 42, true);
    sim.drain_ring();
    assert_eq!(step(&sim), [Step::Load, Step::Load]);
    sim.settle();
    assert!(sim.waits.iter().all(Option::is_none));
    let progress = sim.pager.progress();
    assert_eq!((progress.paged_in, progress.read_ahead), (4, 1));
    assert_eq!(progress.read_ahead_outcome.hits, 1);
}

#[test]
fn pages_seen_accessed_stay() {
    for name in [PolicyName::Lru2, PolicyName::Reuse] {
        let policy = name.policy(&[0..=99], &SweepOptions::default());
        let mut pager = Pager::new(Config::new(100), policy);
        let mut actions = pager.actions();
        // Gfns that are no victims at once: 40 to 47.
        let accessed = 0xff << 40;
        run_scanned(&mut pager, &mut actions, Event::Target(95), accessed);
        // A pass at once, and one ten seconds later.
        for _ in 0..101 {
            run_scanned(&mut pager, &mut actions, Event::Tick, accessed);
        }
        run(&mut pager, &mut actions, Event::Target(8));
        assert_eq!(pager.progress().out_pages, 92);
        for n in 0..100 {
            let out = pager.location_of(Gfn::new_truncate(n)).is_some();
            assert_eq!(out, !(40..48).contains(&n), "{name:?}: gfn {n}");
        }
    }
}

/// Feeds an event to a pager whose shell always succeeds at once.
pub(super) fn run(pager: &mut Pager, actions: &mut Actions, event: Event<'_>) {
    run_scanned(pager, actions, event, 0);
}

/// The same; scans find these of the first 64 pages used.
fn run_scanned(pager: &mut Pager, actions: &mut Actions, event: Event<'_>, accessed: u64) {
    pager.handle(event, actions);
    loop {
        let todo: Vec<_> = actions.drain().collect();
        if todo.is_empty() {
            return;
        }
        for action in todo {
            match action {
                Action::Run(mut batch) => {
                    let pages = batch.pages_mut().iter_mut();
                    pages.for_each(|page| page.outcome = Ok(()));
                    pager.handle(Event::Done(batch), actions);
                }
                Action::Scan(mut scan) => {
                    scan.accessed[0] = accessed;
                    scan.outcome = Ok(());
                    pager.handle(Event::Scanned(scan), actions);
                }
                _ => {}
            }
        }
    }
}
