// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pager is killed, and another one takes over from index, store and p2m.

use p2m_paging::Gfn;
use p2m_paging::ring::abi::PagingFlags;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config as TestConfig, RngAlgorithm, TestRng, TestRunner};

use super::cases::{paged, request};
use super::judge::Judge;
use super::random::{Op, apply, check_home, op, sim};
use super::sim::{Entry, Sim};
use crate::{Event, Location, Page, Pager, Report, Step};

/// How long the process lives: counted in actions, and in what is done to one page.
#[derive(Debug, Default)]
pub(super) struct Life {
    pub(super) left: Option<u64>,
    /// What has been done.
    pub(super) done: u64,
}

impl Life {
    pub(super) fn is_over(&self) -> bool {
        self.left == Some(0)
    }

    /// Whether the next thing is done. A process that is killed does none of those that follow.
    pub(super) fn goes_on(&mut self) -> bool {
        if self.is_over() {
            return false;
        }
        self.left = self.left.map(|left| left - 1);
        self.done += 1;
        true
    }
}

fn number(gfn: Gfn) -> usize {
    usize::try_from(gfn.get()).unwrap()
}

impl Sim {
    /// As the shell does: what is about to be evicted is noted first. Whether the process still lives.
    pub(super) fn note(&mut self, step: Step, page: &Page) -> bool {
        if step != Step::Evict {
            return true;
        }
        self.index.insert(number(page.gfn()), page.location());
        self.check_index();
        self.life.goes_on()
    }

    /// As the shell does: what has come in is not noted any more.
    pub(super) fn note_done(&mut self, step: Step, page: &Page) {
        if step == Step::Prep && page.outcome.is_ok() && self.life.goes_on() {
            self.index.remove(&number(page.gfn()));
        }
        self.check_index();
    }

    pub(super) fn note_moved(&mut self, gfn: Gfn, location: Location) {
        let before = self.index.insert(number(gfn), location);
        assert!(before.is_some(), "{gfn} is moved and was not noted");
        self.check_index();
    }

    /// What is out lies where it is noted, whatever the pager is about to do.
    pub(super) fn check_index(&self) {
        for (n, (entry, truth)) in self.entries.iter().zip(&self.truth).enumerate() {
            if !matches!(entry, Entry::Paged | Entry::InStart(None)) {
                continue;
            }
            let value = match self.index.get(&n) {
                Some(Location::Slot(slot)) => self.store.get(slot).copied(),
                Some(Location::Zeros) => Some(0),
                None => continue,
            };
            assert_eq!(value, *truth, "the index is wrong about page {n}");
        }
    }

    /// How many pages are out and not noted.
    fn lost(&self) -> usize {
        let is_out = |entry: &Entry| matches!(entry, Entry::Paged | Entry::InStart(None));
        let entries = self.entries.iter().enumerate();
        entries
            .filter(|(n, entry)| is_out(entry) && !self.index.contains_key(n))
            .count()
    }

    /// The next pager attaches. Requests that no pager answered are made again, in order; drops may be
    /// lost with the ring.
    pub(super) fn take_over(&mut self, keeps_drops: bool) {
        self.life = Life::default();
        let mut config = self.config.clone();
        config.areas.retain(|area| {
            let end = self.drained.iter().rfind(|drained| drained.0 == *area);
            end.is_none_or(|drained| drained.1.is_err())
        });
        let judge = Judge::new(self.entries.len() as u64, self.mru_pages);
        let mut adoption = Pager::new(config, Box::new(judge)).adopt();
        let mut named = Vec::new();
        for (n, entry) in self.entries.iter().enumerate() {
            let gfn = Gfn::new_truncate(n as u64);
            match (entry, self.index.get(&n)) {
                (Entry::Paged | Entry::InStart(None), Some(&location)) => {
                    assert!(
                        adoption.out(gfn, location),
                        "{gfn} lies nowhere: {location:?}"
                    );
                    named.extend(location.slot());
                }
                (Entry::Paged | Entry::InStart(None), None) => adoption.lost(gfn),
                (Entry::PagingOut(_), _) => adoption.nominated(gfn),
                _ => {}
            }
        }
        self.pager = adoption.finish();
        self.actions = self.pager.actions();
        // The next process knows nothing of slots that it has not adopted.
        self.store.retain(|slot, _| named.contains(slot));
        self.seems.clear();
        self.running.clear();
        self.buffers.clear();
        self.draining.clear();
        self.finished = None;
        self.ring.clear();
        self.line.clear();
        let is_kept = |paging: PagingFlags| keeps_drops || !paging.contains(PagingFlags::DROP_PAGE);
        self.unanswered.retain(|request| is_kept(request.paging));
        self.line.extend(&self.unanswered);
        self.serve_line();
        self.event(Event::Target(8));
    }
}

