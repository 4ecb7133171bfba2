// SPDX-License-Identifier: MIT OR Apache-2.0
//! The properties that must hold after every operation, and the smaller operations.

use p2m_paging::paging::Caller;
use p2m_paging::{Errno, VcpuId};

use super::{Is, Lockstep, Op, is, number, vcpu_id};
use crate::plain::Buffer;

impl Lockstep<'_> {
    /// Panics if the crate and the model differ, or if the machine is inconsistent.
    pub fn check(&self) {
        let machine = self.machine();
        machine.check();
        machine.with(|core| {
            for (gfn, expected) in self.model.pages.iter().enumerate() {
                let entry = core.entry(number(gfn));
                let found = is(entry.p2mt);
                assert_eq!(found, *expected, "page {gfn}");
            }
            assert_eq!(core.failures, self.model.failures);
        });
        for (n, waits) in self.model.waits.iter().enumerate() {
            let vcpu = vcpu_id(n);
            let found = self.paging.vcpus().waits_for(vcpu);
            assert_eq!(found, waits.map(number), "{vcpu:?} waits");
            if let Some(gfn) = waits {
                let in_flight = matches!(self.model.pages[*gfn], Is::Start | Is::In);
                assert!(
                    in_flight,
                    "{vcpu:?} waits for page {gfn}, which is not coming"
                );
            }
            let reasons = self.model.pauses[n]
                + u32::from(waits.is_some())
                + u32::from(self.model.dropping(n));
            assert_eq!(self.paging.vcpus().pauses(vcpu), reasons, "{vcpu:?}");
            assert_eq!(machine.is_stopped(vcpu), reasons > 0, "{vcpu:?}");
        }
        assert_eq!(self.paging.is_enabled(), self.model.enabled());
        assert_eq!(self.paging.slots_in_use() as usize, self.model.held());
    }

    /// Panics if any vcpu still has to wait.
    pub fn assert_nobody_waits(&self) {
        for n in 0..self.model.waits.len() {
            let vcpu = vcpu_id(n);
            assert_eq!(self.paging.vcpus().waits_for(vcpu), None, "{vcpu:?}");
            assert!(!self.model.dropping(n), "{vcpu:?} stands in line");
            let others = self.model.pauses[n];
            assert_eq!(self.paging.vcpus().pauses(vcpu), others, "{vcpu:?}");
        }
    }

    /// The end of a run: an honest pager works on. In the end no vcpu waits, and every page that
    /// somebody needs is as the guest left it.
    pub fn settle(&mut self) {
        if !self.model.enabled() {
            self.enable();
        }
        if !self.model.attached() {
            self.take_over();
        }
        self.pager_works_on();
        self.assert_nobody_waits();
        for gfn in 0..self.model.pages.len() {
            // Requested, brought in, and then read.
            for _ in 0..2 {
                self.read(0, gfn);
                self.pager_works_on();
            }
        }
        self.assert_nobody_waits();
    }

    /// Makes all operations, then settles. Any breach panics.
    pub fn run(&mut self, ops: impl IntoIterator<Item = Op>) {
        ops.into_iter().for_each(|op| self.apply(op));
        self.settle();
    }

    pub(super) fn foreign(&mut self, gfn: usize) {
        let got = self
            .paging
            .populate(number(gfn), Caller::Foreign(VcpuId(77)));
        let expected = self.model.populate(gfn, None, true);
        assert_eq!(got, expected, "somebody else needs {gfn}");
    }

    /// A pager preps pages that it believes to be out. It may not know yet that a page was dropped.
    pub(super) fn prep_believing(
        &mut self,
        gfn: usize,
        buffer: Option<Buffer>,
    ) -> Result<(), Errno> {
        if !self.out.contains(&gfn) {
            return Err(Errno::ENOENT);
        }
        self.prep(gfn, buffer)
    }

    pub(super) fn get_frame(&mut self, gfn: usize) {
        if let Some(mfn) = self.machine().get_frame(number(gfn)) {
            self.references.push((gfn, mfn));
        }
    }

    pub(super) fn put_frame(&mut self) {
        if let Some((_, mfn)) = self.references.pop() {
            self.machine().put_frame(mfn);
        }
    }

    pub(super) fn pause(&mut self, vcpu: usize) {
        let paused = self.paging.pause(vcpu_id(vcpu));
        self.paused.push((vcpu, paused.expect("the vcpu exists")));
        self.model.pauses[vcpu] += 1;
    }

    pub(super) fn unpause(&mut self) {
        if let Some((vcpu, paused)) = self.paused.pop() {
            self.paging.unpause(paused);
            self.model.pauses[vcpu] -= 1;
        }
    }
}
