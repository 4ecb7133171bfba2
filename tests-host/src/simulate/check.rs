// SPDX-License-Identifier: MIT OR Apache-2.0
//! The properties that must hold after every event, and after all is quiesced.

use p2m_paging::p2m::table::State;
use p2m_paging::platform::Entry;
use p2m_paging::{P2mType, VcpuId};
use pager_core::Location;

use super::guest::{Want, vcpu_id};
use super::pager::News;
use super::picture::{Lane, Look};
use super::scenario::Knob;
use super::world::{TICK_NS, World};
use crate::machine::{Page, Place};

/// Schedulers are checked once in this many events.
const SCHEDULER_CHECK: u64 = 16;
/// Ticks within which all must have quiesced.
const PATIENCE_TICKS: u64 = 400;
/// The memory of processes is checked once in this many events.
const KERNEL_CHECK: u64 = 16;

impl World<'_> {
    /// Panics at the first breach.
    pub(super) fn check(&self) {
        self.check_frames();
        for page in 0..self.pages() {
            self.check_page(page);
        }
        for vcpu in 0..self.vcpus() {
            self.check_vcpu(vcpu);
        }
        self.check_schedulers();
        self.check_page_tables();
        if self.happened.get().is_multiple_of(KERNEL_CHECK) {
            self.check_processes();
        }
        if let Some((pushed, taken)) = self.ring_counts()
            && self.paging.is_enabled()
        {
            let outstanding = u64::from(pushed) - taken;
            let held = u64::from(self.paging.slots_in_use());
            assert_eq!(held, outstanding, "slots held and requests outstanding");
        }
        if self.quiesced.get() {
            return;
        }
        self.trace.look(|| Look {
            at_ns: self.now(),
            pages: (0..self.pages()).map(|page| self.state(page)).collect(),
            vcpus: (0..self.vcpus())
                .map(|vcpu| Lane {
                    task: self.tasks.get().and_then(|tasks| tasks.running(vcpu)),
                    is_stopped: self.machine().is_stopped(vcpu_id(vcpu)),
                })
                .collect(),
            held: self.paging.slots_in_use(),
        });
    }

    /// Every frame has one place, every use has a user, and the count of pages that are out is
    /// right.
    fn check_frames(&self) {
        self.machine().with(|core| {
            let foreign = core.frames.check();
            assert_eq!(
                foreign,
                self.foreign.borrow().frames(),
                "frames of other domains"
            );
            let mapped =
                |frame: &&crate::machine::FrameRecord| matches!(frame.place, Place::Mapped(_));
            let entries: Vec<_> = (0..self.pages())
                .map(|page| core.tables.get(self.gfn(page)))
                .collect();
            let with_frame = entries.iter().filter(|entry| entry.mfn.is_some());
            assert_eq!(
                core.frames.iter().filter(mapped).count(),
                with_frame.count()
            );
            let is_out = |entry: &&Entry| {
                let out = matches!(entry.p2mt, P2mType::RamPaged | P2mType::RamPagingInStart);
                out && entry.mfn.is_none()
            };
            let out = entries.iter().filter(is_out).count();
            assert_eq!(i64::try_from(out), Ok(core.paged_pages), "paged_pages");
            let references: u32 = core.frames.iter().map(|frame| frame.references).sum();
            let allocations = core
                .frames
                .iter()
                .filter(|frame| !matches!(frame.place, Place::Free | Place::Lingering));
            let pager = self.pager.borrow();
            let saving = pager
                .iter()
                .flat_map(|process| process.running.iter().flatten());
            let saving: usize = saving.map(|running| running.mapped.len()).sum();
            let users = self.foreign.borrow().holds().count() + self.block_holds() + saving;
            assert_eq!(
                references as usize,
                allocations.count() + users,
                "references"
            );
        });
    }

    /// The page's contents are in exactly one trusted place.
    fn check_page(&self, page: usize) {
        let gfn = self.gfn(page);
        let (entry, contents, m2p) = self.machine().with(|core| {
            let entry = core.tables.get(gfn);
            let frame = entry.mfn.map(|mfn| core.frames.get(mfn));
            if let Some(frame) = frame {
                assert_eq!(
                    frame.place,
                    Place::Mapped(gfn),
                    "page {page} and its frame disagree"
                );
            }
            (
                entry,
                frame.map(|frame| frame.contents),
                frame.and_then(|frame| frame.m2p),
            )
        });
        let truth = self.guest.borrow().pages[page].clone();
        let expected = truth.contents;
        let state = State::of(entry.p2mt).expect("a state of paging's");
        match state {
            State::Invalid => assert_eq!(expected, None, "page {page} is gone"),
            State::Paged | State::PagingInStart => {
                if self.is_lost(page) {
                    return;
                }
                if self.has_index() {
                    return self.check_entry(page);
                }
                let copy = truth.copy.and_then(|home| match home {
                    Location::Slot(slot) => self.disk.borrow().trusted(slot),
                    Location::Zeros => Some(Page::ZERO),
                });
                assert_eq!(copy, expected, "page {page} has another copy");
            }
            State::PagingIn if contents == Some(Page::ZERO) => {}
            _ => assert_eq!(contents, expected, "page {page} has other contents"),
        }
        if entry.p2mt.is_pageable() {
            assert_eq!(m2p, Some(gfn), "page {page} is home without its m2p entry");
        }
    }

    /// A vcpu is paused for known reasons only, and each reason will end.
    fn check_vcpu(&self, vcpu: usize) {
        let id = vcpu_id(vcpu);
        let vcpus = self.paging.vcpus();
        let is_stopped = self.machine().is_stopped(id);
        let own = self.foreign.borrow();
        let own = own
            .pauses
            .iter()
            .filter(|paused| paused.vcpu() == id)
            .count();
        let waits = vcpus.waits_for(id);
        let dropping = self.guest.borrow().vcpus[vcpu].is_dropping
            && vcpus.pauses(id) as usize > own + usize::from(waits.is_some());
        let reasons = own + usize::from(waits.is_some()) + usize::from(dropping);
        assert_eq!(
            vcpus.pauses(id) as usize,
            reasons,
            "{id:?}: pauses and reasons"
        );
        assert_eq!(is_stopped, reasons > 0, "{id:?} is stopped: {is_stopped}");
        if let Some(page) = waits.and_then(|gfn| self.page(gfn)) {
            let comes = matches!(self.state(page), State::PagingInStart | State::PagingIn);
            assert!(comes, "{id:?} waits for page {page}, which is not coming");
        }
        // A vcpu that has halted runs when one of its tasks can run.
        let idle = self.quiesced.get() || self.guest.borrow().is_dead || self.tasks.get().is_some();
        assert!(
            is_stopped || idle || self.is_scheduled(vcpu),
            "{id:?} is neither stopped nor run"
        );
    }

    /// Every task that can run is in exactly one place, and does not wait too long.
    fn check_schedulers(&self) {
        let is_whole = self.happened.get().is_multiple_of(SCHEDULER_CHECK);
        if let Some(cpus) = &self.cpus
            && !self.guest.borrow().is_dead
        {
            cpus.check(|vcpu| self.machine().is_stopped(vcpu_id(vcpu)), is_whole);
        }
        if let Some(tasks) = self.tasks.get() {
            if is_whole {
                tasks.check();
            }
            self.check_halted(tasks);
        }
    }

    /// Events happen until this holds.
    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        self.until_within(PATIENCE_TICKS, what, holds);
    }

    pub(super) fn until_within(&self, ticks: u64, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = self.now() + ticks * TICK_NS;
        while !holds(self) {
            assert!(
                self.now() < end,
                "{what}: not within {ticks} ticks; {}",
                self.who_waits()
            );
            self.go();
            self.check();
        }
    }

    fn who_waits(&self) -> String {
        let waiting = |vcpu: &usize| self.guest.borrow().vcpus[*vcpu].wants.is_some();
        let mut text = String::new();
        for vcpu in (0..self.vcpus()).filter(waiting) {
            let wants = self.guest.borrow().vcpus[vcpu].wants;
            text += &format!(
                "v{vcpu} wants {wants:?}, waits for {:?}; ",
                self.waits_for(vcpu)
            );
        }
        for page in 0..self.pages() {
            let pager = self.pager.borrow();
            let believed = pager
                .as_ref()
                .and_then(|process| process.core.location_of(self.gfn(page)));
            text += &format!(
                "\npage {page} is {:?}, the pager's copy in {believed:?}",
                self.state(page)
            );
        }
        let held = self.paging.slots_in_use();
        let pager = self.pager.borrow();
        let pager = pager.as_ref().map(|process| process.core.progress());
        text + &format!("\n{held} slots held, pager {pager:?}")
    }

    /// Injected faults end. Everybody gets the page that they wait for, all pages become resident,
    /// and the guest finds every page as it left it.
    pub(super) fn quiesce(&self) {
        self.quiesced.set(true);
        self.note("quiesced", [0, 0]);
        self.disk.borrow_mut().faulty = false;
        self.others_run();
        while self.undo_pause() {}
        if self.guest.borrow().is_dead {
            return self.clear_destroyed_guest();
        }
        if let (Some(programs), Some(tasks)) = (&self.programs, self.tasks.get()) {
            programs.rest(tasks);
            self.wake_halted(tasks);
            self.until("the tasks end", |_| programs.are_over(tasks));
        }
        self.processes_rest();
        self.until("the vcpus get what they want", |world| {
            let guest = world.guest.borrow();
            let wanting = guest.vcpus.iter().any(|vcpu| vcpu.wants.is_some());
            let is_over = !wanting && !world.anybody_stopped() && world.is_kernel_at_rest();
            world.pager.borrow().is_some() && is_over
        });
        self.until("back ends let go", |world| {
            world.foreign.borrow().holds().next().is_none() && world.block_holds() == 0
        });
        self.everything_goes_out();
        self.processes_read_all();
        self.everything_comes_home();
        // Remembered translations would let it read a page that is not resident.
        self.machine().with(crate::machine::Core::flush_all);
        for page in 0..self.pages() {
            self.read_quiesced(page);
        }
        self.until("the ring is drained", |world| {
            world.paging.slots_in_use() == 0
        });
        self.check_home();
    }

    /// A target of 0 pages is reached, except for the pages that the policy spares.
    fn everything_goes_out(&self) {
        let told = std::cell::Cell::new(0);
        self.until("everything goes out", |world| {
            if world.now() >= told.get() {
                told.set(world.now() + 10 * TICK_NS);
                world.tell_resident();
                world.tell_pager(News::Target(0));
            }
            let is_home = |page: &usize| world.state(*page).p2mt().is_pageable();
            let resident = (0..world.pages()).filter(is_home).count();
            resident <= world.scenario.get(Knob::Mru) as usize
        });
    }

    /// The pager is told to stop, and so is one that takes over meanwhile.
    fn everything_comes_home(&self) {
        let told = std::cell::Cell::new(None);
        self.until("the pager brings everything home", |world| {
            let (id, is_finished) = match &*world.pager.borrow() {
                Some(process) => (process.id, process.finished.is_some()),
                None => return false,
            };
            if told.replace(Some(id)) != Some(id) {
                world.tell_pager(News::Stop);
            }
            is_finished
        });
    }

    pub(super) fn anybody_stopped(&self) -> bool {
        (0..self.vcpus()).any(|vcpu| self.machine().is_stopped(vcpu_id(vcpu)))
    }

    fn read_quiesced(&self, page: usize) {
        let there = self.guest.borrow().pages[page].contents.is_some();
        if !there || self.is_lost(page) {
            return;
        }
        let read = Want::Access(page, p2m_paging::p2m::Access::READ);
        self.guest.borrow_mut().vcpus[0].wants = Some(read);
        self.schedule_vcpu(0, 1_000);
        self.until("a page is read at last", |world| {
            world.guest.borrow().vcpus[0].wants.is_none()
        });
    }

    /// Everything is where it must be at the end.
    fn check_home(&self) {
        for page in 0..self.pages() {
            let state = self.state(page);
            let fine = match state {
                State::RamRw | State::RamLogDirty | State::Invalid => true,
                // Somebody nominated it and then died, failed, or was not allowed to.
                State::PagingOut => {
                    let knobs = [Knob::Kills, Knob::Rogue, Knob::Fails, Knob::Hostile];
                    knobs.iter().any(|knob| self.scenario.get(*knob) > 0)
                }
                _ => self.is_lost(page),
            };
            assert!(fine, "page {page} is left as {state:?}");
        }
        let pager = self.pager.borrow();
        let process = pager.as_ref().expect("a pager when quiesced");
        let lost = (0..self.pages()).filter(|page| self.is_lost(*page)).count() as u64;
        let taken = process.core.slots_taken();
        let progress = process.core.progress();
        let copies = progress.copies;
        // A pager that attached while pages were out cannot find out that a page was given back, if the
        // page does not read back.
        let is_first = self.scenario.get(Knob::Kills) == 0 && self.deaths.borrow().take_overs == 0;
        let maybe_gone = if is_first {
            0
        } else {
            progress.unreadable_pages
        };
        if self.has_index() {
            let held = self.disk.borrow().held() as u64;
            assert!(held <= taken, "{held} slots hold a page, {taken} are taken");
        }
        assert!(
            taken <= lost + copies + maybe_gone,
            "{taken} slots are taken with {lost} pages lost and {copies} copies kept"
        );
        for vcpu in 0..self.vcpus() {
            let id = VcpuId(u32::try_from(vcpu).expect("few vcpus"));
            assert_eq!(
                self.paging.vcpus().pauses(id),
                0,
                "{id:?} is paused when quiesced"
            );
        }
    }

    /// A guest that was destroyed leaves nothing behind.
    fn clear_destroyed_guest(&self) {
        self.until("the pager ends", |world| match &*world.pager.borrow() {
            Some(process) => process.finished.is_some(),
            None => true,
        });
        self.until("back ends let go", |world| {
            world.foreign.borrow().holds().next().is_none() && world.block_holds() == 0
        });
        if let Some(process) = &*self.pager.borrow() {
            let alive = process.finished.is_some_and(|summary| summary.domain_alive);
            assert!(!alive, "the pager takes the guest to be alive");
        }
        self.machine().with(|core| {
            let all = core.frames.iter().count();
            assert_eq!(core.frames.free_count(), all, "frames are left behind");
        });
        assert!(!self.anybody_stopped(), "a vcpu of a dead guest is stopped");
    }
}
