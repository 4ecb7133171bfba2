// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the p2m lock protects: entries, frames, the free list.

mod p2m;

use p2m_paging::p2m::P2mType;
use p2m_paging::platform::{Entry, Leak};
use p2m_paging::{Gfn, Mfn};

use super::Failures;
pub use p2m::PlainP2m;

/// The contents of a free frame.
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
    /// Its contents.
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
    /// Flushes done.
    pub flushes: u64,
    /// Entries that CPUs may still remember in an older form.
    owed: bool,
}

/// A frame that is in no p2m entry.
#[derive(Debug)]
#[must_use]
pub struct Frame(Option<Mfn>);

impl Frame {
    pub(crate) fn new(mfn: Mfn) -> Self {
        Self(Some(mfn))
    }

    pub(crate) fn into_mfn(mut self) -> Mfn {
        self.0
            .take()
            .expect("a frame has a number until it is used")
    }
}

/// No test drops an owed flush except those that mean to: see [`Drop`].
impl Leak for Frame {
    fn leak(self) {
        drop(self);
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

    /// Overwrites the type of an entry without the crate.
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

    /// Free frames.
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

fn index(mfn: Mfn) -> usize {
    usize::try_from(mfn.get()).expect("a frame of this machine")
}
