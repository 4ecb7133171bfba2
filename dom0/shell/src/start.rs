// SPDX-License-Identifier: MIT OR Apache-2.0
//! Start: attaches to the machine, and creates the threads beside the main one.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use p2m_paging::Gfn;
use p2m_paging::ring::Back;
use pager_accesses::Recorder;
use pager_core::Pager;
use pager_core::policy::Policy;
use pager_store::PageStore;
use pager_store::areas::Areas;
use pager_store::index::Index;
use signal_hook::iterator::Signals;

use super::buffers::{buffer_sets, buffers};
use super::control::{Control, LeftFiles, listen as listen_to_operators};
use super::cpu::pin_to;
use super::demand::{DemandLane, REQUESTS};
use super::end::End;
use super::error::{ShellError, at};
use super::inbox::{Inbox, Updates};
use super::indexed::Indexed;
use super::machine::{
    AttachMode, Attached, Calls, Machine, MachineError, OnLoss, PagingStates, Publish, Watch,
};
use super::metrics::{Faults, Metrics};
use super::pages::Scratch;
use super::pressure::PagerHandle;
use super::readers::{READERS, ReadQueue, read_for_main};
use super::repeated::Repeated;
use super::reporter::{MetricsCell, report};
use super::serve::{Beside, RepeatedErrors, Shell};
use super::service::{ServiceMember, SystemdService};
use super::signals;
use super::socket::Listener;
use super::take_over::take_over;
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
    /// Where it is noted what lies where, for the next pager if this one is killed. The store must be
    /// the one that the index is about. If another pager has left the index, its pages are adopted.
    pub index: Option<Arc<Index>>,
    /// The files that this pager leaves if it is killed.
    pub left_files: Option<Arc<dyn LeftFiles>>,
    /// What becomes of a guest that needs a page that is gone for good.
    pub on_loss: OnLoss,
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
    /// Why no other pager can take over while this one lives, if none can.
    stays: Option<&'static str>,
    options: Options,
}

