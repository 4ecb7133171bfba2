// SPDX-License-Identifier: MIT OR Apache-2.0
//! Start: attaches to the machine, and creates the threads beside the main one.

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
use super::demand::{DemandLane, REQUESTS};
use super::error::{ShellError, at};
use super::inbox::{Inbox, Updates};
use super::machine::{Attached, Calls, Machine, MachineError, Publish, Watch};
use super::metrics::{Faults, Metrics};
use super::pages::Scratch;
use super::pressure::PagerHandle;
use super::reporter::{MetricsCell, report};
use super::serve::{Beside, Shell};
use super::service::{ServiceMember, SystemdService};
use super::socket::Listener;
use super::worker::{HypercallWorker, Queues, StoreWorker};

/// The stack size of a thread. All of it is locked in memory, so it is less than the usual 2 MiB.
const STACK_BYTES: usize = 256 << 10;

/// The time between two ticks.
const TICK: Duration = Duration::from_millis(100);

/// Options of the shell.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The name of the pager, if the process has several.
    pub name: Option<String>,
    /// Whether a terminal shows a line of metrics.
    pub live: bool,
    /// All pagers of this process.
    pub service: SystemdService,
    /// Records the pages that accessed bits show to be used.
    pub record: Option<Arc<Recorder>>,
    /// The store's swap areas, if the store consists of them.
    pub areas: Option<Arc<Areas>>,
    /// The name of the socket on which the pager listens for operators.
    pub control: Option<String>,
}

/// A pager that has attached and has opened everything it needs, but has no threads yet. This is
/// the time to give up every right that serving does not need.
pub struct Ready {
    pager: Pager,
    store: Arc<dyn PageStore>,
    attached: Attached,
    cpu: Option<usize>,
    signals: Signals,
    faults: Faults,
    handle: PagerHandle,
    member: ServiceMember,
    control: Option<Listener>,
    options: Options,
}

