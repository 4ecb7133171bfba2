// SPDX-License-Identifier: MIT OR Apache-2.0
//! The main thread: passes events to the core and carries out its actions.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use p2m_paging::ring::{Back, Notify, Overrun, Request};
use pager_core::{Action, Actions, Batch, Event, Lane, Pager, Report, Step, Summary};
use pager_store::PageStore;
use pager_store::index::Index;
use signal_hook::iterator::Handle;

use super::console::print_error;
use super::control::{Change, Control};
use super::demand::{DemandLane, Load};
use super::end::{End, Ended};
use super::error::ShellError;
use super::inbox::{Inbox, Lost, Updates};
use super::machine::{Calls, EventPort};
use super::metrics::{Faults, Metrics};
use super::page_in_progress::PageInProgress;
use super::readers::ReadQueue;
use super::repeated::Repeated;
use super::reporter::MetricsCell;
use super::socket::Listener;
use super::worker::Queues;

/// Ticks between two computations of the quantiles of fault times.
const QUANTILE_TICKS: u64 = 10;
/// What has not happened for so long is over.
const QUIET: Duration = Duration::from_secs(10);
/// The pause between two rounds when the machine's events cannot be received.
const POLL: Duration = Duration::from_millis(1);

/// A running pager.
pub struct Shell {
    pub(super) pager: Pager,
    pub(super) actions: Actions,
    /// Batches that were run at once.
    pub(super) ready: Vec<Batch>,
    pub(super) demand: DemandLane,
    pub(super) back: Back,
    pub(super) requests: Vec<Request>,
    pub(super) store: Arc<dyn PageStore>,
    pub(super) index: Option<Arc<Index>>,
    pub(super) control: Control,
    /// Dropped together with the shell.
    pub(super) _beside: Beside,
    pub(super) inbox: Arc<Inbox>,
    pub(super) queues: Arc<Queues>,
    pub(super) event_port: Box<dyn EventPort>,
    /// The machine has to be notified.
    pub(super) owed: bool,
    pub(super) overrun: Option<Overrun>,
    pub(super) finished: Option<Summary>,
    /// The guest lives, and is not paged by this pager any more. So many pages were out then, or on
    /// their way out.
    pub(super) lost: Option<(Lost, u64)>,
    pub(super) faults: Faults,
    pub(super) metrics: Metrics,
    /// The name of the pager, if the process has several.
    pub(super) name: Option<String>,
    /// Where the metrics are left for the reporter.
    pub(super) metrics_cell: Arc<MetricsCell>,
    /// `None` once it has been joined.
    pub(super) reporter: Option<JoinHandle<()>>,
    /// Set while everything is paged back in.
    pub(super) page_in_progress: Option<PageInProgress>,
    /// `None` once it has been joined.
    pub(super) hypercall_worker: Option<JoinHandle<Option<Box<dyn Calls>>>>,
    /// `None` once it has been joined.
    pub(super) store_worker: Option<JoinHandle<()>>,
    pub(super) end: End,
    pub(super) repeated: RepeatedErrors,
}

/// Errors that may come with every round.
#[derive(Debug, Default)]
pub(super) struct RepeatedErrors {
    requests: Repeated,
    wakes: Repeated,
    responses: Repeated,
    events: Repeated,
}

impl RepeatedErrors {
    /// Logs what is over.
    fn tick(&mut self) {
        let now = Instant::now();
        for (what, repeated) in [
            (
                "requests on the ring that are not valid",
                &mut self.requests,
            ),
            ("failures to wake the machine", &mut self.wakes),
            ("responses that could not be pushed", &mut self.responses),
            ("failures to receive the machine's events", &mut self.events),
        ] {
            if let Some(over) = repeated.over(now, QUIET).filter(|over| over.times > 1) {
                tracing::warn!("{} {what} in {:.1?}: that is over", over.times, over.lasted);
            }
        }
    }
}

/// The threads that may wait for ever. They end with the pager, so that the pagers of other guests
/// can continue without them.
pub(super) struct Beside {
    pub(super) inbox: Arc<Inbox>,
    pub(super) metrics_cell: Arc<MetricsCell>,
    pub(super) signals: Handle,
    pub(super) listener: Option<Arc<Listener>>,
    pub(super) readers: Arc<ReadQueue>,
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.inbox.end();
        self.metrics_cell.end();
        self.readers.close();
        self.signals.close();
        if let Some(listener) = &self.listener {
            listener.close();
        }
    }
}

