//! What the pages in a store are supposed to contain.

use parking_lot::Mutex;

use super::{Outcome, PageBuf, Slot, StoreError};
use crate::core::sparse::SparseMap;

/// How many bits of a CRC-32C are kept.
const MASK: u32 = 0x00ff_ffff;

/// A checksum for each slot that holds a page: three bytes and a bit.
#[derive(Debug, Default)]
pub(super) struct Checksums {
    map: Mutex<SparseMap<[u8; 3]>>,
}

impl Checksums {
    pub(super) fn set(&self, slot: Slot, page: &PageBuf) {
        let [a, b, c, _] = checksum(page).to_le_bytes();
        self.map.lock().insert(slot.0.into(), [a, b, c]);
    }

    pub(super) fn forget(&self, slot: Slot) {
        self.map.lock().remove(slot.0.into());
    }

    /// Whether the slot holds a page at all.
    pub(super) fn known(&self, slot: Slot) -> Outcome {
        self.expected(slot).map(|_| ())
    }

    /// Whether this is what was written.
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
        self.map.lock().table_bytes()
    }

    fn expected(&self, slot: Slot) -> Result<u32, StoreError> {
        let [a, b, c] = self
            .map
            .lock()
            .get(slot.0.into())
            .ok_or(StoreError::Empty { slot })?;
        Ok(u32::from_le_bytes([a, b, c, 0]))
    }
}

fn checksum(page: &PageBuf) -> u32 {
    crc32c::crc32c(&page.0) & MASK
}
