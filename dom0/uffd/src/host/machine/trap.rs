// SPDX-License-Identifier: MIT OR Apache-2.0
//! Traps: what a VM exit is to a CPU, SIGBUS is to a vcpu's thread here.
//!
//! userfaultfd can end an access that finds no page, or a protected one, with SIGBUS instead of a
//! message to somebody else. The thread that stopped then works its own fault off, with no other
//! thread in between, and tries the access again when the handler returns.
//!
//! **What the handler may do.** Usually next to nothing, because a signal may come in the middle of
//! anything: of the allocator, of a lock being held. This one is synchronous. It comes from the one
//! instruction that touches guest memory, and those stand in [`GuestMemory`](crate::host::guest_memory) and
//! in its users: plain loads and stores by a thread that has said that it is a vcpu, with no lock held
//! that the hypervisor's half, the allocator or the log takes. So the handler is an ordinary call made
//! at that instruction: it may lock, log and sleep. It must not touch guest memory itself, and does
//! not.
//!
//! System calls on guest memory (a `read` into it) get EFAULT instead of a trap: there are none.

use std::cell::Cell;
use std::ffi::c_int;
use std::io;
use std::sync::OnceLock;

use p2m_paging::VcpuId;
use p2m_paging::p2m::Access;

use super::Machine;

/// Bit of a page fault's error code: the access was a write.
const ERROR_WRITE: libc::greg_t = 1 << 1;

/// What is said before the process ends.
const NO_VCPU: &[u8] =
    b"memory cannot be accessed: a guest's page that is out was touched by a thread that is \
no vcpu, or a file that is mapped has become shorter\n";

thread_local! {
    /// Which vcpu this thread is. Needs no memory and no destructor, so that the handler may look.
    static VCPU: Cell<Option<(&'static Machine, VcpuId)>> = const { Cell::new(None) };
}

/// Who took care of SIGBUS before, once [`install`] has been called.
static BEFORE: OnceLock<Result<libc::sigaction, c_int>> = OnceLock::new();

/// From here on the calling thread is a vcpu of this machine.
pub(super) fn enter(machine: &'static Machine, vcpu: VcpuId) {
    VCPU.set(Some((machine, vcpu)));
}

/// Has traps handled, in the whole process; once is enough.
pub(super) fn install() -> io::Result<()> {
    let before = BEFORE.get_or_init(|| {
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
        let mut action = default_action();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO;
        set_action(&action)
    });
    let failed = |&errno| io::Error::from_raw_os_error(errno);
    before.as_ref().map(drop).map_err(failed)
}

fn default_action() -> libc::sigaction {
    // SAFETY: a structure of numbers; all zeros are SIG_DFL, no flags and an empty mask.
    unsafe { std::mem::zeroed() }
}

/// Yields the action before, or an errno.
fn set_action(action: &libc::sigaction) -> Result<libc::sigaction, c_int> {
    let mut before = default_action();
    // SAFETY: both structures live through the call. The action is the default one, one that was in
    // force before, or `on_sigbus`, which has the signature that SA_SIGINFO asks for and is sound at
    // every instruction that can raise the signal: see the module.
    match unsafe { libc::sigaction(libc::SIGBUS, action, &raw mut before) } {
        0 => Ok(before),
        _ => Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
    }
}

extern "C" fn on_sigbus(_: c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a context to a handler with SA_SIGINFO, valid until it returns.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    // SAFETY: the same goes for the information.
    let info = unsafe { &*info };
    // SAFETY: SIGBUS has an address. Where a process has sent the signal it is another number, which is
    // not looked at.
    let address = unsafe { info.si_addr() } as u64;
    let write = context.uc_mcontext.gregs[libc::REG_ERR as usize] & ERROR_WRITE != 0;
    let access = if write {
        Access::READ | Access::WRITE
    } else {
        Access::READ
    };
    let is_access = info.si_code == libc::BUS_ADRERR;
    let ours = VCPU
        .get()
        .filter(|_| is_access)
        .and_then(|(machine, vcpu)| {
            let gfn = machine.memory().gfn(address)?;
            Some((machine, vcpu, gfn))
        });
    match ours {
        Some((machine, vcpu, gfn)) => keep_errno(|| machine.on_fault(vcpu, gfn, access)),
        None => forward_signal(),
    }
}

/// What was interrupted must find errno as it was.
fn keep_errno(handle: impl FnOnce()) {
    // SAFETY: always there.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: it is this thread's own.
    let before = unsafe { errno.read() };
    handle();
    // SAFETY: as above.
    unsafe { errno.write(before) };
}

/// No vcpu's access to guest memory: handed on to whoever took care of SIGBUS before, most likely to
/// end the process. It may have come at any instruction, so nothing is done here that is not safe
/// in a signal handler.
fn forward_signal() {
    // If it cannot be said, the signal still can.
    let _ = rustix::io::write(io::stderr(), NO_VCPU);
    let before = BEFORE.get().and_then(|before| before.as_ref().ok());
    // The action that was in force before can be put in force again.
    let _ = set_action(before.unwrap_or(&default_action()));
    // SAFETY: always allowed. The signal is blocked while it is handled: it comes when the handler
    // returns.
    unsafe { libc::raise(libc::SIGBUS) };
}
