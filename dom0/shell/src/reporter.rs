// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reporter thread. Once a second it passes the metrics on, so that the main thread waits for
//! no reader of them.

use std::io::{self, IsTerminal as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::console::{self, CLEAR};
use super::machine::Publish;
use super::metrics::Metrics;
use super::service::ServiceMember;

/// The cell in which the main thread leaves its metrics.
#[derive(Debug, Default)]
pub(super) struct MetricsCell {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    metrics: Metrics,
    ended: bool,
    /// The terminal shows a line that is drawn over.
    live: bool,
}

impl MetricsCell {
    /// With `live`, a terminal shows a line of metrics.
    pub(super) fn new(live: bool) -> Self {
        let metrics_cell = Self::default();
        metrics_cell.state.lock().live = live && io::stderr().is_terminal();
        metrics_cell
    }

    /// Stops drawing, because another part draws on the terminal from now on.
    pub(super) fn give_up_terminal(&self) {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.live) {
            console::clear();
        }
    }

    /// Draws the line over the last one. Returns whether a terminal shows it.
    fn draw(&self, line: &str) -> bool {
        let state = self.state.lock();
        if state.live {
            console::draw(format!("{CLEAR}{line}").as_bytes());
        }
        state.live
    }

    pub(super) fn post(&self, metrics: &Metrics) {
        self.state.lock().metrics = *metrics;
    }

    /// Notes that no more metrics follow.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.ended.notify_all();
    }

    pub(super) fn metrics(&self) -> Metrics {
        self.state.lock().metrics
    }

    /// Whether no more metrics follow.
    pub(super) fn is_over(&self) -> bool {
        self.state.lock().ended
    }

    /// Waits a second and returns the metrics; `None` once no more follow.
    fn next(&self) -> Option<Metrics> {
        let mut state = self.state.lock();
        if !state.ended {
            self.ended.wait_for(&mut state, SECOND);
        }
        (!state.ended).then_some(state.metrics)
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// Passes metrics on until no more follow. After a panic, `publish` is kept until then: what publishes
/// may also serve other threads of the pager, and ends when it is dropped.
pub(super) fn report(
    metrics_cell: &MetricsCell,
    mut publish: Option<Box<dyn Publish>>,
    member: &ServiceMember,
    on_panic: impl FnOnce(),
) {
    let pass_on = || pass_on(metrics_cell, publish.as_deref_mut(), member);
    if catch_unwind(AssertUnwindSafe(pass_on)).is_err() {
        on_panic();
        while metrics_cell.next().is_some() {}
    }
    metrics_cell.give_up_terminal();
}

fn pass_on(
    metrics_cell: &MetricsCell,
    mut publish: Option<&mut (dyn Publish + 'static)>,
    member: &ServiceMember,
) {
    let mut before = metrics_cell.metrics();
    member.begin();
    while let Some(now) = metrics_cell.next() {
        let line = now.since(&before).to_string();
        if !metrics_cell.draw(&line) {
            tracing::info!("{line}");
        }
        if let Some(publish) = &mut publish {
            publish.publish(&now.line());
        }
        // A main thread whose ticks do not grow hangs.
        member.report(&line, now.ticks != before.ticks);
        before = now;
    }
}