impl Shell {
    /// Pages the guest until a signal or a failure has brought everything back, or until the guest
    /// is gone.
    pub fn serve(mut self) -> Result<Ended, ShellError> {
        loop {
            if let Err(errno) = self.event_port.wait() {
                // The ring is polled from here on.
                if self.repeated.events.happened(Instant::now()) {
                    self.fail(ShellError::Events(errno));
                }
                thread::sleep(POLL);
            }
            while self.round() {}
            if self.end.is_given_up() {
                return Ok(self.abandon());
            }
            // A stop that came at the same time counts: it brings everything back.
            if self.end.hands_over() && !self.end.is_stopping() {
                let out_pages = self.pager.progress().out_pages;
                return Err(ShellError::HandedOver { out_pages });
            }
            if let Some(summary) = self.finished.take()
                && self.may_end(&summary)
            {
                return self.tear_down(summary);
            }
        }
    }

    /// Polls every source once. Returns whether any had something. The ring is polled last: only
    /// after the pager has found it empty does the machine send an event for the next request.
    pub(super) fn round(&mut self) -> bool {
        let collected = self.collect_done();
        let updates = self.inbox.take();
        if !updates.is_empty() {
            self.on_updates(updates);
        }
        let requested = self.take_requests();
        if self.back.publish() == Notify::Owed {
            self.owed = true;
        }
        if std::mem::take(&mut self.owed)
            && let Err(errno) = self.event_port.notify()
            && self.repeated.wakes.happened(Instant::now())
        {
            tracing::error!(%errno, "the machine cannot be woken");
        }
        collected || requested || !updates.is_empty()
    }

    fn collect_done(&mut self) -> bool {
        let (pager, actions) = (&mut self.pager, &mut self.actions);
        let mut any = false;
        self.demand.collect_done(|batch| {
            any = true;
            pager.handle(Event::Done(batch), actions);
        });
        self.execute();
        any
    }

    fn take_requests(&mut self) -> bool {
        self.requests.clear();
        while self.requests.len() < self.pager.room() {
            match self.back.take() {
                Ok(Some(Ok(request))) => {
                    self.faults.asked(request.gfn);
                    self.requests.push(request);
                }
                Ok(Some(Err(error))) => {
                    if self.repeated.requests.happened(Instant::now()) {
                        tracing::warn!(%error, "a request on the ring is not valid");
                    }
                }
                Ok(None) => break,
                Err(overrun) => {
                    if self.overrun.replace(overrun) != Some(overrun) {
                        tracing::error!(%overrun, "the ring is not valid");
                    }
                    break;
                }
            }
        }
        if self.requests.is_empty() {
            return false;
        }
        let event = Event::Requests(&self.requests);
        self.pager.handle(event, &mut self.actions);
        self.execute();
        true
    }

    fn on_updates(&mut self, updates: Updates) {
        if updates.contains(Updates::READ) {
            while let Some(reading) = self.inbox.read() {
                if let Some(batch) = self.demand.was_read(reading) {
                    self.handle(Event::Done(batch));
                }
            }
        }
        if updates.contains(Updates::DONE) {
            while let Some(batch) = self.inbox.done() {
                self.handle(Event::Done(batch));
            }
        }
        if updates.contains(Updates::SCANNED)
            && let Some(scan) = self.inbox.scanned()
        {
            self.handle(Event::Scanned(scan));
        }
        if updates.contains(Updates::TARGET) {
            self.handle(Event::Target(self.inbox.target()));
        }
        if updates.contains(Updates::RESIDENT)
            && let Some(pages) = self.inbox.resident()
        {
            self.handle(Event::Resident(pages));
        }
        if updates.contains(Updates::GONE) {
            if let Some(how) = self.inbox.lost() {
                // An evict that is under way may have been carried out.
                let progress = self.pager.progress();
                let pages = progress.out_pages + progress.paging_out_pages;
                self.lost.get_or_insert((how, pages));
            }
            let mut abandoned = Vec::new();
            self.demand.abandon(|batch| abandoned.push(batch));
            self.handle(Event::DomainGone);
            for batch in abandoned {
                self.handle(Event::Done(batch));
            }
        }
        if updates.contains(Updates::ASKED) {
            while let Some((request, client)) = self.inbox.asked() {
                let areas = self.pager.areas().collect();
                match self.control.asked(request, client, areas) {
                    Some(Change::Added(area)) => self.handle(Event::AreaAdded(area)),
                    Some(Change::Drain(area)) => self.handle(Event::Drain(area)),
                    Some(Change::HandOver) => self.end.hand_over(),
                    None => {}
                }
            }
        }
        if updates.contains(Updates::TICK) {
            self.handle(Event::Tick);
            self.repeated.tick();
            if let Some(line) = self.demand.tick() {
                tracing::warn!("{line}");
            }
            self.post_metrics();
        }
        self.on_end_updates(updates);
        if let Some(page_in_progress) = &mut self.page_in_progress {
            page_in_progress.left(self.pager.progress().out_pages);
            if updates.contains(Updates::TICK)
                && let Some(line) = page_in_progress.tick()
            {
                let name = self.name.as_deref().unwrap_or("xenpaging");
                print_error(format_args!("{name}: {line}"));
            }
        }
    }

