// SPDX-License-Identifier: MIT OR Apache-2.0
//! Equal pages are written once (row C6).
//!
//! This store wraps another. For each page to be written it searches the slots written lately for
//! one with the same contents. It uses a table of fixed size, with checksums as keys. A slot found
//! this way is only a candidate ([`Saved::DedupCandidate`]): it may have been freed or written
//! again since, and a guest can make pages whose checksums are equal at will. The caller makes sure
//! that the slot does not change, then asks for a comparison ([`CompareWith::Slot`]). Only this
//! comparison of all bytes decides.

use std::sync::Arc;

use parking_lot::Mutex;

use super::index::StoreIdentity;
use super::{
    CompareWith, Fill, IoCounters, IoCounts, Outcome, PageBuf, PageStore, SaveOutcome, Saved, Slot,
    Write, is_zeros, stretches,
};

/// The number of pages that are handled together.
const RUN_PAGES: usize = 128;
/// The number of slots in the table: half a megabyte, for 256 MiB of pages.
const TABLE_SLOTS: usize = 1 << 16;
/// The number of entries that are searched for one page.
const WAYS: usize = 4;

/// See the [module](self).
pub struct Dedup {
    inner: Arc<dyn PageStore>,
    /// Only one thread writes at a time.
    state: Mutex<DedupState>,
    /// Counts the reads for comparisons, and the pages compared.
    tally: IoCounters,
}

struct DedupState {
    recent: Recent,
    pages: Vec<PageBuf>,
    others: Vec<PageBuf>,
}

impl Dedup {
    /// Wraps this store.
    pub fn new(inner: Arc<dyn PageStore>) -> Self {
        Self {
            inner,
            state: Mutex::new(DedupState {
                recent: Recent::new(TABLE_SLOTS),
                pages: vec![PageBuf::ZERO; RUN_PAGES],
                others: vec![PageBuf::ZERO; RUN_PAGES],
            }),
            tally: IoCounters::default(),
        }
    }

    /// Compares pages with the slots named for them, and notes those that are equal.
    fn compare(
        &self,
        writes: &[Write],
        pages: &[PageBuf],
        others: &mut [PageBuf],
        outcomes: &mut [Option<SaveOutcome>],
    ) {
        let mut which = [0; RUN_PAGES];
        let mut slots = [Slot(0); RUN_PAGES];
        let mut count = 0;
        for (n, write) in writes.iter().enumerate() {
            if let CompareWith::Slot(other) = write.like {
                (which[count], slots[count]) = (n, other);
                count += 1;
            }
        }
        if count == 0 {
            return;
        }
        let (slots, others) = (&slots[..count], &mut others[..count]);
        let mut read = [Ok(()); RUN_PAGES];
        self.inner.read(slots, others, &mut read[..count]);
        stretches(|n| slots[n], |_| true, count).for_each(|run| self.tally.read(run.len()));
        self.tally.compared(count);
        for ((n, other), read) in which.into_iter().zip(others).zip(read) {
            if read.is_ok() && other.0 == pages[n].0 {
                outcomes[n] = Some(Ok(Saved::Unchanged));
            }
        }
    }
}

impl std::fmt::Debug for Dedup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dedup")
    }
}

impl PageStore for Dedup {
    fn write(&self, writes: &[Write], fill: &mut Fill<'_>, outcomes: &mut [SaveOutcome]) {
        let DedupState {
            recent,
            pages,
            others,
        } = &mut *self.state.lock();
        let mut first = 0;
        for (writes, outcomes) in writes.chunks(RUN_PAGES).zip(outcomes.chunks_mut(RUN_PAGES)) {
            let pages = &mut pages[..writes.len()];
            fill(first, pages);
            first += writes.len();
            let mut settled = [None; RUN_PAGES];
            self.compare(writes, pages, others, &mut settled);
            // The other pages are looked up. Those without an equal one are written.
            let mut rest = Vec::with_capacity(writes.len());
            for (n, (write, page)) in writes.iter().zip(&*pages).enumerate() {
                if settled[n].is_some() {
                    continue;
                }
                let found = match write.like {
                    _ if is_zeros(page) => None,
                    CompareWith::Any | CompareWith::Own => {
                        recent.find_or_note(sum(page), write.slot)
                    }
                    CompareWith::Slot(_) | CompareWith::Nothing => {
                        recent.note(sum(page), write.slot);
                        None
                    }
                };
                match found {
                    Some(other) => settled[n] = Some(Ok(Saved::DedupCandidate(other))),
                    None => rest.push(n),
                }
            }
            let to_write: Vec<_> = rest.iter().map(|n| writes[*n]).collect();
            let mut written: Vec<_> = rest.iter().map(|n| outcomes[*n]).collect();
            let mut fill = |first: usize, into: &mut [PageBuf]| {
                for (into, n) in into.iter_mut().zip(&rest[first..]) {
                    *into = pages[*n];
                }
            };
            self.inner.write(&to_write, &mut fill, &mut written);
            for (n, written) in rest.iter().zip(written) {
                settled[*n] = Some(written);
            }
            for (outcome, settled) in outcomes.iter_mut().zip(settled) {
                *outcome = settled.unwrap_or(*outcome);
            }
        }
    }

