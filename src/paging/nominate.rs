// SPDX-License-Identifier: MIT OR Apache-2.0
//! Row A1: nominate.

use core::fmt;

use super::{CHUNK, Count, Job, Paging};
use crate::errno::Errno;
use crate::frame::Gfn;
use crate::p2m::{Found, OwedFlushes, P2mType, lookup};
use crate::platform::{Entry, P2m, Platform};
use crate::ring::Epoch;

/// Why a page was not nominated. Nothing has changed.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NominateError {
    /// The gfn has no valid frame (A1a).
    NoFrame(P2mType),
    /// Memory of this type is not pageable (A1b).
    NotPageable(P2mType),
    /// The frame is I/O memory (A1c).
    Mmio,
    /// It has a paging type already (A1d).
    Paging(P2mType),
    /// Shared with other domains (A1e).
    Shared,
    /// Somebody else uses the frame (A1f).
    InUse {
        /// References, the allocation itself included.
        references: u32,
        /// Typed uses.
        typed: u32,
    },
    /// The caller is a pager that is not attached any more.
    Replaced,
    /// The entry could not be changed.
    Platform(Errno),
}

impl NominateError {
    /// `EBUSY` for every refusal (`nominate` in Xen 4.17's `mem_paging.c`).
    pub const fn errno(self) -> Errno {
        match self {
            Self::Replaced => Errno::ENOTCONN,
            Self::Platform(errno) => errno,
            _ => Errno::EBUSY,
        }
    }
}

impl fmt::Display for NominateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFrame(t) => write!(f, "no frame behind it ({t:?})"),
            Self::NotPageable(t) => write!(f, "not pageable ({t:?})"),
            Self::Mmio => f.write_str("I/O memory"),
            Self::Paging(t) => write!(f, "being paged already ({t:?})"),
            Self::Shared => f.write_str("shared with other domains"),
            Self::InUse { references, typed } => {
                write!(f, "in use: {references} references, {typed} typed uses")
            }
            Self::Replaced => f.write_str("the pager is not attached any more"),
            Self::Platform(errno) => write!(f, "the p2m entry could not be changed: {errno}"),
        }
    }
}

impl core::error::Error for NominateError {}

impl<P: Platform> Paging<'_, P> {
    /// Nominates pages: they become read-only for the guest, and their contents stay in place. When this
    /// returns, no CPU can write them, so the pager may copy them. No locks held.
    pub fn nominate(&self, by: Epoch, batch: &mut [Job<NominateError>]) {
        for chunk in batch.chunks_mut(CHUNK) {
            let mut p2m = self.platform.lock_p2m();
            let mut owed_flushes: OwedFlushes<_, 0> = OwedFlushes::new();
            let is_current = self.is_current(by);
            for job in chunk {
                let outcome = if is_current {
                    nominate_one(&mut p2m, job.gfn, &mut owed_flushes)
                } else {
                    Err(NominateError::Replaced)
                };
                self.counters.add(
                    if outcome.is_ok() {
                        Count::Nominated
                    } else {
                        Count::NominateRefused
                    },
                    1,
                );
                job.outcome = Some(outcome);
            }
            owed_flushes.flush_and_free(&mut p2m);
        }
    }
}

fn nominate_one<M: P2m>(
    p2m: &mut M,
    gfn: Gfn,
    owed_flushes: &mut OwedFlushes<M::Frame, 0>,
) -> Result<(), NominateError> {
    let slot = match lookup(p2m, gfn) {
        Found::Ram(slot) => slot,
        Found::PagingOut(_) => return Err(NominateError::Paging(P2mType::RamPagingOut)),
        Found::Paged(_) => return Err(NominateError::Paging(P2mType::RamPaged)),
        Found::PagingInStart(_) => return Err(NominateError::Paging(P2mType::RamPagingInStart)),
        Found::PagingIn(_) => return Err(NominateError::Paging(P2mType::RamPagingIn)),
        Found::Other(entry) => return Err(refusal(entry)),
    };
    let users = slot.users();
    if users.mmio {
        return Err(NominateError::Mmio);
    }
    if !users.sole_owner() {
        let (references, typed) = (users.references, users.typed);
        return Err(NominateError::InUse { references, typed });
    }
    let (_, owed) = slot
        .nominate()
        .map_err(|(_, errno)| NominateError::Platform(errno))?;
    owed_flushes.add(owed);
    Ok(())
}

fn refusal(entry: Entry) -> NominateError {
    match (entry.p2mt, entry.mfn) {
        (P2mType::RamShared, _) => NominateError::Shared,
        (t, _) if t.is_paging() => NominateError::Paging(t),
        (t, None) => NominateError::NoFrame(t),
        (t, Some(_)) => NominateError::NotPageable(t),
    }
}
