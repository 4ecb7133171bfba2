// SPDX-License-Identifier: MIT OR Apache-2.0
//! The main job: a guest that works while it is paged, and proof that nothing was lost.
//!
//! Fill the guest from files, start its vcpus and a pager (a second process), set a target, watch;
//! in the end SIGTERM to the pager, everything back while the guest goes on, and all memory verified
//! once more.

mod child;
mod live_line;
mod options;
mod report;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use p2m_paging::platform::{P2m as _, Platform as _};
use p2m_paging::{Gfn, VcpuId};
use pager_accesses::Recorder;
use pager_accesses::pattern::Spread;
use pager_uffd::host::guest_memory::{CreateError, GuestMemory};
use pager_uffd::host::machine::{
    Machine, MachineOptions, PagerExit, UffdMachineError, usual_fault_cpu,
};
use pager_uffd::host::uffd::{OpenError, Options, Userfaultfd};
use pager_uffd::host::workload::fill::{self, FillError};
use pager_uffd::host::workload::{ExpectedContents, Vcpu, VcpuFigures, Workload};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

pub use child::{ChildError, PagerCommand};
pub use options::{JobOptions, SizeError, Sizes, StoreChoice, parse_size};
pub use report::{Fate, Report};

use crate::exit::Exit;
use child::PagerProcess;
use live_line::Line;
use report::Phases;

/// How often the job looks at what is going on.
const LOOK: Duration = Duration::from_millis(20);
/// How long a pager may take to attach.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the job could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// What was asked for makes no sense here.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// userfaultfd is refused.
    #[error(transparent)]
    Userfaultfd(#[from] OpenError),
    /// No memory for the guest.
    #[error("guest memory: {0}")]
    Memory(#[from] CreateError),
    /// Nothing to fill it with.
    #[error("--load: {0}")]
    Fill(#[from] FillError),
    /// No file to take down visits in.
    #[error("--record: {0}")]
    Record(io::Error),
    /// No machine.
    #[error(transparent)]
    Machine(#[from] UffdMachineError),
    /// No pager.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// No threads.
    #[error("vcpu thread: {0}")]
    Thread(io::Error),
    /// No signals.
    #[error("signals: {0}")]
    Signals(io::Error),
}

impl JobError {
    /// Whether the reason has been printed already, by a pager that would not start.
    pub fn is_said(&self) -> bool {
        let not_started = Some(i32::from(Exit::NotStarted as u8));
        matches!(self, Self::Child(ChildError::Ended(status)) if status.code() == not_started)
    }

    /// What the process exits with: 2 for a permission that is missing, or options that make no sense,
    /// else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Size(_)
            | Self::Userfaultfd(_)
            | Self::Machine(UffdMachineError::Userfaultfd(_)) => 2,
            _ => 1,
        }
    }
}

/// Does the job. The report says whether anything was lost.
pub fn run(options: &JobOptions, pager: &PagerCommand) -> Result<Report, JobError> {
    let sizes = options.check()?;
    // Asked for again by the machine; but a refusal is to come before the work of filling memory.
    drop(Userfaultfd::open(Options::GUEST)?);
    let recorder = options.record.as_deref().map(Recorder::create);
    let recorder = recorder.transpose().map_err(JobError::Record)?;
    let memory = GuestMemory::create(sizes.pages)?;
    let line = Line::new(sizes);
    fill::fill(&memory, &options.places(), &mut |pages| line.filling(pages))?;
    let expected = ExpectedContents::record(&memory);
    let machine_options = MachineOptions {
        vcpus: options.vcpus,
        cpu: options.pin.then(usual_fault_cpu).flatten(),
        name: format!("xenpaging-host-{}", std::process::id()),
    };
    let machine = Machine::start(memory, &machine_options)?;
    let workload = Workload {
        spread: Spread::new(options.pattern, sizes.pages),
        expected,
        seed: options.seed,
        writes_percent: options.writes_percent,
        stop: AtomicBool::new(false),
        to_give_back: AtomicU64::new(0),
        visits: AtomicU64::new(0),
        recorder,
        bad: AtomicU64::new(0),
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let flag = Arc::clone(&interrupted);
        signal_hook::flag::register(signal, flag).map_err(JobError::Signals)?;
    }
    let child = PagerProcess::start(pager, &machine_options.name, options, sizes)?;
    Job {
        options,
        sizes,
        machine,
        workload: Arc::new(workload),
        line,
        child,
        interrupted,
        phases: Phases::default(),
    }
    .run()
}

struct Job<'a> {
    options: &'a JobOptions,
    sizes: Sizes,
    machine: &'static Machine,
    workload: Arc<Workload>,
    line: Line,
    child: PagerProcess,
    /// By a signal: the work ends early, and as it should.
    interrupted: Arc<AtomicBool>,
    phases: Phases,
}

