// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest alone, on a machine that never pages out, or one on which accesses often have to be
//! retried.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use fastrand::Rng;
use p2m_paging::Gfn;
use p2m_paging::p2m::Access;
use proptest::prelude::*;

use super::*;

/// All memory is present. Accesses must be retried at random.
struct Lone {
    memory: RefCell<BTreeMap<Gfn, Option<Page>>>,
    rng: RefCell<Rng>,
    /// In a hundred.
    stalls: u32,
}

impl Lone {
    fn new(pages: u64, seed: u64, stalls: u32) -> Self {
        let page = |gfn| (Gfn::new_truncate(gfn), Some(Page::SCRUBBED));
        Self {
            memory: RefCell::new((0..pages).map(page).collect()),
            rng: RefCell::new(Rng::with_seed(seed)),
            stalls,
        }
    }

    fn may_stall(&self) -> Result<(), Stalled> {
        if self.rng.borrow_mut().u32(0..100) < self.stalls {
            Err(Stalled)
        } else {
            Ok(())
        }
    }

    fn page(&self, gfn: Gfn) -> Page {
        self.memory.borrow()[&gfn].expect("not with the hypervisor")
    }
}

impl Machine for Lone {
    fn access(
        &self,
        gfn: Gfn,
        access: Access,
        work: &mut dyn FnMut(&mut Page),
    ) -> Result<(), Stalled> {
        self.may_stall()?;
        let mut page = self.page(gfn);
        work(&mut page);
        if access.contains(Access::WRITE) {
            self.memory.borrow_mut().insert(gfn, Some(page));
        }
        Ok(())
    }

    fn give_back(&self, gfn: Gfn) -> Result<(), Stalled> {
        self.may_stall()?;
        let before = self.memory.borrow_mut().insert(gfn, None);
        assert!(before.flatten().is_some(), "{gfn} is given back twice");
        Ok(())
    }

    fn take(&self, gfn: Gfn) -> Result<bool, Stalled> {
        self.may_stall()?;
        if self.rng.borrow_mut().bool() {
            return Ok(false);
        }
        let before = self.memory.borrow_mut().insert(gfn, Some(Page::SCRUBBED));
        assert_eq!(before, Some(None), "{gfn} is taken and was there");
        Ok(true)
    }

    fn root(&self, of_process: Gfn) -> Gfn {
        of_process
    }

    fn recall(&self, _: Virt) -> Option<Pte> {
        None
    }

    fn remember(&self, _: Virt, _: Pte) {}
}

/// Everything together: tasks take turns at random, the disk is slow and does orders in any
/// sequence.
struct Run {
    machine: Lone,
    guest: Rc<Guest>,
    /// Each task, with whether it waits.
    tasks: Vec<(Task, bool)>,
    ios: Vec<Io>,
    rng: Rng,
}

impl Run {
    fn new(pages: u64, stalls: u32, plan: Plan) -> Self {
        let machine = Lone::new(pages, plan.seed, stalls);
        let guest = Guest::new((0..pages).map(Gfn::new_truncate), plan);
        Self {
            machine,
            guest,
            tasks: Vec::new(),
            ios: Vec::new(),
            rng: Rng::with_seed(plan.seed),
        }
    }

    fn step(&mut self) {
        let born = self.guest.take_born();
        self.tasks
            .extend(born.into_iter().map(|task| (task, false)));
        let is_ready = |(task, waits): &(Task, bool)| !waits || task.wakeup().has_come();
        let ready: Vec<_> = (0..self.tasks.len())
            .filter(|n| is_ready(&self.tasks[*n]))
            .collect();
        if let Some(next) = self.rng.choice(ready) {
            self.turn(next);
        } else {
            assert!(!self.ios.is_empty(), "all wait, and nothing will come");
        }
        self.ios.extend(self.guest.kernel.next_io());
        if !self.ios.is_empty() && self.rng.u32(0..8) == 0 {
            let io = self.ios.swap_remove(self.rng.usize(0..self.ios.len()));
            let mut page = self.machine.page(io.gfn);
            self.guest.kernel.copy_for(io, &mut page);
            if io.way == Way::Read {
                self.machine.memory.borrow_mut().insert(io.gfn, Some(page));
            }
            self.guest.kernel.finish(io);
        }
    }

    fn turn(&mut self, next: usize) {
        let (task, waits) = &mut self.tasks[next];
        if task.cpu().has_order() && task.cpu().carry_out(&self.machine).is_err() {
            return;
        }
        let step = task.go_on();
        *waits = step == Step::Waits;
        if step == Step::Over {
            self.tasks.swap_remove(next);
        }
    }

    fn check(&self) {
        self.guest.check(&|gfn| self.machine.page(gfn));
    }

