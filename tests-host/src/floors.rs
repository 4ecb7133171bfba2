// SPDX-License-Identifier: MIT OR Apache-2.0
//! Floors: the least time that paging on userfaultfd takes on this machine, without a state
//! machine, a policy or bookkeeping. Our own figures are compared with these floors. Both are
//! measured in the same run with the same placement, because the speed of a machine drifts by a
//! factor of two within a minute. Here a handler thread reads faults as messages. The embedded host
//! has no such thread, and saves the way there and back.
//!
//! - [`bare_handler`]: a thread of the same process answers a fault from memory.
//! - [`relay`]: a fault is passed on to a second process, which answers it.
//! - [`page_out`]: protect, copy out, discard, and copy in, by batch.
//!
//! Every page is checked on arrival, so that a floor that is fast because it is wrong is an error.

use std::path::Path;
use std::thread;
use std::time::Instant;

use p2m_paging::{Gfn, PAGE_SIZE};
use pager_uffd::host::frame_run::FrameRun;
use pager_uffd::host::guest_memory::{CreateError, FrameError, GuestMemory};
use pager_uffd::host::uffd::{
    CopyError, CopyFlags, Fault, Modes, OpenError, Options, RangeError, ReadError, Userfaultfd,
};
use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use thiserror::Error;

mod batch;
mod pager;

pub use batch::{BatchCosts, Layout, page_out};
pub use pager::serve;

/// Pages of the store from which faults are answered: more than fits a second-level cache, as in a
/// real store.
const STORE_PAGES: usize = 4096;

/// Which threads run where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// All on one CPU.
    OneCpu,
    /// Wherever the scheduler puts them.
    Free,
    /// Whoever answers polls on a CPU of its own. The vcpu, and a handler before it, is on another.
    AnswererPolls,
    /// The same, and the handler polls for the response. Without a second process this is the same
    /// as [`Placement::AnswererPolls`].
    AllPoll,
}

impl Placement {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::OneCpu, Self::Free, Self::AnswererPolls, Self::AllPoll];

    /// Whether a polling thread takes a CPU of its own, so that two are needed.
    pub const fn needs_two_cpus(self) -> bool {
        matches!(self, Self::AnswererPolls | Self::AllPoll)
    }

    const fn answerer_polls(self) -> bool {
        self.needs_two_cpus()
    }

    /// The CPU of the vcpu and of everything else but the answerer, and the answerer's CPU.
    fn cpus(self) -> Result<(Option<usize>, Option<usize>), FloorError> {
        let allowed = sched_getaffinity(None).map_err(FloorError::at("sched_getaffinity"))?;
        // As `usual_fault_cpu`: the last one first.
        let mut cpus = (0..CpuSet::MAX_CPU)
            .rev()
            .filter(|&cpu| allowed.is_set(cpu));
        let first = cpus.next();
        match self {
            Self::OneCpu => Ok((first, first)),
            Self::Free => Ok((None, None)),
            Self::AnswererPolls | Self::AllPoll => {
                Ok((first, Some(cpus.next().ok_or(FloorError::OneCpuOnly)?)))
            }
        }
    }
}

/// What a fault costs the vcpu that makes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    /// Half of the faults were answered within this time, in nanoseconds.
    pub p50_ns: u64,
    /// 99 of 100 faults were answered within this time.
    pub p99_ns: u64,
    /// Faults per second of one vcpu that does nothing else.
    pub faults_per_second: f64,
}

