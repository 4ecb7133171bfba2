//! What hardware notes when a guest uses its memory: accessed and dirty bits of p2m entries (EPT: SDM vol. 3,
//! 29.3.5; NPT: APM vol. 2, 15.25.5).

use bitvec::array::BitArray;
use bitvec::order::Lsb0;
use static_assertions::assert_eq_size;

use super::debts::FlushOwed;
use crate::errno::Errno;
use crate::frame::Gfn;
use crate::platform::P2m;

/// Gfns that one [`Uses`] is about.
pub const USES_GFNS: u64 = 64;

/// A set of 64 neighbouring gfns: bit n stands for the nth. In memory it is one word.
pub type GfnSet = BitArray<[u64; 1], Lsb0>;

/// What has been used of [`USES_GFNS`] neighbouring gfns. In memory it is two words.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Used for anything.
    pub accessed: GfnSet,
    /// Written. Where the platform cannot tell: used.
    pub dirty: GfnSet,
}

assert_eq_size!(GfnSet, u64);
assert_eq_size!(Uses, [u64; 2]);

/// Which bits are cleared when they are read. What a dirty bit has said once, nobody says again: who
/// does not keep account of them leaves them alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// The accessed bits. Dirty bits are read, and stay.
    Accessed,
    /// Both.
    AccessedAndDirty,
}

/// Whether a bit was cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleared {
    /// None was, or no CPU remembers any.
    Nothing,
    /// A CPU may still hold a translation from before: it does not set the bit again until it has
    /// forgotten that.
    Something,
}

/// Reads and clears bits, from `first` on. A flush is owed if any was cleared: a use that follows unflushed
/// is not noted, and a write that is not noted is lost to whoever trusts dirty bits.
pub fn take_uses<M: P2m>(
    p2m: &mut M,
    first: Gfn,
    uses: &mut [Uses],
    take: Take,
) -> Result<Option<FlushOwed<M::Frame>>, Errno> {
    match p2m.take_uses(first, uses, take)? {
        Cleared::Nothing => Ok(None),
        Cleared::Something => Ok(Some(FlushOwed::without_frame())),
    }
}
