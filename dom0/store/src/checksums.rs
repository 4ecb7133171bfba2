// SPDX-License-Identifier: MIT OR Apache-2.0
//! The checksums of the pages in a store.

use parking_lot::Mutex;

use super::{Outcome, PageBuf, Slot, StoreError};

/// How many bits of a CRC-32C are kept.
const MASK: u32 = 0x00ff_ffff;
/// Stands for a slot without a page. A page with this checksum gets the value one below.
const NONE: u32 = MASK;
/// Slots that are allocated together.
const CHUNK: usize = 4096;

type Chunk = [[u8; 3]; CHUNK];

/// A checksum for each slot that holds a page: three bytes.
#[derive(Debug, Default)]
pub(super) struct Checksums {
    chunks: Mutex<Vec<Option<Box<Chunk>>>>,
}

impl Checksums {
    pub(super) fn set(&self, slot: Slot, page: &PageBuf) {
        self.set_sum(slot, checksum(page));
    }

    fn set_sum(&self, slot: Slot, sum: u32) {
        let (chunk, at) = place(slot);
        let mut chunks = self.chunks.lock();
        if chunks.len() <= chunk {
            chunks.resize_with(chunk + 1, || None);
        }
        let chunk = chunks[chunk].get_or_insert_with(|| Box::new([bytes(NONE); CHUNK]));
        chunk[at] = bytes(sum);
    }

    pub(super) fn forget(&self, slot: Slot) {
        let (chunk, at) = place(slot);
        if let Some(Some(chunk)) = self.chunks.lock().get_mut(chunk) {
            chunk[at] = bytes(NONE);
        }
    }

    /// The checksum of the page in a slot, as the index keeps it.
    pub(super) fn get(&self, slot: Slot) -> Option<u64> {
        self.expected(slot).ok().map(u64::from)
    }

    /// A pager before this one has left a page in a slot, with this checksum. It is an error if that
    /// cannot be, or if the slot holds another.
    pub(super) fn adopt(&self, slot: Slot, checksum: u64) -> Outcome {
        let sum = u32::try_from(checksum).ok().filter(|sum| *sum < NONE);
        let known = self.expected(slot).ok();
        match sum.filter(|sum| known.is_none_or(|known| known == *sum)) {
            Some(sum) => {
                self.set_sum(slot, sum);
                Ok(())
            }
            None => Err(StoreError::NotAdopted { slot, checksum }),
        }
    }

    /// Whether the slot holds a page.
    pub(super) fn known(&self, slot: Slot) -> Outcome {
        self.expected(slot).map(|_| ())
    }

    /// Whether this page is the one that was written.
    pub(super) fn check(&self, slot: Slot, page: &PageBuf) -> Outcome {
        let (expected, found) = (self.expected(slot)?, checksum(page));
        if expected == found {
            Ok(())
        } else {
            Err(StoreError::Corrupt {
                slot,
                expected,
                found,
            })
        }
    }

    pub(super) fn table_bytes(&self) -> usize {
        let chunks = self.chunks.lock();
        let used = chunks.iter().flatten().count();
        used * size_of::<Chunk>() + chunks.capacity() * size_of::<Option<Box<Chunk>>>()
    }

    fn expected(&self, slot: Slot) -> Result<u32, StoreError> {
        let (chunk, at) = place(slot);
        let chunks = self.chunks.lock();
        let [a, b, c] = match chunks.get(chunk) {
            Some(Some(chunk)) => chunk[at],
            _ => bytes(NONE),
        };
        match u32::from_le_bytes([a, b, c, 0]) {
            NONE => Err(StoreError::Empty { slot }),
            expected => Ok(expected),
        }
    }
}

fn checksum(page: &PageBuf) -> u32 {
    (crc32c::crc32c(&page.0) & MASK).min(NONE - 1)
}

fn bytes(checksum: u32) -> [u8; 3] {
    let [a, b, c, _] = checksum.to_le_bytes();
    [a, b, c]
}

fn place(slot: Slot) -> (usize, usize) {
    (slot.0 as usize / CHUNK, slot.0 as usize % CHUNK)
}