/// The same random run for a seed, every time.
fn ops(seed: u8, length: usize) -> Vec<Op> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(TestConfig::default(), rng);
    let ops = prop::collection::vec(op(), length);
    ops.new_tree(&mut runner).unwrap().current()
}

fn is_guests(op: &Op) -> bool {
    matches!(
        op,
        Op::Access { .. } | Op::Foreign(_) | Op::Balloon(_) | Op::Race
    )
}

/// A run in which the pager is killed after so many actions. What it did until then.
fn run(ops: &[Op], alike: bool, kill_after: Option<u64>) -> u64 {
    let mut sim = sim(3, alike);
    sim.life.done = 0;
    sim.life.left = kill_after;
    let mut without_pager = 0;
    for op in ops {
        if !sim.life.is_over() {
            apply(&mut sim, op.clone());
            continue;
        }
        // The guest goes on for a while.
        if is_guests(op) {
            apply(&mut sim, op.clone());
            sim.check_index();
            without_pager += 1;
        }
        if without_pager == 4 {
            assert_eq!(sim.lost(), 0, "pages are lost");
            sim.take_over(kill_after.is_some_and(|after| after % 2 == 0));
        }
    }
    // And then it stops.
    sim.event(Event::Stop);
    for _ in 0..30 {
        sim.drain_ring();
        sim.execute(0, usize::MAX);
        sim.event(Event::Tick);
    }
    let done = sim.life.done;
    if sim.life.is_over() {
        assert_eq!(sim.lost(), 0, "pages are lost");
        sim.take_over(true);
    }
    sim.faults = Default::default();
    for _ in 0..40 {
        sim.event(Event::Tick);
        sim.settle();
    }
    assert_eq!(sim.finish().unreadable_pages, 0);
    sim.settle();
    check_home(&sim);
    assert!(
        !sim.reports
            .iter()
            .any(|report| matches!(report, Report::Lost { .. })),
        "{:?}",
        sim.reports
    );
    done
}

/// Whatever the pager did last, the next one has every page, and the guest sees no wrong one.
#[test]
fn a_pager_may_be_killed_after_every_action() {
    let mut points = 0;
    for seed in 0..8 {
        let (ops, alike) = (ops(seed, 120), seed % 2 == 1);
        let actions = run(&ops, alike, None);
        for kill_after in 0..actions {
            let killed = std::panic::catch_unwind(|| run(&ops, alike, Some(kill_after)));
            if let Err(panic) = killed {
                eprintln!("seed {seed}, killed after {kill_after} of {actions} actions");
                std::panic::resume_unwind(panic);
            }
        }
        points += actions;
    }
    assert!(points > 1000, "{points} points");
}

proptest! {
    /// One pager after the other is killed.
    #[test]
    fn pagers_may_be_killed_one_after_the_other(
        lives in prop::collection::vec((0..200_u64, prop::collection::vec(op(), 0..60)), 1..6),
        mru_pages in 0..12_usize,
        alike: bool,
        keeps_drops: bool,
    ) {
        let mut sim = sim(mru_pages, alike);
        for (left, ops) in lives {
            sim.life.left = Some(left);
            for op in ops {
                if !sim.life.is_over() || is_guests(&op) {
                    apply(&mut sim, op);
                }
            }
            sim.check_index();
            prop_assert_eq!(sim.lost(), 0);
            sim.take_over(keeps_drops);
        }
        sim.faults = Default::default();
        for _ in 0..40 {
            sim.event(Event::Tick);
            sim.settle();
        }
        prop_assert_eq!(sim.finish().unreadable_pages, 0);
        sim.settle();
        check_home(&sim);
    }
}

