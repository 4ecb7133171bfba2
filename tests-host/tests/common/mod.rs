// SPDX-License-Identifier: MIT OR Apache-2.0
//! A paged domain and its pager, step by step.

#![allow(dead_code)] // Each test program uses a part of it.

use p2m_paging::p2m::Access;
use p2m_paging::paging::{
    EvictError, Job, NominateError, Paging, PagingStates, PopulateError, Populated, PrepError,
    RestoreError,
};
use p2m_paging::pause::VcpuCell;
use p2m_paging::ring::{Back, Notify, Request, Response};
use p2m_paging::{Gfn, P2mType, VcpuId};
use tests_host::plain::{Buffer, PAGEABLE_DOMAIN, PlainMachine, RingPage};

/// A domain with its pager.
pub(crate) struct Domain {
    /// It lives for the rest of the test run, so that operations of another CPU may use it, too.
    pub(crate) paging: &'static Paging<'static, PlainMachine>,
    pub(crate) page: RingPage,
    pub(crate) back: Back,
}

pub(crate) fn gfn(n: u64) -> Gfn {
    Gfn::new_truncate(n)
}

pub(crate) fn cells(vcpus: usize) -> &'static [VcpuCell] {
    Box::leak((0..vcpus).map(|_| VcpuCell::new()).collect())
}

/// A domain without a pager.
pub(crate) fn domain(vcpus: usize, gfns: usize, spare: usize) -> Paging<'static, PlainMachine> {
    Paging::new(PlainMachine::new(gfns, spare, vcpus), cells(vcpus))
}

impl Domain {
    pub(crate) fn new(vcpus: usize, gfns: usize) -> Self {
        let paging: &'static _ = Box::leak(Box::new(domain(vcpus, gfns, 4)));
        let page = RingPage::new();
        paging
            .enable(&PAGEABLE_DOMAIN, || Some(page.map()))
            .unwrap();
        let back = Back::new(page.map());
        Self { paging, page, back }
    }

    pub(crate) fn machine(&self) -> &PlainMachine {
        self.paging.platform()
    }

    pub(crate) fn p2mt(&self, n: u64) -> P2mType {
        self.machine().p2mt(gfn(n))
    }

    pub(crate) fn nominate(&self, n: u64) -> Result<(), NominateError> {
        let mut batch = [Job::new(gfn(n))];
        self.paging.nominate(self.paging.epoch(), &mut batch);
        batch[0].outcome.unwrap()
    }

    pub(crate) fn evict(&self, n: u64) -> Result<(), EvictError> {
        let mut batch = [Job::new(gfn(n))];
        self.paging.evict(self.paging.epoch(), &mut batch);
        batch[0].outcome.unwrap()
    }

    pub(crate) fn restore(&self, n: u64) -> Result<(), RestoreError> {
        let mut batch = [Job::new(gfn(n))];
        self.paging.restore(self.paging.epoch(), &mut batch);
        batch[0].outcome.unwrap()
    }

    /// Pages these out.
    pub(crate) fn out(&self, gfns: impl IntoIterator<Item = u64>) {
        for n in gfns {
            self.nominate(n).unwrap();
            self.evict(n).unwrap();
        }
    }

    pub(crate) fn prep(&self, n: u64, buffer: Option<Buffer>) -> Result<(), PrepError> {
        let mut batch = [Job {
            gfn: gfn(n),
            buffer,
            outcome: None,
        }];
        self.paging.prep(self.paging.epoch(), &mut batch);
        batch[0].outcome.unwrap()
    }

    pub(crate) fn fault(&self, vcpu: u32, n: u64) -> Result<Populated, PopulateError> {
        self.paging.fault(VcpuId(vcpu), gfn(n), Access::WRITE)
    }

    /// The next request, as it comes.
    pub(crate) fn take(&mut self) -> Option<Request> {
        self.back.take().unwrap().map(Result::unwrap)
    }

    /// Responds, and lets the hypervisor take the responses.
    pub(crate) fn respond(&mut self, response: &Response) {
        self.back.respond(response).unwrap();
        if self.back.publish() == Notify::Owed {
            let _ = self.paging.on_event();
        }
    }

    pub(crate) fn respond_to(&mut self, request: &Request) {
        self.respond(&Response::to(request));
    }

    /// Serves one request honestly: the page's old contents, then the response.
    pub(crate) fn serve_one(&mut self) -> Option<Request> {
        let request = self.take()?;
        let n = request.gfn.get();
        let _ = self.prep(n, Some(Buffer::Page(n)));
        self.respond_to(&request);
        Some(request)
    }

    /// Replaces the pager.
    pub(crate) fn reattach(&mut self) {
        self.paging.disable().unwrap();
        self.page = RingPage::new();
        let page = &self.page;
        self.paging
            .enable(&PAGEABLE_DOMAIN, || Some(page.map()))
            .unwrap();
        self.back = Back::new(self.page.map());
    }

    /// Another pager takes over. Yields whether there was a ring.
    pub(crate) fn take_over(&mut self) -> bool {
        let new = RingPage::new();
        let old = self.paging.take_over(|| Some(new.map())).unwrap();
        self.page = new;
        self.back = Back::new(self.page.map());
        old.is_some()
    }

    /// The states of the first 64 gfns, for the pager that is attached.
    pub(crate) fn states(&self) -> PagingStates {
        let mut states = [PagingStates::default()];
        let listed = self
            .paging
            .paging_states(self.paging.epoch(), gfn(0), &mut states);
        listed.unwrap();
        states[0]
    }

    pub(crate) fn is_waiting(&self, vcpu: u32) -> bool {
        self.paging.vcpus().waits_for(VcpuId(vcpu)).is_some()
    }

    /// No vcpu is paused, and every frame is where it belongs.
    pub(crate) fn assert_settled(&self) {
        self.machine().check();
        let mut vcpu = 0;
        while self.paging.vcpus().contains(VcpuId(vcpu)) {
            assert!(!self.is_waiting(vcpu), "v{vcpu} waits");
            assert_eq!(self.paging.vcpus().pauses(VcpuId(vcpu)), 0, "v{vcpu}");
            assert!(
                !self.machine().is_stopped(VcpuId(vcpu)),
                "v{vcpu} is stopped"
            );
            vcpu += 1;
        }
        assert_eq!(self.paging.slots_in_use(), 0, "slots are lost");
        assert_eq!(self.paging.vcpus().leaked_pauses(), 0, "pauses are lost");
    }
}
