// SPDX-License-Identifier: MIT OR Apache-2.0
//! The store: where pages lie that are paged out (row B2).
//!
//! A store knows slots and bytes, but nothing of guests: the [core](pager_core) knows which page
//! lies in which slot. A page that was written without an error is read back byte for byte, or the
//! read fails. A store never returns bytes that it does not trust.

pub mod area;
pub mod areas;
#[cfg(test)]
mod bytes_per_page_tests;
mod checksums;
pub mod dedup;
pub mod faulty;
pub mod index;
pub mod memory;
pub mod pagefile;
#[cfg(test)]
mod testing;

use std::fs::{File, Metadata};
use std::io;
use std::ops::{Add, Range};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use p2m_paging::PAGE_SIZE;
use rustix::fs::{FileType, Stat};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use index::StoreIdentity;
pub use pager_core::store::{
    CompareWith, Corruption, SLOTS_END, Saved, Slot, SlotRange, StoreError,
};

/// The bytes of one page, aligned as a page.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub struct PageBuf(pub [u8; PAGE_SIZE]);

/// Does not print the contents, which belong to a guest.
impl std::fmt::Debug for PageBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageBuf")
    }
}

impl PageBuf {
    /// A page of zeros.
    pub const ZERO: Self = Self([0; PAGE_SIZE]);
}

/// The result for one page.
pub type Outcome = Result<(), StoreError>;

/// A page to be written.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// The slot to write to.
    pub slot: Slot,
    /// What the page may be equal to.
    pub like: CompareWith,
}

impl Write {
    /// Whether its own slot may still hold these contents.
    pub fn has_copy(&self) -> bool {
        self.like == CompareWith::Own
    }
}

/// The result for a page that was to be written.
pub type SaveOutcome = Result<Saved, StoreError>;

/// Counts of a store's reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCounts {
    /// Read calls. One call covers neighbouring slots.
    pub reads: u64,
    /// Pages read by these calls.
    pub pages_read: u64,
    /// Write calls. One call covers neighbouring slots.
    pub writes: u64,
    /// Pages written by these calls.
    pub pages_written: u64,
    /// Pages read to be compared with pages that were to be written.
    pub pages_compared: u64,
    /// Reads of pages that were torn. A page that is read again is counted again.
    pub torn_reads: u64,
    /// Reads of pages that were stale.
    pub stale_reads: u64,
    /// Reads of pages that were misdirected.
    pub misdirected_reads: u64,
    /// Reads of pages that were rotten.
    pub rotten_reads: u64,
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
            torn_reads: self.torn_reads + more.torn_reads,
            stale_reads: self.stale_reads + more.stale_reads,
            misdirected_reads: self.misdirected_reads + more.misdirected_reads,
            rotten_reads: self.rotten_reads + more.rotten_reads,
        }
    }
}

/// Copies the contents of the n-th page of a write and of those after it into buffers.
///
/// A guest may change a frame while it is copied, and the implementation must allow for that. The
/// store has each page copied once, in stretches as long as possible. It works on the copies alone,
/// so it checksums the same bytes that it writes.
pub type Fill<'a> = dyn FnMut(usize, &mut [PageBuf]) + 'a;

