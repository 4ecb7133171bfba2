// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the core and its store say to each other: slots, what is known of a page that is to be written, and what became
//! of it. Where slots lie, and how pages get there, is the store's business alone.

use std::fmt;

/// One more than the highest slot: a slot's number has 28 bits, two of which values mean something else to the core. A
/// pager holds a terabyte of pages at most.
pub const SLOTS_END: u32 = (u32::MAX >> 4) - 1;

/// A place for one page: in which area of the store ([`SlotRange`]), and where there, in one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// The slots of one area of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRange {
    /// The lowest: a multiple of 64.
    pub first: Slot,
    /// How many.
    pub slots: u32,
    /// Higher ones are filled first; those of the same take turns.
    pub priority: i32,
}

impl SlotRange {
    /// A store that has one area, as large as need be.
    pub const EVERYTHING: Self = Self {
        first: Slot(0),
        slots: SLOTS_END,
        priority: 0,
    };

    /// One more than its highest slot.
    pub const fn end(&self) -> u32 {
        self.first.0 + self.slots
    }

    /// Whether a slot is one of these.
    pub const fn contains(&self, slot: Slot) -> bool {
        slot.0 >= self.first.0 && slot.0 < self.end()
    }
}

/// Why one page could not be written, or is not to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No room for another page (ENOSPC, EDQUOT, EFBIG, or the limit of the store).
    #[error("the store is full")]
    Full,
    /// The device or the file system refused; `errno` is Linux's.
    #[error("input/output error {errno} on slot {}", slot.0)]
    Io {
        /// The slot.
        slot: Slot,
        /// Linux's number.
        errno: i32,
    },
    /// The file ends before the end of the slot, or a write stopped short for good.
    #[error("only {bytes} bytes of slot {}", slot.0)]
    Short {
        /// The slot.
        slot: Slot,
        /// How much of it was there.
        bytes: usize,
    },
    /// The bytes are not those that were written.
    #[error("slot {} {kind}: its checksum is {found:#010x}, not {expected:#010x}", slot.0)]
    Corrupt {
        /// The slot.
        slot: Slot,
        /// As remembered from the write.
        expected: u32,
        /// As computed from what was read.
        found: u32,
        /// What is wrong with them.
        kind: Corruption,
    },
    /// What a pager before this one has noted of the slot cannot be.
    #[error("slot {} has no page with checksum {checksum:#x}", slot.0)]
    NotAdopted {
        /// The slot.
        slot: Slot,
        /// As noted.
        checksum: u64,
    },
    /// Nothing was ever written there, or it was freed.
    #[error("slot {} holds no page", slot.0)]
    Empty {
        /// The slot.
        slot: Slot,
    },
}

impl StoreError {
    /// Whether what was written is gone: the store answers, and has something else. A device that does not
    /// answer may do so later.
    pub const fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::Corrupt { .. } | Self::NotAdopted { .. } | Self::Empty { .. }
        )
    }
}

/// What is wrong with a page that was read, as far as checksums tell it. Bit n of `sectors` stands for the 512 bytes from
/// 512n on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    /// A write has stopped half way.
    Torn {
        /// The sectors of what the slot held before: the first ones or the last ones.
        sectors: u8,
    },
    /// What the slot held before: the write never reached the device.
    Stale,
    /// What another slot should hold: one of the two was written or read in the wrong place.
    Misdirected {
        /// The other slot.
        due: Slot,
    },
    /// None of these.
    Rotten {
        /// The sectors that are wrong. None: checksums do not tell which.
        sectors: u8,
    },
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Torn { sectors } => {
                write!(f, "is torn, with old sectors {}", Sectors(sectors))
            }
            Self::Stale => f.write_str("is stale, with what was written before"),
            Self::Misdirected { due } => {
                write!(f, "is misdirected, with the page of slot {}", due.0)
            }
            Self::Rotten { sectors: 0 } => f.write_str("is rotten"),
            Self::Rotten { sectors } => write!(f, "is rotten in sectors {}", Sectors(sectors)),
        }
    }
}

/// Writes the sectors of a bit set, from the first to the last.
struct Sectors(u8);

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for sector in (0..8).filter(|n| self.0 >> n & 1 == 1) {
            write!(f, "{comma}{sector}")?;
            comma = ", ";
        }
        Ok(())
    }
}

/// What is known of a page that is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareWith {
    /// Nothing: it may be like any page that the store holds.
    Any,
    /// Its own slot holds what it once was. It may still be that.
    Own,
    /// This slot, not the one where it is to be written, holds what it once was or seems to be. Nobody writes there
    /// meanwhile.
    Slot(Slot),
    /// It is like none: it is written.
    Nothing,
}

/// What writing a page took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// It is in its slot now.
    Written,
    /// It was in its slot already, or in that of [`CompareWith::Slot`], byte for byte.
    Unchanged,
    /// It is all zeros. Its slot holds nothing.
    Zeros,
    /// It has not been written: it seems to be like what this slot holds, another than its own. Only said of what may be like
    /// any page ([`CompareWith::Any`], [`CompareWith::Own`]), and by a store that looks.
    DedupCandidate(Slot),
}
