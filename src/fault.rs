// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a nested page fault says, and what paging does about it (row A7).
//!
//! Intel reports an EPT violation with an exit qualification. AMD reports a nested page fault with an
//! error code. Both are translated into an [`Access`]. [`decide`] combines it with the p2m type.
//!
//! ```
//! use p2m_paging::P2mType;
//! use p2m_paging::fault::{Decision, ExitQualification, decide};
//!
//! let write = ExitQualification::WRITE.access();
//! assert_eq!(decide(P2mType::RamPaged, write), Decision::PopulateAndPause);
//! assert_eq!(decide(P2mType::RamPagingOut, write), Decision::Restore);
//! assert_eq!(decide(P2mType::RamRw, write), Decision::NotPaging);
//! ```

use bitflags::bitflags;

use crate::p2m::{Access, P2mType};

bitflags! {
    /// Exit qualification of an EPT violation (Intel SDM vol. 3, table 28-7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ExitQualification: u64 {
        /// The access was a data read.
        const READ = 1 << 0;
        /// The access was a data write.
        const WRITE = 1 << 1;
        /// The access was an instruction fetch.
        const FETCH = 1 << 2;
        /// The entry allowed reads.
        const ENTRY_READ = 1 << 3;
        /// The entry allowed writes.
        const ENTRY_WRITE = 1 << 4;
        /// The entry allowed fetches.
        const ENTRY_EXECUTE = 1 << 5;
        /// The guest linear address field is valid.
        const LINEAR_VALID = 1 << 7;
        /// The violation was at the translation of that linear address, not at a page walk.
        const LINEAR_FINAL = 1 << 8;
        const _ = !0;
    }

    /// Error code of an AMD nested page fault, EXITINFO1 (AMD APM vol. 2, 15.25.6).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct NpfErrorCode: u64 {
        /// The nested entry was present.
        const PRESENT = 1 << 0;
        /// The access was a write.
        const WRITE = 1 << 1;
        /// The access was made in user mode; always set for nested walks.
        const USER = 1 << 2;
        /// A reserved bit was set in the nested entry.
        const RESERVED = 1 << 3;
        /// The access was an instruction fetch.
        const FETCH = 1 << 4;
        /// The fault was at the final translation.
        const FINAL = 1 << 32;
        /// The fault was at a walk of the guest's page tables.
        const GUEST_WALK = 1 << 33;
        const _ = !0;
    }
}

impl ExitQualification {
    /// What the guest wanted. A write counts as a read too: hardware may report a read-modify-write as a
    /// write alone.
    pub fn access(self) -> Access {
        let mut access = Access::empty();
        access.set(Access::READ, self.intersects(Self::READ | Self::WRITE));
        access.set(Access::WRITE, self.contains(Self::WRITE));
        access.set(Access::FETCH, self.contains(Self::FETCH));
        access
    }

    /// Whether the linear address is valid: the guest's own translation was complete.
    pub fn has_linear_address(self) -> bool {
        self.contains(Self::LINEAR_VALID)
    }
}

impl NpfErrorCode {
    /// What the guest wanted. An access that is not a fetch is at least a read.
    pub fn access(self) -> Access {
        let mut access = Access::empty();
        access.set(Access::READ, !self.contains(Self::FETCH));
        access.set(Access::WRITE, self.contains(Self::WRITE));
        access.set(Access::FETCH, self.contains(Self::FETCH));
        access
    }
}

/// A nested page fault, as hardware reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NestedFault {
    /// Intel: an EPT violation.
    Ept(ExitQualification),
    /// AMD: a nested page fault.
    Npt(NpfErrorCode),
}

impl NestedFault {
    /// What the guest wanted.
    pub fn access(self) -> Access {
        match self {
            Self::Ept(qualification) => qualification.access(),
            Self::Npt(code) => code.access(),
        }
    }
}

/// What to do about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The type is not a paging type.
    NotPaging,
    /// The entry allows the access by now: run the instruction again.
    Retry,
    /// The page is nominated: make it resident, then run the instruction again.
    Restore,
    /// The page is out: request it, and pause the vcpu.
    PopulateAndPause,
    /// The page has been requested: pause the vcpu.
    Pause,
}

/// Decides on an access to a gfn of this type. An empty access is treated as one that needs all rights;
/// otherwise it would be retried for ever.
pub const fn decide(p2mt: P2mType, access: Access) -> Decision {
    let Some(allowed) = p2mt.paging_access() else {
        return Decision::NotPaging;
    };
    if !access.is_empty() && allowed.contains(access) {
        return Decision::Retry;
    }
    match p2mt {
        P2mType::RamPagingOut => Decision::Restore,
        P2mType::RamPagingInStart | P2mType::RamPagingIn => Decision::Pause,
        _ => Decision::PopulateAndPause,
    }
}

/// Who maps a frame of the guest from another domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapper {
    /// The guest's pager.
    Pager,
    /// Anybody else, to read only: a device back end, an emulator, a toolstack.
    Reader,
    /// Anybody else, to write.
    Writer,
}

