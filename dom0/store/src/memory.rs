// SPDX-License-Identifier: MIT OR Apache-2.0
//! Slots in the pager's own memory: for measurements without the cost of a device, and for hosts
//! without one.
//!
//! Memory is reused for the next page, so a store in steady state needs no new memory.

use p2m_paging::PAGE_SIZE;
use parking_lot::{Mutex, RwLock};

use super::{
    Fill, IoCounters, IoCounts, Outcome, PageBuf, PageStore, SaveOutcome, Saved, Slot, StoreError,
    Write, is_zeros, stretches,
};

/// The number of slots that are allocated together (1 MiB) and share a lock.
const CHUNK: usize = 256;

/// Pages in anonymous memory, which is trusted: there are no checksums.
#[derive(Debug, Default)]
pub struct MemoryStore {
    /// Locked for writing only while a chunk is added.
    chunks: RwLock<Vec<Mutex<Chunk>>>,
    max_slots: Option<u32>,
    tally: IoCounters,
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
    /// A store without a limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// A store for slots below `max_slots`. Writing to any other slot is [`StoreError::Full`].
    pub fn with_limit(max_slots: u32) -> Self {
        Self {
            max_slots: Some(max_slots),
            ..Self::default()
        }
    }

    fn grow_to(&self, chunk: usize) {
        while self.chunks.read().len() <= chunk {
            // The chunk is allocated before the lock is taken, because touching a megabyte takes
            // long.
            let new = Chunk {
                held: [false; CHUNK],
                pages: vec![PageBuf::ZERO; CHUNK],
            };
            self.chunks.write().push(Mutex::new(new));
        }
    }

    fn read_each(
        &self,
        slots: &[Slot],
        pages: &mut [PageBuf],
        mut set_outcome: impl FnMut(usize, Outcome),
    ) {
        for run in stretches(|n| slots[n], |_| true, slots.len()) {
            self.tally.read(run.len());
        }
        let chunks = self.chunks.read();
        for (n, (slot, page)) in slots.iter().zip(pages).enumerate() {
            let (chunk, at) = place(*slot);
            let chunk = chunks
                .get(chunk)
                .map(Mutex::lock)
                .filter(|chunk| chunk.held[at]);
            let read = chunk
                .map(|chunk| page.0.copy_from_slice(&chunk.pages[at].0))
                .ok_or(StoreError::Empty { slot: *slot });
            set_outcome(n, read);
        }
    }
}

impl PageStore for MemoryStore {
    fn write(&self, writes: &[Write], fill: &mut Fill<'_>, outcomes: &mut [SaveOutcome]) {
        let is_full = |write: &Write| self.max_slots.is_some_and(|max| write.slot.0 >= max);
        // Neighbours in one chunk are filled together. A page that has a copy is filled alone and
        // compared.
        let together = |a: &Write, b: &Write| {
            a.slot.0.checked_add(1) == Some(b.slot.0)
                && place(a.slot).0 == place(b.slot).0
                && is_full(a) == is_full(b)
                && !a.has_copy()
                && !b.has_copy()
        };
        let mut first = 0;
        for run in writes.chunk_by(together) {
            let range = first..first + run.len();
            first = range.end;
            if is_full(&run[0]) {
                outcomes[range].fill(Err(StoreError::Full));
                continue;
            }
            let (chunk, at) = place(run[0].slot);
            self.grow_to(chunk);
            let chunks = self.chunks.read();
            let mut chunk = chunks[chunk].lock();
            if run[0].has_copy() && chunk.held[at] {
                let mut page = [PageBuf::ZERO];
                fill(range.start, &mut page);
                self.tally.compared(1);
                outcomes[range.start] = Ok(chunk.replace(at, &page[0], &self.tally));
                continue;
            }
            let places = at..at + run.len();
            fill(range.start, &mut chunk.pages[places.clone()]);
            self.tally.wrote(run.len());
            for (at, outcome) in places.zip(&mut outcomes[range]) {
                chunk.held[at] = !is_zeros(&chunk.pages[at]);
                *outcome = Ok(if chunk.held[at] {
                    Saved::Written
                } else {
                    Saved::Zeros
                });
            }
        }
    }

    fn read(&self, slots: &[Slot], pages: &mut [PageBuf], outcomes: &mut [Outcome]) {
        self.read_each(slots, pages, |n, outcome| outcomes[n] = outcome);
    }

    fn read_at_once(
        &self,
        slots: &[Slot],
        pages: &mut [PageBuf],
        outcomes: &mut [Option<Outcome>],
    ) {
        self.read_each(slots, pages, |n, outcome| outcomes[n] = Some(outcome));
    }

    fn free(&self, slot: Slot) {
        let (chunk, at) = place(slot);
        if let Some(chunk) = self.chunks.read().get(chunk) {
            chunk.lock().held[at] = false;
        }
    }

    fn flush(&self, _: &[Write], _: &mut [SaveOutcome]) {}

    fn counts(&self) -> IoCounts {
        self.tally.counts()
    }
}

impl Chunk {
    /// Stores a page in the place of its copy, unless they are equal.
    fn replace(&mut self, at: usize, page: &PageBuf, tally: &IoCounters) -> Saved {
        if is_zeros(page) {
            self.held[at] = false;
            return Saved::Zeros;
        }
        if self.pages[at].0 == page.0 {
            return Saved::Unchanged;
        }
        tally.wrote(1);
        self.pages[at] = *page;
        Saved::Written
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
    use crate::CompareWith;
    use crate::testing::{compares_and_spares_zeros, page, read, round_trips, write};

    #[test]
    fn pages_come_back_as_they_were_written() {
        round_trips(&MemoryStore::new());
    }

    #[test]
    fn c7_what_is_there_already_and_zeros_are_not_written() {
        compares_and_spares_zeros(&MemoryStore::new());
    }

    #[test]
    fn a_limit_is_a_full_store() {
        let store = MemoryStore::with_limit(2);
        let outcomes = write(&store, &[1, 2, 0].map(Slot));
        let written = Ok(Saved::Written);
        assert_eq!(outcomes, [written, Err(StoreError::Full), written]);
    }

    #[test]
    fn a_read_does_not_wait_for_a_write_elsewhere() {
        let store = MemoryStore::new();
        let (far, near) = (Slot(1000), Slot(1));
        assert_eq!(write(&store, &[near, far]), [Ok(Saved::Written); 2]);
        let mut outcomes = [Err(StoreError::Full)];
        let mut seen = None;
        let write = Write {
            slot: far,
            like: CompareWith::Any,
        };
        store.write(
            &[write],
            &mut |_, buffers| {
                buffers.fill(page(7));
                seen = Some(read(&store, &[near]).1);
            },
            &mut outcomes,
        );
        assert_eq!(seen, Some(vec![Ok(())]));
    }
}
