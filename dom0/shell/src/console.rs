// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines that a person reads, and the log.
//!
//! Standard error may be a terminal that takes nothing (Ctrl-S, a dead ssh) or a full pipe. A write
//! to it then blocks. So once a pager serves, only the output thread writes: the others leave their
//! lines in a queue of a fixed size. If it is full, lines are dropped and counted.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// The number of bytes that may wait for standard error.
const QUEUE_BYTES: usize = 256 << 10;
/// How long the end of the process waits for standard error.
const FINISH_LIMIT: Duration = Duration::from_secs(1);
/// The stack size of the thread. All of it is locked in memory.
const STACK_BYTES: usize = 128 << 10;

/// Returns to the start of the line and clears it.
pub(super) const CLEAR: &str = "\r\x1b[K";

static STANDARD_ERROR: Output = Output::new();

/// Prints a line. An error of standard output is ignored, since nobody reads it then.
pub fn print_line(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Prints a line on standard error and ignores errors: standard error may be closed, and a pager
/// that ended because of that would lose the guest's pages.
pub fn print_error(line: impl Display) {
    write_error(format!("{line}\n").as_bytes());
}

/// Draws something on standard error. It is dropped if anything else waits there.
pub(super) fn draw(text: &[u8]) {
    match STANDARD_ERROR.push(text, Kind::Drawing) {
        Pushed::NoThread => drop(io::stderr().write_all(text)),
        Pushed::Queued | Pushed::Dropped => {}
    }
}

/// Clears the line that was drawn last.
pub(super) fn clear() {
    write_error(CLEAR.as_bytes());
}

fn write_error(bytes: &[u8]) {
    match STANDARD_ERROR.push(bytes, Kind::Line) {
        Pushed::NoThread => drop(io::stderr().write_all(bytes)),
        Pushed::Queued | Pushed::Dropped => {}
    }
}

/// Standard error for the log. Each write is a whole line or several.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_error(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From now on lines wait for the output thread. Call this before a guest is attached to: its faults
/// must not wait for standard error.
pub fn hold_output() {
    STANDARD_ERROR.state.lock().mode = Mode::Held;
}

/// Starts the output thread. From now on no other thread writes to standard error, not even one
/// that panics. Call this after the process has given up its rights: the thread has no more of them
/// than the others.
pub fn start_output_thread() {
    STANDARD_ERROR.state.lock().mode = Mode::Thread;
    let builder = thread::Builder::new().name("output".into());
    let run = || STANDARD_ERROR.run(&mut io::stderr());
    if let Err(error) = builder.stack_size(STACK_BYTES).spawn(run) {
        STANDARD_ERROR.write_held(&mut io::stderr());
        return print_error(format_args!("the output thread cannot be started: {error}"));
    }
    std::panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("without a name");
        print_error(format_args!("thread '{name}' {panic}"));
        if name == "main" {
            // The process may end before the output thread has written this.
            finish();
        }
    }));
}

/// Waits until everything is written, but not for ever. Call this at the end of the process.
pub fn finish() {
    let mode = STANDARD_ERROR.state.lock().mode;
    match mode {
        Mode::Direct => {}
        Mode::Held => STANDARD_ERROR.write_held(&mut io::stderr()),
        Mode::Thread => STANDARD_ERROR.finish(FINISH_LIMIT),
    }
}

/// What waits to be written.
struct Output {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    mode: Mode,
    queue: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that were dropped since this was said last.
    dropped: u64,
    /// The thread writes what it has taken.
    writes: bool,
}

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Each thread.
    Direct,
    /// Nobody yet.
    Held,
    /// The output thread.
    Thread,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Line,
    Drawing,
}

#[derive(Debug, PartialEq, Eq)]
enum Pushed {
    Queued,
    Dropped,
    /// There is no thread: the caller may write by itself.
    NoThread,
}

impl Output {
    const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                mode: Mode::Direct,
                queue: VecDeque::new(),
                bytes: 0,
                dropped: 0,
                writes: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Queues this if there is room. Never waits for the writer.
    fn push(&self, bytes: &[u8], kind: Kind) -> Pushed {
        let mut state = self.state.lock();
        if state.mode == Mode::Direct {
            return Pushed::NoThread;
        }
        if kind == Kind::Drawing && (state.writes || !state.queue.is_empty()) {
            return Pushed::Dropped;
        }
        if state.bytes + bytes.len() > QUEUE_BYTES {
            state.dropped += 1;
            return Pushed::Dropped;
        }
        state.bytes += bytes.len();
        state.queue.push_back(bytes.to_vec());
        self.changed.notify_all();
        Pushed::Queued
    }