    fn steps(&mut self, steps: usize) {
        for step in 0..steps {
            self.step();
            if step % 7 == 0 {
                self.check();
            }
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.guest.enter(phase);
        self.until(|run| run.guest.is_at_rest());
    }

    fn until(&mut self, holds: impl Fn(&Self) -> bool) {
        let mut steps = 0;
        while !holds(self) {
            self.step();
            steps += 1;
            assert!(steps < 1_000_000, "the guest gets nowhere");
        }
        self.check();
    }
}

/// Runs code on a guest without processes of its own, and the machine afterwards.
fn script<F: Future<Output = ()> + 'static>(
    pages: u64,
    code: impl FnOnce(Rc<Guest>, Cpu) -> F,
) -> Run {
    let mut run = Run::new(pages, 0, Plan::default());
    run.enter(Phase::Run);
    run.guest.begin(code);
    run.enter(Phase::Run);
    run
}

fn region(start: u32, pages: u32, backing: Backing) -> Region {
    Region {
        start: Virt(start),
        pages,
        backing,
    }
}

#[test]
fn c9_first_touch_is_the_zero_page_or_the_file() {
    let run = script(64, |guest, cpu| async move {
        let regions = vec![
            region(0, 4, Backing::Anonymous),
            region(8, 4, Backing::Private(PROGRAM)),
        ];
        let figures = || guest.kernel.figures();
        let one = guest.new_space(&cpu, regions.clone()).await.unwrap();
        assert_eq!(guest.access(&cpu, one, Virt(1), 3, None).await, Ok(0));
        assert_eq!(figures().zeroed, 0, "a load is served by the zero page");
        guest.store(&cpu, one, Virt(1), 3).await.unwrap();
        assert_eq!(figures().zeroed, 1);
        let found = guest.access(&cpu, one, Virt(9), 2, None).await;
        assert_eq!(found, Ok(PROGRAM.after(1).initial().0[2]));
        let two = guest.new_space(&cpu, regions).await.unwrap();
        guest.access(&cpu, two, Virt(9), 2, None).await.unwrap();
        assert_eq!(figures().file_reads, 1, "the page is there for others, too");
        guest.store(&cpu, two, Virt(9), 2).await.unwrap();
        assert_eq!(guest.access(&cpu, one, Virt(9), 2, None).await, found);
        let beyond = guest.access(&cpu, one, Virt(100), 0, None).await;
        assert_eq!(beyond, Err(Refused::NoRegion(Virt(100))));
    });
    run.check();
}

#[test]
fn c9_a_shared_page_is_copied_when_it_is_written_and_only_then() {
    script(64, |guest, cpu| async move {
        let regions = vec![region(0, 4, Backing::Anonymous)];
        let figures = || guest.kernel.figures();
        let parent = guest.new_space(&cpu, regions).await.unwrap();
        let value = guest.store(&cpu, parent, Virt(0), 0).await.unwrap();
        let child = guest.fork(&cpu, parent).await.unwrap();
        assert_eq!(guest.access(&cpu, child, Virt(0), 0, None).await, Ok(value));
        assert_eq!(figures().copied, 0);
        guest.store(&cpu, child, Virt(0), 0).await.unwrap();
        assert_eq!(figures().copied, 1);
        assert_eq!(
            guest.access(&cpu, parent, Virt(0), 0, None).await,
            Ok(value)
        );
        guest.store(&cpu, parent, Virt(0), 0).await.unwrap();
        assert_eq!(figures().copied, 1, "the last to map a page keeps it");
    });
}

#[test]
fn c9_a_file_that_is_shared_is_one_in_memory_and_on_disk() {
    let run = script(48, |guest, cpu| async move {
        let data = region(0, 24, Backing::Shared(DATA));
        let own = region(64, 60, Backing::Anonymous);
        let one = guest.new_space(&cpu, vec![data, own]).await.unwrap();
        let two = guest.new_space(&cpu, vec![data]).await.unwrap();
        let value = guest.store(&cpu, one, Virt(3), 5).await.unwrap();
        assert_eq!(guest.access(&cpu, two, Virt(3), 5, None).await, Ok(value));
        for virt in data.virts().chain(own.virts()) {
            guest.store(&cpu, one, virt, 0).await.unwrap();
        }
        assert!(
            guest.kernel.figures().file_writes > 0,
            "it went to the disk"
        );
        assert_eq!(guest.access(&cpu, two, Virt(3), 5, None).await, Ok(value));
    });
    run.check();
}

#[test]
fn c9_swapped_pages_come_back_and_clean_ones_are_not_written_again() {
    script(48, |guest, cpu| async move {
        let own = region(0, 80, Backing::Anonymous);
        let space = guest.new_space(&cpu, vec![own]).await.unwrap();
        for virt in own.virts() {
            guest.store(&cpu, space, virt, 1).await.unwrap();
        }
        let mut before = guest.kernel.figures();
        assert!(before.swap_writes > 0);
        for round in 0..3 {
            for virt in own.virts() {
                guest.access(&cpu, space, virt, 1, None).await.unwrap();
            }
            let after = guest.kernel.figures();
            let written = after.swap_writes - before.swap_writes;
            assert!(after.swap_reads - before.swap_reads >= 40, "round {round}");
            assert!(
                round == 0 || written == 0,
                "round {round}: {written} written"
            );
            before = after;
        }
    });
}

