// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reporter thread: once a second it passes the metrics on to whoever wants them, so that the main
//! thread waits for none of them.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::machine::Publish;
use super::metrics::Metrics;
use super::service::ServiceMember;

/// Where the main thread leaves its metrics.
#[derive(Debug, Default)]
pub(super) struct MetricsCell {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    metrics: Metrics,
    ended: bool,
    /// The terminal has a line that is drawn over.
    live: bool,
}

impl MetricsCell {
    /// With `live`, a terminal has a line of metrics.
    pub(super) fn new(live: bool) -> Self {
        let metrics_cell = Self::default();
        metrics_cell.state.lock().live = live && io::stderr().is_terminal();
        metrics_cell
    }

    /// Somebody else draws on the terminal from here on.
    pub(super) fn give_up_terminal(&self) {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.live) {
            draw(CLEAR);
        }
    }

    /// Draws the line over the last one; whether there is a place for it.
    fn draw(&self, line: &str) -> bool {
        let state = self.state.lock();
        if state.live {
            draw(format_args!("{CLEAR}{line}"));
        }
        state.live
    }

    pub(super) fn post(&self, metrics: &Metrics) {
        self.state.lock().metrics = *metrics;
    }

    /// There will be no more.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.ended.notify_all();
    }

    pub(super) fn metrics(&self) -> Metrics {
        self.state.lock().metrics
    }

    /// Whether there will be no more.
    pub(super) fn is_over(&self) -> bool {
        self.state.lock().ended
    }

    /// The metrics in a second; `None` once there are no more.
    fn next(&self) -> Option<Metrics> {
        let mut state = self.state.lock();
        if !state.ended {
            self.ended.wait_for(&mut state, SECOND);
        }
        (!state.ended).then_some(state.metrics)
    }
}

/// Back to the start of the line, and nothing on it.
const CLEAR: &str = "\r\x1b[K";
const SECOND: Duration = Duration::from_secs(1);

/// The terminal may be gone.
fn draw(text: impl Display) {
    let _ = write!(io::stderr(), "{text}");
}

/// Passes metrics on until there are no more.
pub(super) fn report(
    metrics_cell: &MetricsCell,
    mut publish: Option<Box<dyn Publish>>,
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
        // A main thread that does not count on does not live.
        member.report(&line, now.ticks != before.ticks);
        before = now;
    }
    metrics_cell.give_up_terminal();
    member.leave();
}