/// A page is out that the index does not know: its vcpus wait, others are served, and a stop counts it.
#[test]
fn a_lost_page_is_said_once_and_holds_up_no_other() {
    let mut sim = paged(100, 20);
    let out: Vec<_> = (0..100)
        .filter(|n| sim.entries[*n] == Entry::Paged)
        .collect();
    let lost = &out[..3];
    for n in lost {
        sim.index.remove(n);
    }
    sim.take_over(true);
    let first = Gfn::new_truncate(lost[0] as u64);
    assert_eq!(sim.reports, [Report::Lost { pages: 3, first }]);
    sim.event(Event::Target(20));
    let progress = sim.pager.progress();
    let figures = (progress.out_pages, progress.lost_pages, progress.adopted);
    assert_eq!(figures, (80, 3, 77));
    // More vcpus than the ring has slots need them, and one needs another page.
    (0..12).for_each(|vcpu| sim.access(vcpu, lost[vcpu % 2], false));
    sim.access(12, out[5], false);
    sim.settle();
    assert!(
        sim.waits[..2].iter().all(Option::is_some),
        "answered without its page"
    );
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
    assert!(
        lost.iter()
            .all(|n| !matches!(sim.entries[*n], Entry::Ram(_)))
    );
    // One is given back; the others stay.
    sim.balloon(lost[2]);
    sim.settle();
    assert_eq!(sim.pager.progress().lost_pages, 2);
    assert_eq!(sim.finish().unreadable_pages, 2);
    assert_eq!(
        sim.pager.lost().map(Gfn::get).collect::<Vec<_>>(),
        [lost[0], lost[1]].map(|n| n as u64)
    );
    assert_eq!(sim.reports.len(), 1, "said once: {:?}", sim.reports);
}

#[test]
fn nominated_pages_of_a_pager_that_was_killed_are_restored() {
    let mut sim = paged(100, 60);
    for entry in &mut sim.entries {
        if let Entry::Ram(value) = *entry
            && value % 3 == 0
        {
            *entry = Entry::PagingOut(value);
        }
    }
    sim.take_over(true);
    assert!(sim.pager.progress().nominated_pages > 10);
    assert_eq!(sim.finish().unreadable_pages, 0);
    sim.settle();
    check_home(&sim);
}

/// A drop is about the page's life before the last, and comes when the next pager has adopted the page.
#[test]
fn a_late_drop_does_not_take_an_adopted_page() {
    let mut sim = paged(40, 0);
    sim.take_over(true);
    sim.event(Event::Target(0));
    let drop = request(7, PagingFlags::DROP_PAGE);
    sim.unanswered.push(drop);
    sim.event(Event::Requests(&[drop]));
    sim.settle();
    assert_eq!(sim.pager.progress().dropped, 0);
    assert_eq!(sim.unanswered, []);
    assert_eq!(sim.finish().unreadable_pages, 0);
}

/// Slots of a pager before are as if this one had taken them: the highest, the first and those shared.
#[test]
fn adopted_slots_are_taken_and_the_others_are_free() {
    use super::areas::{guest, range, target};
    use crate::store::Slot;

    for slots in [[0, 1, 2], [63, 64, 191], [5, 198, 199]] {
        let areas = [range(0, 200, 0)];
        let mut sim = guest(&areas).with_alike_pages();
        for (n, slot) in slots.into_iter().enumerate() {
            // Two pages share it.
            for page in [n, n + 3] {
                sim.entries[page] = Entry::Paged;
                sim.index.insert(page, Location::Slot(Slot(slot)));
            }
            sim.store.insert(Slot(slot), sim.truth[n].unwrap());
        }
        sim.take_over(true);
        sim.event(Event::Target(94));
        sim.settle();
        sim.check_owners();
        assert_eq!(
            (sim.pager.slots_taken(), sim.pager.progress().out_pages),
            (3, 6)
        );
        // Every other slot is there to be taken, once.
        sim.alike = false;
        for (page, value) in (6..100).zip(1 << 40..) {
            (sim.entries[page], sim.truth[page]) = (Entry::Ram(value), Some(value));
        }
        target(&mut sim, 0);
        assert_eq!(sim.pager.progress().out_pages, 100);
        sim.check_owners();
        assert_eq!(sim.finish().unreadable_pages, 0);
        assert_eq!((sim.store.len(), sim.pager.slots_taken()), (0, 0));
    }
    // No such slot: the page is lost.
    let mut adoption = guest(&[range(0, 200, 0)]).pager.adopt();
    let gfn = Gfn::new_truncate(1);
    assert!(!adoption.out(gfn, Location::Slot(Slot(200))));
    let pager = adoption.finish();
    assert_eq!((pager.lost().next(), pager.slots_taken()), (Some(gfn), 0));
}
