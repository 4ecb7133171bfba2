// SPDX-License-Identifier: MIT OR Apache-2.0
//! Accessed and dirty bits of p2m entries, which hardware sets when the guest uses a page (EPT: SDM
//! vol. 3, 29.3.5; NPT: APM vol. 2, 15.25.5).

use bitvec::array::BitArray;
use bitvec::order::Lsb0;
use static_assertions::assert_eq_size;

use super::owed_flush::FlushOwed;
use crate::errno::Errno;
use crate::frame::Gfn;
use crate::platform::P2m;

/// The number of gfns in one [`AccessBits`].
pub const ACCESS_BITS_GFNS: u64 = 64;

/// A set of 64 neighbouring gfns: bit n stands for the nth. It occupies one word.
pub type GfnSet = BitArray<[u64; 1], Lsb0>;

/// The bits of [`ACCESS_BITS_GFNS`] neighbouring gfns. It occupies two words.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccessBits {
    /// Accessed in any way.
    pub accessed: GfnSet,
    /// Written. If the platform cannot tell: accessed.
    pub dirty: GfnSet,
}

assert_eq_size!(GfnSet, u64);
assert_eq_size!(AccessBits, [u64; 2]);

/// Which bits are cleared when they are read. A dirty bit that was cleared is reported once only, so a
/// caller that does not record dirty bits must leave them set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClearBits {
    /// The accessed bits. Dirty bits are read, and stay.
    Accessed,
    /// Both.
    AccessedAndDirty,
}

/// Whether a bit was cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleared {
    /// No bit was cleared, or no CPU holds a translation with one.
    Nothing,
    /// A CPU may still hold an old translation. It does not set the bit again before a flush.
    Something,
}

/// Reads and clears bits, from `first` on. If any bit was cleared, a flush is owed: before it, hardware
/// does not record a further access or write.
pub fn read_clear_access_bits<M: P2m>(
    p2m: &mut M,
    first: Gfn,
    bits: &mut [AccessBits],
    clear: ClearBits,
) -> Result<Option<FlushOwed<M::Frame>>, Errno> {
    match p2m.read_clear_access_bits(first, bits, clear)? {
        Cleared::Nothing => Ok(None),
        Cleared::Something => Ok(Some(FlushOwed::without_frame())),
    }
}
