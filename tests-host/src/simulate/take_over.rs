// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pager with an index dies after any of its actions, and another one takes over.
//!
//! A process that is killed leaves the index, the store's file and the host's page cache. At each point
//! where the pager may be killed, the crash of the host is judged, too: it ends the guest, and then a page
//! that is out must read back from what was flushed, or fail to.

use std::rc::Rc;

use p2m_paging::Gfn;
use p2m_paging::p2m::GfnSet;
use p2m_paging::p2m::table::State;
use p2m_paging::paging::{PagingStates, TakeOverError};
use pager_core::{Adoption, Location};

use super::event_queue::{SimEvent, WORKERS};
use super::index::Entry;
use super::scenario::Knob;
use super::world::{TICK_NS, World};
use crate::machine::Page;
use crate::plain::RingPage;

/// What happened to pagers with an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deaths {
    /// Actions after each of which the pager may be killed.
    pub points: u64,
    /// How often a pager took over.
    pub take_overs: u64,
    /// Pages that were out, and that the next pager found.
    pub adopted: u64,
    /// Pages that were nominated, and that the next pager restored.
    pub restored: u64,
    /// Pages that were out, and that the next pager did not find.
    pub lost: u64,
}

impl Deaths {
    pub(super) fn add(&mut self, other: &Self) {
        self.points += other.points;
        self.take_overs += other.take_overs;
        self.adopted += other.adopted;
        self.restored += other.restored;
        self.lost += other.lost;
    }
}