    pub(super) fn handle(&mut self, event: Event<'_>) {
        self.pager.handle(event, &mut self.actions);
        self.execute();
    }

    /// Carries out the actions, and those that result from them.
    fn execute(&mut self) {
        loop {
            for action in self.actions.drain() {
                match action {
                    Action::Run(batch) => match (batch.lane(), batch.step()) {
                        (Lane::Demand, Step::Load) => match self.demand.load(batch, &*self.store) {
                            Load::Done(batch) => self.ready.push(batch),
                            Load::Panicked(batch) => {
                                self.inbox.notify(Updates::PANICKED);
                                self.ready.push(batch);
                            }
                            Load::BeingRead => {}
                        },
                        (Lane::Demand, Step::Prep) => {
                            self.owed = true;
                            self.ready.extend(self.demand.prep(batch));
                        }
                        _ => self.queues.push(batch),
                    },
                    Action::Scan(scan) => self.queues.push_scan(scan),
                    Action::Respond(response) => {
                        self.faults.answered(response.gfn);
                        if let Err(error) = self.back.respond(&response)
                            && self.repeated.responses.happened(Instant::now())
                        {
                            tracing::error!(%error, gfn = %response.gfn, "a response could not be pushed");
                        }
                    }
                    Action::Moved(gfn, location) => {
                        let moved = self
                            .index
                            .as_ref()
                            .map(|index| index.move_to(gfn, location));
                        if let Some(Err(error)) = moved {
                            tracing::error!("the index does not know where a page is now: {error}");
                        }
                    }
                    Action::Free(slot) => self.store.free(slot),
                    Action::Drained(area, outcome) => self.control.drained(area, outcome),
                    Action::StopGuest(loss) => self.queues.push_loss(loss),
                    Action::Report(report) => log_report(&report, &self.control),
                    Action::Finished(summary) => self.finished = Some(summary),
                }
            }
            match self.ready.pop() {
                Some(batch) => self.pager.handle(Event::Done(batch), &mut self.actions),
                None => return,
            }
        }
    }

    fn post_metrics(&mut self) {
        let metrics = &mut self.metrics;
        if metrics.ticks.is_multiple_of(QUANTILE_TICKS) {
            metrics.fault_p50_us = self.faults.quantile_us(0.5);
            metrics.fault_p99_us = self.faults.quantile_us(0.99);
        }
        metrics.ticks += u64::from(self.end.is_healthy());
        let progress = self.pager.progress();
        let told = self.inbox.resident();
        metrics.resident_pages = told.unwrap_or_else(|| progress.resident_pages());
        metrics.balance_limit_pages = self.inbox.bounds().0;
        metrics.progress = progress;
        metrics.store = self.store.counts();
        self.metrics_cell.post(metrics);
    }
}

fn log_report(report: &Report, control: &Control) {
    match report {
        Report::AreaFailed { slot, error } => {
            let name = control.name(*slot);
            tracing::error!("{name} is used only when no other area has room any more: {error}");
        }
        Report::AreaRecovered { slot } => {
            tracing::info!("{} takes pages again", control.name(*slot));
        }
        // What was said to begin is said to end, at the same level.
        Report::StoreFull { .. }
        | Report::StoreRecovered { .. }
        | Report::ReadableAgain { .. }
        | Report::AllRestored { .. }
        | Report::Delayed { .. }
        | Report::DelayOver { .. }
        | Report::LossOver { .. } => tracing::warn!("{report}"),
        _ => tracing::error!("{report}"),
    }
}
