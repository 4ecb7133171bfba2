// SPDX-License-Identifier: MIT OR Apache-2.0
//! A p2m entry under the lock, with its state in its type.
//!
//! [`lookup`] reads the type of an entry once and returns a [`Slot`] in the matching state. A transition
//! consumes the slot and returns it in the next state. If the platform refuses, the caller gets the slot
//! back, unchanged. Transitions that do not exist do not compile. A slot borrows the locked p2m, so it
//! cannot outlive the lock, and there is only one slot at a time.

use static_assertions::assert_not_impl_any;

use super::owed_flush::FlushOwed;
use super::types::P2mType;
use crate::errno::Errno;
use crate::frame::{Gfn, Mfn};
use crate::platform::{AllocError, Contents, Entry, FrameUsers, P2m, TakeCondition, TakeError};

/// One gfn in state `S`, under the p2m lock.
#[derive(Debug)]
pub struct Slot<'g, M, S> {
    p2m: &'g mut M,
    gfn: Gfn,
    state: S,
}

/// Resident (`ram_rw`, or log-dirty).
#[derive(Debug)]
pub struct Ram {
    mfn: Mfn,
}

/// Nominated (`paging_out`): the pager copies the page.
#[derive(Debug)]
pub struct PagingOut {
    mfn: Mfn,
}

/// Paged out (`paged`): no frame.
#[derive(Debug)]
pub struct Paged;

/// Requested from the pager (`paging_in_start`): no frame.
#[derive(Debug)]
pub struct PagingInStart;

/// Has an empty frame (`paging_in`): the pager fills it and responds.
#[derive(Debug)]
pub struct PagingIn {
    mfn: Mfn,
}

/// The right to change a p2m entry. Only a transition of a [`Slot`] creates one, so no other code can
/// call [`P2m::set_type`], [`P2m::take`] or [`P2m::install`].
#[derive(Debug)]
pub struct Permit(());

