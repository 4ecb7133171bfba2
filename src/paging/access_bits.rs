// SPDX-License-Identifier: MIT OR Apache-2.0
//! Accessed and dirty bits, read and cleared.

use core::fmt;

use super::Paging;
use crate::errno::Errno;
use crate::frame::Gfn;
use crate::p2m::{ACCESS_BITS_GFNS, AccessBits, ClearBits, read_clear_access_bits};
use crate::platform::Platform;

/// The number of [`AccessBits`] read under one hold of the p2m lock, with one flush: 4,096 gfns, eight page
/// tables. Reading so many entries takes a few tens of microseconds, and the flush costs the guest as
/// much again.
pub const ACCESS_BITS_CHUNK: usize = 64;

/// Why no bits were read, or not all.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessBitsError {
    /// The first gfn is no multiple of 64.
    Unaligned(Gfn),
    /// The last gfn would be beyond [`Gfn::MAX`].
    Beyond,
    /// The platform has no such bits, or could not change an entry.
    Platform(Errno),
}

impl AccessBitsError {
    /// `EINVAL` for gfns out of range or not aligned.
    pub const fn errno(self) -> Errno {
        match self {
            Self::Unaligned(_) | Self::Beyond => Errno::EINVAL,
            Self::Platform(errno) => errno,
        }
    }
}

impl fmt::Display for AccessBitsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned(gfn) => write!(f, "{gfn} is no multiple of 64"),
            Self::Beyond => f.write_str("beyond the last gfn"),
            Self::Platform(errno) => write!(f, "accessed bits: {errno}"),
        }
    }
}

impl core::error::Error for AccessBitsError {}

pub(super) enum RangeError {
    Unaligned,
    Beyond,
}

/// Whether elements for [`ACCESS_BITS_GFNS`] gfns each, so many of them, may stand for gfns from `first` on.
pub(super) fn check_range(first: Gfn, elements: usize) -> Result<(), RangeError> {
    if !first.get().is_multiple_of(ACCESS_BITS_GFNS) {
        return Err(RangeError::Unaligned);
    }
    let gfns = (elements as u64).checked_mul(ACCESS_BITS_GFNS);
    let last = gfns.and_then(|gfns| first.get().checked_add(gfns.saturating_sub(1)));
    if last.is_none_or(|last| last > Gfn::MAX.get()) {
        return Err(RangeError::Beyond);
    }
    Ok(())
}

impl<P: Platform> Paging<'_, P> {
    /// Reads and clears the accessed and dirty bits of 64 gfns for each element of `bits`. The first
    /// element starts at `first`, a multiple of 64. After an error, the bits up to some gfn have been read
    /// and cleared. No locks held.
    ///
    /// A gfn without a frame has no bits. For a page that is nominated, or that was brought in since the
    /// last call, the platform may report either value.
    pub fn read_clear_access_bits(
        &self,
        first: Gfn,
        bits: &mut [AccessBits],
        clear: ClearBits,
    ) -> Result<(), AccessBitsError> {
        check_range(first, bits.len()).map_err(|e| match e {
            RangeError::Unaligned => AccessBitsError::Unaligned(first),
            RangeError::Beyond => AccessBitsError::Beyond,
        })?;
        bits.fill(AccessBits::default());
        let mut at = first.get();
        for chunk in bits.chunks_mut(ACCESS_BITS_CHUNK) {
            let first = Gfn::new_truncate(at);
            at = at.wrapping_add((chunk.len() as u64).wrapping_mul(ACCESS_BITS_GFNS));
            let mut p2m = self.platform.lock_p2m();
            let owed = read_clear_access_bits(&mut p2m, first, chunk, clear)
                .map_err(AccessBitsError::Platform)?;
            if let Some(owed) = owed {
                owed.flush_and_free(&mut p2m);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::p2m::GfnSet;
    use crate::testing::Machine;

    const LAST: u64 = Gfn::MAX.get() + 1 - ACCESS_BITS_GFNS;

    fn words(count: usize) -> Vec<AccessBits> {
        let all = GfnSet::new([u64::MAX]);
        let stale = AccessBits {
            accessed: all,
            dirty: all,
        };
        vec![stale; count]
    }

    fn take(paging: &Paging<'_, Machine>, first: u64, count: usize) -> Result<(), AccessBitsError> {
        paging.read_clear_access_bits(
            Gfn::new_truncate(first),
            &mut words(count),
            ClearBits::AccessedAndDirty,
        )
    }

    #[test]
    fn uses_are_read_from_a_multiple_of_64_on_and_not_beyond_the_last_gfn() {
        let paging = Paging::new(Machine::default(), &[]);
        for first in [1, 63, 65, 4095] {
            let unaligned = AccessBitsError::Unaligned(Gfn::new_truncate(first));
            assert_eq!(take(&paging, first, 1), Err(unaligned));
            assert_eq!(unaligned.errno(), Errno::EINVAL);
        }
        for (first, count) in [(LAST, 2), (LAST - ACCESS_BITS_GFNS, 3)] {
            assert_eq!(take(&paging, first, count), Err(AccessBitsError::Beyond));
        }
        assert_eq!(AccessBitsError::Beyond.errno(), Errno::EINVAL);
        assert!(paging.platform().table().taken.is_empty(), "not asked");
        for (first, count) in [(LAST, 1), (LAST, 0), (LAST - ACCESS_BITS_GFNS, 2)] {
            assert_eq!(take(&paging, first, count), Ok(()));
        }
    }

    #[test]
    fn uses_are_read_in_chunks_with_a_flush_for_each_that_had_bits_to_clear() {
        for is_clear in [false, true] {
            let paging = Paging::new(Machine::default(), &[]);
            paging.platform().table().is_clear = is_clear;
            take(&paging, 128, 130).unwrap();
            let table = paging.platform().table();
            let both = ClearBits::AccessedAndDirty;
            let chunks = [
                (128, 64, both),
                (128 + 4096, 64, both),
                (128 + 8192, 2, both),
            ];
            assert_eq!(table.taken, chunks);
            assert_eq!(table.flushes, if is_clear { 0 } else { 3 });
        }
    }

    /// And nothing of what stood in the words before.
    #[test]
    fn uses_say_what_the_platform_says() {
        let paging = Paging::new(Machine::default(), &[]);
        (
            paging.platform().table().accessed,
            paging.platform().table().dirty,
        ) = (0b101, 0b100);
        let mut uses = words(2);
        let first = Gfn::new_truncate(64);
        paging
            .read_clear_access_bits(first, &mut uses, ClearBits::Accessed)
            .unwrap();
        let expected = AccessBits {
            accessed: GfnSet::new([0b101]),
            dirty: GfnSet::new([0b100]),
        };
        assert_eq!(uses, [expected; 2]);
        let table = paging.platform().table();
        assert_eq!(table.taken, [(64, 2, ClearBits::Accessed)]);
    }

    #[test]
    fn a_platform_that_refuses_is_not_asked_for_the_rest() {
        let paging = Paging::new(Machine::default(), &[]);
        paging.platform().table().refuse_from = Some(1);
        let refused = AccessBitsError::Platform(Errno::ENOMEM);
        assert_eq!(take(&paging, 0, 200), Err(refused));
        assert_eq!(refused.errno(), Errno::ENOMEM);
        assert_eq!(paging.platform().table().taken.len(), 1);
    }
}
