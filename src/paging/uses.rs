// SPDX-License-Identifier: MIT OR Apache-2.0
//! Accessed and dirty bits, read and cleared.

use core::fmt;

use super::Paging;
use crate::errno::Errno;
use crate::frame::Gfn;
use crate::p2m::{Take, USES_GFNS, Uses, take_uses};
use crate::platform::Platform;

/// The number of [`Uses`] read under one hold of the p2m lock, with one flush: 4,096 gfns, eight page
/// tables. Reading so many entries takes a few tens of microseconds, and the flush costs the guest as
/// much again.
pub const USES_CHUNK: usize = 64;

/// Why no bits were read, or not all.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsesError {
    /// The first gfn is no multiple of 64.
    Unaligned(Gfn),
    /// The last gfn would be beyond [`Gfn::MAX`].
    Beyond,
    /// The platform has no such bits, or could not change an entry.
    Platform(Errno),
}

impl UsesError {
    /// `EINVAL` for gfns out of range or not aligned.
    pub const fn errno(self) -> Errno {
        match self {
            Self::Unaligned(_) | Self::Beyond => Errno::EINVAL,
            Self::Platform(errno) => errno,
        }
    }
}

impl fmt::Display for UsesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned(gfn) => write!(f, "{gfn} is no multiple of 64"),
            Self::Beyond => f.write_str("beyond the last gfn"),
            Self::Platform(errno) => write!(f, "accessed bits: {errno}"),
        }
    }
}

impl core::error::Error for UsesError {}

impl<P: Platform> Paging<'_, P> {
    /// Reads and clears the accessed and dirty bits of 64 gfns for each element of `uses`. The first
    /// element starts at `first`, a multiple of 64. After an error, the bits up to some gfn have been read
    /// and cleared. No locks held.
    ///
    /// A gfn without a frame has no bits. For a page that is nominated, or that was brought in since the
    /// last call, the platform may report either value.
    pub fn take_uses(&self, first: Gfn, uses: &mut [Uses], take: Take) -> Result<(), UsesError> {
        if !first.get().is_multiple_of(USES_GFNS) {
            return Err(UsesError::Unaligned(first));
        }
        let gfns = (uses.len() as u64).checked_mul(USES_GFNS);
        let last = gfns.and_then(|gfns| first.get().checked_add(gfns.saturating_sub(1)));
        if last.is_none_or(|last| last > Gfn::MAX.get()) {
            return Err(UsesError::Beyond);
        }
        uses.fill(Uses::default());
        let mut at = first.get();
        for chunk in uses.chunks_mut(USES_CHUNK) {
            let first = Gfn::new_truncate(at);
            at = at.wrapping_add((chunk.len() as u64).wrapping_mul(USES_GFNS));
            let mut p2m = self.platform.lock_p2m();
            let owed = take_uses(&mut p2m, first, chunk, take).map_err(UsesError::Platform)?;
            if let Some(owed) = owed {
                owed.pay(&mut p2m);
            }
        }
        Ok(())
    }
}
