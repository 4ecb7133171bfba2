// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest: vcpus that read, write and execute their pages, give some back and take others.

use p2m_paging::p2m::table::Event;
use p2m_paging::p2m::{Access, P2mType};
use p2m_paging::paging::{Caller, Count, DropError, PopulateError, Populated};
use p2m_paging::{Gfn, Mfn, VcpuId};
use pager_core::Location;

use super::event_queue::SimEvent;
use super::scenario::Knob;
use super::world::World;
use crate::machine::Page;

/// How many later vcpus may have their turn before a vcpu in the wait queue, beside those that keep
/// an earlier place: a request for its page may be on the ring behind theirs.
const MAY_OVERTAKE: usize = 3;
/// How often in a row a vcpu may be told that an access which faulted is allowed.
const MOST_RETRIES: u32 = 8;

/// The true state of the guest, independent of the machine.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) pages: Vec<PageTruth>,
    pub(super) vcpus: Vec<Vcpu>,
    pub(super) is_dead: bool,
    /// The longest time that a vcpu has waited for a page.
    pub(super) longest_wait_ns: u64,
    /// Accesses that succeeded.
    pub(super) accesses: u64,
    pub(super) faults: u64,
    tickets: u64,
}

/// A page as the guest knows it.
#[derive(Clone, Debug, Default)]
pub(super) struct PageTruth {
    /// Its contents; `None`: not the guest's memory now.
    pub(super) contents: Option<Page>,
    /// Counts up when the page is written, and never has a value twice.
    pub(super) version: u32,
    /// Counts up when the page becomes memory anew.
    pub(super) life: u32,
    /// The frame that it had when it was last evicted.
    pub(super) copy: Option<Location>,
    /// It was out when its pager was killed.
    pub(super) is_lost: bool,
    /// It was nominated when another pager took over.
    pub(super) is_left_nominated: bool,
    /// Written since log-dirty was begun, and logged.
    pub(super) is_logged: bool,
    /// Its contents when log-dirty was begun, and its life then.
    pub(super) log_start: Option<(u32, u32)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Vcpu {
    /// It is in the event queue.
    is_scheduled: bool,
    /// The access that it tries until it has succeeded.
    pub(super) wants: Option<Want>,
    waits_since: Option<u64>,
    /// Counts up from one wait to the next, over all vcpus.
    ticket: u64,
    /// The page for which it has a place in the wait queue, as far as is known. If that page
    /// becomes resident meanwhile, the vcpu keeps its place for the next one.
    place: Option<Gfn>,
    /// It is in the wait queue and nobody else requests its page. Only a limited number of later
    /// vcpus may still have their turn before it: [`MAY_OVERTAKE`], and those that had a place
    /// already.
    is_in_line: bool,
    may_overtake: usize,
    retries: u32,
    /// It gives a page back and is made to wait for a slot.
    pub(super) is_dropping: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Access(usize, Access),
    GiveBack(usize),
    Take(usize),
}

/// The result of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touched {
    /// It succeeds, with this frame.
    Frame(Mfn),
    /// It is to be tried again. If the vcpu was paused, it tries once it runs again.
    NotYet,
    /// Nobody will ever bring the page.
    Lost,
    /// There is no memory.
    NoMemory,
}

impl Guest {
    /// Pages that still need contents, and vcpus.
    pub(super) fn new(pages: usize, vcpus: usize) -> Self {
        Self {
            pages: vec![PageTruth::default(); pages],
            vcpus: vec![Vcpu::default(); vcpus],
            is_dead: false,
            longest_wait_ns: 0,
            accesses: 0,
            faults: 0,
            tickets: 0,
        }
    }
}

/// A vcpu by its index in the guest.
pub(super) fn vcpu_id(vcpu: usize) -> VcpuId {
    VcpuId(u32::try_from(vcpu).expect("few vcpus"))
}