assert_not_impl_any!(Slot<'static, (), Paged>: Clone, Copy);
assert_not_impl_any!(Permit: Clone, Copy);

/// What a gfn was found to be.
#[derive(Debug)]
pub enum Found<'g, M> {
    /// Pageable memory with a valid frame.
    Ram(Slot<'g, M, Ram>),
    /// Nominated.
    PagingOut(Slot<'g, M, PagingOut>),
    /// Paged out.
    Paged(Slot<'g, M, Paged>),
    /// Requested.
    PagingInStart(Slot<'g, M, PagingInStart>),
    /// Has an empty frame.
    PagingIn(Slot<'g, M, PagingIn>),
    /// Not a paging type, or an inconsistent entry ([`Entry::is_inconsistent`]).
    Other(Entry),
}

/// Reads a gfn's entry.
pub fn lookup<M: P2m>(p2m: &mut M, gfn: Gfn) -> Found<'_, M> {
    let entry = p2m.get(gfn);
    classify(p2m, gfn, entry)
}

/// As [`lookup`], for an entry that was read under the same hold of the lock.
pub(crate) fn classify<M: P2m>(p2m: &mut M, gfn: Gfn, entry: Entry) -> Found<'_, M> {
    match (entry.p2mt, entry.mfn) {
        (t, Some(mfn)) if t.is_pageable() => Found::Ram(Slot {
            p2m,
            gfn,
            state: Ram { mfn },
        }),
        (P2mType::RamPagingOut, Some(mfn)) => Found::PagingOut(Slot {
            p2m,
            gfn,
            state: PagingOut { mfn },
        }),
        (P2mType::RamPaged, None) => Found::Paged(Slot {
            p2m,
            gfn,
            state: Paged,
        }),
        (P2mType::RamPagingInStart, None) => Found::PagingInStart(Slot {
            p2m,
            gfn,
            state: PagingInStart,
        }),
        (P2mType::RamPagingIn, Some(mfn)) => Found::PagingIn(Slot {
            p2m,
            gfn,
            state: PagingIn { mfn },
        }),
        _ => Found::Other(entry),
    }
}

/// A slot in its next state, or the refused slot with the reason.
pub type Moved<'g, M, To, From, E> = Result<Slot<'g, M, To>, (Slot<'g, M, From>, E)>;

/// A slot in its next state and what is owed for it, or the refused slot with the reason.
pub type MovedOwing<'g, M, To, From, E> =
    Result<(Slot<'g, M, To>, FlushOwed<<M as P2m>::Frame>), (Slot<'g, M, From>, E)>;

impl<'g, M: P2m, S> Slot<'g, M, S> {
    /// The page.
    pub fn gfn(&self) -> Gfn {
        self.gfn
    }

    fn into_state<T>(self, state: T) -> Slot<'g, M, T> {
        Slot {
            p2m: self.p2m,
            gfn: self.gfn,
            state,
        }
    }

    /// Changes the type and keeps the frame.
    fn change_type<T>(self, to: P2mType, state: T) -> Moved<'g, M, T, S, Errno> {
        match self.p2m.set_type(Permit(()), self.gfn, to) {
            Ok(()) => Ok(self.into_state(state)),
            Err(errno) => Err((self, errno)),
        }
    }

    fn make_resident(self, mfn: Mfn) -> Moved<'g, M, Ram, S, Errno> {
        let resident_type = self.p2m.resident_type();
        let slot = self.change_type(resident_type, Ram { mfn })?;
        slot.p2m.restore_m2p(mfn, slot.gfn);
        Ok(slot)
    }

    /// Allocates a frame, puts it in, and counts the page in.
    fn attach_frame(
        &mut self,
        contents: Contents<'_, M::Buffer>,
        to: P2mType,
    ) -> Result<Mfn, AttachFrameError> {
        let frame = self.p2m.alloc(contents).map_err(AttachFrameError::Alloc)?;
        let mfn = self
            .p2m
            .install(Permit(()), self.gfn, frame, to)
            .map_err(AttachFrameError::Platform)?;
        self.p2m.restore_m2p(mfn, self.gfn);
        self.p2m.count_in();
        Ok(mfn)
    }

    fn attach_filled_frame(mut self, buffer: &M::Buffer) -> Moved<'g, M, Ram, S, AttachFrameError> {
        let resident_type = self.p2m.resident_type();
        match self.attach_frame(Contents::From(buffer), resident_type) {
            Ok(mfn) => Ok(self.into_state(Ram { mfn })),
            Err(e) => Err((self, e)),
        }
    }

    fn attach_zeroed_frame(mut self) -> Moved<'g, M, PagingIn, S, AttachFrameError> {
        match self.attach_frame(Contents::Zero, P2mType::RamPagingIn) {
            Ok(mfn) => Ok(self.into_state(PagingIn { mfn })),
            Err(e) => Err((self, e)),
        }
    }

    /// Removes the entry. A page without a frame was counted out, so it is counted in.
    fn remove(self, mfn: Option<Mfn>) -> Result<FlushOwed<M::Frame>, (Self, Errno)> {
        let removed = match mfn {
            Some(mfn) => {
                match self.p2m.take(
                    Permit(()),
                    self.gfn,
                    mfn,
                    P2mType::Invalid,
                    TakeCondition::Any,
                ) {
                    Ok(frame) => Ok(Some(frame)),
                    Err(TakeError::Platform(errno)) => Err(errno),
                    Err(TakeError::InUse { .. }) => Err(Errno::EBUSY),
                }
            }
            None => self
                .p2m
                .set_type(Permit(()), self.gfn, P2mType::Invalid)
                .map(|()| None),
        };
        match removed {
            Ok(frame) => {
                if frame.is_none() {
                    self.p2m.count_in();
                }
                Ok(match frame {
                    Some(frame) => FlushOwed::with_frame(frame),
                    None => FlushOwed::without_frame(),
                })
            }
            Err(errno) => Err((self, errno)),
        }
    }
}

/// Why a page got no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachFrameError {
    /// The frame could not be allocated or filled.
    Alloc(AllocError),
    /// The entry could not be changed.
    Platform(Errno),
}

impl<'g, M: P2m> Slot<'g, M, Ram> {
    /// Who uses the frame.
    pub fn users(&self) -> FrameUsers {
        self.p2m.users(self.state.mfn)
    }

    /// `ram_rw → paging_out`. The flush is owed before the pager may copy the page: until then a
    /// CPU may still write through a stale entry.
    pub fn nominate(self) -> MovedOwing<'g, M, PagingOut, Ram, Errno> {
        let mfn = self.state.mfn;
        let slot = self.change_type(P2mType::RamPagingOut, PagingOut { mfn })?;
        Ok((slot, FlushOwed::without_frame()))
    }
}

