// SPDX-License-Identifier: MIT OR Apache-2.0
//! A domain whose pager writes any values into the ring page.
//!
//! No model can predict the results for such a pager. These properties hold all the same: no panic
//! and no hang, every frame accounted for, no vcpu paused without a reason, bounded work for an
//! event, and slots that add up. An honest pager that takes over finds every vcpu and every page.

use p2m_paging::p2m::Access;
use p2m_paging::paging::{Caller, Count, EVENT_RESPONSES, Job, Paging, RingState};
use p2m_paging::pause::VcpuCell;
use p2m_paging::ring::{Back, Response, SLOTS};
use p2m_paging::{Gfn, P2mType, VcpuId};

use crate::lockstep::Op;
use crate::plain::{Buffer, PAGEABLE_DOMAIN, PlainMachine, RingPage};

/// The domain, and the pages that the pager can use.
#[derive(Debug)]
pub struct Hostile<'c> {
    /// The subject.
    pub paging: Paging<'c, PlainMachine>,
    page: RingPage,
    back: Back,
    gfns: u64,
    vcpus: u32,
    paused: Vec<p2m_paging::pause::VcpuPaused<'c>>,
}

impl<'c> Hostile<'c> {
    /// A domain with these vcpus, and a pager.
    pub fn new(cells: &'c [VcpuCell], gfns: u64) -> Self {
        let vcpus = u32::try_from(cells.len()).expect("a small machine");
        let pages = usize::try_from(gfns).expect("a small machine");
        let page = RingPage::new();
        let paging = Paging::new(PlainMachine::new(pages, 4, cells.len()), cells);
        paging
            .enable(&PAGEABLE_DOMAIN, || Some(page.map()))
            .expect("a fresh domain");
        Self {
            paging,
            back: Back::new(page.map()),
            page,
            gfns,
            vcpus,
            paused: Vec::new(),
        }
    }

    /// The pager writes a word.
    pub fn poke(&self, word: usize, value: u32) {
        self.page.poke(word, value);
    }

    /// The word at `word * 4`.
    pub fn peek(&self, word: usize) -> u32 {
        self.page.peek(word)
    }

    /// Makes one operation. Pages named by a byte may be beyond the guest's memory.
    pub fn apply(&mut self, op: Op) {
        let gfns = self.gfns + 1;
        let gfn = |raw: u8| Gfn::new_truncate(u64::from(raw) % gfns);
        let vcpus = self.vcpus;
        let vcpu = |raw: u8| VcpuId(u32::from(raw) % vcpus);
        match op {
            Op::Nominate(g) => self
                .paging
                .nominate(self.paging.epoch(), &mut [Job::new(gfn(g))]),
            Op::Evict(g) => self
                .paging
                .evict(self.paging.epoch(), &mut [Job::new(gfn(g))]),
            Op::Restore(g) => self
                .paging
                .restore(self.paging.epoch(), &mut [Job::new(gfn(g))]),
            Op::Read(v, g) => ignore(self.paging.fault(vcpu(v), gfn(g), Access::READ)),
            Op::Write(v, g) => ignore(self.paging.fault(vcpu(v), gfn(g), Access::WRITE)),
            Op::Foreign(g) => ignore(self.paging.populate(gfn(g), Caller::Foreign(VcpuId(1)))),
            Op::Take => ignore(self.back.take()),
            Op::PrepFilled(g) => self.prep(gfn(g), Some(Buffer::Page(7))),
            Op::PrepEmpty(g) => self.prep(gfn(g), None),
            Op::PrepBad(g) => self.prep(gfn(g), Some(Buffer::Faulting)),
            Op::Answer(g, _) => {
                // Whatever the slot contains now is a response: there is one more.
                let index = self.page.peek(2).wrapping_add(u32::from(g % 4));
                self.page.poke(2, index);
            }
            Op::Event => self.event(),
            Op::Drop(v, g) => ignore(self.paging.drop_page(gfn(g), Caller::Guest(vcpu(v)))),
            Op::DropForeign(g) => {
                let _ = self.paging.drop_page(gfn(g), Caller::Foreign(VcpuId(1)));
            }
            Op::Give(_) | Op::GetFrame(_) | Op::PutFrame | Op::Fail(_) => {}
            Op::Pause(v) => self.paused.extend(self.paging.pause(vcpu(v))),
            Op::Unpause => {
                if let Some(paused) = self.paused.pop() {
                    self.paging.unpause(paused);
                }
            }
            Op::Disable => ignore(self.paging.disable()),
            Op::ShutDown => ignore(self.paging.shut_down()),
            Op::Enable => self.attach(),
            Op::Detach => ignore(self.paging.detach()),
            Op::TakeOver => self.take_over(),
            Op::LogDirty(on) => self.paging.platform().with(|core| core.log_dirty = on),
        }
        self.check();
    }

