// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pager's operations on the machine, each compared with the table.

use p2m_paging::Errno;
use p2m_paging::p2m::table::Event;
use p2m_paging::paging::Job;

use super::scenario::Knob;
use super::world::{Before, World};
use crate::machine::{Buffer, Page};

impl World<'_> {
    /// Whether somebody besides the guest uses the page's frame.
    fn is_used(&self, page: usize) -> bool {
        self.machine().with(|core| {
            let mfn = core.tables.get(self.gfn(page)).mfn;
            mfn.is_some_and(|mfn| core.frames.get(mfn).references > 1)
        })
    }

    fn each_before(&self, pages: &[usize], free: Event, used: Event) -> Vec<Before> {
        let event = |page| if self.is_used(page) { used } else { free };
        let before = |page: &usize| self.before(*page, event(*page));
        pages.iter().map(before).collect()
    }

    /// Nominates pages, in one call.
    pub(super) fn nominate_pages(&self, pages: &[usize]) -> Vec<Result<(), Errno>> {
        let before = self.each_before(pages, Event::Nominate, Event::NominateInUse);
        let mut jobs: Vec<_> = pages.iter().map(|page| Job::new(self.gfn(*page))).collect();
        let armed = self.make_fail();
        self.paging.nominate(self.paging.epoch(), &mut jobs);
        let failed = self.has_failed(armed);
        let done = |job: &Job<_>| {
            job.outcome
                .expect("worked off")
                .map_err(|e: p2m_paging::paging::NominateError| e.errno())
        };
        let results: Vec<_> = jobs.iter().map(done).collect();
        for (before, result) in before.into_iter().zip(&results) {
            self.note("nominate", [before.page as u64, result.is_ok().into()]);
            self.hold_against_table(before, !failed, Some(result.is_err()));
        }
        results
    }

    /// Evicts pages, in one call.
    pub(super) fn evict_pages(&self, pages: &[usize]) -> Vec<Result<(), Errno>> {
        let before = self.each_before(pages, Event::Evict, Event::EvictInUse);
        let mut jobs: Vec<_> = pages.iter().map(|page| Job::new(self.gfn(*page))).collect();
        let armed = self.make_fail();
        self.paging.evict(self.paging.epoch(), &mut jobs);
        let failed = self.has_failed(armed);
        let done = |job: &Job<_>| {
            job.outcome
                .expect("worked off")
                .map_err(|e: p2m_paging::paging::EvictError| e.errno())
        };
        let results: Vec<_> = jobs.iter().map(done).collect();
        for (before, result) in before.into_iter().zip(&results) {
            self.note("evict", [before.page as u64, result.is_ok().into()]);
            self.hold_against_table(before, !failed, Some(result.is_err()));
        }
        results
    }

    /// Takes nominations back, in one call.
    pub(super) fn restore_pages(&self, pages: &[usize]) -> Vec<Result<(), Errno>> {
        let before = self.each_before(pages, Event::Restore, Event::Restore);
        let mut jobs: Vec<_> = pages.iter().map(|page| Job::new(self.gfn(*page))).collect();
        let armed = self.make_fail();
        self.paging.restore(self.paging.epoch(), &mut jobs);
        let failed = self.has_failed(armed);
        let done = |job: &Job<_>| {
            job.outcome
                .expect("worked off")
                .map_err(|e: p2m_paging::paging::RestoreError| e.errno())
        };
        let results: Vec<_> = jobs.iter().map(done).collect();
        for (before, result) in before.into_iter().zip(&results) {
            self.note("restore", [before.page as u64, result.is_ok().into()]);
            let truth = &mut self.guest.borrow_mut().pages[before.page];
            if std::mem::take(&mut truth.is_left_nominated) && result.is_ok() {
                self.deaths.borrow_mut().restored += 1;
            }
            self.hold_against_table(before, !failed, Some(result.is_err()));
        }
        results
    }

    /// Brings a page in, with these contents or with an empty frame.
    pub(super) fn prep_page(&self, page: usize, contents: Option<Page>) -> Result<(), Errno> {
        let filled = contents.is_some();
        let event = if filled {
            Event::PrepFilled
        } else {
            Event::PrepEmpty
        };
        let before = self.before(page, event);
        let is_faulting = filled && self.strikes(Knob::Buffers);
        let buffer = contents.map(|page| {
            if is_faulting {
                Buffer::Faulting
            } else {
                Buffer::Page(page)
            }
        });
        let has_memory =
            before.state.has_frame() || self.machine().with(|core| core.frames.free_count() > 0);
        let mut jobs = [Job {
            gfn: self.gfn(page),
            buffer,
            outcome: None,
        }];
        let armed = self.make_fail();
        self.paging.prep(self.paging.epoch(), &mut jobs);
        let failed = self.has_failed(armed);
        let result = jobs[0].outcome.expect("worked off").map_err(|e| e.errno());
        self.note("prep", [page as u64, result.is_ok().into()]);
        let changes = !failed && !is_faulting && has_memory;
        self.hold_against_table(before, changes, Some(result.is_err()));
        result
    }
}