/// The reason why there is no figure.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FloorError {
    /// The placement needs two CPUs.
    #[error("only one CPU to run on")]
    OneCpuOnly,
    /// There was nothing to measure.
    #[error("no faults, or a batch that is empty or larger than the guest")]
    NothingToMeasure,
    /// A page arrived with other contents than were written to it.
    #[error("{gfn} arrived with wrong contents")]
    WrongPage {
        /// The page.
        gfn: Gfn,
    },
    /// The second process did not start, or did not answer.
    #[error("the second process: {0}")]
    SecondProcess(std::io::Error),
    /// No memory.
    #[error(transparent)]
    Memory(#[from] CreateError),
    /// No userfaultfd.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No faults.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An operation on a range failed.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// Frames could not be reached.
    #[error(transparent)]
    Frames(#[from] FrameError),
    /// A page could not be filled.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A system call failed.
    #[error("{step}: {errno}")]
    System {
        /// The call.
        step: &'static str,
        /// Its error.
        errno: Errno,
    },
}

impl FloorError {
    fn at(step: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::System { step, errno }
    }
}

/// Faults that a handler thread reads and answers from memory: `faults` of them, one after another.
pub fn bare_handler(placement: Placement, faults: u64) -> Result<Latency, FloorError> {
    let store = Store::new();
    measure(
        placement,
        faults,
        placement.answerer_polls(),
        |gfn, fill| fill(store.page(gfn)),
    )
}

/// A relayed fault. The handler thread puts a request into a shared page and rings an eventfd. A
/// second process copies the page into a shared data page and rings back. The handler copies the
/// page in. `second_process` is a program that calls [`serve`] with its arguments.
pub fn relay(
    second_process: &Path,
    placement: Placement,
    faults: u64,
) -> Result<Latency, FloorError> {
    let relay = pager::Relay::start(second_process, placement)?;
    measure(placement, faults, false, |gfn, fill| {
        relay.fetch(gfn)?;
        fill(relay.data())
    })
}

type Fill<'a> = &'a dyn Fn(pager_uffd::host::uffd::Source<'_>) -> Result<(), FloorError>;

fn measure(
    placement: Placement,
    faults: u64,
    handler_polls: bool,
    answer: impl Fn(Gfn, Fill<'_>) -> Result<(), FloorError> + Sync,
) -> Result<Latency, FloorError> {
    let (cpu, answerer_cpu) = placement.cpus()?;
    if faults == 0 {
        return Err(FloorError::NothingToMeasure);
    }
    let memory = GuestMemory::create(faults)?;
    let uffd = Userfaultfd::open(Options {
        nonblocking: handler_polls,
        ..Options::MESSAGES
    })?;
    uffd.register(&memory, Modes::MISSING | Modes::WRITE_PROTECT)?;
    let handler = || {
        pin(if handler_polls { answerer_cpu } else { cpu })?;
        let mut waiting: Vec<Fault> = Vec::with_capacity(32);
        for _ in 0..faults {
            while waiting.is_empty() {
                uffd.read(&mut waiting)?;
            }
            for gfn in waiting
                .drain(..)
                .filter_map(|fault| memory.gfn(fault.address))
            {
                let run = FrameRun::one(gfn);
                answer(gfn, &|source| {
                    Ok(uffd.copy(&memory, run, source, CopyFlags::empty())?)
                })?;
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let handling = scope.spawn(|| {
            let result = handler();
            // After any error, the vcpu must not wait for ever.
            result.and(uffd.unregister(&memory).map_err(FloorError::from))
        });
        let vcpu = scope.spawn(|| run_vcpu(&memory, cpu));
        let latency = vcpu
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        handling
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        latency
    })
}

/// Reads every page once. Each read faults.
fn run_vcpu(memory: &GuestMemory, cpu: Option<usize>) -> Result<Latency, FloorError> {
    pin(cpu)?;
    let frames = || (0..memory.size_pages()).map(Gfn::new_truncate);
    let mut wrong = None;
    let mut times_ns = Vec::with_capacity(frames().count());
    let start = Instant::now();
    for gfn in frames() {
        let (before, page) = (Instant::now(), memory.page(gfn));
        let word = page.map(|page| page[0].load(std::sync::atomic::Ordering::Relaxed));
        times_ns.push(elapsed_ns(before));
        if word != Some(Store::word(gfn)) {
            wrong.get_or_insert(gfn);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    if let Some(gfn) = wrong {
        return Err(FloorError::WrongPage { gfn });
    }
    let (p50_ns, p99_ns) = percentiles(&mut times_ns);
    #[expect(clippy::cast_precision_loss, reason = "a rate, shown with four digits")]
    let faults_per_second = times_ns.len() as f64 / seconds;
    Ok(Latency {
        p50_ns,
        p99_ns,
        faults_per_second,
    })
}

/// The pages with which faults are answered. Each is full of a word that identifies its place.
struct Store(Vec<u8>);

impl Store {
    fn new() -> Self {
        let words = (0..STORE_PAGES as u64).map(|place| Self::word(Gfn::new_truncate(place)));
        Self(
            words
                .flat_map(|word| word.to_ne_bytes().repeat(PAGE_SIZE / 8))
                .collect(),
        )
    }

    fn word(gfn: Gfn) -> u64 {
        gfn.get() % STORE_PAGES as u64 + 1
    }

    fn bytes(&self, gfn: Gfn) -> &[u8; PAGE_SIZE] {
        let (pages, _) = self.0.as_chunks::<PAGE_SIZE>();
        let place = usize::try_from(gfn.get()).unwrap_or(0) % pages.len();
        &pages[place]
    }

    fn page(&self, gfn: Gfn) -> pager_uffd::host::uffd::Source<'_> {
        self.bytes(gfn).as_slice().into()
    }
}

fn pin(cpu: Option<usize>) -> Result<(), FloorError> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(FloorError::at("sched_setaffinity"))
}

fn elapsed_ns(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The 50th and the 99th percentile. Sorts the values. There must be one.
fn percentiles(values: &mut [u64]) -> (u64, u64) {
    values.sort_unstable();
    (values[values.len() / 2], values[values.len() * 99 / 100])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_one_and_of_a_hundred() {
        assert_eq!(percentiles(&mut [7]), (7, 7));
        assert_eq!(
            percentiles(&mut (0..100).rev().collect::<Vec<_>>()),
            (50, 99)
        );
    }

    #[test]
    fn a_bare_handler_answers_every_fault_rightly() {
        let latency = bare_handler(Placement::OneCpu, 5000).expect("a figure");
        assert!(
            latency.p50_ns > 0 && latency.p50_ns <= latency.p99_ns,
            "{latency:?}"
        );
    }

    #[test]
    fn a_wrong_page_is_an_error_and_no_figure() {
        let store = Store::new();
        let answer = |gfn: Gfn, fill: Fill<'_>| {
            let wrong = if gfn.get() == 3 {
                Gfn::new_truncate(4)
            } else {
                gfn
            };
            fill(store.page(wrong))
        };
        let measured = measure(Placement::Free, 8, false, answer);
        assert!(
            matches!(measured, Err(FloorError::WrongPage { gfn }) if gfn.get() == 3),
            "{measured:?}"
        );
    }

    #[test]
    fn a_handler_that_fails_does_not_leave_the_vcpu_waiting() {
        let measured = measure(Placement::Free, 8, false, |_, _| {
            Err(FloorError::OneCpuOnly)
        });
        assert!(
            matches!(measured, Err(FloorError::OneCpuOnly)),
            "{measured:?}"
        );
        let nothing = bare_handler(Placement::Free, 0);
        assert!(
            matches!(nothing, Err(FloorError::NothingToMeasure)),
            "{nothing:?}"
        );
    }

    #[test]
    fn a_second_process_that_does_not_serve_is_an_error() {
        let relayed = relay(Path::new("/nonexistent/program"), Placement::OneCpu, 8);
        assert!(
            matches!(relayed, Err(FloorError::SecondProcess(_))),
            "{relayed:?}"
        );
        let relayed = relay(Path::new("/bin/true"), Placement::OneCpu, 8);
        assert!(
            matches!(relayed, Err(FloorError::SecondProcess(_))),
            "{relayed:?}"
        );
    }
}
