//! What is behind the p2m lock: entries, frames, the free list.

use std::ops::{Deref, DerefMut};

use lock_api::MutexGuard;
use p2m_paging::p2m::P2mType;
use p2m_paging::platform::{AllocError, Contents, Demand, Entry, FrameFacts, P2m, TakeError};
use p2m_paging::{Errno, Gfn, Mfn};

use super::lock::{p2m_locking, p2m_unlocked};
use super::{Buffer, Failures};

/// The contents of a frame that nobody owns.
pub const SCRUBBED: u64 = u64::MAX;

const ABSENT: Entry = Entry {
    p2mt: P2mType::Invalid,
    mfn: None,
};

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Free,
    /// Allocated, not installed yet.
    Fresh,
    Mapped(Gfn),
    /// Taken out of the p2m, since this many flushes.
    Taken(u64),
    /// Given up by the domain; somebody else still uses it.
    Lingering,
}

/// A machine frame.
#[derive(Clone, Copy, Debug)]
pub struct FrameRecord {
    /// What it contains.
    pub contents: u64,
    /// References, the allocation included.
    pub references: u32,
    /// Typed uses.
    pub typed: u32,
    /// I/O memory.
    pub mmio: bool,
    place: Place,
    m2p: Option<Gfn>,
}

/// The machine's state.
#[derive(Debug)]
pub struct Core {
    entries: Vec<Entry>,
    frames: Vec<FrameRecord>,
    free: Vec<Mfn>,
    /// Failures to come.
    pub failures: Failures,
    /// The domain logs its writes.
    pub log_dirty: bool,
    /// Gfns counted out.
    pub paged_pages: i64,
    /// Flushes paid.
    pub flushes: u64,
    /// Entries that CPUs may still see as they were.
    owed: bool,
}

/// A frame that is in no p2m entry.
#[derive(Debug)]
#[must_use]
pub struct Frame(Option<Mfn>);

impl Frame {
    fn into_mfn(mut self) -> Mfn {
        self.0
            .take()
            .expect("a frame has a number until it is used")
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if let Some(mfn) = self.0
            && !std::thread::panicking()
        {
            panic!("{mfn:?} was lost: neither installed nor freed");
        }
    }
}

impl Core {
    pub(super) fn new(gfns: usize, spare: usize) -> Self {
        let number = |n: usize| Mfn::try_new(n as u64).expect("a small machine");
        let frames = (0..gfns + spare).map(|n| {
            let gfn = (n < gfns).then(|| Gfn::new_truncate(n as u64));
            FrameRecord {
                contents: gfn.map_or(SCRUBBED, Gfn::get),
                references: gfn.is_some().into(),
                typed: 0,
                mmio: false,
                place: gfn.map_or(Place::Free, Place::Mapped),
                m2p: gfn,
            }
        });
        Self {
            entries: (0..gfns)
                .map(|n| Entry {
                    p2mt: P2mType::RamRw,
                    mfn: Some(number(n)),
                })
                .collect(),
            frames: frames.collect(),
            free: (gfns..gfns + spare).rev().map(number).collect(),
            failures: Failures::default(),
            log_dirty: false,
            paged_pages: 0,
            flushes: 0,
            owed: false,
        }
    }

    /// A p2m entry.
    pub fn entry(&self, gfn: Gfn) -> Entry {
        let index = usize::try_from(gfn.get()).ok();
        index
            .and_then(|n| self.entries.get(n))
            .copied()
            .unwrap_or(ABSENT)
    }

    /// Overwrites the type of an entry behind the crate's back.
    pub fn force_type(&mut self, gfn: Gfn, p2mt: P2mType) {
        self.entry_mut(gfn).p2mt = p2mt;
    }

    /// A frame.
    pub fn frame(&self, mfn: Mfn) -> &FrameRecord {
        &self.frames[index(mfn)]
    }

    /// A frame.
    pub fn frame_mut(&mut self, mfn: Mfn) -> &mut FrameRecord {
        &mut self.frames[index(mfn)]
    }

    /// The gfn that the m2p names for a frame.
    pub fn m2p(&self, mfn: Mfn) -> Option<Gfn> {
        self.frame(mfn).m2p
    }

    /// Frames that nobody has.
    pub fn free_frames(&self) -> usize {
        self.free.len()
    }

    /// The domain gets an ordinary page at a gfn where there is none; `false` without memory.
    pub fn give(&mut self, gfn: Gfn, contents: u64) -> bool {
        assert_eq!(self.entry(gfn), ABSENT);
        let Some(mfn) = self.pop_free() else {
            return false;
        };
        let p2mt = self.home();
        *self.frame_mut(mfn) = FrameRecord {
            contents,
            place: Place::Mapped(gfn),
            m2p: Some(gfn),
            ..*self.frame(mfn)
        };
        *self.entry_mut(gfn) = Entry {
            p2mt,
            mfn: Some(mfn),
        };
        true
    }

