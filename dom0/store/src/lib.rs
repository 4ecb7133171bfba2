// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where pages are kept while they are out (row B2).
//!
//! A store knows slots and bytes, nothing of guests: which page lies in which slot is the business
//! of the [core](pager_core). What must hold: a page that was written without an error is read
//! back byte for byte, or reading it is an error. A store never hands out bytes it does not trust.

pub mod area;
pub mod areas;
#[cfg(test)]
mod bytes_per_page_tests;
mod checksums;
pub mod dedup;
pub mod faulty;
pub mod memory;
pub mod pagefile;
#[cfg(test)]
mod testing;

use std::ops::{Add, Range};
use std::sync::atomic::{AtomicU64, Ordering};

use p2m_paging::PAGE_SIZE;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use pager_core::store::{CompareWith, SLOTS_END, Saved, Slot, SlotRange, StoreError};

/// The bytes of one page, aligned as a page.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub struct PageBuf(pub [u8; PAGE_SIZE]);

/// Says nothing of the contents: they are a guest's.
impl std::fmt::Debug for PageBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageBuf")
    }
}

impl PageBuf {
    /// All zeros.
    pub const ZERO: Self = Self([0; PAGE_SIZE]);
}

/// What became of one page.
pub type Outcome = Result<(), StoreError>;

/// A page to be written.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// Where to.
    pub slot: Slot,
    /// What is known of it.
    pub like: CompareWith,
}

impl Write {
    /// Whether its slot holds what it may still be.
    pub fn has_copy(&self) -> bool {
        self.like == CompareWith::Own
    }
}

/// What became of a page that was to be written.
pub type SaveOutcome = Result<Saved, StoreError>;

/// What a store has been through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCounts {
    /// Reads of neighbouring slots with one call each.
    pub reads: u64,
    /// Pages read by them.
    pub pages_read: u64,
    /// Writes of neighbouring slots with one call each.
    pub writes: u64,
    /// Pages written by them.
    pub pages_written: u64,
    /// Pages read to be compared with what was to be written.
    pub pages_compared: u64,
}

impl Add for IoCounts {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self {
            reads: self.reads + more.reads,
            pages_read: self.pages_read + more.pages_read,
            writes: self.writes + more.writes,
            pages_written: self.pages_written + more.pages_written,
            pages_compared: self.pages_compared + more.pages_compared,
        }
    }
}

/// Copies the contents of the n-th page of a write, and of those after it, into buffers.
///
/// A guest may change a frame while it is copied; whoever implements this copies in a way that
/// allows for that. The store calls it once for each page, in stretches as long as it can, and works on
/// the copies alone, so that what it
/// checksums is what it writes.
pub type Fill<'a> = dyn FnMut(usize, &mut [PageBuf]) + 'a;

/// Keeps pages by slot.
///
/// `slots` or `writes`, `pages` and `outcomes` of one call have the same length; entry n of each belongs
/// to page n. Each entry of `outcomes` is set by the call. Errors are per page: one bad page does not fail
/// its neighbours.
///
/// A shell writes from one thread while another reads what a fault waits for, so every call takes
/// `&self` and a long write must not keep a read waiting. The core never has two calls under way
/// that name the same slot, but for reads and what is compared with it.
pub trait PageStore: Send + Sync {
    /// Writes many pages, where it is needed: see [`Saved`]. A slot that held a page before holds the new
    /// one or, after an error and of zeros, none.
    fn write(&self, writes: &[Write], fill: &mut Fill<'_>, outcomes: &mut [SaveOutcome]);

    /// Reads many pages. After an error the buffer's contents mean nothing.
    fn read(&self, slots: &[Slot], pages: &mut [PageBuf], outcomes: &mut [Outcome]);

    /// Forgets a page. Freeing a slot that holds none does nothing.
    fn free(&self, slot: Slot);

    /// Brings what these writes have written onto the device, if there is one. What may not be there has an error
    /// in the place of its outcome.
    fn flush(&self, writes: &[Write], outcomes: &mut [SaveOutcome]);

    /// What it has been through.
    fn counts(&self) -> IoCounts;
}

/// Whether a page is all zeros.
pub fn is_zeros(page: &PageBuf) -> bool {
    page.0 == [0; PAGE_SIZE]
}

/// The stretches of a list, all of whose pages are of a kind and in neighbouring slots.
fn stretches(
    slots: impl Fn(usize) -> Slot,
    of_a_kind: impl Fn(usize) -> bool,
    pages: usize,
) -> impl Iterator<Item = Range<usize>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = (from..pages).find(|n| of_a_kind(*n))?;
        let follows =
            |n: &usize| of_a_kind(*n) && slots(*n - 1).0.checked_add(1) == Some(slots(*n).0);
        let more = (start + 1..pages).take_while(follows).count();
        from = start + 1 + more;
        Some(start..from)
    })
}

/// [`IoCounts`], while they are counted.
#[derive(Debug, Default)]
struct IoCounters {
    reads: AtomicU64,
    pages_read: AtomicU64,
    writes: AtomicU64,
    pages_written: AtomicU64,
    pages_compared: AtomicU64,
}

impl IoCounters {
    fn read(&self, pages: usize) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.pages_read.fetch_add(pages as u64, Ordering::Relaxed);
    }

    fn wrote(&self, pages: usize) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.pages_written
            .fetch_add(pages as u64, Ordering::Relaxed);
    }

    fn compared(&self, pages: usize) {
        self.pages_compared
            .fetch_add(pages as u64, Ordering::Relaxed);
    }

    fn counts(&self) -> IoCounts {
        let now = |count: &AtomicU64| count.load(Ordering::Relaxed);
        IoCounts {
            reads: now(&self.reads),
            pages_read: now(&self.pages_read),
            writes: now(&self.writes),
            pages_written: now(&self.pages_written),
            pages_compared: now(&self.pages_compared),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_of_one_kind_and_neighbours() {
        let stretches = |slots: &[u32], kind: &[bool]| {
            let slot = |n: usize| Slot(slots[n]);
            super::stretches(slot, |n| kind[n], slots.len()).collect::<Vec<_>>()
        };
        assert!(stretches(&[], &[]).is_empty());
        let slots = [4, 5, 6, 8, 7, 0, u32::MAX];
        let all = [0..3, 3..4, 4..5, 5..6, 6..7];
        assert_eq!(stretches(&slots, &[true; 7]), all);
        let kind = [true, false, true, true, false, false, true];
        assert_eq!(stretches(&slots, &kind), [0..1, 2..3, 3..4, 6..7]);
    }
}
