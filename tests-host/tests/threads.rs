// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real threads on one domain: vcpus that fault, a pager, foreign mappers, a balloon, and somebody
//! who detaches the pager. At the end every thread has finished, and nothing is lost.
//!
//! Each thread does a bounded number of operations, and none sleeps. A vcpu that is paused spins
//! until it is unpaused. It gives up, with a message, after a bound that only a lost wake-up
//! reaches.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};

use p2m_paging::p2m::Access;
use p2m_paging::paging::{Caller, Job, Paging, PopulateError, Populated, RingState};
use p2m_paging::ring::{Back, PagingFlags, Response};
use p2m_paging::{Gfn, VcpuId};
use tests_host::lockstep::cells;
use tests_host::plain::{Buffer, PAGEABLE_DOMAIN, PlainMachine, RingPage};

/// Checks of a paused vcpu before it counts as lost: minutes, where microseconds are usual.
const PATIENCE: u64 = 2_000_000_000;

struct Shared<'c> {
    paging: Paging<'c, PlainMachine>,
    page: RingPage,
    back: Mutex<Option<Back>>,
    at_work: AtomicUsize,
    over: AtomicBool,
    gfns: u64,
}

/// A reproducible sequence (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

impl Shared<'_> {
    fn until_let_go(&self, vcpu: VcpuId) {
        let mut looks = 0;
        while self.paging.platform().is_stopped(vcpu) {
            std::hint::spin_loop();
            if looks % 256 == 0 {
                std::thread::yield_now();
            }
            looks += 1;
            assert!(looks < PATIENCE, "{vcpu:?} is stopped for ever");
        }
    }

    /// One access, retried until it succeeds.
    fn touch(&self, vcpu: VcpuId, gfn: Gfn, write: bool) {
        let access = if write { Access::WRITE } else { Access::READ };
        for tries in 0_u64.. {
            assert!(tries < PATIENCE, "{vcpu:?} never gets {gfn}");
            match self.paging.fault(vcpu, gfn, access) {
                Ok(Populated::NotPaging | Populated::Present) => return,
                Ok(Populated::Paused) => self.until_let_go(vcpu),
                Ok(Populated::InFlight) | Err(PopulateError::NoRing | PopulateError::RingFull) => {
                    std::thread::yield_now();
                }
                Err(e) => panic!("{vcpu:?} at {gfn}: {e}"),
            }
        }
    }

    fn vcpu(&self, n: u32, touches: u64, drops: bool) {
        let vcpu = VcpuId(n);
        let mut dice = Dice(u64::from(n) + 0x9e37_79b9);
        for _ in 0..touches {
            let gfn = Gfn::new_truncate(dice.roll(self.gfns));
            if drops && dice.roll(16) == 0 {
                let dropped = self.paging.drop_page(gfn, Caller::Guest(vcpu));
                self.until_let_go(vcpu);
                if dropped.is_ok() {
                    // A balloon that gives pages back and takes them.
                    self.paging.platform().with(|core| {
                        if core.entry(gfn).mfn.is_none() {
                            core.give(gfn, gfn.get());
                        }
                    });
                }
            } else {
                self.touch(vcpu, gfn, dice.roll(2) == 0);
            }
        }
        self.at_work.fetch_sub(1, Ordering::SeqCst);
    }

    fn foreign(&self, touches: u64) {
        let mut dice = Dice(0xf0e1);
        for _ in 0..touches {
            let gfn = Gfn::new_truncate(dice.roll(self.gfns));
            let _ = self.paging.populate(gfn, Caller::Foreign(VcpuId(0)));
            let mfn = self.paging.platform().get_frame(gfn);
            std::thread::yield_now();
            mfn.into_iter()
                .for_each(|mfn| self.paging.platform().put_frame(mfn));
        }
        self.at_work.fetch_sub(1, Ordering::SeqCst);
    }

    /// Pages out what it can, and serves requests, until all threads are done.
    fn pager(&self) {
        let mut dice = Dice(0xbead);
        while !self.over.load(Ordering::SeqCst) {
            let mut batch: Vec<_> = (0..4)
                .map(|_| Job::new(Gfn::new_truncate(dice.roll(self.gfns))))
                .collect();
            self.paging.nominate(self.paging.epoch(), &mut batch);
            let mut batch: Vec<_> = batch.iter().map(|job| Job::new(job.gfn)).collect();
            self.paging.evict(self.paging.epoch(), &mut batch);
            self.serve(dice.roll(8) == 0);
            std::thread::yield_now();
        }
    }

    /// Answers the requests on the ring; `cheat`: some of them before the work is done.
    fn serve(&self, cheat: bool) {
        let mut back = self.back.lock().unwrap();
        let Some(back) = back.as_mut() else { return };
        while let Ok(Some(request)) = back.take() {
            let request = request.expect("an honest hypervisor");
            if !request.paging.contains(PagingFlags::DROP_PAGE) && !cheat {
                let contents = Buffer::Page(request.gfn.get());
                let mut jobs = [Job::filled(request.gfn, contents)];
                self.paging.prep(self.paging.epoch(), &mut jobs);
            }
            let _ = back.respond(&Response::to(&request));
            let _ = back.publish();
        }
        // Either side may send the event at any time: a check is cheap.
        while self.paging.on_event().state == RingState::More {}
    }

    fn attach(&self) {
        let mut back = self.back.lock().unwrap();
        if self
            .paging
            .enable(&PAGEABLE_DOMAIN, || Some(self.page.map()))
            .is_ok()
        {
            *back = Some(Back::new(self.page.map()));
        }
    }

    fn detach(&self, by_force: bool) {
        let mut back = self.back.lock().unwrap();
        if by_force {
            let _ = self.paging.shut_down();
            *back = None;
        } else if self.paging.disable().is_ok() {
            *back = None;
        }
    }

    /// Detaches the pager and attaches another, again and again.
    fn turnover(&self, times: u32) {
        for n in 0..times {
            self.detach(n % 3 == 0);
            std::thread::yield_now();
            self.attach();
            std::thread::yield_now();
        }
        self.at_work.fetch_sub(1, Ordering::SeqCst);
    }
}