    /// Writes what is queued. Errors are ignored: nobody reads it then.
    fn run(&self, to: &mut dyn Write) {
        loop {
            let bytes = self.next();
            let _ = to.write_all(&bytes);
            let _ = to.flush();
            let mut state = self.state.lock();
            state.writes = false;
            self.changed.notify_all();
        }
    }

    /// Waits for something to write. How many lines were dropped is said once the queue is empty.
    fn next(&self) -> Vec<u8> {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| {
            state.queue.is_empty() && state.dropped == 0
        });
        state.writes = true;
        match state.queue.pop_front() {
            Some(bytes) => {
                state.bytes -= bytes.len();
                bytes
            }
            None => {
                let dropped = std::mem::take(&mut state.dropped);
                format!("xenpaging: {dropped} lines were dropped: standard error took no more\n")
                    .into()
            }
        }
    }

    /// Writes what is queued, on this thread, and lets each thread write from now on.
    fn write_held(&self, to: &mut dyn Write) {
        let queue = {
            let mut state = self.state.lock();
            state.mode = Mode::Direct;
            state.bytes = 0;
            std::mem::take(&mut state.queue)
        };
        for bytes in queue {
            let _ = to.write_all(&bytes);
        }
    }

    fn finish(&self, limit: Duration) {
        let mut state = self.state.lock();
        let waits =
            |state: &mut State| state.writes || !state.queue.is_empty() || state.dropped > 0;
        self.changed.wait_while_for(&mut state, waits, limit);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;

    /// Far above what it needs.
    const TEST_LIMIT: Duration = Duration::from_secs(60);

    fn started() -> (Arc<Output>, UnixStream) {
        let output = Arc::new(Output::new());
        assert_eq!(output.push(b"early", Kind::Line), Pushed::NoThread);
        output.state.lock().mode = Mode::Thread;
        let (ours, theirs) = UnixStream::pair().unwrap();
        let writer = Arc::clone(&output);
        thread::spawn(move || writer.run(&mut &ours));
        (output, theirs)
    }

    #[test]
    fn a_reader_that_takes_nothing_delays_no_line_and_what_was_dropped_is_counted() {
        let (output, reader) = started();
        let line = format!("{}\n", "x".repeat(99));
        let begun = Instant::now();
        let (mut queued, mut dropped) = (0, 0);
        // More than the socket and the queue take.
        while dropped < 1000 {
            match output.push(line.as_bytes(), Kind::Line) {
                Pushed::Queued => queued += 1,
                Pushed::Dropped => dropped += 1,
                Pushed::NoThread => panic!("there is a thread"),
            }
            assert!(begun.elapsed() < TEST_LIMIT, "a line waits");
        }
        assert_eq!(output.push(b"bar", Kind::Drawing), Pushed::Dropped);
        output.finish(Duration::from_millis(10));
        // The reader continues.
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        assert!(
            lines
                .by_ref()
                .take(queued)
                .all(|one| one == line.trim_end())
        );
        let said = lines.next().unwrap();
        assert!(
            said.contains(&format!(": {dropped} lines were dropped")),
            "{said}"
        );
        output.finish(TEST_LIMIT);
        assert_eq!(output.push(b"drawing\n", Kind::Drawing), Pushed::Queued);
        assert_eq!(lines.next().unwrap(), "drawing");
    }

    #[test]
    fn lines_wait_for_a_thread_that_is_not_started_and_are_not_lost() {
        let output = Output::new();
        output.state.lock().mode = Mode::Held;
        assert_eq!(output.push(b"held\n", Kind::Line), Pushed::Queued);
        let mut written = Vec::new();
        output.write_held(&mut written);
        assert_eq!(written, b"held\n");
        assert_eq!(output.push(b"direct", Kind::Line), Pushed::NoThread);
    }

    #[test]
    fn the_end_waits_for_what_is_queued() {
        let (output, reader) = started();
        for _ in 0..100 {
            output.push(b"line\n", Kind::Line);
        }
        output.finish(TEST_LIMIT);
        reader.set_nonblocking(true).unwrap();
        let lines = BufReader::new(reader).lines().map_while(Result::ok);
        assert_eq!(lines.count(), 100);
    }
}
