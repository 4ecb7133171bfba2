// SPDX-License-Identifier: MIT OR Apache-2.0
//! Machine frames: their owners, their users and their contents.

use p2m_paging::{Gfn, Mfn};

use super::Page;

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nobody's.
    Free,
    /// The guest's, and not in its p2m yet.
    Fresh,
    /// The guest's, behind this gfn.
    Mapped(Gfn),
    /// Taken out of the p2m, when this many flushes had been made.
    Taken(u64),
    /// Given up by the guest while somebody else still uses it.
    Lingering,
    /// Another domain's.
    Foreign,
}

/// One machine frame.
#[derive(Clone, Copy, Debug)]
pub struct FrameRecord {
    /// Its contents.
    pub contents: Page,
    /// References, the allocation included.
    pub references: u32,
    /// Where it is.
    pub place: Place,
    /// Its machine-to-physical entry.
    pub m2p: Option<Gfn>,
}

const FREE: FrameRecord = FrameRecord {
    contents: Page::SCRUBBED,
    references: 0,
    place: Place::Free,
    m2p: None,
};

/// All frames of the machine.
#[derive(Debug)]
pub struct Frames {
    frames: Vec<FrameRecord>,
    free: Vec<Mfn>,
}

impl Frames {
    /// This many frames, all free.
    pub fn new(count: usize) -> Self {
        let number = |n: usize| Mfn::try_new(n as u64).expect("a small machine");
        Self {
            frames: vec![FREE; count],
            free: (0..count).rev().map(number).collect(),
        }
    }

    /// A frame.
    pub fn get(&self, mfn: Mfn) -> &FrameRecord {
        &self.frames[index(mfn)]
    }

    /// A frame.
    pub fn get_mut(&mut self, mfn: Mfn) -> &mut FrameRecord {
        &mut self.frames[index(mfn)]
    }

    /// Free frames.
    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    /// Takes a frame off the free list. Panics if it was not scrubbed.
    pub fn alloc(&mut self, place: Place) -> Option<Mfn> {
        let mfn = self.free.pop()?;
        let frame = self.get_mut(mfn);
        assert_eq!(
            frame.contents,
            Page::SCRUBBED,
            "{mfn:?}: another owner's data"
        );
        (frame.place, frame.references) = (place, 1);
        Some(mfn)
    }

    /// Somebody uses the frame.
    pub fn get_reference(&mut self, mfn: Mfn) {
        self.get_mut(mfn).references += 1;
    }

    /// A user releases the frame. The last one frees a frame that its owner has given up.
    pub fn put_reference(&mut self, mfn: Mfn) {
        let frame = self.get_mut(mfn);
        frame.references -= 1;
        if frame.references == 0 {
            assert_eq!(
                frame.place,
                Place::Lingering,
                "{mfn:?}: the allocation was put"
            );
            self.release(mfn);
        }
    }

    /// The owner gives the frame up.
    pub fn give_up(&mut self, mfn: Mfn) {
        let frame = self.get_mut(mfn);
        (frame.place, frame.m2p) = (Place::Lingering, None);
        self.put_reference(mfn);
    }

    fn release(&mut self, mfn: Mfn) {
        *self.get_mut(mfn) = FREE;
        self.free.push(mfn);
    }

    /// Panics unless every frame is accounted for; counts those of other domains.
    pub fn check(&self) -> usize {
        let (mut free, mut foreign) = (0, 0);
        for (n, frame) in self.frames.iter().enumerate() {
            match frame.place {
                Place::Free => {
                    free += 1;
                    assert_eq!(frame.references, 0, "frame {n} is free and used");
                }
                Place::Foreign => foreign += 1,
                Place::Mapped(_) | Place::Lingering => {
                    assert!(frame.references > 0, "frame {n} is used by nobody");
                }
                lost => panic!("frame {n} is {lost:?} with the p2m unlocked"),
            }
        }
        assert_eq!(free, self.free.len(), "frames on the free list");
        foreign
    }

    /// All frames, by number.
    pub fn iter(&self) -> impl Iterator<Item = &FrameRecord> {
        self.frames.iter()
    }
}

fn index(mfn: Mfn) -> usize {
    usize::try_from(mfn.get()).expect("a frame of this machine")
}