impl<'g, M: P2m> Slot<'g, M, PagingOut> {
    /// `paging_out → paged`. The frame is freed once the flush is paid.
    pub fn evict(self) -> MovedOwing<'g, M, Paged, PagingOut, TakeError> {
        let mfn = self.state.mfn;
        match self.p2m.take(
            Permit(()),
            self.gfn,
            mfn,
            P2mType::RamPaged,
            TakeCondition::SoleOwner,
        ) {
            Ok(frame) => {
                self.p2m.count_out();
                Ok((self.into_state(Paged), FlushOwed::with_frame(frame)))
            }
            Err(e) => Err((self, e)),
        }
    }

    /// `paging_out → ram_rw`: somebody needs the page, or the pager does not want it any more. A later
    /// evict is refused, and that tells the pager. No flush is owed, because the entry allows more.
    pub fn restore(self) -> Moved<'g, M, Ram, PagingOut, Errno> {
        let mfn = self.state.mfn;
        self.make_resident(mfn)
    }

    /// Removes the page.
    pub fn discard(self) -> Result<FlushOwed<M::Frame>, (Self, Errno)> {
        let mfn = Some(self.state.mfn);
        self.remove(mfn)
    }
}

impl<'g, M: P2m> Slot<'g, M, Paged> {
    /// `paged → paging_in_start`.
    pub fn populate(self) -> Moved<'g, M, PagingInStart, Paged, Errno> {
        self.change_type(P2mType::RamPagingInStart, PagingInStart)
    }

    /// `paged → ram_rw`, filled: the pager brings in a page that nobody requested.
    pub fn prep_filled(self, buffer: &M::Buffer) -> Moved<'g, M, Ram, Paged, AttachFrameError> {
        self.attach_filled_frame(buffer)
    }

    /// `paged → paging_in`, to be filled by the pager through a mapping.
    pub fn prep_empty(self) -> Moved<'g, M, PagingIn, Paged, AttachFrameError> {
        self.attach_zeroed_frame()
    }

    /// Removes the page.
    pub fn discard(self) -> Result<FlushOwed<M::Frame>, (Self, Errno)> {
        self.remove(None)
    }
}

impl<'g, M: P2m> Slot<'g, M, PagingInStart> {
    /// `paging_in_start → ram_rw`, filled.
    pub fn prep_filled(
        self,
        buffer: &M::Buffer,
    ) -> Moved<'g, M, Ram, PagingInStart, AttachFrameError> {
        self.attach_filled_frame(buffer)
    }

    /// `paging_in_start → paging_in`, to be filled by the pager through a mapping.
    pub fn prep_empty(self) -> Moved<'g, M, PagingIn, PagingInStart, AttachFrameError> {
        self.attach_zeroed_frame()
    }

    /// Removes the page.
    pub fn discard(self) -> Result<FlushOwed<M::Frame>, (Self, Errno)> {
        self.remove(None)
    }
}

impl<'g, M: P2m> Slot<'g, M, PagingIn> {
    /// `paging_in → paging_in_start`: the frame, which the pager has not filled, is taken out again. Nobody
    /// but the pager has seen it.
    pub fn detach_frame(self) -> MovedOwing<'g, M, PagingInStart, PagingIn, TakeError> {
        let mfn = self.state.mfn;
        match self.p2m.take(
            Permit(()),
            self.gfn,
            mfn,
            P2mType::RamPagingInStart,
            TakeCondition::Any,
        ) {
            Ok(frame) => {
                self.p2m.count_out();
                Ok((self.into_state(PagingInStart), FlushOwed::with_frame(frame)))
            }
            Err(e) => Err((self, e)),
        }
    }

    /// `paging_in → ram_rw`.
    pub fn resume(self) -> Moved<'g, M, Ram, PagingIn, Errno> {
        let mfn = self.state.mfn;
        self.make_resident(mfn)
    }

    /// Removes the page.
    pub fn discard(self) -> Result<FlushOwed<M::Frame>, (Self, Errno)> {
        let mfn = Some(self.state.mfn);
        self.remove(mfn)
    }
}