fn hammer(vcpus: u32, gfns: u64, touches: u64, drops: bool, turnovers: u32) {
    let cells = cells(vcpus as usize);
    let pages = usize::try_from(gfns).unwrap();
    let shared = Shared {
        paging: Paging::new(PlainMachine::new(pages, pages, cells.len()), &cells),
        page: RingPage::new(),
        back: Mutex::new(None),
        at_work: AtomicUsize::new(vcpus as usize + 2),
        over: AtomicBool::new(false),
        gfns,
    };
    shared.attach();
    std::thread::scope(|scope| {
        for n in 0..vcpus {
            let shared = &shared;
            scope.spawn(move || shared.vcpu(n, touches, drops));
        }
        scope.spawn(|| shared.foreign(touches));
        scope.spawn(|| shared.turnover(turnovers));
        let pager = scope.spawn(|| shared.pager());
        while shared.at_work.load(Ordering::SeqCst) != 0 && !pager.is_finished() {
            std::thread::yield_now();
        }
        shared.over.store(true, Ordering::SeqCst);
    });
    shared.attach();
    shared.serve(false);
    for n in 0..gfns {
        let gfn = Gfn::new_truncate(n);
        let _ = shared.paging.populate(gfn, Caller::Foreign(VcpuId(0)));
        shared.serve(false);
        let contents = shared.paging.platform().contents(gfn);
        assert_eq!(
            contents.unwrap_or(n),
            n,
            "{gfn} has another page's contents"
        );
    }
    shared.paging.platform().check();
    for n in 0..vcpus {
        let vcpu = VcpuId(n);
        assert_eq!(shared.paging.vcpus().pauses(vcpu), 0, "{vcpu:?}");
        assert!(!shared.paging.platform().is_stopped(vcpu), "{vcpu:?}");
    }
    assert_eq!(shared.paging.slots_in_use(), 0, "slots are lost");
}

#[test]
fn faults_and_a_pager() {
    hammer(4, 8, 3_000, false, 0);
}

#[test]
fn more_vcpus_than_slots_and_a_balloon() {
    hammer(16, 24, 600, true, 0);
}

#[test]
fn one_page_that_all_want() {
    hammer(12, 1, 500, false, 0);
}

#[test]
fn pagers_come_and_go_while_vcpus_fault() {
    hammer(12, 12, 500, true, 400);
}

/// A vcpu begins to wait for a page in flight at the very moment at which the ring goes away.
#[test]
fn a_tear_down_and_a_wait_do_not_miss_each_other() {
    for round in 0..2_000_u32 {
        let cells = cells(2);
        let shared = Shared {
            paging: Paging::new(PlainMachine::new(2, 2, 2), &cells),
            page: RingPage::new(),
            back: Mutex::new(None),
            at_work: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            gfns: 2,
        };
        shared.attach();
        let gfn = Gfn::new_truncate(1);
        shared
            .paging
            .nominate(shared.paging.epoch(), &mut [Job::new(gfn)]);
        shared
            .paging
            .evict(shared.paging.epoch(), &mut [Job::new(gfn)]);
        let first = shared.paging.populate(gfn, Caller::Foreign(VcpuId(0)));
        assert_eq!(first, Ok(Populated::InFlight));
        let start = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                let _ = shared.paging.fault(VcpuId(0), gfn, Access::READ);
            });
            scope.spawn(|| {
                start.wait();
                (0..round % 64).for_each(|_| std::hint::spin_loop());
                let _ = shared.paging.disable();
            });
        });
        assert_eq!(shared.paging.vcpus().waits_for(VcpuId(0)), None, "{round}");
        assert!(!shared.paging.platform().is_stopped(VcpuId(0)), "{round}");
    }
}
