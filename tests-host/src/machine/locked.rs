// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's p2m as the crate sees it: locked.

use std::cell::RefMut;
use std::ops::{Deref, DerefMut};

use p2m_paging::p2m::{AccessBits, ClearBits, Cleared, P2mType, Permit};
use p2m_paging::platform::{
    AllocError, Contents, Entry, FrameUsers, P2m, TakeCondition, TakeError,
};
use p2m_paging::{Errno, Gfn, Mfn};

use super::{Buffer, Core, Machine, Page, Place};
use crate::plain::{Frame, p2m_locking, p2m_unlocked};

/// The locked p2m. When it is unlocked, other CPUs can run.
pub struct Locked<'a, 'd> {
    /// `None` while it is being dropped.
    core: Option<RefMut<'a, Core>>,
    machine: &'a Machine<'d>,
}

impl<'a, 'd> Locked<'a, 'd> {
    pub(super) fn new(machine: &'a Machine<'d>, core: RefMut<'a, Core>) -> Self {
        p2m_locking::<true>();
        Self {
            core: Some(core),
            machine,
        }
    }
}

impl Drop for Locked<'_, '_> {
    fn drop(&mut self) {
        p2m_unlocked::<true>();
        if std::thread::panicking() {
            return;
        }
        assert!(!self.owed, "the p2m was unlocked with a flush owed");
        self.core = None;
        self.machine.others();
    }
}

impl Deref for Locked<'_, '_> {
    type Target = Core;
    fn deref(&self) -> &Core {
        self.core.as_ref().expect("locked")
    }
}

impl DerefMut for Locked<'_, '_> {
    fn deref_mut(&mut self) -> &mut Core {
        self.core.as_mut().expect("locked")
    }
}

impl P2m for Locked<'_, '_> {
    type Frame = Frame;
    type Buffer = Buffer;

    fn get(&self, gfn: Gfn) -> Entry {
        self.tables.get(gfn)
    }

    fn users(&self, mfn: Mfn) -> FrameUsers {
        FrameUsers {
            mmio: false,
            references: self.frames.get(mfn).references,
            typed: 0,
        }
    }

    fn set_type(&mut self, _permit: Permit, gfn: Gfn, to: P2mType) -> Result<(), Errno> {
        if let Some(errno) = self.failures.set_type.take() {
            return Err(errno);
        }
        let entry = self.tables.get(gfn);
        self.tables.set(gfn, Entry { p2mt: to, ..entry });
        self.owed |= entry.p2mt.is_pageable();
        if let Some(mfn) = entry.mfn
            && to.is_paging()
        {
            // The worst that a platform may do: the way back in must repair it.
            self.frames.get_mut(mfn).m2p = None;
        }
        Ok(())
    }

    fn take(
        &mut self,
        _permit: Permit,
        gfn: Gfn,
        mfn: Mfn,
        to: P2mType,
        condition: TakeCondition,
    ) -> Result<Frame, TakeError> {
        assert_eq!(
            self.tables.get(gfn).mfn,
            Some(mfn),
            "{gfn} has another frame"
        );
        let references = self.frames.get(mfn).references;
        if condition == TakeCondition::SoleOwner && references > 1 {
            return Err(TakeError::InUse {
                references,
                typed: 0,
            });
        }
        if let Some(errno) = self.failures.take.take() {
            return Err(TakeError::Platform(errno));
        }
        self.tables.set(
            gfn,
            Entry {
                p2mt: to,
                mfn: None,
            },
        );
        let flushes = self.flushes;
        let frame = self.frames.get_mut(mfn);
        (frame.place, frame.m2p) = (Place::Taken(flushes), None);
        self.owed = true;
        Ok(Frame::new(mfn))
    }

    fn alloc(&mut self, contents: Contents<'_, Buffer>) -> Result<Frame, AllocError> {
        if let Some(error) = self.failures.alloc.take() {
            return Err(error);
        }
        let contents = match contents {
            Contents::Zero => Page::ZERO,
            Contents::From(Buffer::Page(page)) => *page,
            Contents::From(Buffer::Faulting) => return Err(AllocError::BufferFault),
        };
        let mfn = self
            .frames
            .alloc(Place::Fresh)
            .ok_or(AllocError::NoMemory)?;
        self.frames.get_mut(mfn).contents = contents;
        Ok(Frame::new(mfn))
    }

    fn install(
        &mut self,
        _permit: Permit,
        gfn: Gfn,
        frame: Frame,
        to: P2mType,
    ) -> Result<Mfn, Errno> {
        let mfn = frame.into_mfn();
        assert_eq!(self.frames.get(mfn).place, Place::Fresh);
        if let Some(errno) = self.failures.install.take() {
            self.frames.give_up(mfn);
            return Err(errno);
        }
        assert_eq!(self.tables.get(gfn).mfn, None, "{gfn} has a frame already");
        self.frames.get_mut(mfn).place = Place::Mapped(gfn);
        self.tables.set(
            gfn,
            Entry {
                p2mt: to,
                mfn: Some(mfn),
            },
        );
        Ok(mfn)
    }

    fn restore_m2p(&mut self, mfn: Mfn, gfn: Gfn) {
        self.frames.get_mut(mfn).m2p = Some(gfn);
    }

    fn resident_type(&self) -> P2mType {
        self.home()
    }

    fn flush(&mut self) {
        self.flush_all();
    }

    fn free(&mut self, frames: impl Iterator<Item = Frame>) {
        for frame in frames {
            let mfn = frame.into_mfn();
            let Place::Taken(at) = self.frames.get(mfn).place else {
                panic!("{mfn:?} freed, which was never taken out");
            };
            assert!(self.flushes > at, "{mfn:?} freed before the flush");
            self.frames.give_up(mfn);
        }
    }

    fn read_clear_access_bits(
        &mut self,
        first: Gfn,
        uses: &mut [AccessBits],
        clear: ClearBits,
    ) -> Result<Cleared, Errno> {
        let mut cleared = Cleared::Nothing;
        for (uses, base) in uses.iter_mut().zip((first.get()..).step_by(64)) {
            for bit in 0..64_usize {
                let gfn = Gfn::new_truncate(base + bit as u64);
                let (accessed, dirty) = self.tables.take_used(gfn, clear);
                uses.accessed.set(bit, accessed);
                uses.dirty.set(bit, dirty);
                if accessed || dirty && clear == ClearBits::AccessedAndDirty {
                    cleared = Cleared::Something;
                    self.owed = true;
                }
            }
        }
        Ok(cleared)
    }

    fn count_out(&mut self) {
        self.paged_pages += 1;
    }

    fn count_in(&mut self) {
        self.paged_pages -= 1;
    }
}