    fn read(&self, slots: &[Slot], pages: &mut [PageBuf], outcomes: &mut [Outcome]) {
        self.inner.read(slots, pages, outcomes);
    }

    fn read_at_once(
        &self,
        slots: &[Slot],
        pages: &mut [PageBuf],
        outcomes: &mut [Option<Outcome>],
    ) {
        self.inner.read_at_once(slots, pages, outcomes);
    }

    fn free(&self, slot: Slot) {
        self.inner.free(slot);
    }

    fn flush(&self, writes: &[Write], outcomes: &mut [SaveOutcome]) {
        self.inner.flush(writes, outcomes);
    }

    fn counts(&self) -> IoCounts {
        let own = self.tally.counts();
        let all = self.inner.counts();
        IoCounts {
            reads: all.reads - own.reads,
            pages_read: all.pages_read - own.pages_read,
            pages_compared: all.pages_compared + own.pages_compared,
            ..all
        }
    }

    fn identity(&self) -> Option<StoreIdentity> {
        self.inner.identity()
    }

    fn checksum(&self, slot: Slot) -> Option<u64> {
        self.inner.checksum(slot)
    }

    fn adopt(&self, slot: Slot, checksum: u64) -> Outcome {
        self.inner.adopt(slot, checksum)
    }
}

fn sum(page: &PageBuf) -> u32 {
    crc32c::crc32c(&page.0)
}

/// The slots written lately, by the checksum of what was written. An entry may be out of date.
struct Recent {
    /// Sets of [`WAYS`] entries, the latest first.
    sets: Vec<[Option<(u32, Slot)>; WAYS]>,
}

impl Recent {
    fn new(entries: usize) -> Self {
        Self {
            sets: vec![[None; WAYS]; entries / WAYS],
        }
    }

    /// A slot that seems to hold these contents; `None` if it is the page's own. If no slot is
    /// found, the page's own is noted.
    fn find_or_note(&mut self, sum: u32, own: Slot) -> Option<Slot> {
        let set = self.set(sum);
        let alike = set.iter().flatten().find(|entry| entry.0 == sum);
        if set.contains(&Some((sum, own))) || alike.is_none() {
            self.note(sum, own);
            return None;
        }
        alike.map(|entry| entry.1)
    }

    /// Notes the contents that a slot holds from now on.
    fn note(&mut self, sum: u32, slot: Slot) {
        let entry = Some((sum, slot));
        let set = self.set(sum);
        let place = set.iter().position(|other| *other == entry);
        set[..=place.unwrap_or(WAYS - 1)].rotate_right(1);
        set[0] = entry;
    }