impl World<'_> {
    /// A vcpu has something to do.
    pub(super) fn schedule_vcpu(&self, vcpu: usize, about_ns: u64) {
        if let Some(cpus) = &self.cpus {
            return self.wake_vcpu(cpus, vcpu, about_ns);
        }
        let scheduled = &mut self.guest.borrow_mut().vcpus[vcpu].is_scheduled;
        if !std::mem::replace(scheduled, true) {
            self.soon(
                about_ns,
                SimEvent::Vcpu(u8::try_from(vcpu).expect("few vcpus")),
            );
        }
    }

    pub(super) fn is_scheduled(&self, vcpu: usize) -> bool {
        if let Some(cpus) = &self.cpus {
            return cpus.is_scheduled(vcpu);
        }
        self.guest.borrow().vcpus[vcpu].is_scheduled
    }

    /// Its last pause was undone.
    pub(super) fn vcpu_let_go(&self, vcpu: usize) {
        self.note("let go", [vcpu as u64, 0]);
        if let Some(tasks) = self.tasks.get() {
            tasks.let_go(vcpu);
        }
        let now = self.now();
        {
            let guest = &mut *self.guest.borrow_mut();
            let vcpu = &mut guest.vcpus[vcpu];
            (vcpu.is_dropping, vcpu.is_in_line) = (false, false);
            if let Some(since) = vcpu.waits_since.take() {
                guest.longest_wait_ns = guest.longest_wait_ns.max(now - since);
            }
        }
        self.schedule_vcpu(vcpu, 2_000);
    }

    pub(super) fn vcpu_runs(&self, vcpu: usize) {
        self.guest.borrow_mut().vcpus[vcpu].is_scheduled = false;
        if self.guest.borrow().is_dead || self.machine().is_stopped(vcpu_id(vcpu)) {
            // The unpause schedules it.
            return;
        }
        let wants = self.guest.borrow().vcpus[vcpu].wants;
        let tasks = self.tasks.get();
        if let Some(tasks) = tasks
            && wants.is_none()
            && self.has_kernel()
        {
            return self.kernel_runs(tasks, vcpu);
        }
        let choose = || match tasks {
            Some(tasks) => self.program_wants(tasks, vcpu),
            None => self.choose(),
        };
        let Some(wants) = wants.or_else(choose) else {
            return;
        };
        self.guest.borrow_mut().vcpus[vcpu].wants = Some(wants);
        let done = match wants {
            Want::Access(page, access) => self.access(vcpu, page, access),
            Want::GiveBack(page) => self.give_back(vcpu, page),
            Want::Take(page) => self.take(page),
        };
        if done {
            let vcpu = &mut self.guest.borrow_mut().vcpus[vcpu];
            (vcpu.wants, vcpu.retries) = (None, 0);
        }
        if !self.machine().is_stopped(vcpu_id(vcpu)) {
            self.schedule_vcpu(vcpu, if done { 16_000 } else { 40_000 });
        }
    }

    fn choose(&self) -> Option<Want> {
        if self.quiesced.get() {
            return None;
        }
        let mut page = self.below(self.pages());
        if self.strikes(Knob::Balloon) {
            let is_there = self.guest.borrow().pages[page].contents.is_some();
            return Some(if is_there {
                Want::GiveBack(page)
            } else {
                Want::Take(page)
            });
        }
        if self.strikes(Knob::Hot) {
            page = self.below(2).min(self.pages() - 1);
        }
        let access = if self.chance(self.scenario.get(Knob::Writes)) {
            Access::READ | Access::WRITE
        } else if self.chance(200) {
            Access::FETCH
        } else {
            Access::READ
        };
        Some(Want::Access(page, access))
    }

    /// Whether it is over.
    fn access(&self, vcpu: usize, page: usize, access: Access) -> bool {
        match self.touch(vcpu, page, access) {
            Touched::Frame(mfn) => {
                let what = format!("v{vcpu} at page {page}");
                self.read_frame(page, mfn, &what);
                if access.contains(Access::WRITE) {
                    let version = self.guest.borrow().pages[page].version + 1;
                    self.write_frame(page, mfn, self.contents(self.gfn(page), version));
                }
                true
            }
            // The vcpu does something else once it is unpaused.
            Touched::Lost | Touched::NoMemory => true,
            Touched::NotYet => false,
        }
    }

    /// A vcpu accesses a page. A fault is handled.
    pub(super) fn touch(&self, vcpu: usize, page: usize, access: Access) -> Touched {
        let gfn = self.gfn(page);
        let is_write = access.contains(Access::WRITE);
        let event = if is_write {
            Event::GuestWrite
        } else {
            Event::GuestRead
        };
        let before = self.before(page, event);
        let touched = self
            .machine()
            .with(|core| core.touch(vcpu_id(vcpu), gfn, access));
        self.note(
            if is_write { "write" } else { "read" },
            [vcpu as u64, gfn.get()],
        );
        let fault = match touched {
            Ok(mfn) => {
                let guest = &mut *self.guest.borrow_mut();
                guest.accesses += 1;
                guest.vcpus[vcpu].retries = 0;
                self.hold_against_table(before, true, None);
                return Touched::Frame(mfn);
            }
            Err(fault) => fault,
        };
        let p2mt = self.machine().with(|core| core.tables.get(gfn).p2mt);
        if p2mt == P2mType::RamLogDirty && is_write {
            self.guest.borrow_mut().pages[page].is_logged = true;
            self.machine().with(|core| core.retype(gfn, P2mType::RamRw));
            return Touched::NotYet;
        }
        self.guest.borrow_mut().faults += 1;
        let (queued, happened) = (self.queued(), self.happened.get());
        let armed = self.make_fail();
        let got = self.paging.fault(vcpu_id(vcpu), gfn, fault.access());
        let failed = self.has_failed(armed);
        self.note(populated(&got), [vcpu as u64, gfn.get()]);
        let asked = !matches!(got, Err(PopulateError::NoRing | PopulateError::RingFull));
        self.hold_against_table(before, asked && !failed, None);
        let is_lost = self.is_lost(page);
        match got {
            Ok(Populated::Paused) => {
                let now = self.now();
                let is_stopped = self.machine().is_stopped(vcpu_id(vcpu));
                let guest = &mut *self.guest.borrow_mut();
                guest.tickets += 1;
                let place = (self.queued() > queued).then_some(gfn);
                // If others had their turn meanwhile, it is unknown which was first.
                let is_sure = self.happened.get() == happened;
                let may_overtake = guest
                    .vcpus
                    .iter()
                    .filter(|vcpu| vcpu.place.is_some())
                    .count();
                let vcpu = &mut guest.vcpus[vcpu];
                vcpu.ticket = if is_sure { guest.tickets } else { 0 };
                vcpu.is_in_line = is_sure && place.is_some() && vcpu.place.is_none();
                vcpu.may_overtake = may_overtake + MAY_OVERTAKE;
                vcpu.place = place.or(vcpu.place);
                vcpu.retries = 0;
                vcpu.waits_since = is_stopped.then_some(now);
                if is_lost {
                    Touched::Lost
                } else {
                    Touched::NotYet
                }
            }
            Ok(Populated::Present) => {
                let retries = &mut self.guest.borrow_mut().vcpus[vcpu].retries;
                *retries += 1;
                assert!(
                    *retries <= MOST_RETRIES,
                    "v{vcpu} is told again and again that it may access page {page}"
                );
                Touched::NotYet
            }
            // The access is emulated, as where there is no memory.
            Ok(Populated::NotPaging) if self.guest.borrow().pages[page].contents.is_none() => {
                Touched::NoMemory
            }
            Ok(Populated::NotPaging | Populated::InFlight) | Err(_) => Touched::NotYet,
        }
    }

    fn queued(&self) -> u64 {
        self.paging.counters().get(Count::Queued)
    }

    /// The pager sees a request, the last of those in `asked`, which it has not answered. No vcpu
    /// is in the wait queue for one of these pages. If a vcpu made the request, it has overtaken
    /// the vcpus in the queue that came before. (Garbage responses make pages count as requested
    /// that are not.)
    pub(super) fn has_its_turn(&self, asked: &[Gfn], vcpu: Option<VcpuId>) {
        if self.scenario.get(Knob::Hostile) > 0 {
            return;
        }
        let guest = &mut *self.guest.borrow_mut();
        let ticket = vcpu.map_or(0, |vcpu| {
            let vcpu = &mut guest.vcpus[vcpu.index()];
            vcpu.place = vcpu.place.filter(|gfn| asked.last() != Some(gfn));
            vcpu.ticket
        });
        for (n, other) in guest.vcpus.iter_mut().enumerate() {
            let waits = self.waits_for(n);
            other.is_in_line &= waits.is_some_and(|gfn| !asked.contains(&gfn));
            if other.is_in_line && other.ticket < ticket {
                let left = other.may_overtake.checked_sub(1);
                other.may_overtake =
                    left.unwrap_or_else(|| panic!("v{n} stands in line and is passed"));
            }
        }
    }

    /// Somebody else has requested a page: a vcpu in the wait queue need not make a request for it
    /// any more.
    pub(super) fn asked_from_outside(&self, gfn: Gfn) {
        for (n, vcpu) in self.guest.borrow_mut().vcpus.iter_mut().enumerate() {
            vcpu.is_in_line &= self.waits_for(n) != Some(gfn);
        }
    }

    /// Somebody reads a frame and expects this page.
    pub(super) fn read_frame(&self, page: usize, mfn: Mfn, who: &str) -> Page {
        let expected = self.guest.borrow().pages[page].contents;
        let found = self.machine().with(|core| core.frames.get(mfn).contents);
        assert_eq!(Some(found), expected, "{who} finds other contents");
        found
    }

    /// Somebody writes a frame and expects this page.
    pub(super) fn write_frame(&self, page: usize, mfn: Mfn, contents: Page) {
        let truth = &mut self.guest.borrow_mut().pages[page];
        truth.version += 1;
        truth.contents = Some(contents);
        self.machine()
            .with(|core| core.frames.get_mut(mfn).contents = contents);
    }

    /// The balloon is inflated by a page.
    pub(super) fn give_back(&self, vcpu: usize, page: usize) -> bool {
        let caller = Caller::Guest(vcpu_id(vcpu));
        let done = self.drop_page(page, caller);
        if self.machine().is_stopped(vcpu_id(vcpu)) {
            self.guest.borrow_mut().vcpus[vcpu].is_dropping = true;
        }
        done
    }

    /// A page is taken from the guest, by itself or from outside. Yields whether it is done.
    pub(super) fn drop_page(&self, page: usize, caller: Caller) -> bool {
        let gfn = self.gfn(page);
        let life = self.guest.borrow().pages[page].life;
        let entry = self.machine().with(|core| core.tables.get(gfn));
        if entry.p2mt.is_pageable() {
            self.note("give back", [page as u64, 0]);
            self.guest.borrow_mut().pages[page].contents = None;
            self.machine().with(|core| core.remove(gfn));
            return true;
        }
        let before = self.before(page, Event::Drop);
        let armed = self.make_fail();
        let got = self.paging.drop_page(gfn, caller);
        let failed = self.has_failed(armed);
        self.note(
            if got.is_ok() { "drop" } else { "no drop" },
            [page as u64, 0],
        );
        let told = !matches!(got, Err(DropError::RingFull | DropError::NoRing));
        self.hold_against_table(before, told && !failed, Some(got.is_err()));
        let truth = &mut self.guest.borrow_mut().pages[page];
        match got {
            Ok(()) if truth.life == life => {
                truth.contents = None;
                true
            }
            Ok(()) => true,
            Err(DropError::NotPaging(P2mType::Invalid)) => true,
            Err(_) => false,
        }
    }

    /// The balloon is deflated by a page, if there is memory.
    pub(super) fn take(&self, page: usize) -> bool {
        if self.state(page) != p2m_paging::p2m::table::State::Invalid
            || self.machine().with(|core| core.frames.free_count()) == 0
        {
            return true;
        }
        let gfn = self.gfn(page);
        let truth = &mut self.guest.borrow_mut().pages[page];
        let life = truth.life + 1;
        let contents = self.contents(gfn, life << 16);
        *truth = PageTruth {
            contents: Some(contents),
            version: life << 16,
            life,
            ..PageTruth::default()
        };
        self.machine().with(|core| core.give(gfn, contents))
    }

    /// Whether the page's only copy is lost for good.
    pub(super) fn is_lost(&self, page: usize) -> bool {
        let truth = &self.guest.borrow().pages[page];
        let corrupted = |slot| self.disk.borrow().is_corrupted(slot);
        truth.is_lost || truth.copy.and_then(Location::slot).is_some_and(corrupted)
    }

    /// Another pager has taken over: who waits is asked for anew, and may have another place.
    pub(super) fn take_places_anew(&self) {
        for vcpu in &mut self.guest.borrow_mut().vcpus {
            (vcpu.place, vcpu.is_in_line) = (None, false);
        }
    }

    /// The page that a vcpu waits for.
    pub(super) fn waits_for(&self, vcpu: usize) -> Option<Gfn> {
        self.paging.vcpus().waits_for(vcpu_id(vcpu))
    }
}

fn populated(got: &Result<Populated, PopulateError>) -> &'static str {
    match got {
        Ok(Populated::NotPaging) => "fault: not paging",
        Ok(Populated::Present) => "fault: present",
        Ok(Populated::Paused) => "fault: waits",
        Ok(Populated::InFlight) => "fault: on its way",
        Err(PopulateError::NoRing) => "fault: no ring",
        Err(PopulateError::RingFull) => "fault: ring full",
        Err(_) => "fault: failed",
    }
}
