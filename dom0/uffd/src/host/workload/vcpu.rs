// SPDX-License-Identifier: MIT OR Apache-2.0
//! One vcpu of the guest: a thread that visits pages.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, compiler_fence};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use p2m_paging::paging::{Caller, DropError};
use p2m_paging::platform::{P2m as _, Platform as _};
use p2m_paging::{Gfn, P2mType, PAGE_SIZE, VcpuId};
use pager_accesses::Recorder;
use pager_accesses::pattern::{Random, Spread};

use super::expected_contents::ExpectedContents;
use crate::host::Machine;

/// The number of words that a write changes.
const WORDS_CHANGED: usize = 4;
/// While pages are to be given back, the number of pages that are searched after each visit for one
/// that is out.
const GIVE_BACK_ATTEMPTS: usize = 8;
/// The longest fault that is recorded exactly: a minute, to 3 digits.
const LONGEST_FAULT_NS: u64 = 60_000_000_000;

/// What all vcpus share.
#[derive(Debug)]
pub struct Workload {
    /// Which pages are visited.
    pub spread: Spread,
    /// What the pages must contain.
    pub expected: ExpectedContents,
    /// The seed of all random choices.
    pub seed: u64,
    /// The percentage of visits that change their page.
    pub writes_percent: u32,
    /// Whether all vcpus stop before their next visit.
    pub stop: AtomicBool,
    /// The number of pages that still have to be given back while they are out.
    pub to_give_back: AtomicU64,
    /// The number of visits of all vcpus so far.
    pub visits: AtomicU64,
    /// Records every visit.
    pub recorder: Option<Recorder>,
    /// The number of visits that found unexpected contents.
    pub bad: AtomicU64,
}

/// What one vcpu reports at its end.
#[derive(Debug)]
pub struct VcpuFigures {
    /// The time of each access that faulted, in nanoseconds.
    pub fault_ns: Histogram<u64>,
    /// The number of visits that changed their page.
    pub writes: u64,
    /// The number of pages given back.
    pub given_back: u64,
}

/// A vcpu.
#[derive(Debug)]
pub struct Vcpu<'a> {
    machine: &'static Machine,
    workload: &'a Workload,
    id: VcpuId,
    random: Random,
    start: u64,
    figures: VcpuFigures,
}

impl<'a> Vcpu<'a> {
    /// A vcpu, to be run on its own thread. `None`: the histogram cannot be created.
    pub fn new(machine: &'static Machine, workload: &'a Workload, id: VcpuId) -> Option<Self> {
        let mut random = Random::new(workload.seed, id.0.into());
        Some(Self {
            machine,
            workload,
            id,
            start: random.below(machine.memory().size_pages()),
            random,
            figures: VcpuFigures {
                fault_ns: Histogram::new_with_bounds(1, LONGEST_FAULT_NS, 3).ok()?,
                writes: 0,
                given_back: 0,
            },
        })
    }

    /// Visits pages until it is told to stop.
    pub fn run(mut self) -> VcpuFigures {
        self.machine.become_vcpu(self.id);
        let mut nth = 0;
        while !self.workload.stop.load(Ordering::Relaxed) {
            self.machine.wait_while_paused(self.id);
            let page = self.workload.spread.page(&mut self.random, self.start, nth);
            nth += 1;
            self.access_page(Gfn::new_truncate(page));
            self.workload.visits.fetch_add(1, Ordering::Relaxed);
            for _ in 0..GIVE_BACK_ATTEMPTS {
                if self.workload.to_give_back.load(Ordering::Relaxed) > 0 {
                    self.give_back();
                }
            }
        }
        self.figures
    }

    fn access_page(&mut self, gfn: Gfn) {
        let memory = self.machine.memory();
        let workload = self.workload;
        if let Some(recorder) = &workload.recorder {
            recorder.note([gfn]);
        }
        let owned = |gfn| workload.expected.lock(gfn).is_some_and(|entry| entry.owned);
        let Some(words) = memory.page(gfn).filter(|_| owned(gfn)) else {
            return;
        };
        // This is done without the page's lock, so that several vcpus can wait for one page.
        self.timed(|| words[0].load(Ordering::Relaxed));
        let Some(mut entry) = workload.expected.lock(gfn).filter(|entry| entry.owned) else {
            return;
        };
        let mut page = [0; PAGE_SIZE];
        self.timed(|| memory.load(gfn, &mut page));
        let found = crc32c::crc32c(&page);
        if found != entry.checksum {
            workload.bad.fetch_add(1, Ordering::Relaxed);
            tracing::error!(%gfn, vcpu = ?self.id, version = entry.version,
                "bad page: checksum {found:#010x}, not {:#010x}", entry.checksum);
            // Each error is counted once.
            entry.checksum = found;
        }
        if self.random.below(100) >= workload.writes_percent.into() {
            return;
        }
        let (cells, []) = page.as_chunks_mut::<8>() else {
            return;
        };
        for _ in 0..WORDS_CHANGED {
            let value = self.random.word();
            // The value is below the number of words, which is small.
            let at = usize::try_from(self.random.below(cells.len() as u64)).unwrap_or(0);
            cells[at] = value.to_ne_bytes();
            self.timed(|| words[at].store(value, Ordering::Relaxed));
        }
        entry.checksum = crc32c::crc32c(&page);
        entry.version += 1;
        self.figures.writes += 1;
    }

    /// Makes an access and records its time if it faulted.
    fn timed<T>(&mut self, access: impl FnOnce() -> T) -> T {
        let (faults, start) = (self.machine.faults(self.id), Instant::now());
        // The count changes in the middle of the access, on this thread.
        compiler_fence(Ordering::SeqCst);
        let value = access();
        compiler_fence(Ordering::SeqCst);
        if self.machine.faults(self.id) != faults {
            self.figures
                .fault_ns
                .saturating_record(nanoseconds(start.elapsed()));
        }
        value
    }

    /// Searches for a page that is out and gives it back: the guest's balloon (row A6).
    fn give_back(&mut self) {
        let gfn = Gfn::new_truncate(self.random.below(self.machine.memory().size_pages()));
        let Some(mut entry) = self.workload.expected.lock(gfn).filter(|entry| entry.owned) else {
            return;
        };
        let platform = self.machine.paging().platform();
        if platform.lock_p2m().get(gfn).p2mt != P2mType::RamPaged {
            return;
        }
        let (order, left) = (Ordering::Relaxed, &self.workload.to_give_back);
        let one_less = |left: u64| left.checked_sub(1);
        if left.fetch_update(order, order, one_less).is_err() {
            return;
        }
        match self.machine.give_back(gfn, Caller::Guest(self.id)) {
            Ok(()) => {
                entry.owned = false;
                self.figures.given_back += 1;
                return;
            }
            // The page is resident by now, or the ring is full, or the pager is gone. Another page
            // is tried later.
            Err(DropError::NotPaging(_) | DropError::RingFull | DropError::NoRing) => {}
            Err(error) => tracing::error!(%gfn, %error, "a page could not be given back"),
        }
        left.fetch_add(1, order);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
