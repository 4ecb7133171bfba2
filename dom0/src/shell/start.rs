//! Starting: attaching to the machine, and the threads beside the main one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use p2m_paging::ring::Back;
use rustix::io::Errno;
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use super::buffers::{buffer_sets, buffers};
use super::demand::{Demand, REQUESTS};
use super::inbox::{Inbox, News};
use super::machine::{Calls, Machine, MachineError, Watch};
use super::pages::Scratch;
use super::serve::Shell;
use super::worker::{Queue, Worker};
use crate::core::Pager;
use crate::host::machine::pin_to;
use crate::store::PageStore;

/// Time between two ticks.
const TICK: Duration = Duration::from_millis(100);

/// How the shell goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Log a line of figures every other second.
    pub status: bool,
}

/// Why the pager could not start, or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShellError {
    /// The machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Its threads and signals.
    #[error("{step}: {error}")]
    System {
        /// What was tried.
        step: &'static str,
        /// Why not.
        error: io::Error,
    },
    /// The thread that pages out has failed.
    #[error("the worker thread has failed")]
    Worker,
    /// The machine's events.
    #[error("no more events from the machine: {0}")]
    Events(Errno),
    /// Vcpus kept asking for pages although none is out.
    #[error("paging cannot be disabled: vcpus still stand in line for the ring")]
    StillInLine,
}

pub(super) fn at(step: &'static str) -> impl Fn(io::Error) -> ShellError {
    move |error| ShellError::System { step, error }
}

impl Shell {
    /// Attaches to the machine as its guest's pager.
    ///
    /// Signals are taken from here on: SIGTERM, SIGINT, SIGHUP and SIGALRM all bring everything back
    /// (row B3). The calling thread is the one to [`serve`](Self::serve).
    pub fn start(
        options: &Options,
        pager: Pager,
        store: Arc<dyn PageStore>,
        machine: Box<dyn Machine>,
    ) -> Result<Self, ShellError> {
        // Before anything is out, so that no signal finds the pager unprepared.
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGALRM]).map_err(at("signals"))?;
        // Writing beyond RLIMIT_FSIZE is an error of that write (EFBIG), not the end of the pager.
        let ignored = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGXFSZ, ignored).map_err(at("signals"))?;
        let cpu = machine.guest().cpu;
        let attached = machine.attach(buffers(&pager))?;
        let mut sets = buffer_sets(&pager, attached.buffers);
        let waker = attached.bell.waker().map_err(at("event channel"))?;
        let inbox = Arc::new(Inbox::new(waker, pager.batches()));
        let queue = Arc::new(Queue::new(pager.batches()));
        start_ticker(&inbox)?;
        start_signals(&inbox, signals)?;
        start_watch(&inbox, attached.watch)?;
        let demand_sets = sets.drain(..REQUESTS.min(sets.len())).collect::<Vec<_>>();
        let worker = Worker {
            calls: attached.calls,
            first_set: demand_sets.len(),
            sets,
            scratch: Scratch::default(),
        };
        let worker = start_worker(worker, &queue, &inbox, &store)?;
        if let Some(cpu) = cpu {
            pin_to(cpu);
        }
        Ok(Self {
            actions: pager.actions(),
            demand: Demand::new(attached.preps, demand_sets),
            back: Back::new(attached.ring),
            ready: Vec::with_capacity(pager.batches()),
            requests: Vec::with_capacity(REQUESTS),
            pager,
            store,
            inbox,
            queue,
            bell: attached.bell,
            owed: false,
            overrun: None,
            finished: None,
            status: options.status.then_some(0),
            bar: None,
            worker: Some(worker),
        })
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, ShellError> {
    let builder = thread::Builder::new().name(name.into());
    builder.spawn(work).map_err(at("thread"))
}

fn start_ticker(inbox: &Arc<Inbox>) -> Result<(), ShellError> {
    let inbox = Arc::clone(inbox);
    let ticks = move || {
        loop {
            thread::sleep(TICK);
            inbox.tell(News::TICK);
        }
    };
    spawn("ticker", ticks).map(drop)
}

fn start_signals(inbox: &Arc<Inbox>, mut signals: Signals) -> Result<(), ShellError> {
    let inbox = Arc::clone(inbox);
    let all = move || signals.forever().for_each(|_| inbox.tell(News::STOP));
    spawn("signals", all).map(drop)
}

fn start_watch(inbox: &Arc<Inbox>, watch: Box<dyn Watch>) -> Result<(), ShellError> {
    let inbox = Arc::clone(inbox);
    spawn("watch", move || watch.run(&|notice| inbox.notice(notice))).map(drop)
}

fn start_worker(
    worker: Worker,
    queue: &Arc<Queue>,
    inbox: &Arc<Inbox>,
    store: &Arc<dyn PageStore>,
) -> Result<JoinHandle<Box<dyn Calls>>, ShellError> {
    let (queue, inbox, store) = (Arc::clone(queue), Arc::clone(inbox), Arc::clone(store));
    spawn("worker", move || worker.run(&queue, &inbox, &*store))
}
