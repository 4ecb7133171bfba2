// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a pager ends: it brings everything back, disables paging, and only then ends. The exceptions
//! are a guest that is gone, an operator who insists, and another pager that is to take over.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pager_core::{Event, Progress, Summary};
use pager_store::IoCounts;

use super::error::ShellError;
use super::inbox::Updates;
use super::machine::Calls;
use super::page_in_progress::PageInProgress;
use super::serve::Shell;
use super::stop_wait::{Insists, Left, StopWait};

/// Ticks until pages that cannot be read are tried again: a second.
const AGAIN_TICKS: u32 = 10;
/// The pause between two attempts to disable paging.
const DISABLE_PAUSE: Duration = Duration::from_millis(10);
/// The attempts to disable paging after which it is said that it cannot be disabled yet. An error
/// that lasts so long is final.
const DISABLE_ATTEMPTS: u32 = 500;

/// How a pager ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// The core's summary.
    pub summary: Summary,
    /// Pages that the guest lacks, because an operator insisted.
    pub given_up_pages: u64,
    /// Pages that may stay nominated, because an operator insisted. Their contents are in the guest.
    pub nominated_pages: u64,
    /// The core's metrics.
    pub progress: Progress,
    /// The store's metrics.
    pub store: IoCounts,
}

/// What has been decided about the end.
#[derive(Debug, Default)]
pub(super) struct End {
    /// Set from the stop on.
    wait: Option<StopWait>,
    /// Ticks until a stop that left pages out is repeated.
    again: Option<u32>,
    /// Why the pager stopped by itself.
    failure: Option<ShellError>,
    /// An operator insists.
    given_up: bool,
    /// An operator wants another pager to take over.
    hands_over: bool,
    /// A batch is lost with its worker, so the core cannot finish.
    is_stuck: bool,
}

impl End {
    /// Whether systemd is to be told that the pager works.
    pub(super) fn is_healthy(&self) -> bool {
        !self.is_stuck
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up
    }

    /// The pager ends as if it were killed: whatever is under way, the next one finds what it needs.
    pub(super) fn hand_over(&mut self) {
        self.hands_over = true;
    }

    pub(super) fn hands_over(&self) -> bool {
        self.hands_over
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.wait.is_some()
    }
}

impl Shell {
    /// Everything is paged back in.
    fn stop(&mut self) {
        if self.end.wait.is_some() {
            return;
        }
        self.control.stopping();
        let left = self.left();
        let out_pages = left.out;
        tracing::info!(out_pages, "stopping: everything is paged back in");
        self.metrics_cell.give_up_terminal();
        self.page_in_progress = Some(PageInProgress::new(out_pages, self.name.is_none()));
        self.end.wait = Some(StopWait::new(left));
        self.handle(Event::Stop);
    }

    /// The pager cannot work as it should: everything is paged back in, and then it fails.
    pub(super) fn fail(&mut self, error: ShellError) {
        if self.end.failure.is_none() {
            tracing::error!("{error}: everything is paged back in");
            self.end.failure = Some(error);
        }
        self.stop();
    }

    /// Takes note of signals, panics and ticks.
    pub(super) fn on_end_updates(&mut self, updates: Updates) {
        if updates.contains(Updates::WORKER_LOST) && !self.end.is_stuck {
            self.end.is_stuck = true;
            tracing::error!(
                "a worker is lost: pages are brought in only when the guest needs them, and the \
                 pager cannot end"
            );
        }
        if updates.contains(Updates::PANICKED) {
            self.fail(ShellError::Panicked);
        }
        if updates.contains(Updates::STOP) {
            self.stop();
            for at in self.inbox.signals() {
                match self.end.wait.as_mut().map(|wait| wait.signalled(at)) {
                    Some(Insists::Told(line)) => tracing::warn!("{line}"),
                    Some(Insists::Yes) => self.end.given_up = true,
                    Some(Insists::No) | None => {}
                }
            }
        }
        if updates.contains(Updates::TICK) {
            self.on_end_tick();
        }
    }

    fn left(&self) -> Left {
        Left::of(&self.pager.progress(), self.demand.pages_being_read())
    }