/// Keeps pages by slot.
///
/// In one call `slots` or `writes`, `pages` and `outcomes` have the same length; entry n of each
/// belongs to page n. Each call sets every entry of `outcomes`. Errors are per page: one bad page
/// does not fail its neighbours.
///
/// A shell writes from one thread while others read pages that faults wait for. So every call takes
/// `&self`, and neither a long write nor a read that hangs may keep another read waiting. The core never has two calls in
/// flight that name the same slot, except for reads and comparisons.
pub trait PageStore: Send + Sync {
    /// Writes many pages, where that is needed: see [`Saved`]. A slot that held a page holds the
    /// new one afterwards. After an error, and for a page of zeros, it holds none.
    fn write(&self, writes: &[Write], fill: &mut Fill<'_>, outcomes: &mut [SaveOutcome]);

    /// Reads many pages. After an error the contents of the buffer are not valid.
    fn read(&self, slots: &[Slot], pages: &mut [PageBuf], outcomes: &mut [Outcome]);

    /// Reads the pages for which nothing has to be waited, for a thread that must not wait. `None`: the
    /// page is left to [`Self::read`], and its buffer is not valid. A store that cannot know whether it
    /// would have to wait leaves all of them.
    fn read_at_once(
        &self,
        slots: &[Slot],
        pages: &mut [PageBuf],
        outcomes: &mut [Option<Outcome>],
    ) {
        let _ = (slots, pages);
        outcomes.fill(None);
    }

    /// Forgets a page. Freeing a slot without a page has no effect.
    fn free(&self, slot: Slot);

    /// Waits until the device, if there is one, has the data of these writes. An outcome is
    /// replaced by an error if the device may not have its page; its slot then holds none. To be
    /// called once for each call of [`Self::write`], with the same list, before the next: a device
    /// reports an error of writing back once, for all that was written before.
    fn flush(&self, writes: &[Write], outcomes: &mut [SaveOutcome]);

    /// The counts so far.
    fn counts(&self) -> IoCounts;

    /// What an index calls this store. `None`: its contents do not survive the pager, so there can be
    /// no index of it.
    fn identity(&self) -> Option<StoreIdentity> {
        None
    }

    /// The checksum of the page in a slot, for the index.
    fn checksum(&self, slot: Slot) -> Option<u64> {
        let _ = slot;
        None
    }

    /// A pager before this one has left a page in a slot, with this checksum. To be called before
    /// anything is written. After an error nothing is known of the slot that was not known before.
    fn adopt(&self, slot: Slot, checksum: u64) -> Outcome {
        Err(StoreError::NotAdopted { slot, checksum })
    }
}

/// Whether a page is all zeros.
pub fn is_zeros(page: &PageBuf) -> bool {
    page.0 == [0; PAGE_SIZE]
}

/// Whether only one user can change this file: it is the user's, and others may not open it or cannot,
/// because it has no name.
fn is_private_file(stat: &Stat, user: u32) -> bool {
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    is_file && stat.st_uid == user && (stat.st_nlink == 0 || stat.st_mode & 0o077 == 0)
}

/// Whether an open file is the one that has this name now.
pub fn has_name(file: &File, path: &Path) -> bool {
    let of = |data: io::Result<Metadata>| data.ok().map(|data| (data.dev(), data.ino()));
    let is = of(file.metadata());
    is.is_some() && is == of(std::fs::metadata(path))
}

/// Splits a list into stretches whose pages are of one kind and lie in neighbouring slots.
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

/// [`IoCounts`] that several threads count up.
#[derive(Debug, Default)]
struct IoCounters {
    reads: AtomicU64,
    pages_read: AtomicU64,
    writes: AtomicU64,
    pages_written: AtomicU64,
    pages_compared: AtomicU64,
    torn_reads: AtomicU64,
    stale_reads: AtomicU64,
    misdirected_reads: AtomicU64,
    rotten_reads: AtomicU64,
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

    fn corrupt(&self, kind: Corruption) {
        let count = match kind {
            Corruption::Torn { .. } => &self.torn_reads,
            Corruption::Stale => &self.stale_reads,
            Corruption::Misdirected { .. } => &self.misdirected_reads,
            Corruption::Rotten { .. } => &self.rotten_reads,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn counts(&self) -> IoCounts {
        let now = |count: &AtomicU64| count.load(Ordering::Relaxed);
        IoCounts {
            reads: now(&self.reads),
            pages_read: now(&self.pages_read),
            writes: now(&self.writes),
            pages_written: now(&self.pages_written),
            pages_compared: now(&self.pages_compared),
            torn_reads: now(&self.torn_reads),
            stale_reads: now(&self.stale_reads),
            misdirected_reads: now(&self.misdirected_reads),
            rotten_reads: now(&self.rotten_reads),
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