#[test]
fn c9_the_balloon_gives_and_takes() {
    let mut run = script(64, |guest, cpu| async move {
        let own = region(0, 40, Backing::Anonymous);
        let space = guest.new_space(&cpu, vec![own]).await.unwrap();
        for virt in own.virts() {
            guest.store(&cpu, space, virt, 1).await.unwrap();
        }
    });
    for target in [30, 10, 0] {
        run.guest.kernel.set_balloon_target(target);
        run.until(|run| run.guest.kernel.ballooned() == target);
        run.enter(Phase::Run);
        let memory = run.machine.memory.borrow();
        let gone = memory.values().filter(|page| page.is_none()).count();
        assert_eq!(gone, target);
    }
}

#[test]
fn c9_memory_comes_to_an_end_and_nothing_leaks() {
    let run = script(48, |guest, cpu| async move {
        let own = region(0, 60, Backing::Anonymous);
        let mut spaces = vec![guest.new_space(&cpu, vec![own]).await.unwrap()];
        for virt in own.virts() {
            guest.store(&cpu, spaces[0], virt, 0).await.unwrap();
        }
        while let Ok(child) = guest.fork(&cpu, spaces[0]).await {
            spaces.push(child);
        }
        assert!(spaces.len() > 2);
        for space in spaces {
            guest.end(&cpu, space).await;
        }
    });
    let state = run.guest.kernel.state.borrow();
    assert_eq!(state.frames.used_for(Use::Table).count(), 0);
    assert_eq!(state.frames.used_for(Use::Anonymous).count(), 0);
    assert_eq!(state.frames.free_count(), 47, "all but the zero page");
    assert_eq!(state.swap.used(), 0);
}

/// The actions of a sequence.
#[derive(Clone, Copy, Debug)]
enum Act {
    Load(usize, u32),
    Store(usize, u32),
    Fork(usize),
    End(usize),
    Balloon(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..4usize, 0..30u32).prop_map(|(who, page)| Act::Load(who, page)),
        6 => (0..4usize, 0..30u32).prop_map(|(who, page)| Act::Store(who, page)),
        1 => (0..4usize).prop_map(Act::Fork),
        1 => (0..4usize).prop_map(Act::End),
        1 => (0..12usize).prop_map(Act::Balloon),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn c9_any_sequence_of_acts_is_as_on_flat_memory(
        acts in proptest::collection::vec(act(), 1..120),
    ) {
        let run = script(40, |guest, cpu| async move {
            let regions = vec![
                region(0, 12, Backing::Anonymous),
                region(12, 10, Backing::Private(PROGRAM)),
                region(22, 8, Backing::Shared(DATA)),
            ];
            let mut spaces = vec![guest.new_space(&cpu, regions).await.unwrap()];
            for act in acts {
                let of = |who: usize| spaces[who % spaces.len()];
                // Without memory nothing is done, and there must be no other effect.
                match act {
                    Act::Load(who, page) => {
                        let _ = guest.access(&cpu, of(who), Virt(page), 0, None).await;
                    }
                    Act::Store(who, page) => {
                        let _ = guest.store(&cpu, of(who), Virt(page), 0).await;
                    }
                    Act::Fork(who) if spaces.len() < 4 => {
                        spaces.extend(guest.fork(&cpu, of(who)).await.ok());
                    }
                    Act::End(who) if spaces.len() > 1 => {
                        let space = spaces.swap_remove(who % spaces.len());
                        guest.end(&cpu, space).await;
                    }
                    Act::Balloon(pages) => guest.kernel.set_balloon_target(pages),
                    Act::Fork(_) | Act::End(_) => {}
                }
            }
        });
        run.check();
    }
}

#[test]
fn c9_every_process_finds_its_own_memory_whatever_the_kernel_does() {
    let mut total = Figures::default();
    for seed in 0..12 {
        let plan = Plan {
            seed,
            processes: 3,
            most: 4,
            pages: 30,
            stores: 400,
            forks: 8,
        };
        let stalls = if seed % 2 == 0 { 0 } else { 30 };
        let mut run = Run::new(52, stalls, plan);
        run.steps(4_000);
        run.enter(Phase::Rest);
        run.enter(Phase::ReadAll);
        let figures = run.guest.kernel.figures();
        total.swap_reads += figures.swap_reads;
        total.copied += figures.copied;
        total.file_writes += figures.file_writes;
    }
    assert!(total.swap_reads > 50, "{total:?}");
    assert!(total.copied > 50, "{total:?}");
    assert!(total.file_writes > 20, "{total:?}");
}
