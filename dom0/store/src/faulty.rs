// SPDX-License-Identifier: MIT OR Apache-2.0
//! A store that fails as a plan says, for tests and drills.

use std::sync::atomic::{AtomicU64, Ordering};

use p2m_paging::PAGE_SIZE;
use parking_lot::{Condvar, Mutex};

use super::index::StoreIdentity;
use super::{Fill, IoCounts, Outcome, PageBuf, PageStore, SaveOutcome, Slot, StoreError, Write};

/// The faults to inject, counted in pages since the store was made.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The n-th page written (0 for the first) fails with EIO.
    pub write_error_at: Option<u64>,
    /// The n-th page written stops short after this many bytes.
    pub short_write_at: Option<(u64, usize)>,
    /// The store is full with this many pages, whatever their slots.
    pub full_at_pages: Option<u64>,
    /// The n-th page read fails with EIO, once.
    pub read_error_at: Option<u64>,
    /// These slots can never be read.
    pub unreadable: Vec<Slot>,
    /// These slots have lost their contents.
    pub gone: Vec<Slot>,
}

/// Wraps another store and injects errors.
#[derive(Debug)]
pub struct FaultyStore<S> {
    inner: S,
    plan: Mutex<Plan>,
    writes: AtomicU64,
    reads: AtomicU64,
    held: Mutex<pager_core::sparse::SparseSet>,
    /// Writes hang.
    hangs: Mutex<bool>,
    reads_wait: Mutex<ReadsWait>,
    continues: Condvar,
}

/// Reads of a device that has to be waited for.
#[derive(Debug, Default)]
struct ReadsWait {
    /// The slots that are on the device only. All others can be read at once.
    cold: Vec<Slot>,
    /// The device does not answer.
    hang: bool,
    /// The next read of the device panics.
    panics: bool,
}

impl ReadsWait {
    fn is_cold(&self, slots: &[Slot]) -> bool {
        slots.iter().any(|slot| self.cold.contains(slot))
    }
}

impl<S: PageStore> FaultyStore<S> {
    /// Wraps `inner`, which then fails as `plan` says.
    pub fn new(inner: S, plan: Plan) -> Self {
        Self {
            inner,
            plan: Mutex::new(plan),
            writes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            held: Mutex::default(),
            hangs: Mutex::new(false),
            reads_wait: Mutex::default(),
            continues: Condvar::new(),
        }
    }

    /// From now on writes hang, or continue.
    pub fn hang_writes(&self, hang: bool) {
        *self.hangs.lock() = hang;
        self.continues.notify_all();
    }

    /// From now on these slots are on the device only, which has to be waited for.
    pub fn set_cold(&self, slots: impl IntoIterator<Item = Slot>) {
        self.reads_wait.lock().cold = slots.into_iter().collect();
    }

    /// From now on reads of cold slots hang, or continue.
    pub fn hang_reads(&self, hang: bool) {
        self.reads_wait.lock().hang = hang;
        self.continues.notify_all();
    }

    /// The next read of a cold slot panics.
    pub fn panic_in_read(&self) {
        self.reads_wait.lock().panics = true;
    }

    /// Replaces the plan. The counts continue.
    pub fn set_plan(&self, plan: Plan) {
        *self.plan.lock() = plan;
    }

    fn write_fault(&self, slot: Slot) -> Outcome {
        let n = self.writes.fetch_add(1, Ordering::Relaxed);
        let plan = self.plan.lock();
        if plan.write_error_at == Some(n) {
            return Err(StoreError::Io {
                slot,
                errno: rustix::io::Errno::IO.raw_os_error(),
            });
        }
        if let Some((at, bytes)) = plan.short_write_at
            && at == n
        {
            return Err(StoreError::Short {
                slot,
                bytes: bytes % PAGE_SIZE,
            });
        }
        let held = self.held.lock();
        let is_full = plan.full_at_pages.is_some_and(|pages| held.len() >= pages);
        if is_full && !held.contains(slot.0.into()) {
            Err(StoreError::Full)
        } else {
            Ok(())
        }
    }

    fn read_fault(&self, slot: Slot) -> Outcome {
        let n = self.reads.fetch_add(1, Ordering::Relaxed);
        let plan = self.plan.lock();
        if plan.read_error_at == Some(n) || plan.unreadable.contains(&slot) {
            return Err(StoreError::Io {
                slot,
                errno: rustix::io::Errno::IO.raw_os_error(),
            });
        }
        if plan.gone.contains(&slot) {
            return Err(StoreError::Empty { slot });
        }
        Ok(())
    }
}