/// What to do about a foreign map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapDecision {
    /// The type is not a paging type.
    NotPaging,
    /// Map it, with a reference. The page cannot be evicted while the reference is held.
    Map,
    /// Call [`Paging::populate`] and let the mapper retry: at once if the page was nominated, later if
    /// the pager has to bring it in.
    ///
    /// [`Paging::populate`]: crate::Paging::populate
    Populate,
}

impl MapDecision {
    /// The number for C code: 0, 1 and 2 in the order of the variants.
    pub const fn as_raw(self) -> u32 {
        match self {
            Self::NotPaging => 0,
            Self::Map => 1,
            Self::Populate => 2,
        }
    }
}

/// Decides on a foreign map of a gfn of this type, with or without a frame.
///
/// Only the pager may map a page that it is about to fill. (In Xen 4.1 a device emulator could read such
/// a page before it was filled.) A writer may not map a nominated page: a writer that maps it after the
/// pager's copy and unmaps it before the evict would lose its write. The page becomes resident first,
/// and then the evict fails.
pub const fn decide_map(p2mt: P2mType, has_frame: bool, mapper: Mapper) -> MapDecision {
    match (p2mt, mapper) {
        (P2mType::RamPagingOut, Mapper::Pager | Mapper::Reader)
        | (P2mType::RamPagingIn, Mapper::Pager)
            if has_frame =>
        {
            MapDecision::Map
        }
        _ if p2mt.is_paging() => MapDecision::Populate,
        _ => MapDecision::NotPaging,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole rule: every type, with and without a frame, for pager, reader and writer.
    #[test]
    fn an_unfilled_page_is_mapped_by_its_pager_alone_and_a_nominated_one_by_no_writer() {
        use MapDecision::{Map, NotPaging, Populate};
        for t in P2mType::ALL {
            for has_frame in [false, true] {
                let decided = [Mapper::Pager, Mapper::Reader, Mapper::Writer]
                    .map(|mapper| decide_map(t, has_frame, mapper));
                let expected = match (t, has_frame) {
                    (P2mType::RamPagingOut, true) => [Map, Map, Populate],
                    (P2mType::RamPagingIn, true) => [Map, Populate, Populate],
                    (t, _) if t.is_paging() => [Populate; 3],
                    _ => [NotPaging; 3],
                };
                assert_eq!(decided, expected, "{t:?}, frame: {has_frame}");
            }
        }
    }

    #[test]
    fn an_ept_violation_says_what_was_wanted() {
        let read = ExitQualification::READ | ExitQualification::LINEAR_VALID;
        assert_eq!(read.access(), Access::READ);
        assert!(read.has_linear_address());
        assert!(!ExitQualification::LINEAR_FINAL.has_linear_address());
        let write = ExitQualification::WRITE | ExitQualification::ENTRY_READ;
        assert_eq!(write.access(), Access::READ | Access::WRITE);
        assert_eq!(ExitQualification::FETCH.access(), Access::FETCH);
        assert_eq!(
            ExitQualification::from_bits_retain(1 << 63).access(),
            Access::empty()
        );
    }

    #[test]
    fn a_nested_page_fault_says_what_was_wanted() {
        let user = NpfErrorCode::USER | NpfErrorCode::FINAL;
        assert_eq!(user.access(), Access::READ);
        assert_eq!(
            (user | NpfErrorCode::WRITE).access(),
            Access::READ | Access::WRITE
        );
        assert_eq!((user | NpfErrorCode::FETCH).access(), Access::FETCH);
    }

    /// Row A7, whole: every type of paging with every access.
    #[test]
    fn a7_decisions() {
        use Decision::{NotPaging, Pause, PopulateAndPause, Restore, Retry};
        let (r, w, x) = (Access::READ, Access::READ | Access::WRITE, Access::FETCH);
        let none = Access::empty();
        let expected = [
            (P2mType::RamRw, [NotPaging; 4]),
            // Defect 2: in C a mere read of a nominated page goes to the pager.
            (P2mType::RamPagingOut, [Retry, Restore, Retry, Restore]),
            (P2mType::RamPaged, [PopulateAndPause; 4]),
            // Defect 3: in C a vcpu that faults on a page in flight spins.
            (P2mType::RamPagingInStart, [Pause; 4]),
            (P2mType::RamPagingIn, [Pause; 4]),
            (P2mType::MmioDm, [NotPaging; 4]),
            (P2mType::RamShared, [NotPaging; 4]),
        ];
        for (t, decisions) in expected {
            assert_eq!(
                [r, w, x, none].map(|access| decide(t, access)),
                decisions,
                "{t:?}"
            );
        }
    }

    #[test]
    fn a_map_decision_is_a_number_for_c() {
        let decisions = [
            MapDecision::NotPaging,
            MapDecision::Map,
            MapDecision::Populate,
        ];
        assert_eq!(decisions.map(MapDecision::as_raw), [0, 1, 2]);
    }
}
