//! Slots in the pager's own memory: for measuring what everything but a device costs, and for hosts
//! without one.
//!
//! Memory once used is kept for the next page, so that a store in steady state is warm.

use p2m_paging::PAGE_SIZE;
use parking_lot::{Mutex, RwLock};

use super::{Fill, Outcome, PageBuf, PageStore, Slot, StoreError};

/// Slots that are allocated together (1 MiB), and share a lock.
const CHUNK: usize = 256;

/// Pages in anonymous memory. It trusts memory: there are no checksums.
#[derive(Debug, Default)]
pub struct MemoryStore {
    /// Locked for writing only to add a chunk.
    chunks: RwLock<Vec<Mutex<Chunk>>>,
    max_slots: Option<u32>,
}

struct Chunk {
    held: [bool; CHUNK],
    pages: Vec<PageBuf>,
}

impl std::fmt::Debug for Chunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} pages",
            self.held.iter().filter(|held| **held).count()
        )
    }
}

impl MemoryStore {
    /// As large as need be.
    pub fn new() -> Self {
        Self::default()
    }

    /// For slots below `max_slots`; any other is [`StoreError::Full`].
    pub fn with_limit(max_slots: u32) -> Self {
        Self {
            max_slots: Some(max_slots),
            ..Self::default()
        }
    }

    fn grow_to(&self, chunk: usize) {
        while self.chunks.read().len() <= chunk {
            // Made before the lock is taken: touching a megabyte takes long.
            let new = Chunk {
                held: [false; CHUNK],
                pages: vec![PageBuf::ZERO; CHUNK],
            };
            self.chunks.write().push(Mutex::new(new));
        }
    }
}

impl PageStore for MemoryStore {
    fn write(&self, slots: &[Slot], fill: &mut Fill<'_>, outcomes: &mut [Outcome]) {
        let is_full = |slot: &Slot| self.max_slots.is_some_and(|max| slot.0 >= max);
        // Neighbours in one chunk are filled together.
        let together = |a: &Slot, b: &Slot| {
            a.0.checked_add(1) == Some(b.0)
                && place(*a).0 == place(*b).0
                && is_full(a) == is_full(b)
        };
        let mut first = 0;
        for run in slots.chunk_by(together) {
            let range = first..first + run.len();
            first = range.end;
            if is_full(&run[0]) {
                outcomes[range].fill(Err(StoreError::Full));
                continue;
            }
            let (chunk, at) = place(run[0]);
            self.grow_to(chunk);
            let chunks = self.chunks.read();
            let mut chunk = chunks[chunk].lock();
            fill(range.start, &mut chunk.pages[at..at + run.len()]);
            chunk.held[at..at + run.len()].fill(true);
            outcomes[range].fill(Ok(()));
        }
    }

    fn read(&self, slots: &[Slot], pages: &mut [PageBuf], outcomes: &mut [Outcome]) {
        let chunks = self.chunks.read();
        for ((slot, page), outcome) in slots.iter().zip(pages).zip(outcomes) {
            let (chunk, at) = place(*slot);
            let chunk = chunks
                .get(chunk)
                .map(Mutex::lock)
                .filter(|chunk| chunk.held[at]);
            *outcome = chunk
                .map(|chunk| page.0.copy_from_slice(&chunk.pages[at].0))
                .ok_or(StoreError::Empty { slot: *slot });
        }
    }

    fn free(&self, slot: Slot) {
        let (chunk, at) = place(slot);
        if let Some(chunk) = self.chunks.read().get(chunk) {
            chunk.lock().held[at] = false;
        }
    }

    fn flush(&self) -> Outcome {
        Ok(())
    }
}

fn place(slot: Slot) -> (usize, usize) {
    (slot.0 as usize / CHUNK, slot.0 as usize % CHUNK)
}

const _: () = assert!(
    size_of::<PageBuf>() == PAGE_SIZE,
    "no padding between pages"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{page, read, round_trips, write};

    #[test]
    fn pages_come_back_as_they_were_written() {
        round_trips(&MemoryStore::new());
    }

    #[test]
    fn a_limit_is_a_full_store() {
        let store = MemoryStore::with_limit(2);
        let outcomes = write(&store, &[1, 2, 0].map(Slot));
        assert_eq!(outcomes, [Ok(()), Err(StoreError::Full), Ok(())]);
    }

    #[test]
    fn a_read_does_not_wait_for_a_write_elsewhere() {
        let store = MemoryStore::new();
        let (far, near) = (Slot(1000), Slot(1));
        assert_eq!(write(&store, &[near, far]), [Ok(()), Ok(())]);
        let mut outcomes = [Ok(())];
        let mut seen = None;
        store.write(
            &[far],
            &mut |_, buffers| {
                buffers.fill(page(7));
                seen = Some(read(&store, &[near]).1);
            },
            &mut outcomes,
        );
        assert_eq!(seen, Some(vec![Ok(())]));
    }
}
