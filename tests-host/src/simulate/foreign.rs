// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everybody except the guest and its pager: back ends that map pages, the toolstack, other
//! domains, and somebody who calls the pager's operations at random.

use std::rc::Rc;

use p2m_paging::Mfn;
use p2m_paging::VcpuId;
use p2m_paging::fault::{MapDecision, Mapper, decide_map};
use p2m_paging::p2m::P2mType;
use p2m_paging::p2m::table::{Event, State};
use p2m_paging::paging::{Caller, PopulateError};
use p2m_paging::pause::VcpuPaused;

use super::event_queue::SimEvent;
use super::guest::vcpu_id;
use super::pager::News;
use super::scenario::Knob;
use super::world::{TICK_NS, World};
use crate::machine::{Page, Place};
use crate::plain::{Failures, RingPage};

/// How often a back end requests a page before it turns to another one.
const PATIENCE: u32 = 30;
/// Numbers of the back ends' own vcpus, which are not the guest's.
const DOM0_VCPU: u32 = 100;

/// What they have.
#[derive(Debug)]
pub(super) struct Foreign<'d> {
    mappers: Vec<Backend>,
    /// Frames of other domains.
    taken: Vec<Mfn>,
    /// Pauses by the toolstack.
    pub(super) pauses: Vec<VcpuPaused<'d>>,
    /// The last pager that was killed.
    pub(super) last_pager: u32,
    /// The page that contains the ring.
    pub(super) ring: Option<Rc<RingPage>>,
}

#[derive(Clone, Copy, Debug)]
enum Backend {
    Idle,
    Asks {
        page: usize,
        as_: Mapper,
        tries: u32,
    },
    Holds {
        page: usize,
        as_: Mapper,
        mfn: Mfn,
        life: u32,
    },
}

impl Foreign<'_> {
    pub(super) fn new(mappers: usize) -> Self {
        Self {
            mappers: vec![Backend::Idle; mappers],
            taken: Vec::new(),
            pauses: Vec::new(),
            last_pager: 0,
            ring: None,
        }
    }

    pub(super) fn holds(&self) -> impl Iterator<Item = Mfn> + '_ {
        self.mappers.iter().filter_map(|mapper| match mapper {
            Backend::Holds { mfn, .. } => Some(*mfn),
            _ => None,
        })
    }

    pub(super) fn frames(&self) -> usize {
        self.taken.len()
    }
}

