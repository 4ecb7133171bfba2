// SPDX-License-Identifier: MIT OR Apache-2.0
//! The progress of paging everything back in: a bar on a terminal, elsewhere a line now and then.

use std::fmt::Write;
use std::io::{self, IsTerminal as _};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle, TermLike};
use parking_lot::Mutex;

use super::console;

/// Ticks between two plain lines: two seconds.
const LINE_TICKS: u32 = 20;
/// How often the bar is drawn at most, in a second.
const DRAW_HZ: u8 = 10;
/// The width of a bar where the terminal does not tell its own.
const COLUMNS: u16 = 80;

/// The progress. It is shown until it is dropped.
#[derive(Debug)]
pub(super) struct PageInProgress {
    bar: ProgressBar,
    ticks: u32,
    /// The number of pages in the last line.
    said: Option<u64>,
}

impl PageInProgress {
    /// Starts with this many pages out. A terminal has room for the bar of one guest only.
    pub(super) fn new(out_pages: u64, alone: bool) -> Self {
        let target = if alone && io::stderr().is_terminal() {
            ProgressDrawTarget::term_like_with_hz(Box::new(Terminal::default()), DRAW_HZ)
        } else {
            ProgressDrawTarget::hidden()
        };
        Self::shown_by(ProgressBar::with_draw_target(Some(out_pages), target))
    }

    fn shown_by(bar: ProgressBar) -> Self {
        let style = ProgressStyle::with_template(
            "paging back in {wide_bar} {pos}/{len} pages, {rate}, {eta} left",
        );
        let rate = |state: &ProgressState, to: &mut dyn Write| {
            // An error cannot be reported here, so it is ignored.
            let _ = write!(to, "{:.0} pages/s", state.per_sec());
        };
        let bar = match style {
            Ok(style) => bar.with_style(style.with_key("rate", rate)),
            Err(_) => bar,
        };
        Self {
            bar,
            ticks: 0,
            said: None,
        }
    }

    /// Updates the number of pages that are still out.
    pub(super) fn left(&self, out_pages: u64) {
        let all = self.bar.length().unwrap_or(out_pages);
        self.bar.set_position(all.saturating_sub(out_pages));
    }

    /// Counts a tick. Returns the line to print, if one is due, says something new, and no bar is
    /// visible.
    pub(super) fn tick(&mut self) -> Option<String> {
        self.ticks += 1;
        let due = self.bar.is_hidden() && self.ticks.is_multiple_of(LINE_TICKS);
        let back = self.bar.position();
        let is_news = due && self.said.replace(back) != Some(back);
        is_news.then(|| {
            let all = self.bar.length().unwrap_or_default();
            format!("paging back in: {back} of {all} pages")
        })
    }
}

impl Drop for PageInProgress {
    fn drop(&mut self) {
        let was_seen = !self.bar.is_hidden();
        self.bar.finish_and_clear();
        if was_seen {
            console::clear();
        }
    }
}

/// The terminal on standard error. What is drawn goes through the output thread, so that the main
/// thread does not wait for the terminal.
#[derive(Debug, Default)]
struct Terminal(Mutex<String>);

impl Terminal {
    fn add(&self, text: &str) -> io::Result<()> {
        self.0.lock().push_str(text);
        Ok(())
    }

    fn move_by(&self, columns: usize, way: char) -> io::Result<()> {
        if columns == 0 {
            return Ok(());
        }
        self.add(&format!("\x1b[{columns}{way}"))
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        rustix::termios::tcgetwinsize(io::stderr())
            .ok()
            .map(|size| size.ws_col)
            .filter(|columns| *columns > 0)
            .unwrap_or(COLUMNS)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.move_by(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.move_by(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.move_by(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.move_by(n, 'D')
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        self.add(line)?;
        self.add("\n")
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.add(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.add(console::CLEAR)
    }

    fn flush(&self) -> io::Result<()> {
        let drawn = std::mem::take(&mut *self.0.lock());
        if !drawn.is_empty() {
            console::draw(drawn.as_bytes());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_bar_is_seen_a_line_comes_now_and_then() {
        let mut page_in_progress = PageInProgress::shown_by(ProgressBar::hidden());
        page_in_progress.bar.set_length(1000);
        page_in_progress.left(400);
        let lines: Vec<_> = (0..2 * LINE_TICKS)
            .filter_map(|_| page_in_progress.tick())
            .collect();
        assert_eq!(lines, ["paging back in: 600 of 1000 pages"]);
        page_in_progress.left(300);
        let more: Vec<_> = (0..LINE_TICKS)
            .filter_map(|_| page_in_progress.tick())
            .collect();
        assert_eq!(more, ["paging back in: 700 of 1000 pages"]);
    }
}
