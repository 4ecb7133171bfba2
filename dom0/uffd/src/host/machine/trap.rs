// SPDX-License-Identifier: MIT OR Apache-2.0
//! Traps: SIGBUS is to a vcpu's thread here what a VM exit is to a CPU.
//!
//! userfaultfd can end an access to a missing or a protected page with SIGBUS, instead of a message
//! to another thread. The thread that stopped then handles its own fault, without any other thread,
//! and tries the access again when the handler returns.
//!
//! **What the handler may do.** A signal handler may do almost nothing in general, because a signal
//! may arrive at any instruction: inside the allocator, or while a lock is held. This signal is
//! synchronous. It is raised only by an instruction that accesses guest memory. These instructions
//! are in [`GuestMemory`](crate::host::guest_memory) and in its users: plain loads and stores by a
//! thread that has registered as a vcpu and holds no lock that the hypervisor half, the allocator
//! or the log takes. So the handler is an ordinary call made at that instruction: it may lock, log
//! and sleep. It must not access guest memory itself, and it does not.
//!
//! A system call on guest memory (such as a `read` into it) gets EFAULT instead of a trap. No code
//! makes one.

use std::cell::Cell;
use std::ffi::c_int;
use std::io;
use std::sync::OnceLock;

use p2m_paging::VcpuId;
use p2m_paging::p2m::Access;

use super::Machine;

/// The bit of a page fault's error code that says that the access was a write.
const ERROR_WRITE: libc::greg_t = 1 << 1;

/// The message before the process ends.
const NO_VCPU: &[u8] =
    b"memory cannot be accessed: a guest's page that is out was touched by a thread that is \
no vcpu, or a file that is mapped has become shorter\n";

thread_local! {
    /// The vcpu that this thread is. It needs no allocation and no destructor, so the handler may
    /// read it.
    static VCPU: Cell<Option<(&'static Machine, VcpuId)>> = const { Cell::new(None) };
}

/// The previous handler of SIGBUS, once [`install`] has been called.
static BEFORE: OnceLock<Result<libc::sigaction, c_int>> = OnceLock::new();

/// Makes the calling thread a vcpu of this machine.
pub(super) fn enter(machine: &'static Machine, vcpu: VcpuId) {
    VCPU.set(Some((machine, vcpu)));
}

/// Installs the handler for the whole process. One call is enough.
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
    // SAFETY: a structure of numbers. All zeros mean SIG_DFL, no flags and an empty mask.
    unsafe { std::mem::zeroed() }
}

/// Sets the action. Returns the previous one, or an errno.
fn set_action(action: &libc::sigaction) -> Result<libc::sigaction, c_int> {
    let mut before = default_action();
    // SAFETY: both structures live through the call. The action is the default one, a previous one,
    // or `on_sigbus`. `on_sigbus` has the signature that SA_SIGINFO requires and is sound at every
    // instruction that can raise the signal: see the module.
    match unsafe { libc::sigaction(libc::SIGBUS, action, &raw mut before) } {
        0 => Ok(before),
        _ => Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
    }
}

extern "C" fn on_sigbus(_: c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a context to a handler with SA_SIGINFO. It is valid until the
    // handler returns.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    // SAFETY: the same holds for the information.
    let info = unsafe { &*info };
    // SAFETY: a SIGBUS that the kernel raises has an address. If a process has sent the signal, the
    // field holds another number, which is not used.
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

/// Restores errno, which the interrupted code may still need.
fn keep_errno(handle: impl FnOnce()) {
    // SAFETY: the location always exists.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: it belongs to this thread.
    let before = unsafe { errno.read() };
    handle();
    // SAFETY: as above.
    unsafe { errno.write(before) };
}

/// Handles a SIGBUS that no vcpu's access raised: passes it to the previous handler, which most
/// likely ends the process. It may have arrived at any instruction, so only calls that are safe in
/// a signal handler are made here.
fn forward_signal() {
    // The signal is forwarded even if the message cannot be written.
    let _ = rustix::io::write(io::stderr(), NO_VCPU);
    let before = BEFORE.get().and_then(|before| before.as_ref().ok());
    // An action that was in force before can be set again.
    let _ = set_action(before.unwrap_or(&default_action()));
    // SAFETY: always allowed. The signal is blocked while it is handled; it is delivered when the
    // handler returns.
    unsafe { libc::raise(libc::SIGBUS) };
}