    /// An event: bounded work, whatever the page contains.
    pub fn event(&self) {
        let requests = || self.paging.counters().get(Count::Requests);
        let (held, before) = (self.paging.slots_in_use(), requests());
        let handled = self.paging.on_event();
        assert!(handled.responses <= EVENT_RESPONSES, "{handled:?}");
        // Only requests made before or meanwhile can have been answered.
        let asked = u64::from(held) + requests() - before;
        assert!(u64::from(handled.responses) <= asked, "{handled:?}");
        if handled.state == RingState::More {
            assert_eq!(handled.responses, EVENT_RESPONSES);
        }
    }

    fn prep(&self, gfn: Gfn, buffer: Option<Buffer>) {
        let mut batch = [Job {
            gfn,
            buffer,
            outcome: None,
        }];
        self.paging.prep(self.paging.epoch(), &mut batch);
    }

    fn take_over(&mut self) {
        let page = &self.page;
        if self.paging.take_over(|| Some(page.map())).is_ok() {
            self.back = Back::new(self.page.map());
        }
    }

    fn attach(&mut self) {
        let page = &self.page;
        let attached = self
            .paging
            .enable(&PAGEABLE_DOMAIN, || Some(page.map()))
            .is_ok();
        if attached {
            self.back = Back::new(self.page.map());
        }
    }

    fn check(&self) {
        let machine = self.paging.platform();
        machine.check();
        assert!(self.paging.slots_in_use() <= SLOTS);
        for n in 0..self.vcpus {
            let vcpu = VcpuId(n);
            let pauses = self.paging.vcpus().pauses(vcpu);
            assert_eq!(machine.is_stopped(vcpu), pauses > 0, "{vcpu:?}");
            if let Some(gfn) = self.paging.vcpus().waits_for(vcpu) {
                assert!(pauses > 0, "{vcpu:?} waits and runs");
                let p2mt = machine.p2mt(gfn);
                let in_flight = matches!(p2mt, P2mType::RamPagingInStart | P2mType::RamPagingIn);
                assert!(in_flight, "{vcpu:?} waits for {gfn}, which is {p2mt:?}");
            }
        }
    }

    /// An honest pager replaces the hostile one: in the end no vcpu waits, and every page is
    /// available.
    pub fn settle(&mut self) {
        ignore(self.paging.shut_down());
        self.attach();
        while let Some(paused) = self.paused.pop() {
            self.paging.unpause(paused);
        }
        for n in 0..self.gfns {
            let gfn = Gfn::new_truncate(n);
            let _ = self.paging.fault(VcpuId(0), gfn, Access::WRITE);
            while let Some(request) = self.back.take().expect("an honest hypervisor") {
                let request = request.expect("an honest hypervisor");
                self.prep(request.gfn, Some(Buffer::Page(7)));
                let answered = self.back.respond(&Response::to(&request));
                answered.expect("one answer for each request");
            }
            let _ = self.back.publish();
            self.event();
            let p2mt = self.paging.platform().p2mt(gfn);
            assert!(!p2mt.is_paging(), "{gfn} cannot be had: {p2mt:?}");
        }
        self.check();
        for n in 0..self.vcpus {
            assert_eq!(self.paging.vcpus().pauses(VcpuId(n)), 0, "v{n}");
        }
        assert_eq!(self.paging.slots_in_use(), 0);
    }
}

/// The result of a hostile life is not checked.
fn ignore<T>(_: T) {}
