// SPDX-License-Identifier: MIT OR Apache-2.0
//! Row A2: evict.

use core::fmt;

use super::{CHUNK, Count, Job, Paging};
use crate::errno::Errno;
use crate::frame::Gfn;
use crate::p2m::{FlushOwed, Found, OwedFlushes, P2mType, lookup};
use crate::platform::{P2m, Platform, TakeError};
use crate::ring::Epoch;

/// Why a page was not evicted. Nothing has changed.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictError {
    /// It is not nominated: it never was, it is out already, or it became resident because somebody
    /// accessed it. In the last case the pager's copy may be outdated.
    NotNominated(P2mType),
    /// Somebody has used the frame since it was nominated.
    InUse {
        /// References, including the one of the allocation.
        references: u32,
        /// Typed uses.
        typed: u32,
    },
    /// The caller is a pager that is not attached any more.
    Replaced,
    /// The entry could not be changed.
    Platform(Errno),
}

impl EvictError {
    /// `EBUSY` for every refusal (`evict` in Xen 4.17's `mem_paging.c`).
    pub const fn errno(self) -> Errno {
        match self {
            Self::Replaced => Errno::ENOTCONN,
            Self::Platform(errno) => errno,
            _ => Errno::EBUSY,
        }
    }
}

impl fmt::Display for EvictError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNominated(t) => write!(f, "not nominated ({t:?})"),
            Self::InUse { references, typed } => {
                write!(f, "in use: {references} references, {typed} typed uses")
            }
            Self::Replaced => f.write_str("the pager is not attached any more"),
            Self::Platform(errno) => write!(f, "the p2m entry could not be changed: {errno}"),
        }
    }
}

impl core::error::Error for EvictError {}

impl<P: Platform> Paging<'_, P> {
    /// Evicts nominated pages: their frames are scrubbed and freed after the flush. From here on the pager
    /// has the only copy. No locks held.
    pub fn evict(&self, by: Epoch, batch: &mut [Job<EvictError>]) {
        // Xen's own hypercall evicts one page at a time. Room for a chunk of owed flushes would cost
        // more instructions than the rest.
        if batch.len() == 1 {
            self.evict_chunk::<1>(by, batch);
        } else {
            self.evict_chunks(by, batch);
        }
    }

    /// Has a stack frame of its own, with room for the owed flushes of a chunk.
    #[inline(never)]
    fn evict_chunks(&self, by: Epoch, batch: &mut [Job<EvictError>]) {
        for chunk in batch.chunks_mut(CHUNK) {
            self.evict_chunk::<CHUNK>(by, chunk);
        }
    }

    /// At most `N` pages, under one hold of the lock.
    fn evict_chunk<const N: usize>(&self, by: Epoch, chunk: &mut [Job<EvictError>]) {
        let mut p2m = self.platform.lock_p2m();
        let mut owed_flushes: OwedFlushes<_, N> = OwedFlushes::new();
        let is_current = self.is_current(by);
        for job in chunk {
            let outcome = if is_current {
                evict_one(&mut p2m, job.gfn).map(|owed| owed_flushes.add(owed))
            } else {
                Err(EvictError::Replaced)
            };
            self.counters.add(
                if outcome.is_ok() {
                    Count::Evicted
                } else {
                    Count::EvictRefused
                },
                1,
            );
            job.outcome = Some(outcome);
        }
        owed_flushes.flush_and_free(&mut p2m);
    }
}

fn evict_one<M: P2m>(p2m: &mut M, gfn: Gfn) -> Result<FlushOwed<M::Frame>, EvictError> {
    let slot = match lookup(p2m, gfn) {
        Found::PagingOut(slot) => slot,
        Found::Ram(_) => return Err(EvictError::NotNominated(P2mType::RamRw)),
        Found::Paged(_) => return Err(EvictError::NotNominated(P2mType::RamPaged)),
        Found::PagingInStart(_) => return Err(EvictError::NotNominated(P2mType::RamPagingInStart)),
        Found::PagingIn(_) => return Err(EvictError::NotNominated(P2mType::RamPagingIn)),
        Found::Other(entry) => return Err(EvictError::NotNominated(entry.p2mt)),
    };
    let (_, owed) = slot.evict().map_err(|(_, e)| match e {
        TakeError::InUse { references, typed } => EvictError::InUse { references, typed },
        TakeError::Platform(errno) => EvictError::Platform(errno),
    })?;
    Ok(owed)
}
