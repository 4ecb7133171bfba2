// SPDX-License-Identifier: MIT OR Apache-2.0
//! The paging ring (row A9): one page shared by the hypervisor and the pager.
//!
//! The hypervisor uses [`Front`], the pager [`Back`]. [`abi`] describes the bytes of the page. Requests
//! and responses share the slots: a slot is in use from the claim until the response has been read.
//!
//! Each half keeps its own indices in private memory. It reads the other side's index once, checks that
//! it is possible, and then uses it. It copies an entry before it looks at it.
//!
//! ```
//! use core::ptr::NonNull;
//! use p2m_paging::ring::{Requester, Back, EntryFlags, Epoch, Front, Notify, PagingFlags, Request, Response, SharedPage};
//! use p2m_paging::{Gfn, P2mType, PAGE_SIZE, VcpuId};
//!
//! let page = NonNull::from(Box::leak(Box::new([0_u64; PAGE_SIZE / 8]))).cast();
//! // SAFETY: aligned to 8, PAGE_SIZE bytes, never freed, accessed through `SharedPage` only.
//! let map = || unsafe { SharedPage::new(page) };
//! let (mut front, mut back) = (Front::new(map(), Epoch::from_raw(1)), Back::new(map()));
//!
//! // The hypervisor claims a slot and pushes a request. The pager sleeps, so it needs an event.
//! let claim = front.claim(Requester::Guest).unwrap();
//! let request = Request {
//!     gfn: Gfn::try_new(5).unwrap(),
//!     vcpu: VcpuId(0),
//!     flags: EntryFlags::VCPU_PAUSED,
//!     p2mt: P2mType::RamPaged,
//!     paging: PagingFlags::empty(),
//! };
//! assert_eq!(front.push(claim, &request), Ok(Notify::Owed));
//!
//! // The pager takes it and responds. That frees the slot.
//! let taken = back.take().unwrap().unwrap().unwrap();
//! back.respond(&Response::to(&taken)).unwrap();
//! assert_eq!(back.publish(), Notify::Owed);
//! assert_eq!(front.take().unwrap().unwrap().request_gfn, Some(request.gfn));
//! assert_eq!(front.slots_in_use(), 0);
//! ```

pub mod abi;
mod back;
mod epoch;
mod front;
mod page;

pub use abi::{EntryError, EntryFlags, PagingFlags, Request, Response, SLOTS};
pub use back::{Back, NoPendingRequest};
pub use epoch::Epoch;
pub use front::{Claim, FOREIGN_SLOTS, Front, Full, GUEST_SLOTS, Requester, Stale, Taken};
pub use page::SharedPage;

/// The other side published an impossible index: more entries than the ring has, or more responses than
/// pending requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// The number of entries that the index implies.
    pub pending: u32,
    /// The largest number of entries that is possible.
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

/// Whether the other side needs an event for what was just published.
#[must_use = "the other side may be asleep"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// It waits for an event: send one.
    Owed,
    /// It will look at the ring by itself.
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

    /// Combines two: one event serves both.
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

    #[test]
    fn one_event_serves_both_sides_of_an_or() {
        use Notify::{NotOwed, Owed};
        for (a, b, both) in [
            (Owed, Owed, Owed),
            (Owed, NotOwed, Owed),
            (NotOwed, Owed, Owed),
            (NotOwed, NotOwed, NotOwed),
        ] {
            assert_eq!(a.or(b), both, "{a:?}, {b:?}");
        }
    }
}
