// SPDX-License-Identifier: MIT OR Apache-2.0
//! A stack that overflows runs into its guard page: the process ends, and prints the reason.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::{Once, OnceLock};

use super::context::{PAGE_SIZE, STACK_SIZE};

const MESSAGE: &[u8] = b"a task has overflowed its stack\n";

thread_local! {
    static ON_TASK: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread runs on a task's stack now.
pub(super) fn is_on_task() -> bool {
    ON_TASK.get()
}

pub(super) fn set_on_task(on: bool) {
    ON_TASK.set(on);
}

/// The former handler of the signal.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// From now on the overflow of any task's stack is reported. Each of Rust's threads has an
/// alternate stack for signals already.
pub(super) fn watch() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        let mut before = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: only reads the present action, into memory for it.
        unsafe { libc::sigaction(libc::SIGSEGV, std::ptr::null(), before.as_mut_ptr()) };
        // SAFETY: all zeros are a `sigaction`, too.
        let before = *BEFORE.get_or_init(|| unsafe { before.assume_init() });
        let action = libc::sigaction {
            sa_sigaction: handle as *const () as usize,
            sa_flags: libc::SA_SIGINFO | libc::SA_ONSTACK,
            ..before
        };
        // SAFETY: the handler does only what a handler may.
        unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, null_mut()) };
    });
}

extern "C" fn handle(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: a handler with SA_SIGINFO is given this.
    let info = unsafe { &*info };
    // SAFETY: a SIGSEGV has an address.
    let address = unsafe { info.si_addr() }.addr();
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: as above.
    let sp = unsafe { (*context).uc_mcontext.gregs[libc::REG_RSP as usize] }.cast_unsigned();
    let sp = usize::try_from(sp).unwrap_or(0);
    let base = sp & !(STACK_SIZE - 1);
    let guard = base + PAGE_SIZE..base + 2 * PAGE_SIZE;
    if is_on_task() && guard.contains(&address) {
        // SAFETY: writes a constant.
        unsafe { libc::write(2, MESSAGE.as_ptr().cast(), MESSAGE.len()) };
        // SAFETY: ends the process.
        unsafe { libc::abort() };
    }
    // Another fault: the instruction faults again, under the former handler.
    if let Some(before) = BEFORE.get() {
        // SAFETY: the former action.
        unsafe { libc::sigaction(libc::SIGSEGV, before, null_mut()) };
    }
}
