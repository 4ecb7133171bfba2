// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frame numbers and vcpu numbers, each with a type of its own so that they cannot be mixed up.
//!
//! ```
//! use p2m_paging::{Gfn, Mfn};
//!
//! assert_eq!(Gfn::try_new(0x1234).map(Gfn::get), Some(0x1234));
//! assert_eq!(Gfn::try_new(1 << 40), None);
//! assert_eq!(Mfn::try_new(u64::MAX), None);
//! ```

use core::fmt;

use static_assertions::assert_eq_size;
use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size4KiB};

/// Bytes in a page. Paging works on 4 KiB pages only (`PAGE_ORDER_4K` in Xen).
pub const PAGE_SIZE: usize = 4096;

/// Guest frame number: a guest-physical address divided by [`PAGE_SIZE`]. Below 2^40.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Gfn(u64);

impl Gfn {
    /// The largest gfn: physical addresses of x86 have 52 bits.
    pub const MAX: Self = Self((1 << 40) - 1);

    /// Checks a frame number that another domain supplied.
    pub const fn try_new(raw: u64) -> Option<Self> {
        if raw <= Self::MAX.0 {
            Some(Self(raw))
        } else {
            None
        }
    }

    /// A frame number that is known to be in range. Bits above the 40th are discarded.
    pub const fn new_truncate(raw: u64) -> Self {
        Self(raw & Self::MAX.0)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Gfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gfn {:#x}", self.0)
    }
}

impl fmt::Display for Gfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Machine frame number: the physical frame behind a gfn.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Mfn(PhysFrame<Size4KiB>);

impl Mfn {
    /// Checks a frame number: its address must fit into 52 bits.
    pub fn try_new(raw: u64) -> Option<Self> {
        if raw > Gfn::MAX.0 {
            return None;
        }
        let address = PhysAddr::try_new(raw << 12).ok()?;
        Some(Self(PhysFrame::containing_address(address)))
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0.start_address().as_u64() >> 12
    }

    /// The frame, for page tables.
    pub const fn frame(self) -> PhysFrame<Size4KiB> {
        self.0
    }
}

impl fmt::Debug for Mfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mfn {:#x}", self.get())
    }
}

assert_eq_size!(Gfn, u64);
assert_eq_size!(Mfn, u64);

/// A vcpu of the paged domain. In a foreign caller: a vcpu of the calling domain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct VcpuId(pub u32);

impl VcpuId {
    /// The number as an index into tables by vcpu.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for VcpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_numbers_from_outside_are_checked() {
        assert_eq!(Gfn::try_new(0).map(Gfn::get), Some(0));
        assert_eq!(Gfn::try_new((1 << 40) - 1), Some(Gfn::MAX));
        assert_eq!(Gfn::try_new(1 << 40), None);
        assert_eq!(Gfn::try_new(u64::MAX), None);
        assert_eq!(Mfn::try_new(0x1234).map(Mfn::get), Some(0x1234));
        assert_eq!(Mfn::try_new(1 << 40), None);
        assert_eq!(Mfn::try_new(u64::MAX), None);
        assert_eq!(
            Mfn::try_new((1 << 52) + 1),
            None,
            "the shift must not wrap into range"
        );
        let last = Gfn::MAX.get();
        assert_eq!(Mfn::try_new(last).map(Mfn::get), Some(last));
    }
}