impl World<'_> {
    pub(super) fn mapper_runs(&self, mapper: usize) {
        let state = self.foreign.borrow().mappers[mapper];
        let next = match state {
            Backend::Idle if self.quiesced.get() => return,
            Backend::Idle => Backend::Asks {
                page: self.below(self.pages()),
                as_: if self.chance(500) {
                    Mapper::Writer
                } else {
                    Mapper::Reader
                },
                tries: 0,
            },
            Backend::Asks { page, as_, tries } => self.map(mapper, page, as_, tries),
            Backend::Holds {
                page,
                as_,
                mfn,
                life,
            } => {
                self.dma(page, as_, mfn, life);
                self.machine().with(|core| core.frames.put_reference(mfn));
                self.note("unmap", [page as u64, mfn.get()]);
                Backend::Idle
            }
        };
        self.foreign.borrow_mut().mappers[mapper] = next;
        let what = SimEvent::Mapper(u8::try_from(mapper).expect("few mappers"));
        self.soon(
            if matches!(next, Backend::Idle) {
                150_000
            } else {
                50_000
            },
            what,
        );
    }

    fn map(&self, mapper: usize, page: usize, as_: Mapper, tries: u32) -> Backend {
        let gfn = self.gfn(page);
        let entry = self.machine().with(|core| core.tables.get(gfn));
        let decision = if entry.p2mt.is_pageable() {
            MapDecision::Map
        } else {
            decide_map(entry.p2mt, entry.mfn.is_some(), as_)
        };
        if tries >= PATIENCE || self.quiesced.get() {
            return Backend::Idle;
        }
        let again = Backend::Asks {
            page,
            as_,
            tries: tries + 1,
        };
        match (decision, entry.mfn) {
            (MapDecision::Map, Some(mfn)) => {
                self.machine().with(|core| core.frames.get_reference(mfn));
                self.note("map", [page as u64, mfn.get()]);
                let life = self.guest.borrow().pages[page].life;
                Backend::Holds {
                    page,
                    as_,
                    mfn,
                    life,
                }
            }
            (MapDecision::Populate, _) => {
                let vcpu = DOM0_VCPU + u32::try_from(mapper).expect("few mappers");
                let _ = self.foreign_populate(page, VcpuId(vcpu));
                again
            }
            _ => Backend::Idle,
        }
    }

    /// Requests a page from outside the guest.
    pub(super) fn foreign_populate(
        &self,
        page: usize,
        vcpu: VcpuId,
    ) -> Result<p2m_paging::paging::Populated, PopulateError> {
        let before = self.before(page, Event::ForeignPopulate);
        let armed = self.make_fail();
        let got = self.paging.populate(self.gfn(page), Caller::Foreign(vcpu));
        self.asked_from_outside(self.gfn(page));
        let failed = self.has_failed(armed);
        self.note("foreign populate", [page as u64, got.is_ok().into()]);
        let asked = !matches!(got, Err(PopulateError::NoRing | PopulateError::RingFull));
        self.hold_against_table(before, asked && !failed, None);
        got
    }

    /// Reads through a mapping, and writes, as a device does.
    fn dma(&self, page: usize, as_: Mapper, mfn: Mfn, life: u32) {
        let is_the_page = self.guest.borrow().pages[page].life == life
            && self.guest.borrow().pages[page].contents.is_some()
            && self
                .machine()
                .with(|core| core.frames.get(mfn).place == Place::Mapped(self.gfn(page)));
        if !is_the_page {
            return;
        }
        let is_write = as_ == Mapper::Writer;
        self.note(
            if is_write { "dma in" } else { "dma out" },
            [page as u64, mfn.get()],
        );
        let found = self.read_frame(page, mfn, "a back end");
        if is_write {
            // A write that no kernel has ordered must not change its memory.
            let contents = if self.has_kernel() {
                found
            } else {
                let version = self.guest.borrow().pages[page].version + 1;
                self.contents(self.gfn(page), version)
            };
            self.write_frame(page, mfn, contents);
            self.guest.borrow_mut().pages[page].is_logged = true;
        }
    }

    pub(super) fn toolstack_runs(&self) {
        if self.quiesced.get() {
            return;
        }
        match self.below(6) {
            0 | 1 => self.tell_pager(News::Target(self.below(self.pages() + 2) as i64 - 1)),
            2 => self.tell_resident(),
            3 => self.log_writes(),
            4 => {
                let vcpu = self.below(self.vcpus());
                let paused = self.paging.pause(vcpu_id(vcpu));
                self.foreign.borrow_mut().pauses.extend(paused);
            }
            _ => {
                self.undo_pause();
            }
        }
        let ticks = u64::from(self.scenario.get(Knob::Tools));
        self.soon(TICK_NS * ticks, SimEvent::Tools);
    }

    pub(super) fn tell_resident(&self) {
        let has_frame = |page: &usize| self.state(*page).has_frame();
        let pages = (0..self.pages()).filter(has_frame).count();
        self.tell_pager(News::Resident(pages as u64));
    }

    pub(super) fn undo_pause(&self) -> bool {
        let paused = self.foreign.borrow_mut().pauses.pop();
        let is_one = paused.is_some();
        paused
            .into_iter()
            .for_each(|paused| self.paging.unpause(paused));
        is_one
    }

    /// Begins to log the guest's writes, or ends it and checks that all were logged.
    fn log_writes(&self) {
        let on = !self.machine().with(|core| core.log_dirty);
        self.note("log writes", [on.into(), 0]);
        let (from, to) = if on {
            (P2mType::RamRw, P2mType::RamLogDirty)
        } else {
            (P2mType::RamLogDirty, P2mType::RamRw)
        };
        let guest = &mut *self.guest.borrow_mut();
        for (page, truth) in guest.pages.iter_mut().enumerate() {
            let gfn = self.gfn(page);
            let now = truth.contents.map(|_| (truth.version, truth.life));
            if on {
                truth.log_start = now;
                truth.is_logged = false;
            } else if let (Some((before, life)), Some((after, now_life))) = (truth.log_start, now) {
                let is_changed = before != after && life == now_life;
                assert!(
                    !is_changed || truth.is_logged,
                    "page {page} was written and not logged"
                );
            }
            self.machine().with(|core| {
                if core.tables.get(gfn).p2mt == from {
                    core.retype(gfn, to);
                }
            });
        }
        self.machine().with(|core| {
            core.log_dirty = on;
            core.flush_all();
        });
    }

    /// Other domains take free frames, or give them back.
    pub(super) fn others_run(&self) {
        let leave = self.below(3);
        let taken = &mut self.foreign.borrow_mut().taken;
        self.machine().with(|core| {
            if taken.is_empty() && !self.quiesced.get() {
                while core.frames.free_count() > leave {
                    taken.extend(core.frames.alloc(Place::Foreign));
                }
            } else {
                taken.drain(..).for_each(|mfn| core.frames.give_up(mfn));
            }
        });
        if !self.quiesced.get() {
            self.soon(TICK_NS * 2, SimEvent::Others);
        }
    }

    /// Calls that a pager may make at the wrong time. None may change what the guest sees. Calls
    /// that only the pager may make are left to it: an evict of a nominated page, contents for a
    /// page that is out or has an empty frame, a nomination while it has another page of that number in
    /// a batch.
    pub(super) fn rogue_toolstack_runs(&self) {
        if self.quiesced.get() {
            return;
        }
        self.alone(|| self.call_at_random());
        self.soon(60_000, SimEvent::Rogue);
    }

    fn call_at_random(&self) {
        let page = self.below(self.pages());
        let has_frame = self.state(page).has_frame();
        match self.below(6) {
            // Only the pager may nominate a page. If the page is restored between the pager's copy
            // and its evict, a second nomination would let that evict take it.
            0 | 1 if !self.state(page).p2mt().is_pageable() => {
                let _ = self.nominate_pages(&[page]);
            }
            2 if self.state(page) != State::PagingOut => {
                let _ = self.evict_pages(&[page]);
            }
            3 if !matches!(
                self.state(page),
                State::Paged | State::PagingInStart | State::PagingIn
            ) =>
            {
                let _ = self.prep_page(page, Some(Page::SCRUBBED));
            }
            4 if has_frame => {
                let _ = self.prep_page(page, None);
            }
            5 if has_frame => self.call_while_used(page),
            _ => {}
        }
    }

    /// A page is used while somebody tries to page it out.
    fn call_while_used(&self, page: usize) {
        let mfn = self.machine().with(|core| {
            let mfn = core.tables.get(self.gfn(page)).mfn;
            mfn.into_iter()
                .for_each(|mfn| core.frames.get_reference(mfn));
            mfn
        });
        let _ = self.nominate_pages(&[page]);
        let _ = self.evict_pages(&[page]);
        mfn.into_iter()
            .for_each(|mfn| self.machine().with(|core| core.frames.put_reference(mfn)));
    }

    /// The guest is destroyed, whatever is in flight.
    pub(super) fn destroy_guest(&self) {
        if self.quiesced.get() {
            return;
        }
        if self.are_busy(u64::from(u32::MAX)) {
            // It is destroyed only once its vcpus have stopped.
            return self.soon(5_000, SimEvent::Destroy);
        }
        self.note("destroy", [0, 0]);
        self.guest.borrow_mut().is_dead = true;
        let _ = self.paging.shut_down();
        self.tell_pager(News::Gone);
        self.machine().with(|core| {
            for page in 0..self.pages() {
                core.remove(self.gfn(page));
            }
            core.paged_pages = 0;
        });
        for truth in &mut self.guest.borrow_mut().pages {
            truth.contents = None;
        }
    }

    /// May let the next operation fail. Yields the value with which [`Self::has_failed`] compares.
    pub(super) fn make_fail(&self) -> Failures {
        let mut failures = Failures::default();
        if self.strikes(Knob::Fails) {
            let enomem = Some(p2m_paging::Errno::ENOMEM);
            match self.below(4) {
                0 => failures.set_type = enomem,
                1 => failures.take = enomem,
                2 => failures.install = enomem,
                _ => failures.alloc = Some(p2m_paging::platform::AllocError::NoMemory),
            }
        }
        self.machine().with(|core| core.failures = failures);
        failures
    }

    /// Whether the operation was made to fail; no later one is.
    pub(super) fn has_failed(&self, armed: Failures) -> bool {
        self.machine()
            .with(|core| std::mem::take(&mut core.failures) != armed)
    }
}