    pub(super) fn put(&mut self, mfn: Mfn) {
        let frame = self.frame_mut(mfn);
        frame.references -= 1;
        if frame.references == 0 {
            assert_eq!(frame.place, Place::Lingering, "the allocation was put");
            self.release(mfn);
        }
    }

    pub(super) fn check(&mut self) {
        let mut free = 0;
        for (n, frame) in self.frames.iter().enumerate() {
            match frame.place {
                Place::Free => free += 1,
                Place::Lingering => assert!(frame.references > 0),
                Place::Mapped(gfn) => {
                    let entry = self.entry(gfn);
                    assert_eq!(
                        entry.mfn.map(index),
                        Some(n),
                        "{gfn} and its frame disagree"
                    );
                    if entry.p2mt.is_pageable() {
                        assert_eq!(frame.m2p, Some(gfn), "{gfn} is home without its m2p entry");
                    }
                }
                lost => panic!("frame {n} is {lost:?} with the p2m unlocked"),
            }
        }
        assert_eq!(free, self.free.len(), "frames on the free list");
        let out = self.entries.iter().filter(|entry| {
            let out = matches!(entry.p2mt, P2mType::RamPaged | P2mType::RamPagingInStart);
            out && entry.mfn.is_none()
        });
        assert_eq!(
            i64::try_from(out.count()),
            Ok(self.paged_pages),
            "paged_pages"
        );
    }

    fn entry_mut(&mut self, gfn: Gfn) -> &mut Entry {
        let index = usize::try_from(gfn.get()).expect("a gfn that was looked up");
        &mut self.entries[index]
    }

    fn home(&self) -> P2mType {
        if self.log_dirty {
            P2mType::RamLogDirty
        } else {
            P2mType::RamRw
        }
    }

    fn pop_free(&mut self) -> Option<Mfn> {
        let mfn = self.free.pop()?;
        let frame = self.frame_mut(mfn);
        assert_eq!(frame.contents, SCRUBBED, "another owner's data");
        frame.place = Place::Fresh;
        frame.references = 1;
        Some(mfn)
    }

    fn release(&mut self, mfn: Mfn) {
        let frame = self.frame_mut(mfn);
        *frame = FrameRecord {
            contents: SCRUBBED,
            references: 0,
            typed: 0,
            mmio: false,
            place: Place::Free,
            m2p: None,
        };
        self.free.push(mfn);
    }
}

/// The locked p2m.
#[derive(Debug)]
pub struct PlainP2m<'a, const CHECKED: bool>(MutexGuard<'a, spin::Mutex<()>, Core>);

impl<'a, const CHECKED: bool> PlainP2m<'a, CHECKED> {
    pub(super) fn lock(core: &'a lock_api::Mutex<spin::Mutex<()>, Core>) -> Self {
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

    fn facts(&self, mfn: Mfn) -> FrameFacts {
        let frame = self.frame(mfn);
        FrameFacts {
            mmio: frame.mmio,
            references: frame.references,
            typed: frame.typed,
        }
    }

    fn set_type(&mut self, gfn: Gfn, to: P2mType) -> Result<(), Errno> {
        if let Some(errno) = self.failures.set_type.take() {
            return Err(errno);
        }
        let entry = self.entry(gfn);
        self.entry_mut(gfn).p2mt = to;
        self.owed |= entry.p2mt.is_pageable();
        if let Some(mfn) = entry.mfn
            && to.is_paging()
        {
            // The harshest that a platform may do: the way home has to put it right.
            self.frame_mut(mfn).m2p = None;
        }
        Ok(())
    }

    fn take(
        &mut self,
        gfn: Gfn,
        mfn: Mfn,
        to: P2mType,
        demand: Demand,
    ) -> Result<Frame, TakeError> {
        assert_eq!(self.entry(gfn).mfn, Some(mfn), "{gfn} has another frame");
        let facts = self.facts(mfn);
        if demand == Demand::SoleOwner && !facts.sole_owner() {
            return Err(TakeError::InUse {
                references: facts.references,
                typed: facts.typed,
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
        Ok(Frame(Some(mfn)))
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
        Ok(Frame(Some(mfn)))
    }

    fn install(&mut self, gfn: Gfn, frame: Frame, to: P2mType) -> Result<Mfn, Errno> {
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

    fn home_type(&self) -> P2mType {
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

fn index(mfn: Mfn) -> usize {
    usize::try_from(mfn.get()).expect("a frame of this machine")
}