impl Job<'_> {
    fn run(mut self) -> Result<Report, JobError> {
        self.await_pager()?;
        let vcpus = self.start_vcpus()?;
        self.phases.resident_before = self.resident();
        let start = Instant::now();
        self.machine.set_target(self.sizes.target.cast_signed());
        let stop_at = self.options.stop_pager_at.unwrap_or(self.options.duration);
        let fate = self.work_until(start, stop_at.min(self.options.duration));
        self.phases.worked = start.elapsed();
        self.phases.resident_paged = self.resident();
        let fate = fate.unwrap_or_else(|| self.stop_pager(start));
        self.phases.resident_after = self.resident();
        if fate == Fate::Stopped {
            // Without a pager, the guest goes on.
            while start.elapsed() < self.options.duration
                && !self.interrupted.load(Ordering::Relaxed)
            {
                thread::sleep(LOOK);
            }
        }
        self.workload.stop.store(true, Ordering::Relaxed);
        self.line.clear();
        let figures = if fate == Fate::Stopped {
            join(vcpus)
        } else {
            // Some may be blocked for good, and with them what they have measured.
            Vec::new()
        };
        Ok(self.report(fate, &figures))
    }

    fn await_pager(&mut self) -> Result<(), JobError> {
        let start = Instant::now();
        while !self.machine.paging().is_enabled() {
            if let Some(status) = self.child.exited()? {
                return Err(ChildError::Ended(status).into());
            }
            if start.elapsed() > ATTACH_TIMEOUT {
                return Err(ChildError::Silent.into());
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn start_vcpus(&self) -> Result<Vec<JoinHandle<Option<VcpuFigures>>>, JobError> {
        let start = |id| {
            let (machine, workload) = (self.machine, Arc::clone(&self.workload));
            let vcpu = move || Some(Vcpu::new(machine, &workload, VcpuId(id))?.run());
            let builder = thread::Builder::new().name(format!("vcpu {id}"));
            builder.spawn(vcpu).map_err(JobError::Thread)
        };
        (0..self.options.vcpus).map(start).collect()
    }

    /// Watches until so long after the start; what went wrong, if anything did.
    fn work_until(&mut self, start: Instant, end: Duration) -> Option<Fate> {
        let wanted_out = self.sizes.pages - self.sizes.target;
        // Faults take some back all the while.
        let nearly = wanted_out - wanted_out / 100;
        let mut balloon = self.options.balloon;
        while start.elapsed() < end && !self.interrupted.load(Ordering::Relaxed) {
            thread::sleep(LOOK);
            if let Some(fate) = self.error_seen() {
                return Some(fate);
            }
            let counts = self.machine.counts();
            if self.phases.target_reached.is_none() && counts.paged >= nearly {
                self.phases.target_reached = Some(start.elapsed());
                self.phases.evicted_first = self.evicted();
            }
            if start.elapsed() >= end / 2 && balloon > 0 {
                self.workload.to_give_back.store(balloon, Ordering::Relaxed);
                balloon = 0;
            }
            let (visits, bad) = (&self.workload.visits, &self.workload.bad);
            self.line.working(
                start.elapsed(),
                &counts,
                visits.load(Ordering::Relaxed),
                self.machine.paging().counters(),
                bad.load(Ordering::Relaxed),
            );
        }
        None
    }

    fn error_seen(&mut self) -> Option<Fate> {
        match self.machine.pager_exit() {
            Some(PagerExit::Died { lost_pages }) => Some(Fate::PagerDied {
                lost_pages,
                status: self.child.status(),
            }),
            Some(PagerExit::Detached) => Some(Fate::PagerLeft),
            None => self.machine.crashed().map(|r| Fate::Crashed(r.to_owned())),
        }
    }

    /// SIGTERM, and everything comes back while the guest goes on.
    fn stop_pager(&mut self, start: Instant) -> Fate {
        self.line.clear();
        let (out, from) = (self.machine.counts().paged, start.elapsed());
        if let Err(error) = self.child.terminate() {
            return Fate::Crashed(error.to_string());
        }
        let pager_exit = loop {
            match (self.machine.pager_exit(), self.machine.crashed()) {
                (Some(pager_exit), _) => break pager_exit,
                (None, Some(reason)) => return Fate::Crashed(reason.to_owned()),
                (None, None) => thread::sleep(LOOK / 10),
            }
        };
        self.phases.brought_back = Some((out, start.elapsed().saturating_sub(from)));
        let status = self.child.status();
        match pager_exit {
            PagerExit::Detached if status.is_some_and(|s| s.success()) => Fate::Stopped,
            PagerExit::Detached => Fate::PagerFailed { status },
            PagerExit::Died { lost_pages } => Fate::PagerDied { lost_pages, status },
        }
    }

    fn report(&self, fate: Fate, vcpus: &[VcpuFigures]) -> Report {
        let platform = self.machine.paging().platform();
        let is_there = |gfn: Gfn| platform.lock_p2m().get(gfn).mfn.is_some();
        let verified = self
            .workload
            .expected
            .verify(self.machine.memory(), is_there);
        let mut fault_ns: Option<Histogram<u64>> = None;
        for vcpu in vcpus {
            match &mut fault_ns {
                // All have the same bounds.
                Some(all) => drop(all.add(&vcpu.fault_ns)),
                None => fault_ns = Some(vcpu.fault_ns.clone()),
            }
        }
        Report {
            fate,
            verified,
            sizes: self.sizes,
            phases: self.phases.clone(),
            counters: report::Counts::of(self.machine.paging().counters()),
            fault_ns,
            recorded: self.workload.recorder.as_ref().map(Recorder::finish),
            visits: self.workload.visits.load(Ordering::Relaxed),
            writes: vcpus.iter().map(|vcpu| vcpu.writes).sum(),
            bad_visits: self.workload.bad.load(Ordering::Relaxed),
            stray_accesses: self.machine.stray_accesses(),
            left_out: self.machine.counts().paged,
        }
    }

    fn resident(&self) -> u64 {
        // A memfd's size in memory can always be asked for.
        self.machine.memory().resident_pages().unwrap_or(0)
    }

    fn evicted(&self) -> u64 {
        let counters = self.machine.paging().counters();
        counters.get(p2m_paging::paging::Count::Evicted)
    }
}

fn join(vcpus: Vec<JoinHandle<Option<VcpuFigures>>>) -> Vec<VcpuFigures> {
    let joined = vcpus.into_iter().filter_map(|vcpu| vcpu.join().ok());
    joined.flatten().collect()
}
