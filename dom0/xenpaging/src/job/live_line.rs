// SPDX-License-Identifier: MIT OR Apache-2.0
//! The line that shows progress.

use std::cell::Cell;
use std::io::{IsTerminal as _, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use p2m_paging::paging::{Count, Counters};
use pager_shell::console::print_error;
use pager_uffd::host::p2m::PageCounts;

use super::options::Sizes;

/// The time between two lines where no terminal can redraw one.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// A line on the terminal that is redrawn.
#[derive(Debug)]
pub(super) struct Line {
    bar: ProgressBar,
    sizes: Sizes,
    /// The time of the last plain line, if lines are plain.
    printed: Option<Cell<Instant>>,
}

impl Line {
    pub(super) fn new(sizes: Sizes) -> Self {
        let bar = ProgressBar::new(sizes.pages);
        let style = "filling guest memory {wide_bar} {pos}/{len} pages";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        let plain = !stderr().is_terminal();
        Self {
            bar,
            sizes,
            printed: plain.then(|| Cell::new(Instant::now())),
        }
    }

    pub(super) fn filling(&self, pages: u64) {
        // Redrawing costs more than filling a page does.
        if pages.is_multiple_of(256) {
            self.bar.set_position(pages);
        }
        if pages == self.sizes.pages
            && let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}")
        {
            self.bar.set_style(style);
        }
    }

    pub(super) fn working(
        &self,
        elapsed: Duration,
        counts: &PageCounts,
        visits: u64,
        counters: &Counters,
        bad: u64,
    ) {
        // The most important values come first: a narrow terminal cuts off the end.
        let line = || {
            let seconds = elapsed.as_secs_f64();
            format!(
                "{seconds:4.1} s  bad {bad}  out {}/{}  evicted {}  brought in {}  visits {:.0}/s  vcpu pauses {:.0}/s",
                counts.paged,
                self.sizes.pages - self.sizes.target,
                counters.get(Count::Evicted),
                counters.get(Count::Prepped),
                visits as f64 / seconds,
                counters.get(Count::Paused) as f64 / seconds,
            )
        };
        match &self.printed {
            None => {
                self.bar.set_message(line());
                self.bar.tick();
            }
            Some(last) if last.get().elapsed() >= PLAIN_INTERVAL => {
                last.set(Instant::now());
                print_error(line());
            }
            Some(_) => {}
        }
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