impl<S: PageStore> PageStore for FaultyStore<S> {
    fn write(&self, writes: &[Write], fill: &mut Fill<'_>, outcomes: &mut [SaveOutcome]) {
        self.continues
            .wait_while(&mut self.hangs.lock(), |hangs| *hangs);
        for (n, (write, outcome)) in writes.iter().zip(outcomes).enumerate() {
            if let Err(error) = self.write_fault(write.slot) {
                self.free(write.slot);
                *outcome = Err(error);
                continue;
            }
            self.held.lock().insert(write.slot.0.into(), ());
            let mut fill_one = |_: usize, page: &mut [PageBuf]| fill(n, page);
            self.inner
                .write(&[*write], &mut fill_one, std::slice::from_mut(outcome));
        }
    }

    fn read(&self, slots: &[Slot], pages: &mut [PageBuf], outcomes: &mut [Outcome]) {
        let mut waits = self.reads_wait.lock();
        let hangs = |waits: &mut ReadsWait| waits.hang && waits.is_cold(slots);
        self.continues.wait_while(&mut waits, hangs);
        let panics = waits.is_cold(slots) && std::mem::take(&mut waits.panics);
        drop(waits);
        assert!(!panics, "the test wants it: a read panics");
        self.inner.read(slots, pages, outcomes);
        for ((slot, page), outcome) in slots.iter().zip(pages).zip(outcomes) {
            if let Err(fault) = self.read_fault(*slot) {
                // The buffer of a failed read must not hold the page.
                page.0.fill(0xdb);
                *outcome = Err(fault);
            }
        }
    }

    fn read_at_once(
        &self,
        slots: &[Slot],
        pages: &mut [PageBuf],
        outcomes: &mut [Option<Outcome>],
    ) {
        for ((slot, page), outcome) in slots.iter().zip(pages).zip(outcomes) {
            let slot = std::slice::from_ref(slot);
            let is_cold = self.reads_wait.lock().is_cold(slot);
            *outcome = (!is_cold).then(|| {
                let mut read = Ok(());
                let (page, outcome) = (std::slice::from_mut(page), std::slice::from_mut(&mut read));
                self.read(slot, page, outcome);
                read
            });
        }
    }

    fn free(&self, slot: Slot) {
        self.held.lock().remove(slot.0.into());
        self.inner.free(slot);
    }

    fn flush(&self, writes: &[Write], outcomes: &mut [SaveOutcome]) {
        self.inner.flush(writes, outcomes);
    }

    fn counts(&self) -> IoCounts {
        self.inner.counts()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Saved;
    use crate::memory::MemoryStore;
    use crate::testing::{read, write};

    #[test]
    fn each_fault_hits_the_page_it_is_meant_for() {
        let plan = Plan {
            write_error_at: Some(1),
            short_write_at: Some((2, 512)),
            full_at_pages: Some(2),
            read_error_at: Some(0),
            unreadable: vec![Slot(3)],
            gone: Vec::new(),
        };
        let store = FaultyStore::new(MemoryStore::new(), plan);
        let outcomes = write(&store, &[0, 1, 2, 3, 4, 0].map(Slot));
        let written = Ok(Saved::Written);
        assert_eq!(outcomes[0], written);
        assert!(matches!(
            outcomes[1],
            Err(StoreError::Io { slot: Slot(1), .. })
        ));
        assert_eq!(
            outcomes[2],
            Err(StoreError::Short {
                slot: Slot(2),
                bytes: 512
            })
        );
        assert_eq!(outcomes[3..], [written, Err(StoreError::Full), written]);
        let fails = |slot| read(&store, &[Slot(slot)]).1[0].is_err();
        assert_eq!(
            [fails(0), fails(0), fails(3), fails(3)],
            [true, false, true, true]
        );
        store.set_plan(Plan::default());
        assert!(!fails(3) && fails(1));
    }

    #[test]
    fn a_cold_slot_is_not_read_at_once_and_hangs_until_the_device_answers() {
        let store = FaultyStore::new(MemoryStore::new(), Plan::default());
        write(&store, &[0, 1].map(Slot));
        store.set_cold([Slot(1)]);
        store.hang_reads(true);
        let mut outcomes = [None; 2];
        let mut pages = [PageBuf::ZERO; 2];
        store.read_at_once(&[0, 1].map(Slot), &mut pages, &mut outcomes);
        assert_eq!(outcomes, [Some(Ok(())), None]);
        std::thread::scope(|scope| {
            let hangs = scope.spawn(|| read(&store, &[Slot(1)]).1);
            assert_eq!(read(&store, &[Slot(0)]).1, [Ok(())], "it is in memory");
            assert!(!hangs.is_finished());
            store.hang_reads(false);
            assert_eq!(hangs.join().unwrap(), [Ok(())]);
        });
    }
}