impl Ready {
    /// Attaches to the machine as its guest's pager.
    ///
    /// Signals are handled from here on: those that would end the process page everything of every
    /// guest of this process back in, or are ignored (row B3). After an error paging is disabled, as
    /// it was before, unless pages are out. If the machine cannot report which pages are
    /// used, the pager chooses victims by the policy that `blind` makes, if any.
    pub fn attach(
        options: Options,
        mut pager: Pager,
        blind: Option<impl FnOnce() -> Box<dyn Policy>>,
        store: Arc<dyn PageStore>,
        machine: Box<dyn Machine>,
    ) -> Result<Self, ShellError> {
        if let Some(index) = &options.index {
            check_store(index, &*store)?;
        }
        // Signals are handled before any page is out, so that no signal ends the pager then.
        let signals = signals::handle_all().map_err(at("signals"))?;
        let cpu = machine.guest().cpu;
        let faults = Faults::new().ok_or_else(|| at("metrics")(io::ErrorKind::Other.into()))?;
        let metrics_cell = Arc::new(MetricsCell::new(options.live));
        let takes_over = options.index.as_ref().is_some_and(|index| !index.is_new());
        let mode = if takes_over {
            AttachMode::TakeOver
        } else {
            AttachMode::Enable
        };
        let mut attached = machine.attach(buffers(&pager), mode)?;
        let waker = match attached.event_port.waker() {
            Ok(waker) => waker,
            Err(error) => {
                if !takes_over {
                    undo(&mut *attached.calls);
                }
                return Err(at("event channel")(error));
            }
        };
        // The guest has no other pager now that could own the socket.
        let control = options.control.as_deref().and_then(hear);
        tracing::info!(accessed_bits = attached.has_access_bits, "attached");
        if options.record.is_some() && !attached.has_access_bits {
            tracing::warn!("--record: this hypervisor does not report which pages are used");
        }
        if let Some(policy) = blind.filter(|_| !attached.has_access_bits) {
            pager = pager.with_policy(policy());
        }
        if let Some(index) = options.index.as_ref().filter(|_| takes_over) {
            // Paging stays enabled after an error: pages are out.
            pager = take_over(pager, &mut *attached.calls, index, &*store)?;
        }
        // Asked for now: to ask, a backend may have to open something.
        let stays = stays(&options, &mut *attached.calls);
        let inbox = Arc::new(Inbox::new(waker, pager.batches()));
        Ok(Self {
            stays,
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

    /// Detaches, because another pager of this process could not attach. If pages are out, paging stays
    /// enabled, and the next pager can take over.
    pub fn detach(mut self) -> Result<bool, MachineError> {
        if has_pages(&self.pager) {
            return Ok(true);
        }
        self.attached.calls.disable()
    }

    /// Creates the other threads. The main thread is the one that calls this and [`Shell::serve`].
    /// After an error paging is disabled, unless pages were out when this pager attached.
    pub fn start(self) -> Result<Shell, ShellError> {
        let Self {
            pager,
            store,
            mut attached,
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
        // These end the threads that exist, if a later one cannot be started.
        let beside = Beside {
            inbox: Arc::clone(&inbox),
            metrics_cell: Arc::clone(&metrics_cell),
            signals: self.signals.handle(),
            listener: self.control.map(Arc::new),
            readers: Arc::new(ReadQueue::new()),
        };
        let sources = Sources {
            signals: self.signals,
            watch: attached.watch,
            publish: attached.publish,
            member: self.member,
        };
        let threads = start_readers(&beside, &store, self.cpu)
            .and_then(|()| start_threads(&beside, &queues, sources));
        let threads = match threads {
            Ok(threads) => threads,
            Err(error) => {
                if !has_pages(&pager) {
                    undo(&mut *attached.calls);
                }
                return Err(error);
            }
        };
        let buffers = sets.iter().map(|set| set.place).collect();
        let demand_sets = sets.drain(..REQUESTS.min(sets.len())).collect::<Vec<_>>();
        // Both threads wait for this, so it is received.
        let _ = threads.hypercall_worker.1.send(HypercallWorker {
            calls: attached.calls,
            buffers,
            recorder: options.record.clone(),
            on_loss: options.on_loss,
            indexed: options.index.clone().map(|index| Indexed {
                index,
                store: Arc::clone(&store),
                failures: Repeated::default(),
            }),
        });
        let _ = threads.store_worker.1.send(StoreWorker {
            frames: attached.frames,
            store: Arc::clone(&store),
            first_set: demand_sets.len(),
            sets,
            scratch: Scratch::default(),
        });
        if let Some(cpu) = self.cpu {
            pin_to(cpu);
        }
        Ok(Shell {
            actions: pager.actions(),
            demand: DemandLane::new(
                attached.preps,
                demand_sets,
                options.index.clone(),
                Arc::clone(&beside.readers),
            ),
            back: Back::new(attached.ring),
            ready: Vec::with_capacity(pager.batches()),
            requests: Vec::with_capacity(REQUESTS),
            pager,
            store,
            index: options.index,
            control: Control::new(options.areas.clone(), self.stays, options.left_files),
            _beside: beside,
            inbox,
            queues,
            event_port: attached.event_port,
            owed: false,
            overrun: None,
            finished: None,
            lost: None,
            faults: self.faults,
            metrics: Metrics::default(),
            metrics_cell,
            name: options.name,
            reporter: Some(threads.reporter),
            page_in_progress: None,
            hypercall_worker: Some(threads.hypercall_worker.0),
            store_worker: Some(threads.store_worker.0),
            end: End::default(),
            repeated: RepeatedErrors::default(),
        })
    }
}

/// Why no other pager can take over from this one while the guest runs, if none can.
fn stays(options: &Options, calls: &mut dyn Calls) -> Option<&'static str> {
    if options.index.is_none() {
        return Some("this one has no index that says where pages lie");
    }
    if options.name.is_some() {
        return Some(
            "this process pages several guests. Send it SIGKILL: the next one takes over all of them",
        );
    }
    let first = Gfn::new_truncate(0);
    let listed = calls.paging_states(first, &mut [PagingStates::default()]);
    listed
        .err()
        .map(|_| "this hypervisor does not list which pages are out")
}

/// Whether another pager has left pages that are out or nominated.
fn has_pages(pager: &Pager) -> bool {
    let progress = pager.progress();
    progress.out_pages + progress.nominated_pages > 0
}

/// An index of another store would be misread.
pub(super) fn check_store(index: &Index, store: &dyn PageStore) -> Result<(), ShellError> {
    let (index, store) = (index.identity().store, store.identity());
    if store == Some(index) {
        Ok(())
    } else {
        Err(ShellError::OtherStore { index, store })
    }
}

/// Disables paging after an error. No page is out.
fn undo(calls: &mut dyn Calls) {
    match calls.disable() {
        Ok(true) => {}
        Ok(false) => tracing::error!("paging stays enabled: vcpus are queued for the ring"),
        Err(error) => tracing::error!("paging stays enabled: {error}"),
    }
}

/// What the threads beside the workers use.
struct Sources {
    signals: Signals,
    watch: Box<dyn Watch>,
    publish: Option<Box<dyn Publish>>,
    member: ServiceMember,
}

/// A worker's thread, and where it waits for the worker.
type Waiting<W, T> = (JoinHandle<T>, mpsc::Sender<W>);

/// The threads that are joined.
struct Threads {
    reporter: JoinHandle<()>,
    hypercall_worker: Waiting<HypercallWorker, Option<Box<dyn Calls>>>,
    store_worker: Waiting<StoreWorker, ()>,
}

fn start_threads(
    beside: &Beside,
    queues: &Arc<Queues>,
    sources: Sources,
) -> Result<Threads, ShellError> {
    let inbox = &beside.inbox;
    start_ticker(inbox)?;
    let (all, told) = (sources.signals, Arc::clone(inbox));
    let signals = move || signals::pass_on(all, &told);
    spawn("signals", inbox, Updates::PANICKED, signals)?;
    start_watch(inbox, sources.watch)?;
    let metrics_cell = Arc::clone(&beside.metrics_cell);
    let (publish, member) = (sources.publish, sources.member);
    let told = Arc::clone(inbox);
    let on_panic = move || told.notify(Updates::PANICKED);
    let reporter = move || report(&metrics_cell, publish, &member, on_panic);
    let reporter = spawn("reporter", inbox, Updates::PANICKED, reporter)?;
    if let Some(listener) = &beside.listener {
        start_control(inbox, listener)?;
    }
    Ok(Threads {
        reporter,
        hypercall_worker: start_hypercall_worker(queues, inbox)?,
        store_worker: start_store_worker(queues, inbox)?,
    })
}

/// Tells the main thread if the thread panics.
struct OnPanic {
    inbox: Arc<Inbox>,
    updates: Updates,
}

impl Drop for OnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.inbox.notify(self.updates);
        }
    }
}

