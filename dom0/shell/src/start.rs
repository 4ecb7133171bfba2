// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starting: attaching to the machine, and the threads beside the main one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use p2m_paging::ring::Back;
use pager_accesses::Recorder;
use pager_core::Pager;
use pager_core::policy::Policy;
use pager_store::PageStore;
use pager_store::areas::Areas;
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use super::buffers::{buffer_sets, buffers};
use super::control::{Control, listen as listen_to_operators};
use super::cpu::pin_to;
use super::demand::{Demand, REQUESTS};
use super::error::{ShellError, at};
use super::inbox::{Inbox, News};
use super::machine::{Attached, Calls, Machine, MachineError, Publish, Watch};
use super::metrics::{Faults, Metrics};
use super::pages::Scratch;
use super::pressure::PagerHandle;
use super::reporter::{Board, report};
use super::serve::{Beside, Shell};
use super::service::{Member, Service};
use super::socket::Listener;
use super::worker::{Caller, Queues, Storer};

/// Room for a thread's calls: all of it is locked in memory, so not the usual 2 MiB.
const STACK_BYTES: usize = 256 << 10;

/// Time between two ticks.
const TICK: Duration = Duration::from_millis(100);

/// How the shell goes about it.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whose pager it is, where there are others in this process.
    pub name: Option<String>,
    /// Whether a terminal is to have a line of figures.
    pub live: bool,
    /// All pagers of this process.
    pub service: Service,
    /// Takes down the pages that accessed bits show to be used.
    pub record: Option<Arc<Recorder>>,
    /// The store's swap areas, if that is what it consists of.
    pub areas: Option<Arc<Areas>>,
    /// Where to listen to operators.
    pub control: Option<String>,
}

/// A pager that has attached and has everything open that it needs, but no threads yet: the time to give up whatever serving
/// does not need.
pub struct Ready {
    pager: Pager,
    store: Arc<dyn PageStore>,
    attached: Attached,
    cpu: Option<usize>,
    signals: Signals,
    faults: Faults,
    handle: PagerHandle,
    member: Member,
    control: Option<Listener>,
    options: Options,
}

