// SPDX-License-Identifier: MIT OR Apache-2.0
//! Row A1, undone: restore.

use core::fmt;

use super::{CHUNK, Count, Job, Paging};
use crate::errno::Errno;
use crate::frame::Gfn;
use crate::p2m::{Found, P2mType, lookup};
use crate::platform::{P2m, Platform};
use crate::ring::Epoch;

/// Why a page was not restored. Nothing has changed.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// It is not nominated: it never was, it is out, or it is resident already.
    NotNominated(P2mType),
    /// The caller is a pager that is not attached any more.
    Replaced,
    /// The entry could not be changed.
    Platform(Errno),
}

impl RestoreError {
    /// `ENOENT` for a page that is not nominated.
    pub const fn errno(self) -> Errno {
        match self {
            Self::NotNominated(_) => Errno::ENOENT,
            Self::Replaced => Errno::ENOTCONN,
            Self::Platform(errno) => errno,
        }
    }
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNominated(t) => write!(f, "not nominated ({t:?})"),
            Self::Replaced => f.write_str("the pager is not attached any more"),
            Self::Platform(errno) => write!(f, "the p2m entry could not be changed: {errno}"),
        }
    }
}

impl core::error::Error for RestoreError {}

impl<P: Platform> Paging<'_, P> {
    /// Makes nominated pages resident: the pager will not evict them. Their contents have stayed in place.
    /// No vcpu waits for a nominated page, so none is woken. No locks held.
    pub fn restore(&self, by: Epoch, batch: &mut [Job<RestoreError>]) {
        for chunk in batch.chunks_mut(CHUNK) {
            let mut p2m = self.platform.lock_p2m();
            let is_current = self.is_current(by);
            for job in chunk {
                let outcome = if is_current {
                    restore_one(&mut p2m, job.gfn)
                } else {
                    Err(RestoreError::Replaced)
                };
                if outcome.is_ok() {
                    self.counters.add(Count::Restored, 1);
                }
                job.outcome = Some(outcome);
            }
        }
    }
}

fn restore_one<M: P2m>(p2m: &mut M, gfn: Gfn) -> Result<(), RestoreError> {
    let p2mt = match lookup(p2m, gfn) {
        Found::PagingOut(slot) => {
            return match slot.restore() {
                Ok(_) => Ok(()),
                Err((_, errno)) => Err(RestoreError::Platform(errno)),
            };
        }
        Found::Ram(_) => P2mType::RamRw,
        Found::Paged(_) => P2mType::RamPaged,
        Found::PagingInStart(_) => P2mType::RamPagingInStart,
        Found::PagingIn(_) => P2mType::RamPagingIn,
        Found::Other(entry) => entry.p2mt,
    };
    Err(RestoreError::NotNominated(p2mt))
}
