// SPDX-License-Identifier: MIT OR Apache-2.0
//! The main job: a guest that works while it is paged, and proof that nothing was lost.
//!
//! The job fills the guest from files, starts its vcpus and a pager (a second process), sets a
//! target, and watches. At the end it sends SIGTERM to the pager, which brings everything back
//! while the guest works on, and verifies all memory once more.

mod child;
mod live_line;
mod options;
mod report;
mod restart;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use p2m_paging::paging::Attachment;
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
use restart::Pagers;

/// The time between two looks of the job.
const LOOK: Duration = Duration::from_millis(20);
/// The longest time until a pager has attached.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the job could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// An option is not valid here.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// userfaultfd is refused.
    #[error(transparent)]
    Userfaultfd(#[from] OpenError),
    /// The guest's memory could not be created.
    #[error("guest memory: {0}")]
    Memory(#[from] CreateError),
    /// The guest's memory could not be filled.
    #[error("--load: {0}")]
    Fill(#[from] FillError),
    /// The file for the record of visits could not be created.
    #[error("--record: {0}")]
    Record(io::Error),
    /// The machine did not start.
    #[error(transparent)]
    Machine(#[from] UffdMachineError),
    /// The index that survives the pager could not be created.
    #[error("index: {0}")]
    Index(rustix::io::Errno),
    /// The pager did not start.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// A vcpu's thread could not be started.
    #[error("vcpu thread: {0}")]
    Thread(io::Error),
    /// The signal handlers could not be installed.
    #[error("signals: {0}")]
    Signals(io::Error),
}

impl JobError {
    /// Whether a pager that did not start has printed the reason already.
    pub fn is_said(&self) -> bool {
        let codes = [Exit::NotStarted, Exit::NextTakesOver].map(|exit| Some(i32::from(exit as u8)));
        matches!(self, Self::Child(ChildError::Ended(status)) if codes.contains(&status.code()))
    }

    /// The exit code of the process: 2 for a missing permission or an option that is not valid,
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

/// Runs the job. The report says whether anything was lost.
pub fn run(options: &JobOptions, pager: &PagerCommand) -> Result<Report, JobError> {
    let sizes = options.check()?;
    // The machine opens it again, but a refusal should come before memory is filled.
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
    let pagers = Pagers::new(pager, machine_options.name, options, sizes)?;
    let child = pagers.start()?;
    Job {
        options,
        sizes,
        machine,
        workload: Arc::new(workload),
        line,
        pagers,
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
    pagers: Pagers<'a>,
    child: PagerProcess,
    /// A signal sets this. The work then ends early, which is not a failure.
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
            // Without a pager, the guest works on.
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
            // Some vcpus may be blocked for ever, and their measurements are lost with them.
            Vec::new()
        };
        Ok(self.report(fate, &figures))
    }

    fn await_pager(&mut self) -> Result<(), JobError> {
        let start = Instant::now();
        while self.machine.paging().attachment() != Attachment::Attached {
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

    /// Watches until this time after the start. Returns what went wrong, if anything did.
    fn work_until(&mut self, start: Instant, end: Duration) -> Option<Fate> {
        let wanted_out = self.sizes.pages - self.sizes.target;
        // Faults bring some pages back all the time.
        let nearly = wanted_out - wanted_out / 100;
        let mut balloon = self.options.balloon;
        let mut kills = self.options.kill_pager_at.clone();
        kills.sort_unstable_by(|a, b| b.cmp(a));
        while start.elapsed() < end && !self.interrupted.load(Ordering::Relaxed) {
            thread::sleep(LOOK);
            if kills.pop_if(|at| start.elapsed() >= *at).is_some()
                && let Err(error) = self.child.kill()
            {
                return Some(Fate::Crashed(error.to_string()));
            }
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
            Some(PagerExit::Died { out_pages }) => self.after_death(out_pages),
            Some(PagerExit::Detached) => Some(Fate::PagerLeft),
            None => self.guest_stopped(),
        }
    }

    /// The guest has crashed, or the pager has paused it.
    fn guest_stopped(&self) -> Option<Fate> {
        let paused = "the pager has paused the guest: a page is lost";
        let paused = self.machine.is_guest_paused().then_some(paused);
        let stopped = self.machine.crashed().or(paused);
        stopped.map(|reason| Fate::Crashed(reason.to_owned()))
    }

    /// Another pager takes over if it can. Otherwise returns how the job ends.
    fn after_death(&mut self, out_pages: u64) -> Option<Fate> {
        // It is gone, or has lost its connection to the machine.
        let _ = self.child.kill();
        let status = self.child.status();
        if self.options.pages_survive() {
            return match self.restart() {
                Ok(()) => None,
                Err(error) => Some(Fate::Crashed(error.to_string())),
            };
        }
        self.machine.give_up();
        Some(Fate::PagerDied {
            lost_pages: out_pages,
            status,
        })
    }

    /// Sends SIGTERM and waits until everything is back, while the guest works on.
    fn stop_pager(&mut self, start: Instant) -> Fate {
        self.line.clear();
        let (out, from) = (self.machine.counts().paged, start.elapsed());
        loop {
            if let Err(error) = self.child.terminate() {
                return Fate::Crashed(error.to_string());
            }
            let pager_exit = loop {
                match (self.machine.pager_exit(), self.guest_stopped()) {
                    (Some(pager_exit), _) => break pager_exit,
                    (None, Some(stopped)) => return stopped,
                    (None, None) => thread::sleep(LOOK / 10),
                }
            };
            if let PagerExit::Died { out_pages } = pager_exit {
                match self.after_death(out_pages) {
                    Some(fate) => return fate,
                    None => continue,
                }
            }
            self.phases.brought_back = Some((out, start.elapsed().saturating_sub(from)));
            let status = self.child.status();
            return if status.is_some_and(|s| s.success()) {
                Fate::Stopped
            } else {
                Fate::PagerFailed { status }
            };
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
                // All histograms have the same bounds, so this cannot fail.
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
        // The size of a memfd in memory can always be queried.
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
