// SPDX-License-Identifier: MIT OR Apache-2.0
//! The platform of the model: frames with contents, a p2m, translations that CPUs remember.
//!
//! It has no heap memory and no counter that only grows, so that a repeated state is recognised. A
//! breach of the platform's rules is recorded and does not panic: the search then prints the way to
//! it.

use std::cell::{Cell, RefCell};

use p2m_paging::p2m::{P2mType, Permit};
use p2m_paging::platform::{
    AllocError, Contents, Entry, FrameUsers, InvariantViolation, Leak, P2m, Platform,
    TakeCondition, TakeError,
};
use p2m_paging::{Errno, Gfn, Mfn, VcpuId};

use crate::config::{Config, Defect};
use crate::fiber::pause;
use crate::lock::RingLock;

pub(crate) const MOST_GFNS: usize = 3;
pub(crate) const VCPUS: usize = 2;
/// Pages behind the guest's own, whose requests occupy slots.
pub(crate) const IDLE_GFNS: usize = 8;
pub(crate) const FRAMES: usize = MOST_GFNS;

/// The contents of a free frame.
const SCRUBBED: u8 = 0;

/// The contents of page `gfn` after an even or odd number of writes.
pub(crate) fn contents(gfn: usize, odd: bool) -> u8 {
    u8::try_from(2 * gfn + 2).expect("few pages") + u8::from(odd)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Free,
    /// Allocated, not installed yet.
    Fresh,
    Mapped(u8),
    /// Taken out, and not freed yet.
    Taken,
    /// Given up by the domain; somebody else still uses it.
    Lingering,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FrameRecord {
    pub(crate) contents: u8,
    pub(crate) references: u8,
    pub(crate) place: Place,
}

/// A translation that a CPU remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Translation {
    pub(crate) frame: u8,
    pub(crate) writable: bool,
}

/// Everything that the p2m lock protects, and the state of the vcpus' CPUs.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Core {
    pub(crate) entries: [(P2mType, Option<u8>); MOST_GFNS + IDLE_GFNS],
    pub(crate) frames: [FrameRecord; FRAMES],
    pub(crate) tlb: [[Option<Translation>; MOST_GFNS]; VCPUS],
    /// Pauses minus unpauses.
    pub(crate) stopped: [i8; VCPUS],
    pub(crate) paged_pages: i8,
    owed: bool,
    locked: bool,
    /// The pager has been sent an event.
    pub(crate) notified: bool,
    /// Some CPU is to take the pager's event.
    pub(crate) deferred: bool,
}

pub(crate) struct Machine {
    pub(crate) core: RefCell<Core>,
    pub(crate) breach: Cell<Option<&'static str>>,
    config: Config,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Machine")
    }
}

/// A frame that is in no p2m entry. If it is dropped, it is free at once.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    machine: &'a Machine,
    frame: u8,
}

impl Frame<'_> {
    fn into_number(self) -> u8 {
        let frame = self.frame;
        std::mem::forget(self);
        frame
    }
}

impl Drop for Frame<'_> {
    fn drop(&mut self) {
        self.machine.put(self.frame);
    }
}

/// It stays where it is, and nobody can reach it: the checks report it as lost.
impl Leak for Frame<'_> {}

fn mfn(frame: u8) -> Mfn {
    Mfn::try_new(frame.into()).expect("a small number")
}

fn index(mfn: Mfn) -> usize {
    usize::try_from(mfn.get()).expect("a frame of this machine")
}

fn number(index: usize) -> u8 {
    u8::try_from(index).expect("a small machine")
}

impl Machine {
    pub(crate) fn new(config: Config) -> Self {
        let absent = FrameRecord {
            contents: SCRUBBED,
            references: 0,
            place: Place::Free,
        };
        let mut core = Core {
            entries: [(P2mType::Invalid, None); MOST_GFNS + IDLE_GFNS],
            frames: [absent; FRAMES],
            tlb: [[None; MOST_GFNS]; VCPUS],
            stopped: [0; VCPUS],
            paged_pages: IDLE_GFNS as i8,
            owed: false,
            locked: false,
            notified: false,
            deferred: false,
        };
        for gfn in 0..config.gfns {
            core.entries[gfn] = (P2mType::RamRw, Some(number(gfn)));
            core.frames[gfn] = FrameRecord {
                contents: contents(gfn, false),
                references: 1,
                place: Place::Mapped(number(gfn)),
            };
        }
        core.entries[MOST_GFNS..].fill((P2mType::RamPaged, None));
        Self {
            core: RefCell::new(core),
            breach: Cell::new(None),
            config,
        }
    }

