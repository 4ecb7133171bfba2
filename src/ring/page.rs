// SPDX-License-Identifier: MIT OR Apache-2.0
//! Access to the ring page: the only `unsafe` of this crate.
//!
//! The other side may write any byte at any time. Therefore indices and the words of entries are
//! accessed as atomics, and an entry is copied as a whole before any code looks at it.

#![allow(unsafe_code)]

use core::mem::{align_of, offset_of, size_of};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use static_assertions::const_assert;

use super::abi::{RawEntry, RingHeader, SLOTS};
use crate::frame::PAGE_SIZE;

const ENTRY_WORDS: usize = size_of::<RawEntry>() / size_of::<u64>();

const_assert!(size_of::<RingHeader>() + SLOTS as usize * size_of::<RawEntry>() <= PAGE_SIZE);
const_assert!(size_of::<RingHeader>().is_multiple_of(align_of::<AtomicU64>()));
const_assert!(size_of::<RawEntry>().is_multiple_of(size_of::<u64>()));

/// The mapped ring page.
#[derive(Debug)]
pub struct SharedPage {
    // INVARIANT: readable and writable for PAGE_SIZE bytes, 8-aligned, as long as `self` lives.
    base: NonNull<u8>,
}

// SAFETY: every access goes through atomics, and the mapping is not tied to a thread.
unsafe impl Send for SharedPage {}
// SAFETY: as above; `&SharedPage` only gives atomic accesses.
unsafe impl Sync for SharedPage {}

/// An index in the header.
#[derive(Clone, Copy)]
pub(super) enum Index {
    ReqProd,
    ReqEvent,
    RspProd,
    RspEvent,
}

impl SharedPage {
    /// Takes a mapped ring page.
    ///
    /// # Safety
    ///
    /// `base` must be aligned to 8 bytes and stay mapped, readable and writable, for [`PAGE_SIZE`]
    /// bytes until the returned value is dropped. On this side, all other accesses to the page must be
    /// atomic. The other side may write anything at any time.
    ///
    /// Dropping the value does not unmap the page: that is up to the caller.
    pub const unsafe fn new(base: NonNull<u8>) -> Self {
        Self { base }
    }

    /// `SHARED_RING_INIT`: no entries; both sides want an event for the first one.
    pub fn initialise(&self) {
        for index in [Index::ReqProd, Index::RspProd] {
            self.store(index, 0, Ordering::Relaxed);
        }
        for index in [Index::ReqEvent, Index::RspEvent] {
            self.store(index, 1, Ordering::Relaxed);
        }
        // The former contents of the page do not reach the other side.
        for word in offset_of!(RingHeader, rsp_event) / 4 + 1..PAGE_SIZE / 4 {
            self.word32(word * 4).store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn load(&self, index: Index, ordering: Ordering) -> u32 {
        self.index(index).load(ordering)
    }

    pub(super) fn store(&self, index: Index, value: u32, ordering: Ordering) {
        self.index(index).store(value, ordering);
    }

    /// Copies out the entry that ring position `position` falls on, as far as paging uses it.
    #[inline]
    pub(super) fn read(&self, position: u32) -> RawEntry {
        let mut words = [0_u64; ENTRY_WORDS];
        for (word, out) in words.iter_mut().enumerate().take(RawEntry::USED_WORDS) {
            *out = self.entry_word(position, word).load(Ordering::Relaxed);
        }
        // SAFETY: `RawEntry` is `repr(C)`, as large as `words`, and made of integers only without
        // implicit padding, so any bytes are a value of it.
        unsafe { core::mem::transmute::<[u64; ENTRY_WORDS], RawEntry>(words) }
    }

    /// Overwrites the entry that ring position `position` falls on, as far as paging uses it. The rest of
    /// the entry keeps what the other side wrote there, or the zeros of the initialisation.
    #[inline]
    pub(super) fn write(&self, position: u32, entry: &RawEntry) {
        // SAFETY: the same size, and no padding that would be uninitialised.
        let words = unsafe { core::mem::transmute::<RawEntry, [u64; ENTRY_WORDS]>(*entry) };
        for (word, value) in words.into_iter().enumerate().take(RawEntry::USED_WORDS) {
            self.entry_word(position, word)
                .store(value, Ordering::Relaxed);
        }
    }

    fn index(&self, index: Index) -> &AtomicU32 {
        self.word32(match index {
            Index::ReqProd => offset_of!(RingHeader, req_prod),
            Index::ReqEvent => offset_of!(RingHeader, req_event),
            Index::RspProd => offset_of!(RingHeader, rsp_prod),
            Index::RspEvent => offset_of!(RingHeader, rsp_event),
        })
    }

    fn word32(&self, offset: usize) -> &AtomicU32 {
        debug_assert!(offset < PAGE_SIZE && offset.is_multiple_of(4));
        // SAFETY: callers pass offsets inside the page.
        let at = unsafe { self.base.add(offset) };
        // SAFETY: in the page and aligned by the type's invariant; all access is atomic.
        unsafe { AtomicU32::from_ptr(at.cast().as_ptr()) }
    }

    fn entry_word(&self, position: u32, word: usize) -> &AtomicU64 {
        let slot = (position % SLOTS) as usize;
        let offset = size_of::<RingHeader>() + slot * size_of::<RawEntry>() + word * 8;
        // SAFETY: `slot < SLOTS` and `word < ENTRY_WORDS`, so inside the page (asserted above).
        let at = unsafe { self.base.add(offset) };
        // SAFETY: in the page and aligned by the type's invariant; all access is atomic.
        unsafe { AtomicU64::from_ptr(at.cast().as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::TestPage;
    use super::*;

    const STALE: u64 = 0xa5a5_a5a5_a5a5_a5a5;

    fn word(page: &SharedPage, word: usize) -> u64 {
        let halves = [word * 8, word * 8 + 4].map(|at| page.word32(at).load(Ordering::Relaxed));
        u64::from(halves[1]) << 32 | u64::from(halves[0])
    }

    #[test]
    fn nothing_of_a_pages_former_use_is_left_in_a_new_ring() {
        let page = TestPage::new().map();
        assert_eq!(word(&page, 0), STALE);
        page.initialise();
        for (index, value) in [
            (Index::ReqProd, 0),
            (Index::ReqEvent, 1),
            (Index::RspProd, 0),
            (Index::RspEvent, 1),
        ] {
            assert_eq!(page.load(index, Ordering::Relaxed), value);
        }
        for at in 2..PAGE_SIZE / 8 {
            assert_eq!(word(&page, at), 0, "word {at}");
        }
    }

    /// Twice round the ring: an entry is written to its slot as far as paging uses it, and read from there.
    #[test]
    fn an_entry_stands_in_the_slot_of_its_position_and_nowhere_else() {
        for position in 0..2 * SLOTS {
            let page = TestPage::new().map();
            let mut entry = RawEntry::ZERO;
            entry.paging.gfn = 7;
            page.write(position, &entry);
            let slot = (position % SLOTS) as usize;
            let first = (64 + slot * 400) / 8;
            for at in 0..PAGE_SIZE / 8 {
                let expected = match at.checked_sub(first) {
                    Some(3) => 7,
                    Some(..7) => 0,
                    _ => STALE,
                };
                assert_eq!(word(&page, at), expected, "position {position}, word {at}");
            }
            let read = page.read(position);
            assert_eq!((read.version, read.paging.gfn), (0, 7));
        }
    }
}
