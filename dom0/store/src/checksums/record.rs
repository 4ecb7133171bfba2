// SPDX-License-Identifier: MIT OR Apache-2.0
//! The 64 bits that are kept of a page, and what they tell of a page that is another one.

use p2m_paging::PAGE_SIZE;
use pager_core::store::Corruption;

use super::PageBuf;

/// A device writes whole sectors.
const SECTOR_BYTES: usize = 512;
const SECTORS: usize = PAGE_SIZE / SECTOR_BYTES;
/// The CRC-32C of a sector of zeros.
const ZEROS: u32 = crc_of_zeros(SECTOR_BYTES);

/// Bits of the CRC in a record, and of each of its two tags.
const CRC_BITS: u32 = 32;
const TAGS_BITS: u32 = 16;
const _: () = assert!(CRC_BITS + 2 * TAGS_BITS == u64::BITS && 2 * SECTORS == TAGS_BITS as usize);

/// Two bits of the CRC-32C of each sector: sector n has bits 2n and 2n + 1. Those of a sector of zeros
/// are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tags(u16);

impl Tags {
    /// Bit n: sector n has the same tag in both.
    fn alike(self, other: Self) -> u8 {
        let differ = self.0 ^ other.0;
        (0..SECTORS)
            .filter(|n| differ >> (2 * n) & 3 == 0)
            .fold(0, |sectors, n| sectors | 1 << n)
    }
}

/// The sum of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sum {
    /// The CRC-32C of the CRC-32Cs of the sectors. Never 0: a page with 0 gets 1.
    crc: u32,
    tags: Tags,
}

impl Sum {
    pub(super) fn of(page: &PageBuf) -> Self {
        let mut crcs = [[0; 4]; SECTORS];
        let mut tags = 0;
        let sectors = page.0.chunks_exact(SECTOR_BYTES);
        for (n, (sector, bytes)) in sectors.zip(&mut crcs).enumerate() {
            let crc = crc32c::crc32c(sector);
            tags |= ((crc ^ ZEROS) >> (CRC_BITS - 2)) << (2 * n);
            *bytes = crc.to_le_bytes();
        }
        Self {
            crc: crc32c::crc32c(crcs.as_flattened()).max(1),
            tags: Tags(low_16(tags.into())),
        }
    }

    pub(super) fn crc(self) -> u32 {
        self.crc
    }
}

/// What the table and the index keep of a slot.
///
/// | bits | what |
/// |---|---|
/// | 0 to 31 | the CRC of the page, 0 if the slot has none |
/// | 32 to 47 | the tags of its sectors |
/// | 48 to 63 | the tags of what the slot held before. Nothing is written first to a new file: zeros |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Record(pub(super) u64);

impl Record {
    /// No page, and no page was there before.
    pub(super) const NONE: Self = Self(0);

    fn of(sum: Option<Sum>, before: Tags) -> Self {
        let (crc, tags) = sum.map_or((0, 0), |sum| (sum.crc, sum.tags.0));
        let tags = u64::from(tags) << CRC_BITS;
        Self(u64::from(crc) | tags | u64::from(before.0) << (CRC_BITS + TAGS_BITS))
    }

    /// The sum of the page in the slot.
    pub(super) fn sum(self) -> Option<Sum> {
        let crc = u32::try_from(self.0 & u64::from(u32::MAX)).ok()?;
        let tags = Tags(low_16(self.0 >> CRC_BITS));
        (crc != 0).then_some(Sum { crc, tags })
    }

    /// The slot has got this page.
    pub(super) fn written(self, sum: Sum) -> Self {
        Self::of(Some(sum), self.in_the_file())
    }

    /// The slot has no page any more. The file still holds what it held.
    pub(super) fn forgotten(self) -> Self {
        Self::of(None, self.in_the_file())
    }

    /// Whether both have the same page. What was there before may differ: the index keeps the record of
    /// a page that has moved since.
    pub(super) fn has(self, sum: Sum) -> bool {
        self.sum() == Some(sum)
    }

    fn in_the_file(self) -> Tags {
        self.sum().map_or(self.before(), |sum| sum.tags)
    }

    fn before(self) -> Tags {
        Tags(low_16(self.0 >> (CRC_BITS + TAGS_BITS)))
    }

    /// What is wrong with a page that has another sum than the one that was written, as far as its sectors
    /// tell it: each is the one written last, the one before, or neither.
    pub(super) fn compare(self, written: Sum, found: Sum) -> Corruption {
        let new = found.tags.alike(written.tags);
        let old = found.tags.alike(self.before());
        let wrong = !new;
        if wrong == 0 {
            return Corruption::Rotten { sectors: 0 };
        }
        if old == u8::MAX {
            return Corruption::Stale;
        }
        // The sectors up to the last wrong one, or those from the first wrong one on.
        let head = u8::MAX >> wrong.leading_zeros();
        let tail = u8::MAX << wrong.trailing_zeros();
        let torn = [head, tail].into_iter().find(|part| part & !old == 0);
        torn.map_or(Corruption::Rotten { sectors: wrong }, |sectors| {
            Corruption::Torn { sectors }
        })
    }
}

fn low_16(value: u64) -> u16 {
    let [a, b, ..] = value.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// The CRC-32C of so many zeros, bit by bit.
const fn crc_of_zeros(bytes: usize) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut crc = u32::MAX;
    let mut bits = 8 * bytes;
    while bits > 0 {
        crc = crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
        bits -= 1;
    }
    !crc
}
