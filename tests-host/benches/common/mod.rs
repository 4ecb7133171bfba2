// SPDX-License-Identifier: MIT OR Apache-2.0
//! What both benches measure: one operation of the state machine on a machine that itself costs
//! nearly nothing (a page's contents are one word, the checks are off).

use p2m_paging::p2m::Access;
use p2m_paging::paging::{EvictError, Job, NominateError, Paging, PrepError};
use p2m_paging::pause::VcpuCell;
use p2m_paging::ring::{Back, Response};
use p2m_paging::{Gfn, VcpuId};
use tests_host::plain::{Buffer, PAGEABLE_DOMAIN, PlainMachine, RingPage};

/// A domain with its pager.
pub(crate) struct Bench {
    paging: Paging<'static, PlainMachine<false>>,
    back: Back,
    nominations: Vec<Job<NominateError>>,
    evictions: Vec<Job<EvictError>>,
    preps: Vec<Job<PrepError, Option<Buffer>>>,
    vcpus: u32,
    _page: RingPage,
}

impl Bench {
    /// `batch` pages, all of which go through each operation together.
    pub(crate) fn new(batch: u64, vcpus: u32) -> Self {
        let gfns = || (0..batch).map(Gfn::new_truncate);
        let cells: Vec<VcpuCell> = (0..vcpus).map(|_| VcpuCell::new()).collect();
        let pages = usize::try_from(batch).expect("a small batch");
        let machine = PlainMachine::new(pages, pages, cells.len());
        let paging = Paging::new(machine, Box::leak(cells.into_boxed_slice()));
        let page = RingPage::new();
        paging
            .enable(&PAGEABLE_DOMAIN, || Some(page.map()))
            .expect("a fresh domain");
        Self {
            paging,
            back: Back::new(page.map()),
            nominations: gfns().map(Job::new).collect(),
            evictions: gfns().map(Job::new).collect(),
            preps: gfns()
                .map(|gfn| Job::filled(gfn, Buffer::Page(7)))
                .collect(),
            vcpus,
            _page: page,
        }
    }

    /// Resident → nominated.
    #[inline(never)]
    pub(crate) fn nominate(&mut self) {
        self.paging
            .nominate(self.paging.epoch(), &mut self.nominations);
    }

    /// Nominated → paged out.
    #[inline(never)]
    pub(crate) fn evict(&mut self) {
        self.paging.evict(self.paging.epoch(), &mut self.evictions);
    }

    /// Paged out → requested, by the last vcpu: as many pages as vcpus and the ring allow, here
    /// one.
    #[inline(never)]
    pub(crate) fn populate(&mut self) {
        let vcpu = VcpuId(self.vcpus - 1);
        let got = self.paging.fault(vcpu, Gfn::new_truncate(0), Access::WRITE);
        assert!(got.is_ok());
    }

    /// Paged out or requested → resident, filled.
    #[inline(never)]
    pub(crate) fn prep(&mut self) {
        self.paging.prep(self.paging.epoch(), &mut self.preps);
    }

    /// The pager answers the one request.
    pub(crate) fn answer(&mut self) {
        let request = self.back.take().expect("in order").expect("one request");
        let request = request.expect("in order");
        self.back
            .respond(&Response::to(&request))
            .expect("one answer");
        let _ = self.back.publish();
    }

    /// The hypervisor takes the response.
    #[inline(never)]
    pub(crate) fn resume(&mut self) {
        assert_eq!(self.paging.on_event().responses, 1);
    }
}
