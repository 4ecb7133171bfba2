// SPDX-License-Identifier: MIT OR Apache-2.0
//! Preps of pages that somebody waits for. They are in a shared page instead of in messages.
//!
//! The pager writes an entry, sets its bit in `posted` and rings. The machine takes all bits that
//! are set, handles the entries, writes the status of each and sets its bit in `done`. The pager
//! takes those bits when it wakes next. An entry belongs to the pager until it is posted, and to
//! the machine until it is done. No thread waits for a status: see `host::prep`.

use std::sync::atomic::{AtomicU64, Ordering};

use p2m_paging::Errno;

use super::shared_area::SharedArea;

/// The number of entries, each with one bit in a word. It is far above the number of ring slots.
pub const ENTRIES: usize = u64::BITS as usize;
/// The page of a [`SharedArea`] in which the mailbox lies. Page 0 is the ring.
pub const PAGE: usize = 1;

const POSTED: usize = 0;
const DONE: usize = 8; // Its own cache line: the other side writes it.
const FIRST: usize = 16;
const WORDS: usize = 4;
const GFN: usize = 0;
const BUFFER: usize = 1;
const STATUS: usize = 2;

/// One side's view of the mailbox.
#[derive(Clone, Copy, Debug)]
pub struct Mailbox {
    words: &'static [AtomicU64],
}

/// A prep that the pager posted. Its fields are not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostedPrep {
    /// The entry, below [`ENTRIES`].
    pub entry: usize,
    /// The frame number.
    pub gfn: u64,
    /// The offset of the contents in the pager's buffers, in bytes.
    pub buffer: u64,
}

/// The bits that are set, ascending.
#[derive(Clone, Copy, Debug)]
pub struct Bits(u64);

impl Iterator for Bits {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let bit = self.0.trailing_zeros() as usize;
        if bit == ENTRIES {
            return None;
        }
        self.0 &= self.0 - 1;
        Some(bit)
    }
}

impl Mailbox {
    /// The mailbox of an area; `None` if the area has no such page.
    pub fn new(area: &'static SharedArea) -> Option<Self> {
        area.page(PAGE).map(|words| Self { words })
    }

    /// Clears all entries for a new pager.
    pub fn clear(&self) {
        for word in [POSTED, DONE] {
            self.words[word].store(0, Ordering::Relaxed);
        }
    }

    /// Pager: posts a prep in an entry that belongs to it. The pager rings afterwards.
    pub fn post(&self, prep: PostedPrep) {
        self.field(prep.entry, GFN)
            .store(prep.gfn, Ordering::Relaxed);
        self.field(prep.entry, BUFFER)
            .store(prep.buffer, Ordering::Relaxed);
        // The entry and the buffer's contents are stored before the bit: pairs with the swap in
        // `take`.
        self.words[POSTED].fetch_or(1 << prep.entry, Ordering::Release);
    }

    /// Machine: takes everything that was posted since the last call.
    pub fn take(&self) -> impl Iterator<Item = PostedPrep> + use<> {
        let mailbox = *self;
        let posted = if self.words[POSTED].load(Ordering::Relaxed) == 0 {
            0
        } else {
            self.words[POSTED].swap(0, Ordering::Acquire)
        };
        Bits(posted).map(move |entry| PostedPrep {
            entry,
            gfn: mailbox.field(entry, GFN).load(Ordering::Relaxed),
            buffer: mailbox.field(entry, BUFFER).load(Ordering::Relaxed),
        })
    }

    /// Machine: marks an entry as done.
    pub fn finish(&self, entry: usize, result: Result<(), Errno>) {
        let status = result.map_or_else(|errno| errno as u64, |()| 0);
        self.field(entry, STATUS).store(status, Ordering::Relaxed);
        // The status is stored before the bit: pairs with the swap in `collect_done`.
        self.words[DONE].fetch_or(1 << entry, Ordering::Release);
    }

    /// Pager: the entries that were done since the last call.
    pub fn collect_done(&self) -> Bits {
        if self.words[DONE].load(Ordering::Relaxed) == 0 {
            return Bits(0);
        }
        Bits(self.words[DONE].swap(0, Ordering::Acquire))
    }

    /// Pager: the result of an entry that has been collected.
    pub fn result(&self, entry: usize) -> Result<(), Errno> {
        let status = self.field(entry, STATUS).load(Ordering::Relaxed);
        // A number that is not an errno also counts as an error: `from_return` turns it into EIO.
        let status = i32::try_from(status).unwrap_or(i32::MAX);
        Errno::from_return(-status).map_or(Ok(()), Err)
    }

    /// Whether an entry is posted and has not been taken.
    #[cfg(test)]
    pub(crate) fn has_posted(&self) -> bool {
        self.words[POSTED].load(Ordering::Acquire) != 0
    }

    fn field(&self, entry: usize, field: usize) -> &AtomicU64 {
        &self.words[FIRST + (entry % ENTRIES) * WORDS + field]
    }
}

const _: () = assert!(FIRST + ENTRIES * WORDS <= p2m_paging::PAGE_SIZE / 8);

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox() -> Mailbox {
        let area = Box::leak(Box::new(SharedArea::create("mailbox", 2).unwrap()));
        Mailbox::new(area).unwrap()
    }

    #[test]
    fn what_is_posted_is_taken_once_and_its_result_harvested_once() {
        let mailbox = mailbox();
        let preps = [0, 5, 63].map(|entry| PostedPrep {
            entry,
            gfn: entry as u64 + 1,
            buffer: entry as u64 * 4096,
        });
        preps.into_iter().for_each(|prep| mailbox.post(prep));
        assert_eq!(mailbox.take().collect::<Vec<_>>(), preps);
        assert_eq!(mailbox.take().count(), 0);
        assert_eq!(mailbox.collect_done().count(), 0);
        mailbox.finish(5, Err(Errno::ENOMEM));
        mailbox.finish(63, Ok(()));
        assert_eq!(mailbox.collect_done().collect::<Vec<_>>(), [5, 63]);
        assert_eq!(mailbox.result(5), Err(Errno::ENOMEM));
        assert_eq!(mailbox.result(63), Ok(()));
        assert_eq!(mailbox.collect_done().count(), 0);
    }

    #[test]
    fn a_status_that_is_no_errno_is_an_error() {
        let mailbox = mailbox();
        for garbage in [1000, 1 << 31, u64::MAX] {
            mailbox.field(1, STATUS).store(garbage, Ordering::Relaxed);
            assert_eq!(mailbox.result(1), Err(Errno::EIO), "{garbage:#x}");
        }
    }
}
