// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signals. While pages are out, none that can be handled ends the pager at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM,
    SIGXCPU, SIGXFSZ,
};
use signal_hook::iterator::Signals;

use super::inbox::{Inbox, Updates};

/// An operator's signals: they page everything back in (row B3). Two within a second insist.
const OPERATORS: [i32; 3] = [SIGTERM, SIGINT, SIGQUIT];
/// Other signals that page everything back in: the terminal or the power goes, or time is up.
const STOPS: [i32; 4] = [SIGHUP, SIGALRM, libc::SIGPWR, SIGXCPU];
/// Signals that would end a program that does not handle them. With SIGXFSZ handled, a write beyond
/// `RLIMIT_FSIZE` fails with `EFBIG`.
const IGNORED: [i32; 7] = [
    SIGXFSZ,
    SIGUSR1,
    SIGUSR2,
    SIGVTALRM,
    SIGPROF,
    SIGIO,
    libc::SIGSTKFLT,
];

/// Signals of a terminal's job control, which would stop all threads. They are ignored rather than
/// handled: a thread that writes to the terminal would get SIGTTOU again and again.
const JOB_CONTROL: [i32; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// Handles all of them from here on. Returns those that stop the pager.
pub(super) fn handle_all() -> io::Result<Signals> {
    let signals = Signals::new(OPERATORS.iter().chain(&STOPS))?;
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    for signal in IGNORED.into_iter().chain(real_time) {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    for signal in JOB_CONTROL {
        // SAFETY: `SIG_IGN` runs no code, and nothing else changes what these signals do.
        if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(signals)
}

/// Passes signals on until they are closed.
pub(super) fn pass_on(mut signals: Signals, inbox: &Inbox) {
    for signal in &mut signals.forever() {
        if OPERATORS.contains(&signal) {
            inbox.push_signal();
        } else {
            inbox.notify(Updates::STOP);
        }
    }
}
