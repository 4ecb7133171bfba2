// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pager's worker: the steps of a batch, some pages at a time.

use p2m_paging::fault::{MapDecision, Mapper, decide_map};
use p2m_paging::p2m::table::State;
use p2m_paging::{Errno, Mfn, VcpuId};
use pager_core::{Lane, Location, PageError, Step};
use pager_store::StoreError;

use super::event_queue::SimEvent;
use super::index::Entry;
use super::pager::Running;
use super::scenario::Knob;
use super::world::World;
use crate::machine::{Page, Place};

/// The pager's own vcpu, in dom0.
const PAGER_VCPU: VcpuId = VcpuId(99);

impl World<'_> {
    /// The next pages of a batch.
    pub(super) fn works(&self, index: usize, id: u32) {
        let taken = {
            let mut pager = self.pager.borrow_mut();
            let process = pager.as_mut().filter(|process| process.id == id);
            process.and_then(|process| process.running[index].take())
        };
        // The pager that had this batch was killed.
        let Some(mut running) = taken else { return };
        match running.batch.step() {
            Step::Nominate | Step::Probe | Step::Evict => self.call(&mut running, id),
            Step::Save => self.save(&mut running, id),
            Step::Restore => self.restore(&mut running, id),
            Step::Load => self.load(&mut running),
            Step::Prep => self.prep(&mut running, id),
            Step::Move => self.move_elsewhere(&mut running, id),
        }
        let is_done = running.done == running.batch.pages().len();
        let mut pager = self.pager.borrow_mut();
        match pager.as_mut().filter(|process| process.id == id) {
            Some(process) => process.running[index] = Some(running),
            // It was killed meanwhile: its mappings are gone with it.
            None => return self.unmap(running.mapped),
        }
        drop(pager);
        if is_done {
            let index = u8::try_from(index).expect("few batches");
            self.soon(4_000, SimEvent::WorkDone(index, id));
        } else {
            self.begin(index, id);
        }
    }

    fn unmap(&self, frames: Vec<Mfn>) {
        self.machine().with(|core| {
            frames
                .into_iter()
                .for_each(|mfn| core.frames.put_reference(mfn))
        });
    }

    /// How many pages are done at a time.
    fn some_of(&self, running: &Running) -> std::ops::Range<usize> {
        let left = running.batch.pages().len() - running.done;
        running.done..running.done + 1 + self.below(left)
    }

    fn pages_of(&self, running: &Running, range: std::ops::Range<usize>) -> Vec<usize> {
        let page = |page: &pager_core::Page| self.page(page.gfn()).expect("the guest's");
        running.batch.pages()[range].iter().map(page).collect()
    }

    fn call(&self, running: &mut Running, id: u32) {
        let range = self.some_of(running);
        let pages = self.pages_of(running, range.clone());
        let is_evict = running.batch.step() == Step::Evict;
        if is_evict && !self.note_in_index(running, range.clone(), id) {
            return;
        }
        let results = if is_evict {
            self.evict_pages(&pages)
        } else {
            self.nominate_pages(&pages)
        };
        running.done = range.end;
        for ((at, page), result) in range.zip(pages).zip(results) {
            let batch_page = &mut running.batch.pages_mut()[at];
            batch_page.outcome = result.map_err(PageError::Refused);
            if is_evict && result.is_ok() {
                self.guest.borrow_mut().pages[page].copy = Some(batch_page.location());
            }
        }
        self.lives_on(id);
    }

    /// The pages are about to be evicted. Whether the pager lives on.
    fn note_in_index(&self, running: &Running, range: std::ops::Range<usize>, id: u32) -> bool {
        for page in &running.batch.pages()[range] {
            if !self.has_index() {
                return true;
            }
            let location = page.location();
            let sum = |slot| self.disk.borrow().checksum(slot);
            let checksum = location.slot().map_or(Some(0), sum);
            let checksum = checksum.expect("what is to be evicted is in the store");
            let entry = Entry { location, checksum };
            self.index.borrow_mut().set(page.gfn(), entry);
            if !self.lives_on(id) {
                return false;
            }
        }
        true
    }

    /// Maps some pages first. Copies and unmaps them the next time.
    fn save(&self, running: &mut Running, id: u32) {
        if running.mapped.is_empty() {
            let range = self.some_of(running);
            let pages = self.pages_of(running, range.clone());
            for page in pages {
                let mfn = self.machine().with(|core| {
                    let entry = core.tables.get(self.gfn(page));
                    let may = entry.p2mt.is_pageable()
                        || decide_map(entry.p2mt, entry.mfn.is_some(), Mapper::Pager)
                            == MapDecision::Map;
                    let mfn = entry.mfn.filter(|_| may);
                    mfn.into_iter()
                        .for_each(|mfn| core.frames.get_reference(mfn));
                    mfn
                });
                let Some(mfn) = mfn else { break };
                running.mapped.push(mfn);
            }
            if running.mapped.is_empty() {
                let error = PageError::Unmapped(Errno::ENOENT);
                running.batch.pages_mut()[running.done].outcome = Err(error);
                running.done += 1;
            }
            return;
        }
        let mapped = std::mem::take(&mut running.mapped);
        for mfn in &mapped {
            let page = &mut running.batch.pages_mut()[running.done];
            let contents = self.machine().with(|core| core.frames.get(*mfn).contents);
            let slot = page
                .location()
                .slot()
                .expect("a slot for a page to be saved");
            let (mut disk, mut rng) = (self.disk.borrow_mut(), self.rng.borrow_mut());
            let saved = disk.save(slot, page.compare_with(), &contents, &mut rng);
            self.note("save", [page.gfn().get(), saved.is_ok().into()]);
            self.meter_save(page.gfn(), &contents, saved);
            page.outcome = saved
                .map(|saved| page.saved = saved)
                .map_err(PageError::Store);
            running.done += 1;
            drop((disk, rng));
            if !self.lives_on(id) {
                return self.unmap(mapped);
            }
        }
        self.disk.borrow_mut().flush();
        self.unmap(mapped);
        self.lives_on(id);
    }

    fn load(&self, running: &mut Running) {
        for at in self.some_of(running) {
            let index = running.batch.index();
            let page = &mut running.batch.pages_mut()[at];
            let (disk, mut rng) = (self.disk.borrow(), self.rng.borrow_mut());
            let read = match page.location() {
                Location::Slot(slot) => disk.read(slot, &mut rng),
                Location::Zeros => Ok(Page::ZERO),
            };
            self.note("load", [page.gfn().get(), read.is_ok().into()]);
            self.meter.host_read(page.location());
            assert!(
                !matches!(read, Err(StoreError::Empty { .. })),
                "{} is loaded from a slot that holds nothing",
                page.gfn()
            );
            if let Ok(contents) = read
                && let Some(process) = &mut *self.pager.borrow_mut()
            {
                process.buffers[index][page.buffer()] = contents;
            }
            page.outcome = read.map(drop).map_err(PageError::Store);
            running.done += 1;
        }
    }

    fn move_elsewhere(&self, running: &mut Running, id: u32) {
        for at in self.some_of(running) {
            let index = running.batch.index();
            let batch_page = &mut running.batch.pages_mut()[at];
            let contents = match &*self.pager.borrow() {
                Some(process) => process.buffers[index][batch_page.buffer()],
                None => return,
            };
            let home = batch_page.location();
            let slot = home.slot().expect("a slot for a page to be moved");
            let (mut disk, mut rng) = (self.disk.borrow_mut(), self.rng.borrow_mut());
            let saved = disk.save(slot, batch_page.compare_with(), &contents, &mut rng);
            self.note("move", [batch_page.gfn().get(), saved.is_ok().into()]);
            batch_page.outcome = saved.map(drop).map_err(PageError::Store);
            // Unless it was given back meanwhile.
            let page = self.page(batch_page.gfn()).expect("the guest's");
            if saved.is_ok()
                && let Some(copy) = &mut self.guest.borrow_mut().pages[page].copy
            {
                *copy = home;
            }
            running.done += 1;
            drop((disk, rng));
            if !self.lives_on(id) {
                return;
            }
        }
        self.disk.borrow_mut().flush();
        self.lives_on(id);
    }

    fn prep(&self, running: &mut Running, id: u32) {
        for at in self.some_of(running) {
            let (index, lane) = (running.batch.index(), running.batch.lane());
            let batch_page = running.batch.pages()[at];
            let contents = match &*self.pager.borrow() {
                Some(process) => process.buffers[index][batch_page.buffer()],
                None => return,
            };
            let page = self.page(batch_page.gfn()).expect("the guest's");
            let state = self.state(page);
            // The page is out, and nobody requested it. To become resident without its contents it
            // needs a slot of the ring. It must not wait for a slot together with those who hold
            // them all.
            let by_itself = (lane == Lane::Demand) != (state == State::Paged);
            let result = if running.tries > 0 {
                // It has its frame and its contents. Nobody requested it, and a response makes it
                // resident.
                if state == State::PagingIn && self.foreign_populate(page, PAGER_VCPU).is_err() {
                    return;
                }
                running.tries = 0;
                let is_there = state != State::Invalid;
                is_there.then_some(()).ok_or(Errno::ENOENT)
            } else if by_itself && self.strikes(Knob::Empty) {
                let result = self.prep_empty(page, contents);
                if result.is_ok() && lane == Lane::Prefetch {
                    running.tries = 1;
                    return;
                }
                result
            } else {
                self.prep_page(page, Some(contents))
            };
            running.batch.pages_mut()[at].outcome = result.map_err(PageError::Refused);
            running.done += 1;
            if !self.lives_on(id) {
                return;
            }
            if matches!(result, Ok(()) | Err(Errno::ENOENT)) {
                self.index.borrow_mut().clear(batch_page.gfn());
                if !self.lives_on(id) {
                    return;
                }
            }
        }
    }

    /// The way of Xen 4.1: first a frame, which the pager then fills. Sometimes it preps the page once
    /// more instead, with its contents, as a pager does that finds the frame of one that was killed.
    fn prep_empty(&self, page: usize, contents: Page) -> Result<(), Errno> {
        let has_frame = self.state(page).has_frame();
        self.prep_page(page, None)?;
        if has_frame {
            return Ok(());
        }
        if self.below(8) == 0 {
            let prepped = self.prep_page(page, Some(contents));
            // A frame that could not be replaced must be filled before anybody responds.
            if self.state(page) != State::PagingIn {
                return prepped;
            }
        }
        self.fill(page, contents);
        Ok(())
    }

    /// The pager fills a frame that it was given, as its only user.
    fn fill(&self, page: usize, contents: Page) {
        let gfn = self.gfn(page);
        self.machine().with(|core| {
            let entry = core.tables.get(gfn);
            if decide_map(entry.p2mt, entry.mfn.is_some(), Mapper::Pager) != MapDecision::Map {
                return;
            }
            if let Some(mfn) = entry.mfn {
                let frame = core.frames.get_mut(mfn);
                assert_eq!(frame.place, Place::Mapped(gfn));
                assert_eq!(frame.contents, Page::ZERO, "an empty page is zeroed");
                frame.contents = contents;
            }
        });
    }

    fn restore(&self, running: &mut Running, id: u32) {
        let range = self.some_of(running);
        let pages = self.pages_of(running, range.clone());
        let results = self.restore_pages(&pages);
        running.done = range.end;
        for (at, result) in range.zip(results) {
            running.batch.pages_mut()[at].outcome = result.map_err(PageError::Refused);
        }
        self.lives_on(id);
    }
}
