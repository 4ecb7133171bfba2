// SPDX-License-Identifier: MIT OR Apache-2.0
//! The main thread: passes events to the core and carries out its actions.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use p2m_paging::ring::{Back, Notify, Overrun, Request};
use pager_core::{Action, Actions, Batch, Event, Lane, Pager, Progress, Report, Step, Summary};
use pager_store::{IoCounts, PageStore};
use signal_hook::iterator::Handle;

use super::console::print_error;
use super::control::{Change, Control};
use super::demand::DemandLane;
use super::error::ShellError;
use super::inbox::{Inbox, Updates};
use super::machine::{Calls, EventPort};
use super::metrics::{Faults, Metrics};
use super::page_in_progress::PageInProgress;
use super::reporter::MetricsCell;
use super::socket::Listener;
use super::worker::Queues;

/// Ticks between two computations of the quantiles of fault times.
const QUANTILE_TICKS: u64 = 10;
/// How often the shell tries to disable paging while vcpus are in the wait queue. A fixed pause
/// separates the attempts.
const DISABLE_ATTEMPTS: u32 = 500;
const DISABLE_PAUSE: Duration = Duration::from_millis(10);

/// How a pager ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// The core's summary.
    pub summary: Summary,
    /// The core's metrics.
    pub progress: Progress,
    /// The store's metrics.
    pub store: IoCounts,
}

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
    pub(super) hypercall_worker: Option<JoinHandle<Box<dyn Calls>>>,
    /// `None` once it has been joined.
    pub(super) store_worker: Option<JoinHandle<()>>,
}

/// The threads that may wait for ever. They end with the pager, so that the pagers of other guests
/// can continue without them.
pub(super) struct Beside {
    pub(super) inbox: Arc<Inbox>,
    pub(super) signals: Handle,
    pub(super) listener: Option<Arc<Listener>>,
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.inbox.end();
        self.signals.close();
        if let Some(listener) = &self.listener {
            listener.close();
        }
    }
}

impl Shell {
    /// Pages the guest until a signal has brought everything back, or until the guest is gone.
    pub fn serve(mut self) -> Result<Ended, ShellError> {
        let summary = loop {
            self.event_port.wait().map_err(ShellError::Events)?;
            while self.round() {}
            if let Some(summary) = self.finished.take() {
                break summary;
            }
        };
        self.tear_down(summary)
    }

    /// Polls every source once. Returns whether any had something. The ring is polled last: only
    /// after the pager has found it empty does the machine send an event for the next request.
    fn round(&mut self) -> bool {
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
                    tracing::warn!(%error, "a request on the ring is not valid")
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
            let mut abandoned = Vec::new();
            self.demand.abandon(|batch| abandoned.push(batch));
            self.handle(Event::DomainGone);
            for batch in abandoned {
                self.handle(Event::Done(batch));
            }
        }
        if updates.contains(Updates::STOP) {
            self.stop();
        }
        if updates.contains(Updates::ASKED) {
            while let Some((request, client)) = self.inbox.asked() {
                let areas = self.pager.areas().collect();
                match self.control.asked(request, client, areas) {
                    Some(Change::Added(area)) => self.handle(Event::AreaAdded(area)),
                    Some(Change::Drain(area)) => self.handle(Event::Drain(area)),
                    None => {}
                }
            }
        }
        if updates.contains(Updates::TICK) {
            self.handle(Event::Tick);
            self.post_metrics();
        }
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

    fn handle(&mut self, event: Event<'_>) {
        self.pager.handle(event, &mut self.actions);
        self.execute();
    }

    /// Carries out the actions, and those that result from them.
    fn execute(&mut self) {
        loop {
            for action in self.actions.drain() {
                match action {
                    Action::Run(mut batch) => match (batch.lane(), batch.step()) {
                        (Lane::Demand, Step::Load) => {
                            self.demand.load(&mut batch, &*self.store);
                            self.ready.push(batch);
                        }
                        (Lane::Demand, Step::Prep) => {
                            self.owed = true;
                            self.ready.extend(self.demand.prep(batch));
                        }
                        _ => self.queues.push(batch),
                    },
                    Action::Scan(scan) => self.queues.push_scan(scan),
                    Action::Respond(response) => {
                        self.faults.answered(response.gfn);
                        if let Err(error) = self.back.respond(&response) {
                            tracing::error!(%error, gfn = %response.gfn, "a response could not be pushed");
                        }
                    }
                    Action::Free(slot) => self.store.free(slot),
                    Action::Drained(area, outcome) => self.control.drained(area, outcome),
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

    fn stop(&mut self) {
        let out_pages = self.pager.progress().out_pages;
        tracing::info!(out_pages, "stopping: everything is paged back in");
        self.metrics_cell.give_up_terminal();
        self.page_in_progress = Some(PageInProgress::new(out_pages, self.name.is_none()));
        self.handle(Event::Stop);
    }

    fn post_metrics(&mut self) {
        let metrics = &mut self.metrics;
        if metrics.ticks.is_multiple_of(QUANTILE_TICKS) {
            metrics.fault_p50_us = self.faults.quantile_us(0.5);
            metrics.fault_p99_us = self.faults.quantile_us(0.99);
        }
        metrics.ticks += 1;
        let progress = self.pager.progress();
        let told = self.inbox.resident();
        metrics.resident_pages = told.unwrap_or_else(|| progress.resident_pages());
        metrics.balance_limit_pages = self.inbox.bounds().0;
        metrics.progress = progress;
        metrics.store = self.store.counts();
        self.metrics_cell.post(metrics);
    }

    /// Row B9. Paging is disabled only when no page is out, so that no vcpu is left waiting for a
    /// page that nobody pages in.
    fn tear_down(mut self, summary: Summary) -> Result<Ended, ShellError> {
        let (progress, store) = (self.pager.progress(), self.store.counts());
        self.page_in_progress = None;
        for gfn in self.pager.unreadable() {
            tracing::error!("{gfn} is out and cannot be read from the store");
        }
        self.metrics_cell.end();
        // The published metrics are removed when the reporter ends.
        let _ = self.reporter.take().map(JoinHandle::join);
        self.queues.close();
        let store_worker = self.store_worker.take().map(JoinHandle::join);
        let hypercall_worker = self.hypercall_worker.take().map(JoinHandle::join);
        let (Some(Ok(mut calls)), Some(Ok(()))) = (hypercall_worker, store_worker) else {
            return Err(ShellError::Worker);
        };
        if summary.domain_alive && summary.unreadable_pages == 0 {
            self.disable(&mut *calls)?;
        }
        Ok(Ended {
            summary,
            progress,
            store,
        })
    }

    /// Disables paging. Requests still arrive while vcpus are in the wait queue.
    fn disable(&mut self, calls: &mut dyn Calls) -> Result<(), ShellError> {
        for _ in 0..DISABLE_ATTEMPTS {
            if calls.disable()? {
                return Ok(());
            }
            while self.round() {}
            thread::sleep(DISABLE_PAUSE);
        }
        Err(ShellError::StillQueued)
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
        Report::StoreRecovered => tracing::info!("{report}"),
        Report::StoreFull { .. } | Report::Delayed { .. } => tracing::warn!("{report}"),
        _ => tracing::error!("{report}"),
    }
}