/// Starts a thread. If it panics, the main thread gets these updates.
fn spawn<T: Send + 'static>(
    name: &str,
    inbox: &Arc<Inbox>,
    updates: Updates,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, ShellError> {
    let builder = thread::Builder::new().name(name.into());
    let builder = builder.stack_size(STACK_BYTES);
    // Log lines of the thread name the same guest.
    let guest = tracing::Span::current();
    let inbox = Arc::clone(inbox);
    let work = move || {
        let _on_panic = OnPanic { inbox, updates };
        guest.in_scope(work)
    };
    builder.spawn(work).map_err(at("thread"))
}

fn start_ticker(inbox: &Arc<Inbox>) -> Result<(), ShellError> {
    let ticked = Arc::clone(inbox);
    let ticks = move || {
        while !ticked.is_over() {
            thread::sleep(TICK);
            ticked.notify(Updates::TICK);
        }
    };
    spawn("ticker", inbox, Updates::PANICKED, ticks).map(drop)
}

fn start_watch(inbox: &Arc<Inbox>, watch: Box<dyn Watch>) -> Result<(), ShellError> {
    let told = Arc::clone(inbox);
    let watch = move || watch.run(&|event| told.on_machine_event(event));
    spawn("watch", inbox, Updates::PANICKED, watch).map(drop)
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
    let (told, listener) = (Arc::clone(inbox), Arc::clone(listener));
    let listen = move || listen_to_operators(&listener, &told);
    spawn("control", inbox, Updates::PANICKED, listen).map(drop)
}

fn start_hypercall_worker(
    queues: &Arc<Queues>,
    inbox: &Arc<Inbox>,
) -> Result<Waiting<HypercallWorker, Option<Box<dyn Calls>>>, ShellError> {
    let (give, taken) = mpsc::channel::<HypercallWorker>();
    let (queues, told) = (Arc::clone(queues), Arc::clone(inbox));
    let work = move || Some(taken.recv().ok()?.run(&queues, &told));
    let lost = Updates::PANICKED | Updates::WORKER_LOST;
    Ok((spawn("hypercalls", inbox, lost, work)?, give))
}

fn start_store_worker(
    queues: &Arc<Queues>,
    inbox: &Arc<Inbox>,
) -> Result<Waiting<StoreWorker, ()>, ShellError> {
    let (give, taken) = mpsc::channel::<StoreWorker>();
    let (queues, told) = (Arc::clone(queues), Arc::clone(inbox));
    let work = move || {
        if let Ok(worker) = taken.recv() {
            worker.run(&queues, &told);
        }
    };
    let lost = Updates::PANICKED | Updates::WORKER_LOST;
    Ok((spawn("store", inbox, lost, work)?, give))
}

/// Nobody waits for the readers: they end when their queue is closed, or when a read that hangs goes
/// on. They run where faults are handled.
fn start_readers(
    beside: &Beside,
    store: &Arc<dyn PageStore>,
    cpu: Option<usize>,
) -> Result<(), ShellError> {
    for _ in 0..READERS {
        let (queue, inbox) = (Arc::clone(&beside.readers), Arc::clone(&beside.inbox));
        let store = Arc::clone(store);
        let read = move || {
            if let Some(cpu) = cpu {
                pin_to(cpu);
            }
            read_for_main(&queue, &inbox, &*store);
        };
        let lost = Updates::PANICKED | Updates::WORKER_LOST;
        spawn("reader", &beside.inbox, lost, read)?;
    }
    Ok(())
}
