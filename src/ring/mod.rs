//! The paging ring (row A9): one page shared by the hypervisor and the pager.
//!
//! Requests and responses share the slots: an entry is taken from when a request is written until
//! its response has been read. The hypervisor has the [`Front`], the pager the [`Back`]; what stands
//! in the page is in [`abi`]. Each half keeps its own indices; those of the other side are read
//! once, checked against what is possible, and only then used. Entries are copied out before they
//! are looked at.

pub mod abi;
mod back;
mod front;
mod page;

pub use abi::{EntryError, EntryFlags, PagingFlags, Request, Response, SLOTS};
pub use back::{Back, NoRequestToAnswer};
pub use front::{Asker, Claim, FOREIGN_SLOTS, Front, Full, GUEST_SLOTS, Stale, Taken};
pub use page::SharedPage;

/// The other side published an index that cannot be: more entries than the ring has, or answers to
/// questions that were not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// Entries that the index claims.
    pub pending: u32,
    /// Entries that there can be.
    pub possible: u32,
}

impl core::fmt::Display for Overrun {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "{} entries claimed where {} are possible",
            self.pending, self.possible
        )
    }
}

impl core::error::Error for Overrun {}

/// Whether the other side has to be woken for what was just published.
#[must_use = "the other side may be asleep"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// It asked to be: send the event.
    Owed,
    /// It will look again by itself.
    NotOwed,
}

impl Notify {
    /// `RING_PUSH_*_AND_CHECK_NOTIFY`: owed if `event` lies among the entries just published.
    fn when_reached(old_prod: u32, new_prod: u32, event: u32) -> Self {
        if new_prod.wrapping_sub(event) < new_prod.wrapping_sub(old_prod) {
            Self::Owed
        } else {
            Self::NotOwed
        }
    }

    /// One event serves both.
    pub fn or(self, other: Self) -> Self {
        if self == Self::Owed { self } else { other }
    }
}

/// A ring page for the tests of this module.
#[cfg(test)]
#[allow(unsafe_code)]
pub(crate) mod testing {
    use core::ptr::NonNull;
    use std::boxed::Box;

    use super::{EntryFlags, PagingFlags, Request, SharedPage};
    use crate::{Gfn, P2mType, PAGE_SIZE, VcpuId};

    #[repr(align(4096))]
    struct Page([u8; PAGE_SIZE]);

    /// Lives for the rest of the test run, so that views of it may be handed out freely.
    pub(crate) struct TestPage(NonNull<u8>);

    impl TestPage {
        pub(crate) fn new() -> Self {
            let page = Box::leak(Box::new(Page([0xa5; PAGE_SIZE])));
            Self(NonNull::from(&mut page.0).cast())
        }

        pub(crate) fn map(&self) -> SharedPage {
            // SAFETY: leaked, aligned, PAGE_SIZE long; accessed through `SharedPage` only.
            unsafe { SharedPage::new(self.0) }
        }
    }

    pub(crate) fn request(gfn: u64) -> Request {
        Request {
            gfn: Gfn::new_truncate(gfn),
            vcpu: VcpuId(0),
            flags: EntryFlags::empty(),
            p2mt: P2mType::RamPaged,
            paging: PagingFlags::empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_owed_exactly_when_its_index_was_passed() {
        assert_eq!(Notify::when_reached(0, 1, 1), Notify::Owed);
        assert_eq!(Notify::when_reached(1, 2, 1), Notify::NotOwed);
        assert_eq!(Notify::when_reached(0, 3, 2), Notify::Owed);
        assert_eq!(Notify::when_reached(0, 1, 2), Notify::NotOwed);
        assert_eq!(
            Notify::when_reached(u32::MAX, 0, 0),
            Notify::Owed,
            "across the wrap"
        );
        assert_eq!(
            Notify::when_reached(5, 5, 5),
            Notify::NotOwed,
            "nothing published"
        );
    }
}
