// SPDX-License-Identifier: MIT OR Apache-2.0
//! The contents of a page: one word for each sector, which identifies its owner.

use std::fmt;

use p2m_paging::Gfn;

/// Sectors in a page. A disk writes a sector whole or not at all.
pub const SECTORS: usize = 8;

const TAG: u64 = 0xa << 60;
const SECTOR_SHIFT: u32 = 56;
const VERSION_SHIFT: u32 = 24;
const GFN_MASK: u64 = (1 << VERSION_SHIFT) - 1;

/// The contents of a page. A word names the gfn for which it was written, the version and its own
/// sector, so that a page of another gfn, an old page and a torn page are all detected.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Page(pub [u64; SECTORS]);

impl Page {
    /// Zeros.
    pub const ZERO: Self = Self([0; SECTORS]);
    /// The contents of a free frame.
    pub const SCRUBBED: Self = Self([u64::MAX; SECTORS]);

    /// The page that was written to `gfn` as its `version`th.
    pub fn new(gfn: Gfn, version: u32) -> Self {
        let mut page = Self::ZERO;
        for (sector, word) in page.0.iter_mut().enumerate() {
            *word = TAG
                | (sector as u64) << SECTOR_SHIFT
                | u64::from(version) << VERSION_SHIFT
                | (gfn.get() & GFN_MASK);
        }
        page
    }

    /// A checksum over all sectors (FNV-1a by words).
    pub fn checksum(&self) -> u64 {
        self.0.iter().fold(0xcbf2_9ce4_8422_2325, |sum, word| {
            (sum ^ word).wrapping_mul(0x100_0000_01b3).rotate_left(29)
        })
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.0[0];
        let gfn = Gfn::new_truncate(first & GFN_MASK);
        let version = u32::try_from((first >> VERSION_SHIFT) & u64::from(u32::MAX)).unwrap_or(0);
        if *self == Self::ZERO {
            f.write_str("zeros")
        } else if *self == Self::SCRUBBED {
            f.write_str("a scrubbed frame")
        } else if *self == Self::new(gfn, version) {
            write!(f, "{gfn} version {version}")
        } else {
            write!(f, "torn {:x?}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_page_another_version_and_a_torn_page_all_show() {
        let gfn = Gfn::new_truncate;
        let page = Page::new(gfn(5), 7);
        let mut torn = page;
        torn.0[3] = Page::new(gfn(5), 6).0[3];
        for other in [Page::new(gfn(4), 7), Page::new(gfn(5), 8), torn, Page::ZERO] {
            assert_ne!(other, page);
            assert_ne!(other.checksum(), page.checksum());
        }
        assert_eq!(format!("{page:?}"), "gfn 0x5 version 7");
        assert!(format!("{torn:?}").starts_with("torn"));
    }
}