impl Ready {
    /// Attaches to the machine as its guest's pager.
    ///
    /// Signals are handled from here on: SIGTERM, SIGINT, SIGHUP and SIGALRM all page everything of
    /// every guest of this process back in (row B3). If the machine cannot report which pages are
    /// used, the pager chooses victims by the policy that `blind` makes, if any.
    pub fn attach(
        options: Options,
        mut pager: Pager,
        blind: Option<impl FnOnce() -> Box<dyn Policy>>,
        store: Arc<dyn PageStore>,
        machine: Box<dyn Machine>,
    ) -> Result<Self, ShellError> {
        // Signals are handled before any page is out, so that no signal ends the pager then.
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGALRM]).map_err(at("signals"))?;
        // With SIGXFSZ handled, a write beyond RLIMIT_FSIZE fails with EFBIG and does not end the
        // pager.
        let ignored = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGXFSZ, ignored).map_err(at("signals"))?;
        let cpu = machine.guest().cpu;
        let faults = Faults::new().ok_or_else(|| at("metrics")(io::ErrorKind::Other.into()))?;
        let metrics_cell = Arc::new(MetricsCell::new(options.live));
        let attached = machine.attach(buffers(&pager))?;
        // The guest has no other pager now that could own the socket.
        let control = options.control.as_deref().and_then(hear);
        tracing::info!(accessed_bits = attached.has_access_bits, "attached");
        if options.record.is_some() && !attached.has_access_bits {
            tracing::warn!("--record: this hypervisor does not report which pages are used");
        }
        if let Some(policy) = blind.filter(|_| !attached.has_access_bits) {
            pager = pager.with_policy(policy());
        }
        let waker = attached.event_port.waker().map_err(at("event channel"))?;
        let inbox = Arc::new(Inbox::new(waker, pager.batches()));
        Ok(Self {
            pager,
            store,
            attached,
            cpu,
            signals,
            faults,
            handle: PagerHandle {
                inbox,
                metrics_cell,
            },
            member: options.service.join(),
            control,
            options,
        })
    }

    /// The handle, for a process that runs several pagers.
    pub fn handle(&self) -> &PagerHandle {
        &self.handle
    }

    /// Detaches, because another pager of this process could not attach. No page is out.
    pub fn detach(mut self) -> Result<bool, MachineError> {
        self.attached.calls.disable()
    }

    /// Creates the other threads. The main thread is the one that calls this and [`Shell::serve`].
    pub fn start(self) -> Result<Shell, ShellError> {
        let Self {
            pager,
            store,
            attached,
            handle,
            options,
            ..
        } = self;
        let PagerHandle {
            inbox,
            metrics_cell,
        } = handle;
        let queues = Arc::new(Queues::new(pager.batches()));
        let mut sets = buffer_sets(&pager, attached.buffers);
        start_ticker(&inbox)?;
        let signals = self.signals.handle();
        start_signals(&inbox, self.signals)?;
        start_watch(&inbox, attached.watch)?;
        let reporter = start_reporter(&metrics_cell, attached.publish, self.member)?;
        let listener = self.control.map(Arc::new);
        if let Some(listener) = &listener {
            start_control(&inbox, listener)?;
        }
        let buffers = sets.iter().map(|set| set.place).collect();
        let demand_sets = sets.drain(..REQUESTS.min(sets.len())).collect::<Vec<_>>();
        let hypercall_worker = HypercallWorker {
            calls: attached.calls,
            buffers,
            recorder: options.record.clone(),
        };
        let store_worker = StoreWorker {
            frames: attached.frames,
            store: Arc::clone(&store),
            first_set: demand_sets.len(),
            sets,
            scratch: Scratch::default(),
        };
        let hypercall_worker = start_hypercall_worker(hypercall_worker, &queues, &inbox)?;
        let store_worker = start_store_worker(store_worker, &queues, &inbox)?;
        if let Some(cpu) = self.cpu {
            pin_to(cpu);
        }
        Ok(Shell {
            actions: pager.actions(),
            demand: DemandLane::new(attached.preps, demand_sets),
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
            event_port: attached.event_port,
            owed: false,
            overrun: None,
            finished: None,
            faults: self.faults,
            metrics: Metrics::default(),
            metrics_cell,
            name: options.name,
            reporter: Some(reporter),
            page_in_progress: None,
            hypercall_worker: Some(hypercall_worker),
            store_worker: Some(store_worker),
        })
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, ShellError> {
    let builder = thread::Builder::new().name(name.into());
    let builder = builder.stack_size(STACK_BYTES);
    // Log lines of the thread name the same guest.
    let guest = tracing::Span::current();
    let work = move || guest.in_scope(work);
    builder.spawn(work).map_err(at("thread"))
}

fn start_ticker(inbox: &Arc<Inbox>) -> Result<(), ShellError> {
    let inbox = Arc::clone(inbox);
    let ticks = move || {
        while !inbox.is_over() {
            thread::sleep(TICK);
            inbox.notify(Updates::TICK);
        }
    };
    spawn("ticker", ticks).map(drop)
}

fn start_signals(inbox: &Arc<Inbox>, mut signals: Signals) -> Result<(), ShellError> {
    let inbox = Arc::clone(inbox);
    let all = move || signals.forever().for_each(|_| inbox.notify(Updates::STOP));
    spawn("signals", all).map(drop)
}

fn start_watch(inbox: &Arc<Inbox>, watch: Box<dyn Watch>) -> Result<(), ShellError> {
    let inbox = Arc::clone(inbox);
    spawn("watch", move || {
        watch.run(&|event| inbox.on_machine_event(event))
    })
    .map(drop)
}

fn start_reporter(
    metrics_cell: &Arc<MetricsCell>,
    publish: Option<Box<dyn Publish>>,
    member: ServiceMember,
) -> Result<JoinHandle<()>, ShellError> {
    let metrics_cell = Arc::clone(metrics_cell);
    spawn("reporter", move || report(&metrics_cell, publish, &member))
}

/// A pager without a control socket still works.
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

fn start_hypercall_worker(
    hypercall_worker: HypercallWorker,
    queues: &Arc<Queues>,
    inbox: &Arc<Inbox>,
) -> Result<JoinHandle<Box<dyn Calls>>, ShellError> {
    let (queues, inbox) = (Arc::clone(queues), Arc::clone(inbox));
    spawn("hypercalls", move || hypercall_worker.run(&queues, &inbox))
}

fn start_store_worker(
    store_worker: StoreWorker,
    queues: &Arc<Queues>,
    inbox: &Arc<Inbox>,
) -> Result<JoinHandle<()>, ShellError> {
    let (queues, inbox) = (Arc::clone(queues), Arc::clone(inbox));
    spawn("store", move || store_worker.run(&queues, &inbox))
}
