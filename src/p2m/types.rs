// SPDX-License-Identifier: MIT OR Apache-2.0
//! The types of a p2m entry, and what each allows.

use bitflags::bitflags;
use x86_64::structures::paging::PageTableFlags;

/// The type of a gfn, with the numbers of Xen 4.17 (`asm/p2m.h`, `p2m_type_t`).
///
/// The numbers are part of the ring's ABI: a request carries the type that the gfn had. Xen removed
/// `paging_in_start` in 4.2. Here it follows the last type of Xen, so that no other number changes.
///
/// ```
/// use p2m_paging::P2mType;
///
/// assert_eq!(P2mType::try_from_raw(10), Some(P2mType::RamPaged));
/// assert!(P2mType::RamPaged.is_paging());
/// assert!(P2mType::RamRw.is_pageable());
/// ```
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum P2mType {
    /// Ordinary memory.
    RamRw = 0,
    /// Nothing mapped here.
    Invalid = 1,
    /// Memory whose writes are logged, for live migration.
    RamLogDirty = 2,
    /// Memory that the guest cannot write.
    RamRo = 3,
    /// Emulated device registers.
    MmioDm = 4,
    /// Registers of a device that is passed through.
    MmioDirect = 5,
    /// Memory that is allocated at the first access.
    PopulateOnDemand = 6,
    /// A granted frame of another domain, writable.
    GrantMapRw = 7,
    /// A granted frame of another domain, read-only.
    GrantMapRo = 8,
    /// Nominated: the pager is about to copy it. It has its frame, and the guest may read it.
    RamPagingOut = 9,
    /// Paged out: no frame.
    RamPaged = 10,
    /// Has an empty frame, which the pager fills; the pager has not responded yet.
    RamPagingIn = 11,
    /// Shared with other domains, copy on write.
    RamShared = 12,
    /// Failed memory.
    RamBroken = 13,
    /// A frame of another domain.
    MapForeign = 14,
    /// Claimed by an I/O request server.
    IoreqServer = 15,
    /// Requested: the pager has been asked for it, or will be when the ring has a free slot. No frame.
    RamPagingInStart = 16,
}

impl P2mType {
    /// All types, in the order of their numbers.
    pub const ALL: [Self; 17] = [
        Self::RamRw,
        Self::Invalid,
        Self::RamLogDirty,
        Self::RamRo,
        Self::MmioDm,
        Self::MmioDirect,
        Self::PopulateOnDemand,
        Self::GrantMapRw,
        Self::GrantMapRo,
        Self::RamPagingOut,
        Self::RamPaged,
        Self::RamPagingIn,
        Self::RamShared,
        Self::RamBroken,
        Self::MapForeign,
        Self::IoreqServer,
        Self::RamPagingInStart,
    ];

    /// The type with this number, if there is one.
    pub fn try_from_raw(raw: u32) -> Option<Self> {
        Self::ALL.get(raw as usize).copied()
    }

    /// The number.
    pub const fn raw(self) -> u8 {
        self as u8
    }

    /// Whether it is one of the four paging types (row A1d, `p2m_is_paging`).
    pub const fn is_paging(self) -> bool {
        matches!(
            self,
            Self::RamPagingOut | Self::RamPaged | Self::RamPagingInStart | Self::RamPagingIn
        )
    }

    /// Whether a page of this type may be nominated (row A1b, `p2m_is_pageable`).
    pub const fn is_pageable(self) -> bool {
        matches!(self, Self::RamRw | Self::RamLogDirty)
    }

    /// The accesses that an entry of this type allows. `None` for types that are not paging types.
    ///
    /// A nominated page stays readable and executable; only a write makes it resident.
    pub const fn paging_access(self) -> Option<Access> {
        match self {
            Self::RamPagingOut => Some(Access::READ.union(Access::FETCH)),
            Self::RamPaged | Self::RamPagingInStart | Self::RamPagingIn => Some(Access::empty()),
            _ => None,
        }
    }

    /// [`Self::paging_access`] as the permission bits of an Intel EPT entry (SDM vol. 3, 29.3.2).
    pub fn ept_permissions(self) -> Option<EptPermissions> {
        self.paging_access().map(|access| {
            let mut bits = EptPermissions::empty();
            bits.set(EptPermissions::READ, access.contains(Access::READ));
            bits.set(EptPermissions::WRITE, access.contains(Access::WRITE));
            bits.set(EptPermissions::EXECUTE, access.contains(Access::FETCH));
            bits
        })
    }

    /// [`Self::paging_access`] as the flags of an AMD nested page table entry.
    ///
    /// Nested entries must have the user bit (APM vol. 2, 15.25.5). An entry that nobody may read is not
    /// present.
    pub fn npt_flags(self) -> Option<PageTableFlags> {
        self.paging_access().map(|access| {
            let mut flags = PageTableFlags::empty();
            if access.contains(Access::READ) {
                flags |= PageTableFlags::PRESENT | PageTableFlags::USER_ACCESSIBLE;
            }
            flags.set(PageTableFlags::WRITABLE, access.contains(Access::WRITE));
            flags.set(
                PageTableFlags::NO_EXECUTE,
                access.contains(Access::READ) && !access.contains(Access::FETCH),
            );
            flags
        })
    }
}

bitflags! {
    /// Kinds of access to a page.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Access: u8 {
        /// Data read.
        const READ = 1 << 0;
        /// Data write.
        const WRITE = 1 << 1;
        /// Instruction fetch.
        const FETCH = 1 << 2;
    }

    /// Permission bits of an EPT entry.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct EptPermissions: u64 {
        /// Reads allowed.
        const READ = 1 << 0;
        /// Writes allowed.
        const WRITE = 1 << 1;
        /// Fetches allowed.
        const EXECUTE = 1 << 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_table() {
        for (number, t) in P2mType::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(t.raw()), number);
            assert_eq!(P2mType::try_from_raw(t.raw().into()), Some(t));
        }
        assert_eq!(P2mType::try_from_raw(17), None);
        assert_eq!(P2mType::try_from_raw(u32::MAX), None);
    }

    #[test]
    fn a_nominated_page_can_be_read_and_run_but_not_written() {
        let ept = P2mType::RamPagingOut.ept_permissions().unwrap();
        assert_eq!(ept, EptPermissions::READ | EptPermissions::EXECUTE);
        let npt = P2mType::RamPagingOut.npt_flags().unwrap();
        assert!(npt.contains(PageTableFlags::PRESENT | PageTableFlags::USER_ACCESSIBLE));
        assert!(!npt.intersects(PageTableFlags::WRITABLE | PageTableFlags::NO_EXECUTE));
    }

    #[test]
    fn a_page_without_trusted_contents_cannot_be_touched() {
        for t in [
            P2mType::RamPaged,
            P2mType::RamPagingInStart,
            P2mType::RamPagingIn,
        ] {
            assert_eq!(t.ept_permissions(), Some(EptPermissions::empty()));
            assert_eq!(t.npt_flags(), Some(PageTableFlags::empty()));
        }
        assert_eq!(P2mType::RamRw.ept_permissions(), None);
    }

    #[test]
    fn no_type_is_both_pageable_and_paging() {
        for t in P2mType::ALL {
            assert!(!(t.is_pageable() && t.is_paging()), "{t:?}");
            assert_eq!(t.is_paging(), t.paging_access().is_some(), "{t:?}");
        }
    }
}
