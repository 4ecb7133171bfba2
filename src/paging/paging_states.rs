// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages are out, and which are nominated.

use core::fmt;

use static_assertions::assert_eq_size;

use super::access_bits::{RangeError, check_range};
use super::{CHUNK, Paging};
use crate::errno::Errno;
use crate::frame::Gfn;
use crate::p2m::{GfnSet, P2mType};
use crate::platform::{P2m, Platform};
use crate::ring::Epoch;

/// The states of 64 neighbouring gfns. It occupies two words.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PagingStates {
    /// The page is out: its contents are with the pager. It may have been requested, or have an empty frame.
    pub out: GfnSet,
    /// The page is nominated: it has its contents.
    pub nominated: GfnSet,
}

assert_eq_size!(PagingStates, [u64; 2]);

/// Why the states were not listed, or not all.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagingStatesError {
    /// The first gfn is no multiple of 64.
    Unaligned(Gfn),
    /// The last gfn would be beyond [`Gfn::MAX`].
    Beyond,
    /// The caller is not the pager that is attached.
    Replaced,
}

impl PagingStatesError {
    /// `EINVAL` for gfns out of range or not aligned.
    pub const fn errno(self) -> Errno {
        match self {
            Self::Unaligned(_) | Self::Beyond => Errno::EINVAL,
            Self::Replaced => Errno::ENOTCONN,
        }
    }
}

impl fmt::Display for PagingStatesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned(gfn) => write!(f, "{gfn} is no multiple of 64"),
            Self::Beyond => f.write_str("beyond the last gfn"),
            Self::Replaced => f.write_str("the pager is not attached any more"),
        }
    }
}

impl core::error::Error for PagingStatesError {}

impl<P: Platform> Paging<'_, P> {
    /// Lists the states of 64 gfns for each element of `states`. The first element starts at `first`, a
    /// multiple of 64. A gfn beyond the guest's memory is in neither set. No locks held.
    ///
    /// A page goes out only by an evict of the caller, so a page that is listed as resident stays resident.
    /// A page that is listed as out may be removed by the guest later; the pager is told of that by a request,
    /// as always. A nominated page may become resident at any time.
    ///
    /// A drop request may be older than the list: its page was gone when the states were listed, and the pager
    /// may have evicted a new page since. So a pager that has taken over asks again before it forgets a page
    /// because of a drop request, and keeps a page that is out.
    pub fn paging_states(
        &self,
        by: Epoch,
        first: Gfn,
        states: &mut [PagingStates],
    ) -> Result<(), PagingStatesError> {
        check_range(first, states.len()).map_err(|e| match e {
            RangeError::Unaligned => PagingStatesError::Unaligned(first),
            RangeError::Beyond => PagingStatesError::Beyond,
        })?;
        states.fill(PagingStates::default());
        let mut at = first.get();
        for states in states {
            let p2m = self.platform.lock_p2m();
            if !self.is_current(by) {
                return Err(PagingStatesError::Replaced);
            }
            for n in 0..CHUNK {
                match p2m.get(Gfn::new_truncate(at)).p2mt {
                    P2mType::RamPaged | P2mType::RamPagingInStart | P2mType::RamPagingIn => {
                        states.out.set(n, true);
                    }
                    P2mType::RamPagingOut => states.nominated.set(n, true),
                    _ => {}
                }
                at = at.wrapping_add(1);
            }
        }
        Ok(())
    }
}