    /// All CPUs forget the translations that they remember.
    fn flush(&self) {
        let mut core = self.core.borrow_mut();
        core.owed = false;
        if self.config.defect == Some(Defect::FlushLost) {
            return;
        }
        core.tlb = [[None; MOST_GFNS]; VCPUS];
    }

    /// Records a breach; the first one counts.
    pub(crate) fn breach(&self, what: &'static str) {
        if self.breach.get().is_none() {
            self.breach.set(Some(what));
        }
    }

    pub(crate) fn require(&self, holds: bool, otherwise: &'static str) {
        if !holds {
            self.breach(otherwise);
        }
    }

    /// No lock is held while others run.
    fn turn(&self) {
        self.require(!self.core.borrow().locked, "others wait for the p2m lock");
        pause();
    }

    /// One user less; the last one frees it.
    pub(crate) fn put(&self, frame: u8) {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let record = &mut core.frames[usize::from(frame)];
        record.references = record.references.saturating_sub(1);
        if record.references > 0 {
            if !matches!(record.place, Place::Mapped(_)) {
                record.place = Place::Lingering;
            }
            return;
        }
        let remembered = core.tlb.iter().flatten().flatten();
        let reachable = remembered.clone().any(|t| t.frame == frame);
        *record = FrameRecord {
            contents: SCRUBBED,
            references: 0,
            place: Place::Free,
        };
        if reachable {
            self.breach("a frame is freed that a CPU can still reach");
        }
    }

    /// A free frame, with these contents.
    pub(crate) fn take_free(&self, contents: u8, place: Place) -> Option<u8> {
        let mut core = self.core.borrow_mut();
        let free = core.frames.iter().take(self.config.gfns);
        let free = free.clone().position(|f| f.place == Place::Free)?;
        core.frames[free] = FrameRecord {
            contents,
            references: 1,
            place,
        };
        Some(number(free))
    }
}

impl Platform for Machine {
    type P2m<'a> = Locked<'a>;
    type Buffer = u8;
    type RingLock = RingLock;
    /// Few, so that more responses than this occur within a bound that can be explored.
    const EVENT_RESPONSES: u32 = 2;

    fn lock_p2m(&self) -> Locked<'_> {
        self.turn();
        self.core.borrow_mut().locked = true;
        Locked(self)
    }

    fn pause_vcpu(&self, vcpu: VcpuId) {
        self.core.borrow_mut().stopped[vcpu.index()] += 1;
    }

    fn vcpu_resumes(&self, vcpu: VcpuId, _gfn: Gfn) {
        let stopped = self.core.borrow().stopped[vcpu.index()] > 0;
        self.require(stopped, "a vcpu runs before its wait is over");
    }

    fn unpause_vcpu(&self, vcpu: VcpuId) {
        self.turn();
        let mut core = self.core.borrow_mut();
        core.stopped[vcpu.index()] -= 1;
        self.require(core.stopped[vcpu.index()] >= 0, "unpaused without a pause");
    }

    fn notify_pager(&self) {
        self.turn();
        self.core.borrow_mut().notified = true;
    }

    fn defer_event(&self) {
        self.turn();
        if self.config.defect != Some(Defect::EventLost) {
            self.core.borrow_mut().deferred = true;
        }
    }

    fn invariant_violated(&self, _what: InvariantViolation) {
        self.breach("the crate finds an invariant of its own broken");
    }
}

/// The locked p2m.
pub(crate) struct Locked<'a>(&'a Machine);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.0.core.borrow_mut().locked = false;
        // Unlocking does the owed flush.
        if self.0.core.borrow().owed {
            self.0.flush();
        }
        if self.0.config.fine {
            pause();
        }
    }
}

