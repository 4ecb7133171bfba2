// SPDX-License-Identifier: MIT OR Apache-2.0
//! Row A4: prep.

use core::fmt;
use core::sync::atomic::Ordering;

use super::{CHUNK, Count, Job, Paging};
use crate::errno::Errno;
use crate::frame::Gfn;
use crate::p2m::{AttachFrameError, Found, P2mType, lookup};
use crate::platform::{AllocError, Platform, TakeError};
use crate::ring::Epoch;

/// Why a page was not brought in. Nothing has changed, and the pager may retry.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrepError {
    /// It is not out: it never was, it is resident already, or the guest dropped it.
    NotOut(P2mType),
    /// No memory for it now.
    NoMemory,
    /// The buffer cannot be read from: misaligned, or beyond what the pager may name.
    InvalidBuffer,
    /// Reading the buffer faulted.
    BufferFault,
    /// The caller is a pager that is not attached any more.
    Replaced,
    /// The entry could not be changed.
    Platform(Errno),
}

impl PrepError {
    /// As `prepare` in Xen 4.17's `mem_paging.c`.
    pub const fn errno(self) -> Errno {
        match self {
            Self::NotOut(_) => Errno::ENOENT,
            Self::NoMemory => Errno::ENOMEM,
            Self::InvalidBuffer => Errno::EINVAL,
            Self::BufferFault => Errno::EFAULT,
            Self::Replaced => Errno::ENOTCONN,
            Self::Platform(errno) => errno,
        }
    }
}

impl From<TakeError> for PrepError {
    fn from(e: TakeError) -> Self {
        match e {
            TakeError::InUse { .. } => Self::Platform(Errno::EBUSY),
            TakeError::Platform(errno) => Self::Platform(errno),
        }
    }
}

impl From<AttachFrameError> for PrepError {
    fn from(e: AttachFrameError) -> Self {
        match e {
            AttachFrameError::Alloc(AllocError::NoMemory) => Self::NoMemory,
            AttachFrameError::Alloc(AllocError::InvalidBuffer) => Self::InvalidBuffer,
            AttachFrameError::Alloc(AllocError::BufferFault) => Self::BufferFault,
            AttachFrameError::Platform(errno) => Self::Platform(errno),
        }
    }
}

impl fmt::Display for PrepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOut(t) => write!(f, "not out ({t:?})"),
            Self::NoMemory => f.write_str("no memory"),
            Self::InvalidBuffer => f.write_str("not a buffer that a page can be read from"),
            Self::BufferFault => f.write_str("reading the buffer faulted"),
            Self::Replaced => f.write_str("the pager is not attached any more"),
            Self::Platform(errno) => write!(f, "the p2m entry could not be changed: {errno}"),
        }
    }
}

impl core::error::Error for PrepError {}

impl<P: Platform> Paging<'_, P> {
    /// Brings pages in, requested or not. A page with a buffer becomes resident in one step, and the vcpus
    /// that wait for it are woken before this returns: the pager's response is not needed for that.
    /// Contents are in place before anybody can see the page. A page without a buffer gets a zeroed frame
    /// that only the pager may map; it becomes resident, and its vcpus wake, with the pager's response.
    ///
    /// A pager may have got an empty frame and been killed before it filled it. A prep with a buffer replaces
    /// such a frame. No locks held.
    pub fn prep(&self, by: Epoch, batch: &mut [Job<PrepError, Option<P::Buffer>>]) {
        for chunk in batch.chunks_mut(CHUNK) {
            {
                let mut p2m = self.platform.lock_p2m();
                let is_current = self.is_current(by);
                for job in chunk.iter_mut() {
                    let outcome = if is_current {
                        self.prep_one(&mut p2m, job.gfn, job.buffer.as_ref())
                    } else {
                        Err(PrepError::Replaced)
                    };
                    self.counters.add(
                        if outcome.is_ok() {
                            Count::Prepped
                        } else {
                            Count::PrepRefused
                        },
                        1,
                    );
                    job.outcome = Some(outcome);
                }
            }
            // A page with a buffer is resident.
            for job in chunk.iter() {
                if job.outcome == Some(Ok(())) && job.buffer.is_some() {
                    self.wake(job.gfn);
                }
            }
        }
    }

    fn prep_one(
        &self,
        p2m: &mut P::P2m<'_>,
        gfn: Gfn,
        buffer: Option<&P::Buffer>,
    ) -> Result<(), PrepError> {
        match (lookup(p2m, gfn), buffer) {
            (Found::PagingInStart(slot), Some(buffer)) => {
                slot.prep_filled(buffer)
                    .map_err(|(_, e)| PrepError::from(e))?;
                Ok(())
            }
            (Found::Paged(slot), Some(buffer)) => {
                slot.prep_filled(buffer)
                    .map_err(|(_, e)| PrepError::from(e))?;
                Ok(())
            }
            (Found::PagingInStart(slot), None) => {
                slot.prep_empty().map_err(|(_, e)| PrepError::from(e))?;
                self.awaiting_response.fetch_add(1, Ordering::AcqRel);
                Ok(())
            }
            (Found::Paged(slot), None) => {
                slot.prep_empty().map_err(|(_, e)| PrepError::from(e))?;
                self.awaiting_response.fetch_add(1, Ordering::AcqRel);
                Ok(())
            }
            (Found::PagingIn(slot), Some(buffer)) => {
                let (_, owed) = slot.detach_frame().map_err(|(_, e)| PrepError::from(e))?;
                self.awaiting_response.fetch_sub(1, Ordering::AcqRel);
                owed.flush_and_free(p2m);
                // If this fails, the page is requested, as it was before.
                match lookup(p2m, gfn) {
                    Found::PagingInStart(slot) => slot
                        .prep_filled(buffer)
                        .map(drop)
                        .map_err(|(_, e)| PrepError::from(e)),
                    _ => Err(PrepError::NotOut(P2mType::RamPagingIn)),
                }
            }
            (Found::Ram(_), _) => Err(PrepError::NotOut(P2mType::RamRw)),
            (Found::PagingOut(_), _) => Err(PrepError::NotOut(P2mType::RamPagingOut)),
            (Found::PagingIn(_), None) => Err(PrepError::NotOut(P2mType::RamPagingIn)),
            (Found::Other(entry), _) => Err(PrepError::NotOut(entry.p2mt)),
        }
    }
}