    fn note_left(&mut self) {
        let left = self.left();
        if let Some(line) = self.end.wait.as_mut().and_then(|wait| wait.tick(left)) {
            tracing::warn!("{line}");
        }
    }

    fn on_end_tick(&mut self) {
        self.note_left();
        match self.end.again {
            Some(0) => {
                self.end.again = None;
                self.handle(Event::Stop);
            }
            Some(ticks) => self.end.again = Some(ticks - 1),
            None => {}
        }
    }

    /// The core has finished. Returns whether the pager may end: no page is out, or the guest is
    /// gone. Otherwise the core is told to try again, a second later.
    pub(super) fn may_end(&mut self, summary: &Summary) -> bool {
        let may_end = !summary.domain_alive || summary.unreadable_pages == 0;
        if may_end {
            // What was waited for may have come since the last tick.
            self.note_left();
        } else {
            self.end.again = Some(AGAIN_TICKS);
        }
        may_end
    }

    /// An operator insists. Workers may hang in the store, so they are not waited for.
    pub(super) fn abandon(mut self) -> Ended {
        let progress = self.pager.progress();
        let left = self.left();
        self.page_in_progress = None;
        self.end_reporter();
        Ended {
            summary: Summary {
                domain_alive: true,
                unreadable_pages: progress.unreadable_pages,
            },
            given_up_pages: left.out,
            nominated_pages: left.stay_nominated(),
            progress,
            store: self.store.counts(),
        }
    }

    /// Row B9. Paging is disabled only when no page is out, so that no vcpu is left waiting for a
    /// page that nobody pages in.
    pub(super) fn tear_down(mut self, summary: Summary) -> Result<Ended, ShellError> {
        let (progress, store) = (self.pager.progress(), self.store.counts());
        self.page_in_progress = None;
        self.queues.close();
        // The store is not needed any more, and a panic of its worker has been handled.
        let _ = self.store_worker.take().map(JoinHandle::join);
        let hypercall_worker = self.hypercall_worker.take().map(JoinHandle::join);
        let disabled = match hypercall_worker {
            _ if !summary.domain_alive => Ok(()),
            Some(Ok(Some(mut calls))) => self.disable(&mut *calls),
            _ => Err(ShellError::StaysEnabled),
        };
        self.end_reporter();
        if let Some((how, out_pages)) = self.lost {
            return Err(how.error(out_pages));
        }
        disabled?;
        match self.end.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(Ended {
                summary,
                given_up_pages: 0,
                nominated_pages: 0,
                progress,
                store,
            }),
        }
    }

    /// The published metrics are removed when the reporter ends.
    fn end_reporter(&mut self) {
        self.metrics_cell.end();
        let _ = self.reporter.take().map(JoinHandle::join);
    }

    /// Disables paging. While vcpus are in the wait queue, their requests still arrive. A pager that
    /// ended now would leave them there.
    fn disable(&mut self, calls: &mut dyn Calls) -> Result<(), ShellError> {
        let began = Instant::now();
        let mut attempts: u32 = 0;
        let mut errors_in_a_row: u32 = 0;
        loop {
            let refused = match calls.disable() {
                Ok(true) => {
                    if attempts > DISABLE_ATTEMPTS {
                        tracing::warn!("paging is disabled, after {:.0?}", began.elapsed());
                    }
                    return Ok(());
                }
                Ok(false) => None,
                Err(error) => Some(error),
            };
            attempts = attempts.saturating_add(1);
            match refused {
                Some(error) if errors_in_a_row >= DISABLE_ATTEMPTS => return Err(error.into()),
                Some(_) => errors_in_a_row += 1,
                None => errors_in_a_row = 0,
            }
            if attempts == DISABLE_ATTEMPTS {
                tracing::warn!(
                    "paging cannot be disabled yet, because vcpus are queued for a ring slot. The \
                     pager tries again until it can, and does not end before"
                );
            }
            while self.round() {}
            if self.finished.is_some_and(|summary| !summary.domain_alive) {
                return Ok(());
            }
            thread::sleep(DISABLE_PAUSE);
        }
    }
}