impl Locked<'_> {
    pub(crate) fn entry(&self, gfn: usize) -> (P2mType, Option<u8>) {
        self.0.core.borrow().entries[gfn]
    }

    /// The guest gives ordinary memory back.
    pub(crate) fn remove_ram(&mut self, gfn: usize) {
        let entry = self.entry(gfn);
        if let (P2mType::RamRw, Some(frame)) = entry {
            self.0.core.borrow_mut().entries[gfn] = (P2mType::Invalid, None);
            self.flush();
            self.0.core.borrow_mut().frames[usize::from(frame)].place = Place::Lingering;
            self.0.put(frame);
        }
    }
}

fn place_of(gfn: Gfn) -> usize {
    usize::try_from(gfn.get()).expect("a gfn of this machine")
}

impl<'a> P2m for Locked<'a> {
    type Frame = Frame<'a>;
    type Buffer = u8;

    fn get(&self, gfn: Gfn) -> Entry {
        let core = self.0.core.borrow();
        let entry = core.entries.get(place_of(gfn)).copied();
        let (p2mt, frame) = entry.unwrap_or((P2mType::Invalid, None));
        Entry {
            p2mt,
            mfn: frame.map(mfn),
        }
    }

    fn users(&self, mfn: Mfn) -> FrameUsers {
        FrameUsers {
            mmio: false,
            references: self.0.core.borrow().frames[index(mfn)].references.into(),
            typed: 0,
        }
    }

    fn set_type(&mut self, _permit: Permit, gfn: Gfn, to: P2mType) -> Result<(), Errno> {
        let mut core = self.0.core.borrow_mut();
        let entry = &mut core.entries[place_of(gfn)];
        let less = entry.0.is_pageable();
        entry.0 = to;
        core.owed |= less;
        Ok(())
    }

    fn take(
        &mut self,
        _permit: Permit,
        gfn: Gfn,
        mfn: Mfn,
        to: P2mType,
        condition: TakeCondition,
    ) -> Result<Frame<'a>, TakeError> {
        let references = self.users(mfn).references;
        if condition == TakeCondition::SoleOwner && references > 1 {
            return Err(TakeError::InUse {
                references,
                typed: 0,
            });
        }
        let mut core = self.0.core.borrow_mut();
        core.entries[place_of(gfn)] = (to, None);
        core.frames[index(mfn)].place = Place::Taken;
        core.owed = true;
        Ok(Frame {
            machine: self.0,
            frame: number(index(mfn)),
        })
    }

    fn alloc(&mut self, contents: Contents<'_, u8>) -> Result<Frame<'a>, AllocError> {
        let contents = match contents {
            Contents::Zero => SCRUBBED,
            Contents::From(contents) => *contents,
        };
        let frame = self.0.take_free(contents, Place::Fresh);
        let frame = frame.ok_or(AllocError::NoMemory)?;
        Ok(Frame {
            machine: self.0,
            frame,
        })
    }

    fn install(
        &mut self,
        _permit: Permit,
        gfn: Gfn,
        frame: Frame<'a>,
        to: P2mType,
    ) -> Result<Mfn, Errno> {
        let frame = frame.into_number();
        let mut core = self.0.core.borrow_mut();
        let free = core.entries[place_of(gfn)].1.is_none();
        self.0.require(free, "a gfn gets a second frame");
        core.entries[place_of(gfn)] = (to, Some(frame));
        core.frames[usize::from(frame)].place = Place::Mapped(number(place_of(gfn)));
        Ok(mfn(frame))
    }

    fn restore_m2p(&mut self, _mfn: Mfn, _gfn: Gfn) {}

    fn resident_type(&self) -> P2mType {
        P2mType::RamRw
    }

    fn flush(&mut self) {
        self.0.flush();
    }

    fn free(&mut self, frames: impl Iterator<Item = Frame<'a>>) {
        frames.for_each(drop);
    }

    fn count_out(&mut self) {
        self.0.core.borrow_mut().paged_pages += 1;
    }

    fn count_in(&mut self) {
        self.0.core.borrow_mut().paged_pages -= 1;
    }
}