impl Ready {
    /// Attaches to the machine as its guest's pager.
    ///
    /// Signals are taken from here on: SIGTERM, SIGINT, SIGHUP and SIGALRM all bring everything back
    /// (row B3), of every guest of this process. Where the machine cannot say
    /// which pages are used, the pager chooses by the policy that `blind` makes, if any.
    pub fn attach(
        options: Options,
        mut pager: Pager,
        blind: Option<impl FnOnce() -> Box<dyn Policy>>,
        store: Arc<dyn PageStore>,
        machine: Box<dyn Machine>,
    ) -> Result<Self, ShellError> {
        // Before anything is out, so that no signal finds the pager unprepared.
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGALRM]).map_err(at("signals"))?;
        // Writing beyond RLIMIT_FSIZE is an error of that write (EFBIG), not the end of the pager.
        let ignored = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGXFSZ, ignored).map_err(at("signals"))?;
        let cpu = machine.guest().cpu;
        let faults = Faults::new().ok_or_else(|| at("metrics")(io::ErrorKind::Other.into()))?;
        let board = Arc::new(Board::new(options.live));
        let attached = machine.attach(buffers(&pager))?;
        // Now that there is no other pager, whose socket it would be.
        let control = options.control.as_deref().and_then(hear);
        tracing::info!(accessed_bits = attached.sees_uses, "attached");
        if options.record.is_some() && !attached.sees_uses {
            tracing::warn!("--record: this hypervisor does not say which pages are used");
        }
        if let Some(policy) = blind.filter(|_| !attached.sees_uses) {
            pager = pager.with_policy(policy());
        }
        let waker = attached.bell.waker().map_err(at("event channel"))?;
        let inbox = Arc::new(Inbox::new(waker, pager.batches()));
        Ok(Self {
            pager,
            store,
            attached,
            cpu,
            signals,
            faults,
            handle: PagerHandle { inbox, board },
            member: options.service.join(),
            control,
            options,
        })
    }

    /// For whoever looks after several pagers.
    pub fn handle(&self) -> &PagerHandle {
        &self.handle
    }

    /// It is not to be a pager after all: another one of this process could not attach. Nothing is out.
    pub fn detach(mut self) -> Result<bool, MachineError> {
        self.attached.calls.disable()
    }

    /// Starts the threads beside the main one, which is the one that calls this and [`Shell::serve`].
    pub fn start(self) -> Result<Shell, ShellError> {
        let Self {
            pager,
            store,
            attached,
            handle,
            options,
            ..
        } = self;
        let PagerHandle { inbox, board } = handle;
        let queues = Arc::new(Queues::new(pager.batches()));
        let mut sets = buffer_sets(&pager, attached.buffers);
        start_ticker(&inbox)?;
        let signals = self.signals.handle();
        start_signals(&inbox, self.signals)?;
        start_watch(&inbox, attached.watch)?;
        let reporter = start_reporter(&board, attached.publish, self.member)?;
        let listener = self.control.map(Arc::new);
        if let Some(listener) = &listener {
            start_control(&inbox, listener)?;
        }
        let buffers = sets.iter().map(|set| set.place).collect();
        let demand_sets = sets.drain(..REQUESTS.min(sets.len())).collect::<Vec<_>>();
        let caller = Caller {
            calls: attached.calls,
            buffers,
            recorder: options.record.clone(),
        };
        let storer = Storer {
            frames: attached.frames,
            store: Arc::clone(&store),
            first_set: demand_sets.len(),
            sets,
            scratch: Scratch::default(),
        };
        let caller = start_caller(caller, &queues, &inbox)?;
        let storer = start_storer(storer, &queues, &inbox)?;
        if let Some(cpu) = self.cpu {
            pin_to(cpu);
        }
        Ok(Shell {
            actions: pager.actions(),
            demand: Demand::new(attached.preps, demand_sets),
            back: Back::new(attached.ring),
            ready: Vec::with_capacity(pager.batches()),
            requests: Vec::with_capacity(REQUESTS),
            pager,
            store,
            control: Control::new(options.areas.clone()),
            _beside: Beside {
                inbox: Arc::clone(&inbox),
                signals,
                listener,
            },
            inbox,
            queues,
            bell: attached.bell,
            owed: false,
            overrun: None,
            finished: None,
            faults: self.faults,
            metrics: Metrics::default(),
            board,
            name: options.name,
            reporter: Some(reporter),
            homeward: None,
            caller: Some(caller),
            storer: Some(storer),
        })
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, ShellError> {
    let builder = thread::Builder::new().name(name.into());
    let builder = builder.stack_size(STACK_BYTES);
    // What is logged by the thread is of the same guest.
    let guest = tracing::Span::current();
    let work = move || guest.in_scope(work);
    builder.spawn(work).map_err(at("thread"))
}

fn start_ticker(inbox: &Arc<Inbox>) -> Result<(), ShellError> {
    let inbox = Arc::clone(inbox);
    let ticks = move || {
        while !inbox.is_over() {
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

fn start_reporter(
    board: &Arc<Board>,
    publish: Option<Box<dyn Publish>>,
    member: Member,
) -> Result<JoinHandle<()>, ShellError> {
    let board = Arc::clone(board);
    spawn("reporter", move || report(&board, publish, &member))
}

/// A pager that nobody can talk to is still a pager.
fn hear(name: &str) -> Option<Listener> {
    let listener = Listener::bind(name);
    if let Err(error) = &listener {
        tracing::warn!("no swap areas can be added or drained: {error}");
    }
    listener.ok()
}

fn start_control(inbox: &Arc<Inbox>, listener: &Arc<Listener>) -> Result<(), ShellError> {
    let (inbox, listener) = (Arc::clone(inbox), Arc::clone(listener));
    spawn("control", move || listen_to_operators(&listener, &inbox)).map(drop)
}

fn start_caller(
    caller: Caller,
    queues: &Arc<Queues>,
    inbox: &Arc<Inbox>,
) -> Result<JoinHandle<Box<dyn Calls>>, ShellError> {
    let (queues, inbox) = (Arc::clone(queues), Arc::clone(inbox));
    spawn("caller", move || caller.run(&queues, &inbox))
}

fn start_storer(
    storer: Storer,
    queues: &Arc<Queues>,
    inbox: &Arc<Inbox>,
) -> Result<JoinHandle<()>, ShellError> {
    let (queues, inbox) = (Arc::clone(queues), Arc::clone(inbox));
    spawn("storer", move || storer.run(&queues, &inbox))
}