    fn set(&mut self, sum: u32) -> &mut [Option<(u32, Slot)>; WAYS] {
        let at = sum as usize % self.sets.len();
        &mut self.sets[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreError;
    use crate::memory::MemoryStore;
    use crate::pagefile::{Keep, Pagefile};
    use crate::testing::{compares_and_spares_zeros, page, read, round_trips};

    fn store() -> Dedup {
        Dedup::new(Arc::new(MemoryStore::new()))
    }

    fn write(store: &Dedup, writes: &[(u32, CompareWith, u32)]) -> Vec<SaveOutcome> {
        let list = writes.iter().map(|(slot, like, _)| Write {
            slot: Slot(*slot),
            like: *like,
        });
        let list: Vec<_> = list.collect();
        let mut outcomes = vec![Err(StoreError::Full); list.len()];
        let mut fill = |first: usize, into: &mut [PageBuf]| {
            for (into, (.., n)) in into.iter_mut().zip(&writes[first..]) {
                *into = page(*n);
            }
        };
        store.write(&list, &mut fill, &mut outcomes);
        outcomes
    }

    #[test]
    fn what_a_store_must_do_it_does() {
        round_trips(&store());
        compares_and_spares_zeros(&store());
    }

    #[test]
    fn c6_a_page_like_another_is_not_written_but_compared_first() {
        let dir = tempfile::tempdir().unwrap();
        let pagefile = Pagefile::create(&dir.path().join("pages"), Keep::Unlinked).unwrap();
        let store = Dedup::new(Arc::new(pagefile));
        let any = CompareWith::Any;
        // Equal pages are found within one call and across two.
        let seems = Ok(Saved::DedupCandidate(Slot(1)));
        let outcomes = write(&store, &[(1, any, 7), (2, any, 8), (3, any, 7)]);
        assert_eq!(outcomes, [Ok(Saved::Written), Ok(Saved::Written), seems]);
        assert_eq!(write(&store, &[(4, any, 7)]), [seems]);
        assert_eq!(store.counts().pages_written, 2);
        let like = CompareWith::Slot(Slot(1));
        let outcomes = write(&store, &[(3, like, 7), (4, like, 9)]);
        assert_eq!(outcomes, [Ok(Saved::Unchanged), Ok(Saved::Written)]);
        let (pages, outcomes) = read(&store, &[1, 2, 3, 4].map(Slot));
        let empty = Err(StoreError::Empty { slot: Slot(3) });
        assert_eq!(outcomes, [Ok(()), Ok(()), empty, Ok(())]);
        assert!(pages[0].0 == page(7).0 && pages[3].0 == page(9).0);
        let counts = store.counts();
        assert_eq!((counts.pages_compared, counts.pages_read), (2, 4));
    }

    #[test]
    fn c6_a_page_is_not_like_itself_and_may_be_said_to_be_like_none() {
        let store = store();
        write(&store, &[(1, CompareWith::Any, 7)]);
        assert_eq!(
            write(&store, &[(1, CompareWith::Own, 7)]),
            [Ok(Saved::Unchanged)]
        );
        assert_eq!(
            write(&store, &[(2, CompareWith::Nothing, 7)]),
            [Ok(Saved::Written)]
        );
        assert_eq!(
            write(&store, &[(1, CompareWith::Own, 7)]),
            [Ok(Saved::Unchanged)]
        );
        assert_eq!(
            write(&store, &[(2, CompareWith::Own, 7)]),
            [Ok(Saved::Unchanged)]
        );
    }

    /// The table does not know what has become of a slot. The comparison finds out.
    #[test]
    fn c6_a_slot_freed_or_written_again_is_compared_and_found_to_be_another() {
        let store = store();
        write(
            &store,
            &[(1, CompareWith::Any, 7), (2, CompareWith::Any, 8)],
        );
        store.free(Slot(1));
        write(&store, &[(2, CompareWith::Own, 9)]);
        for (n, slot) in [(7, Slot(1)), (8, Slot(2))] {
            let seems = Ok(Saved::DedupCandidate(slot));
            assert_eq!(write(&store, &[(n, CompareWith::Any, n)]), [seems]);
            let outcomes = write(&store, &[(n, CompareWith::Slot(slot), n)]);
            assert_eq!(outcomes, [Ok(Saved::Written)]);
        }
        let (pages, _) = read(&store, &[2, 7, 8].map(Slot));
        assert!((0..3).all(|n| pages[n].0 == page([9, 7, 8][n]).0));
    }

    #[test]
    fn the_table_keeps_the_latest() {
        let mut recent = Recent::new(WAYS);
        let slots = 0..u32::try_from(WAYS).unwrap();
        slots.clone().for_each(|n| recent.note(n, Slot(n)));
        recent.note(0, Slot(0));
        recent.note(99, Slot(99));
        let found = slots.map(|n| recent.set(n).contains(&Some((n, Slot(n)))));
        assert_eq!(found.collect::<Vec<_>>(), [true, false, true, true]);
    }
}
