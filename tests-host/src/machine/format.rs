// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bits of a p2m entry, for Intel and for AMD.

use p2m_paging::Mfn;
use p2m_paging::p2m::{Access, EptPermissions, P2mType};
use p2m_paging::platform::Entry;
use x86_64::structures::paging::PageTableFlags;

/// The vendor of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Intel: extended page tables (SDM vol. 3, 29.3.2), Xen's type in bits 52 to 57.
    Ept,
    /// AMD: nested page tables, which are ordinary ones (APM vol. 2, 15.25), Xen's type in bits 52
    /// to 58.
    Npt,
}

const MFN_MASK: u64 = ((1 << 40) - 1) << 12;
const TYPE_SHIFT: u32 = 52;
const EPT_TYPE: u64 = 0x3f;
const NPT_TYPE: u64 = 0x7f;
/// Write-back.
const EPT_MEMORY_TYPE: u64 = 6 << 3;
const EPT_ACCESSED: u64 = 1 << 8;
const EPT_DIRTY: u64 = 1 << 9;

/// The rights that hardware gives a guest with an entry of this type.
fn permissions(p2mt: P2mType) -> Access {
    p2mt.paging_access().unwrap_or(match p2mt {
        P2mType::RamRw => Access::all(),
        P2mType::RamLogDirty | P2mType::RamRo => Access::READ | Access::FETCH,
        _ => Access::empty(),
    })
}

impl Format {
    /// The bits of a leaf.
    pub fn leaf(self, entry: Entry) -> u64 {
        if entry.p2mt == P2mType::Invalid {
            return 0;
        }
        let mfn = entry.mfn.map_or(MFN_MASK, |mfn| mfn.get() << 12);
        mfn | u64::from(entry.p2mt.raw()) << TYPE_SHIFT | self.rights(entry.p2mt)
    }

    fn rights(self, p2mt: P2mType) -> u64 {
        let access = permissions(p2mt);
        match self {
            Self::Ept => {
                let mut bits = EptPermissions::empty();
                bits.set(EptPermissions::READ, access.contains(Access::READ));
                bits.set(EptPermissions::WRITE, access.contains(Access::WRITE));
                bits.set(EptPermissions::EXECUTE, access.contains(Access::FETCH));
                p2mt.ept_permissions().unwrap_or(bits).bits() | EPT_MEMORY_TYPE
            }
            Self::Npt => {
                let mut flags = PageTableFlags::empty();
                if access.contains(Access::READ) {
                    flags |= PageTableFlags::PRESENT | PageTableFlags::USER_ACCESSIBLE;
                    flags.set(PageTableFlags::NO_EXECUTE, !access.contains(Access::FETCH));
                }
                flags.set(PageTableFlags::WRITABLE, access.contains(Access::WRITE));
                p2mt.npt_flags().unwrap_or(flags).bits()
            }
        }
    }

    /// An entry that points to the table with this number.
    pub fn branch(self, table: usize) -> u64 {
        let rights = match self {
            Self::Ept => EptPermissions::all().bits(),
            Self::Npt => (PageTableFlags::PRESENT
                | PageTableFlags::WRITABLE
                | PageTableFlags::USER_ACCESSIBLE)
                .bits(),
        };
        (table as u64) << 12 | rights
    }

    /// The table that a branch points to.
    pub fn table(self, bits: u64) -> Option<usize> {
        (bits != 0).then_some(((bits & MFN_MASK) >> 12) as usize)
    }

    /// The contents of a leaf.
    pub fn entry(self, bits: u64) -> Entry {
        let mask = match self {
            Self::Ept => EPT_TYPE,
            Self::Npt => NPT_TYPE,
        };
        let raw = u32::try_from((bits >> TYPE_SHIFT) & mask).unwrap_or(u32::MAX);
        let p2mt = match bits {
            0 => P2mType::Invalid,
            _ => P2mType::try_from_raw(raw).expect("a type that was written"),
        };
        let mfn = bits & MFN_MASK;
        Entry {
            p2mt,
            mfn: (bits != 0 && mfn != MFN_MASK)
                .then(|| Mfn::try_new(mfn >> 12))
                .flatten(),
        }
    }

    /// The rights of an entry of any level, by its bits alone: hardware does not know types.
    pub fn allows(self, bits: u64) -> Access {
        let mut access = Access::empty();
        match self {
            Self::Ept => {
                let rights = EptPermissions::from_bits_truncate(bits);
                access.set(Access::READ, rights.contains(EptPermissions::READ));
                access.set(Access::WRITE, rights.contains(EptPermissions::WRITE));
                access.set(Access::FETCH, rights.contains(EptPermissions::EXECUTE));
            }
            Self::Npt => {
                let flags = PageTableFlags::from_bits_truncate(bits);
                let walkable = PageTableFlags::PRESENT | PageTableFlags::USER_ACCESSIBLE;
                if flags.contains(walkable) {
                    access |= Access::READ;
                    access.set(Access::WRITE, flags.contains(PageTableFlags::WRITABLE));
                    access.set(Access::FETCH, !flags.contains(PageTableFlags::NO_EXECUTE));
                }
            }
        }
        access
    }

    /// The accessed bit, and the dirty bit.
    pub fn used_bits(self) -> (u64, u64) {
        match self {
            Self::Ept => (EPT_ACCESSED, EPT_DIRTY),
            Self::Npt => (
                PageTableFlags::ACCESSED.bits(),
                PageTableFlags::DIRTY.bits(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_round_trip_and_allow_what_their_type_allows() {
        for format in [Format::Ept, Format::Npt] {
            for p2mt in P2mType::ALL {
                for mfn in [None, Mfn::try_new(0), Mfn::try_new(0x12_3456)] {
                    let entry = Entry { p2mt, mfn };
                    let bits = format.leaf(entry);
                    let back = format.entry(bits);
                    assert_eq!(back.p2mt, p2mt, "{format:?}");
                    if p2mt != P2mType::Invalid {
                        assert_eq!(back, entry, "{format:?}");
                    }
                    assert_eq!(
                        format.allows(bits),
                        permissions(p2mt),
                        "{format:?} {p2mt:?}"
                    );
                    let (accessed, dirty) = format.used_bits();
                    assert_eq!(bits & (accessed | dirty), 0, "used before it was used");
                    if bits != 0 {
                        assert_eq!(format.entry(bits | accessed | dirty), back);
                    }
                }
            }
        }
    }
}
