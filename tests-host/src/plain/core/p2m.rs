// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's p2m as the crate sees it.

use std::ops::{Deref, DerefMut};

use lock_api::MutexGuard;
use p2m_paging::p2m::{P2mType, Permit};
use p2m_paging::platform::{
    AllocError, Contents, Entry, FrameUsers, P2m, TakeCondition, TakeError,
};
use p2m_paging::{Errno, Gfn, Mfn, SpinLock};

use super::{Core, Frame, Place};
use crate::plain::Buffer;
use crate::plain::lock::{p2m_locking, p2m_unlocked};

/// The locked p2m.
#[derive(Debug)]
pub struct PlainP2m<'a, const CHECKED: bool>(MutexGuard<'a, SpinLock, Core>);

impl<'a, const CHECKED: bool> PlainP2m<'a, CHECKED> {
    pub(in crate::plain) fn lock(core: &'a lock_api::Mutex<SpinLock, Core>) -> Self {
        p2m_locking::<CHECKED>();
        Self(core.lock())
    }
}

impl<const CHECKED: bool> Drop for PlainP2m<'_, CHECKED> {
    fn drop(&mut self) {
        p2m_unlocked::<CHECKED>();
        if CHECKED && !std::thread::panicking() {
            assert!(!self.0.owed, "the p2m was unlocked with a flush owed");
        }
    }
}

impl<const CHECKED: bool> Deref for PlainP2m<'_, CHECKED> {
    type Target = Core;
    fn deref(&self) -> &Core {
        &self.0
    }
}

impl<const CHECKED: bool> DerefMut for PlainP2m<'_, CHECKED> {
    fn deref_mut(&mut self) -> &mut Core {
        &mut self.0
    }
}

impl<const CHECKED: bool> P2m for PlainP2m<'_, CHECKED> {
    type Frame = Frame;
    type Buffer = Buffer;

    fn get(&self, gfn: Gfn) -> Entry {
        self.entry(gfn)
    }

    fn users(&self, mfn: Mfn) -> FrameUsers {
        let frame = self.frame(mfn);
        FrameUsers {
            mmio: frame.mmio,
            references: frame.references,
            typed: frame.typed,
        }
    }

    fn set_type(&mut self, _permit: Permit, gfn: Gfn, to: P2mType) -> Result<(), Errno> {
        if let Some(errno) = self.failures.set_type.take() {
            return Err(errno);
        }
        let entry = self.entry(gfn);
        self.entry_mut(gfn).p2mt = to;
        self.owed |= entry.p2mt.is_pageable();
        if let Some(mfn) = entry.mfn
            && to.is_paging()
        {
            // The worst that a platform may do: the way back in must repair it.
            self.frame_mut(mfn).m2p = None;
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
        assert_eq!(self.entry(gfn).mfn, Some(mfn), "{gfn} has another frame");
        let users = self.users(mfn);
        if condition == TakeCondition::SoleOwner && !users.sole_owner() {
            return Err(TakeError::InUse {
                references: users.references,
                typed: users.typed,
            });
        }
        if let Some(errno) = self.failures.take.take() {
            return Err(TakeError::Platform(errno));
        }
        *self.entry_mut(gfn) = Entry {
            p2mt: to,
            mfn: None,
        };
        let flushes = self.flushes;
        let frame = self.frame_mut(mfn);
        frame.place = Place::Taken(flushes);
        frame.m2p = None;
        self.owed = true;
        Ok(Frame::new(mfn))
    }

    fn alloc(&mut self, contents: Contents<'_, Buffer>) -> Result<Frame, AllocError> {
        if let Some(error) = self.failures.alloc.take() {
            return Err(error);
        }
        let contents = match contents {
            Contents::Zero => 0,
            Contents::From(Buffer::Page(contents)) => *contents,
            Contents::From(Buffer::Invalid) => return Err(AllocError::InvalidBuffer),
            Contents::From(Buffer::Faulting) => return Err(AllocError::BufferFault),
        };
        let mfn = self.pop_free().ok_or(AllocError::NoMemory)?;
        self.frame_mut(mfn).contents = contents;
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
        if let Some(errno) = self.failures.install.take() {
            self.release(mfn);
            return Err(errno);
        }
        assert_eq!(self.entry(gfn).mfn, None, "{gfn} has a frame already");
        assert_eq!(self.frame(mfn).place, Place::Fresh);
        self.frame_mut(mfn).place = Place::Mapped(gfn);
        *self.entry_mut(gfn) = Entry {
            p2mt: to,
            mfn: Some(mfn),
        };
        Ok(mfn)
    }

    fn restore_m2p(&mut self, mfn: Mfn, gfn: Gfn) {
        self.frame_mut(mfn).m2p = Some(gfn);
    }

    fn resident_type(&self) -> P2mType {
        self.home()
    }

    fn flush(&mut self) {
        self.flushes += 1;
        self.owed = false;
    }

    fn free(&mut self, frames: impl Iterator<Item = Frame>) {
        for frame in frames {
            let mfn = frame.into_mfn();
            let Place::Taken(at) = self.frame(mfn).place else {
                panic!("{mfn:?} freed, which was never taken out");
            };
            assert!(self.flushes > at, "{mfn:?} freed before the flush");
            let frame = self.frame_mut(mfn);
            frame.references -= 1;
            if frame.references == 0 {
                self.release(mfn);
            } else {
                self.frame_mut(mfn).place = Place::Lingering;
            }
        }
    }

    fn count_out(&mut self) {
        self.paged_pages += 1;
    }

    fn count_in(&mut self) {
        self.paged_pages -= 1;
    }
}