impl World<'_> {
    pub(super) fn has_index(&self) -> bool {
        self.scenario.get(Knob::Index) > 0
    }

    /// The pager has done something. Whether it is killed now.
    pub(super) fn is_killed_here(&self) -> bool {
        if !self.has_index() || self.guest.borrow().is_dead {
            return false;
        }
        self.check_crash();
        let point = {
            let deaths = &mut *self.deaths.borrow_mut();
            deaths.points += 1;
            deaths.points
        };
        let is_drawn = !self.quiesced.get()
            && self.rng.borrow_mut().u32(0..10_000) < self.scenario.get(Knob::Deaths);
        is_drawn || point == u64::from(self.scenario.get(Knob::Death))
    }

    /// A worker of this pager has done something. Whether the pager lives on.
    pub(super) fn lives_on(&self, id: u32) -> bool {
        let lives = |world: &Self| {
            let pager = world.pager.borrow();
            pager.as_ref().is_some_and(|process| process.id == id)
        };
        if lives(self) && self.is_killed_here() {
            self.pager_dies();
        }
        lives(self)
    }

    /// The pager is killed. Sometimes somebody notices it before another one takes over.
    pub(super) fn pager_dies(&self) {
        if !self.end_process() {
            return;
        }
        self.follow_index();
        let slow = self.below(4) as u64;
        if self.chance(300) {
            self.soon(TICK_NS / 2, SimEvent::Detach);
        }
        self.soon(TICK_NS / 4 + TICK_NS * slow / 2, SimEvent::TakeOver);
    }

    /// A page that was about to move has not, as nothing says so.
    fn follow_index(&self) {
        let pages = &mut self.guest.borrow_mut().pages;
        for (page, truth) in pages.iter_mut().enumerate() {
            let entry = self.index.borrow().get(self.gfn(page));
            if let (Some(copy), Some(entry)) = (&mut truth.copy, entry) {
                *copy = entry.location;
            }
        }
    }

    /// The toolstack knows that the pager is dead, and unmaps its ring.
    pub(super) fn detach(&self) {
        if self.pager.borrow().is_some() || self.guest.borrow().is_dead {
            return;
        }
        self.note("detach", [0, 0]);
        let _ = self.paging.detach();
    }

    /// A pager takes over, with the index that another one has left.
    pub(super) fn take_over(&self) {
        if self.are_busy(WORKERS) {
            // The calls of the dead process end first.
            return self.soon(5_000, SimEvent::TakeOver);
        }
        if self.guest.borrow().is_dead || self.pager.borrow().is_some() {
            return;
        }
        let page = Rc::new(RingPage::new());
        let taken = self.paging.take_over(|| Some(page.map()));
        // Until now the old ring may have been in use.
        self.foreign.borrow_mut().ring = Some(Rc::clone(&page));
        if self.guest.borrow().is_dead {
            return;
        }
        assert_ne!(taken.err(), Some(TakeOverError::NotEnabled));
        self.take_places_anew();
        self.disk.borrow_mut().forget_all();
        let mut next = self.new_core().adopt();
        let is_killed = self.is_killed_here() || !self.list(&mut next);
        if self.guest.borrow().is_dead {
            return;
        }
        let core = next.finish();
        if is_killed || self.is_killed_here() {
            self.foreign.borrow_mut().last_pager += 1;
            self.note("killed while it takes over", [0, 0]);
            return self.soon(TICK_NS, SimEvent::TakeOver);
        }
        let progress = core.progress();
        let lost = (0..self.pages()).filter(|page| self.is_lost(*page)).count() as u64;
        assert!(progress.lost_pages <= lost, "pages are lost: {progress:?}");
        {
            let deaths = &mut *self.deaths.borrow_mut();
            deaths.take_overs += 1;
            deaths.adopted += progress.adopted;
            deaths.lost += progress.lost_pages;
        }
        let held = self.disk.borrow().held() as u64;
        assert_eq!(core.slots_taken(), held, "slots that were adopted");
        self.begin_process(core, page);
    }

    /// Lists the states of all pages. Whether the new pager survives this.
    fn list(&self, next: &mut Adoption) -> bool {
        let (low, high) = (self.low_pages(), self.pages() as u64 - self.low_pages());
        let words = |first: u64, pages: u64| (0..pages.div_ceil(64)).map(move |n| first + 64 * n);
        for first in words(0, low).chain(words(self.first_high_gfn(), high)) {
            let mut states = [PagingStates::default()];
            let epoch = self.paging.epoch();
            let first = Gfn::new_truncate(first);
            let listed = self.paging.paging_states(epoch, first, &mut states);
            assert!(listed.is_ok() || self.guest.borrow().is_dead, "{listed:?}");
            for page in self.pages_in(first, states[0].out) {
                self.adopt_page(page, next);
            }
            for page in self.pages_in(first, states[0].nominated) {
                self.note("is nominated", [page as u64, 0]);
                next.nominated(self.gfn(page));
                self.guest.borrow_mut().pages[page].is_left_nominated = true;
            }
            if self.is_killed_here() {
                return false;
            }
        }
        true
    }

    fn pages_in(&self, first: Gfn, set: GfnSet) -> impl Iterator<Item = usize> {
        let gfn = move |n: usize| Gfn::new_truncate(first.get() + n as u64);
        let pages = (0..64).filter(|n| set[*n]).map(|n| self.page(gfn(n)));
        let pages: Option<Vec<_>> = pages.collect();
        pages.expect("pages of the guest").into_iter()
    }

    fn adopt_page(&self, page: usize, next: &mut Adoption) {
        let gfn = self.gfn(page);
        let entry = self.index.borrow().get(gfn);
        let is_there = |entry: &Entry| match entry.location {
            Location::Slot(slot) => self.disk.borrow_mut().adopt(slot, entry.checksum),
            Location::Zeros => true,
        };
        let entry = entry.filter(is_there);
        let is_adopted = entry.is_some_and(|entry| next.out(gfn, entry.location));
        self.note("is out", [page as u64, is_adopted.into()]);
        if !is_adopted {
            next.lost(gfn);
            self.index.borrow_mut().clear(gfn);
        }
    }

    /// A page that is out is where the index says, whatever the pager is about to do.
    pub(super) fn check_entry(&self, page: usize) {
        let entry = self.index.borrow().get(self.gfn(page));
        let entry = entry.unwrap_or_else(|| panic!("page {page} is out and has no entry"));
        let found = match entry.location {
            Location::Slot(slot) => self.disk.borrow().with_checksum(slot, entry.checksum),
            Location::Zeros => Some(Page::ZERO),
        };
        let expected = self.guest.borrow().pages[page].contents;
        assert_eq!(found, expected, "page {page} is not where the index says");
    }

    /// If the host crashed now, a page that is out would read back from what is durable. Only a disk that
    /// lies leaves an error in its place.
    fn check_crash(&self) {
        let guest = self.guest.borrow();
        for (page, truth) in guest.pages.iter().enumerate() {
            let is_out = matches!(self.state(page), State::Paged | State::PagingInStart);
            let entry = self.index.borrow().get(self.gfn(page));
            let Some((entry, slot)) = entry
                .filter(|_| is_out)
                .and_then(|entry| Some((entry, entry.location.slot()?)))
            else {
                continue;
            };
            let disk = self.disk.borrow();
            let found = disk.after_a_crash(slot, entry.checksum);
            assert!(
                found == truth.contents || disk.is_corrupted(slot) && found.is_none(),
                "page {page} is {found:?} if the host crashes"
            );
        }
    }
}
