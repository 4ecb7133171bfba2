// SPDX-License-Identifier: MIT OR Apache-2.0
//! The time that a batch of pages takes to go out and to come back, in one process.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Instant;

use p2m_paging::{Gfn, PAGE_SIZE};
use pager_uffd::host::frame_run::FrameRun;
use pager_uffd::host::guest_memory::GuestMemory;
use pager_uffd::host::uffd::{CopyFlags, Modes, Options, Userfaultfd};

use super::{FloorError, Placement, elapsed_ns, percentiles, pin};

/// How the frames of a batch lie: `run` pages in the batch, then `gap` pages that stay, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Pages in a row that are in the batch.
    pub run: u64,
    /// Pages in a row that are not.
    pub gap: u64,
}

impl Layout {
    /// No gaps.
    pub const CONTIGUOUS: Self = Self {
        run: u64::MAX,
        gap: 0,
    };

    /// The runs of a batch from `first` on, and the frame that the next batch starts at.
    fn runs(self, mut first: u64, batch: u64) -> (Vec<FrameRun>, u64) {
        let (mut left, mut runs) = (batch, Vec::new());
        while left > 0 {
            let pages = left.min(self.run);
            runs.extend(FrameRun::new(Gfn::new_truncate(first), pages));
            first += pages + self.gap;
            left -= pages;
        }
        (runs, first)
    }
}

/// Times for one page of a batch, in nanoseconds: medians over the batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchCosts {
    /// Write-protecting it.
    pub protect_ns: f64,
    /// Copying it to a store in memory.
    pub copy_ns: f64,
    /// Discarding it.
    pub discard_ns: f64,
    /// All three: the floor of page-out.
    pub out_ns: f64,
    /// All three, in the slowest of a hundred batches.
    pub out_p99_ns: f64,
    /// Copying it back in: the floor of page-in.
    pub in_ns: f64,
}

