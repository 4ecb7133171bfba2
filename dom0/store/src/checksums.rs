// SPDX-License-Identifier: MIT OR Apache-2.0
//! The checksums of the pages in a store: eight bytes for each slot.
//!
//! The index keeps the same eight bytes for the page's gfn, so a pager that takes over knows as much as
//! the pager that wrote the page.
//!
//! | bits | what | what for |
//! |---|---|---|
//! | 32 | a CRC-32C of the page | a changed page is found |
//! | 16 | two bits of the CRC-32C of each of the eight sectors | more changed pages are found; which sectors are wrong |
//! | 16 | the same of what the slot held before | a wrong sector is an old one |
//!
//! A page passes if the first 48 bits are right. A page with one wrong sector passes once in 2^32 times,
//! and one with all sectors wrong about once in 2^48. A guest can make pages that have the same sum, so
//! a page that is about to be written is compared byte by byte with its copy. The sum of a page takes half
//! a microsecond, 1.7 times as long as one CRC-32C of the whole page.
//!
//! *Why neither the slot nor the guest is part of the sum.* A sum that lies beside its page on the medium
//! needs them, because a page that comes from a wrong place brings its sum with it. These sums lie in the
//! table, under their slot, and in an index that states its guest and its store. What another slot or
//! another file held has another sum, unless it is the same page byte for byte. A CRC is also linear:
//! whatever is put in front of both pages cancels out when their sums are compared. And the sum of a page
//! that has moved stays right, so a move changes one word of the index.
//!
//! *What a wrong page is* ([`Corruption`]) is found out after an error only. A page that is due in another
//! slot is searched in the table, 48 bits wide. Stale and torn pages are told by the tags of their sectors:
//! a rotten sector has the tag of the old one once in four times, so these two are a hint to where the
//! defect is. That the page is wrong is certain.
//!
//! [`Corruption`]: pager_core::store::Corruption

mod record;
#[cfg(test)]
mod tests;

use pager_core::store::Corruption;
use parking_lot::Mutex;

use super::{Outcome, PageBuf, Slot, StoreError};
use record::{Record, Sum};

/// Slots that are allocated together.
const CHUNK: usize = 4096;
/// The most chunks in which a page that is due in another slot is searched: those of the slots nearby,
/// 4 GiB of pages. The search takes about a millisecond.
const SEARCHED_CHUNKS: usize = (1 << 20) / CHUNK;

type Chunk = [Record; CHUNK];

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Checksums {
    chunks: Mutex<Vec<Option<Box<Chunk>>>>,
}

impl Checksums {
    pub(super) fn set(&self, slot: Slot, page: &PageBuf) {
        let sum = Sum::of(page);
        self.change(slot, |record| record.written(sum));
    }

    pub(super) fn forget(&self, slot: Slot) {
        let (chunk, at) = place(slot);
        if let Some(Some(chunk)) = self.chunks.lock().get_mut(chunk) {
            chunk[at] = chunk[at].forgotten();
        }
    }

    /// The record of the page in a slot, as the index keeps it.
    pub(super) fn get(&self, slot: Slot) -> Option<u64> {
        let record = self.record(slot);
        record.sum().map(|_| record.0)
    }

    /// A pager before this one has left a page in a slot, with this record. It is an error if that cannot
    /// be, or if the slot holds another page.
    pub(super) fn adopt(&self, slot: Slot, checksum: u64) -> Outcome {
        let adopted = Record(checksum);
        let known = self.record(slot);
        let is_possible = |sum: &Sum| known.sum().is_none_or(|known| known == *sum);
        match adopted.sum().filter(is_possible) {
            Some(_) if known.sum().is_some() => Ok(()),
            Some(_) => {
                self.change(slot, |_| adopted);
                Ok(())
            }
            None => Err(StoreError::NotAdopted { slot, checksum }),
        }
    }

    /// Whether the slot holds a page.
    pub(super) fn known(&self, slot: Slot) -> Outcome {
        self.written(slot).map(drop)
    }

    /// Whether this page seems to be the one in the slot.
    pub(super) fn seems(&self, slot: Slot, page: &PageBuf) -> bool {
        self.record(slot).has(Sum::of(page))
    }

    /// Whether this page is the one that was written.
    pub(super) fn check(&self, slot: Slot, page: &PageBuf) -> Outcome {
        let (record, written) = self.written(slot)?;
        let found = Sum::of(page);
        if written == found {
            return Ok(());
        }
        Err(StoreError::Corrupt {
            slot,
            expected: written.crc(),
            found: found.crc(),
            kind: match self.find(slot, found) {
                Some(due) => Corruption::Misdirected { due },
                None => record.compare(written, found),
            },
        })
    }

    pub(super) fn table_bytes(&self) -> usize {
        let chunks = self.chunks.lock();
        let used = chunks.iter().flatten().count();
        used * size_of::<Chunk>() + chunks.capacity() * size_of::<Option<Box<Chunk>>>()
    }

    fn record(&self, slot: Slot) -> Record {
        let (chunk, at) = place(slot);
        let chunks = self.chunks.lock();
        let chunk = chunks.get(chunk).and_then(Option::as_ref);
        chunk.map_or(Record::NONE, |chunk| chunk[at])
    }

    fn written(&self, slot: Slot) -> Result<(Record, Sum), StoreError> {
        let record = self.record(slot);
        let sum = record.sum().ok_or(StoreError::Empty { slot })?;
        Ok((record, sum))
    }

    fn change(&self, slot: Slot, change: impl FnOnce(Record) -> Record) {
        let (chunk, at) = place(slot);
        let mut chunks = self.chunks.lock();
        if chunks.len() <= chunk {
            chunks.resize_with(chunk + 1, || None);
        }
        let chunk = chunks[chunk].get_or_insert_with(|| Box::new([Record::NONE; CHUNK]));
        chunk[at] = change(chunk[at]);
    }

    /// A slot near this one that should hold a page with this sum. Others wait for one chunk at most.
    fn find(&self, slot: Slot, sum: Sum) -> Option<Slot> {
        let first = place(slot).0.saturating_sub(SEARCHED_CHUNKS / 2);
        (first..first + SEARCHED_CHUNKS).find_map(|chunk| {
            let chunks = self.chunks.lock();
            let records = chunks.get(chunk)?.as_ref()?;
            let at = records.iter().position(|record| record.has(sum))?;
            u32::try_from(chunk * CHUNK + at).ok().map(Slot)
        })
    }
}

fn place(slot: Slot) -> (usize, usize) {
    (slot.0 as usize / CHUNK, slot.0 as usize % CHUNK)
}