/// Takes all of a guest of `guest_pages` out and brings it back in batches of `batch` pages, twice.
/// With `running_vcpu`, another thread runs on the guest meanwhile, on another CPU if there is one.
/// Each call must then reach that CPU's TLB.
pub fn page_out(
    guest_pages: u64,
    batch: u64,
    layout: Layout,
    running_vcpu: bool,
) -> Result<BatchCosts, FloorError> {
    if batch == 0 || layout.run == 0 || layout.runs(0, batch).1 > guest_pages {
        return Err(FloorError::NothingToMeasure);
    }
    // The last page is the running vcpu's.
    let memory = GuestMemory::create(guest_pages + 1)?;
    let vcpu_gfn = Gfn::new_truncate(guest_pages);
    for gfn in (0..=guest_pages).map(Gfn::new_truncate) {
        memory.store(gfn, &contents(gfn));
    }
    let uffd = Userfaultfd::open(Options::GUEST)?;
    uffd.register(&memory, Modes::MISSING | Modes::WRITE_PROTECT)?;
    let (cpu, vcpu_cpu) = Placement::AnswererPolls
        .cpus()
        .or_else(|_| Placement::OneCpu.cpus())?;
    let stop = AtomicBool::new(!running_vcpu);
    thread::scope(|scope| {
        scope.spawn(|| {
            // A figure without the pinning is useful, too.
            let _ = pin(vcpu_cpu);
            let page = memory.page(vcpu_gfn);
            while !stop.load(Relaxed) {
                for word in page.into_iter().flatten() {
                    word.fetch_add(1, Relaxed);
                }
            }
        });
        let measuring = scope.spawn(|| {
            pin(cpu)?;
            cycle(&uffd, &memory, guest_pages, batch, layout)
        });
        let costs = measuring.join();
        stop.store(true, Relaxed);
        costs.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A page whose contents identify its place.
fn contents(gfn: Gfn) -> [u8; PAGE_SIZE] {
    let mut page = [0; PAGE_SIZE];
    for word in page.as_chunks_mut().0 {
        *word = (gfn.get() + 1).to_ne_bytes();
    }
    page
}

fn cycle(
    uffd: &Userfaultfd,
    memory: &GuestMemory,
    guest_pages: u64,
    batch: u64,
    layout: Layout,
) -> Result<BatchCosts, FloorError> {
    let size = usize::try_from(guest_pages).map_err(|_| FloorError::NothingToMeasure)? * PAGE_SIZE;
    // Written once, so that the allocation of its own memory is not part of the figure.
    let mut store = vec![0xee_u8; size];
    let mut times: [Vec<u64>; 5] = Default::default();
    for _ in 0..2 {
        let batches = batches(guest_pages, batch, layout);
        for runs in &batches {
            let steps = take_out(uffd, memory, runs, &mut store)?;
            for (times, ns) in times
                .iter_mut()
                .zip(steps.into_iter().chain([steps.iter().sum()]))
            {
                times.push(ns);
            }
        }
        for runs in &batches {
            let start = Instant::now();
            for &run in runs {
                uffd.copy(memory, run, &store[bytes(run)], CopyFlags::empty())?;
            }
            times[4].push(elapsed_ns(start));
        }
        check(memory, &batches)?;
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "times and batches are far below 2^52"
    )]
    let per_page = |ns: u64| ns as f64 / batch as f64;
    let [protect, copy, discard, out, back] = times.each_mut().map(|times| percentiles(times));
    Ok(BatchCosts {
        protect_ns: per_page(protect.0),
        copy_ns: per_page(copy.0),
        discard_ns: per_page(discard.0),
        out_ns: per_page(out.0),
        out_p99_ns: per_page(out.1),
        in_ns: per_page(back.0),
    })
}

/// The whole batches of a sweep over the guest.
fn batches(guest_pages: u64, batch: u64, layout: Layout) -> Vec<Vec<FrameRun>> {
    let (mut batches, mut first) = (Vec::new(), 0);
    loop {
        let (runs, next) = layout.runs(first, batch);
        if next > guest_pages {
            return batches;
        }
        batches.push(runs);
        first = next;
    }
}

fn take_out(
    uffd: &Userfaultfd,
    memory: &GuestMemory,
    runs: &[FrameRun],
    store: &mut [u8],
) -> Result<[u64; 3], FloorError> {
    let start = Instant::now();
    for &run in runs {
        uffd.protect(memory, run)?;
    }
    let protect = elapsed_ns(start);
    let start = Instant::now();
    for &run in runs {
        let (pages, _) = store[bytes(run)].as_chunks_mut::<PAGE_SIZE>();
        for (gfn, page) in run.frames().zip(pages) {
            memory.load(gfn, page);
        }
    }
    let copy = elapsed_ns(start);
    let start = Instant::now();
    for &run in runs {
        memory.discard(run)?;
    }
    Ok([protect, copy, elapsed_ns(start)])
}

/// Where a run is in the store.
fn bytes(run: FrameRun) -> std::ops::Range<usize> {
    let at = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
    at(run.offset_bytes())..at(run.offset_bytes() + run.size_bytes())
}

fn check(memory: &GuestMemory, batches: &[Vec<FrameRun>]) -> Result<(), FloorError> {
    let mut page = [0; PAGE_SIZE];
    for gfn in batches.iter().flatten().flat_map(|run| run.frames()) {
        memory.load(gfn, &mut page);
        if page != contents(gfn) {
            return Err(FloorError::WrongPage { gfn });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_takes_runs_and_leaves_gaps() {
        let pairs = |layout: Layout, first, batch| {
            let (runs, next) = layout.runs(first, batch);
            let pairs = runs.iter().map(|run| (run.first().get(), run.size_pages()));
            (pairs.collect::<Vec<_>>(), next)
        };
        assert_eq!(pairs(Layout::CONTIGUOUS, 3, 64), (vec![(3, 64)], 67));
        assert_eq!(
            pairs(Layout { run: 6, gap: 2 }, 8, 14),
            (vec![(8, 6), (16, 6), (24, 2)], 28)
        );
    }

    #[test]
    fn pages_that_went_out_come_back_whole() {
        for (layout, vcpu) in [
            (Layout::CONTIGUOUS, false),
            (Layout { run: 3, gap: 1 }, true),
        ] {
            let costs = page_out(512, 32, layout, vcpu).expect("a figure");
            assert!(
                costs.out_ns > costs.copy_ns && costs.in_ns > 0.0,
                "{costs:?}"
            );
        }
    }

    #[test]
    fn batches_that_cannot_be_are_refused() {
        let layout = Layout::CONTIGUOUS;
        for (batch, layout) in [(0, layout), (65, layout), (8, Layout { run: 0, gap: 1 })] {
            let costs = page_out(64, batch, layout, false);
            assert!(
                matches!(costs, Err(FloorError::NothingToMeasure)),
                "{costs:?}"
            );
        }
    }
}
