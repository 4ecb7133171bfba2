// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system calls that are left.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::HardenError;

/// Ioctls of the libraries: about a terminal, and about new sockets. glibc 2.42 asks a terminal by
/// `TCGETS2`.
const IOCTLS: [u64; 5] = [
    libc::TCGETS,
    0x802c_542a,
    libc::TIOCGWINSZ,
    libc::FIONBIO,
    libc::FIOCLEX,
];

/// Every call outside the allowed ones fails with EPERM from now on.
pub(super) fn restrict(ioctls: &[u32]) -> Result<(), HardenError> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(
        rules(ioctls)?,
        SeccompAction::Errno(libc::EPERM.cast_unsigned()),
        SeccompAction::Allow,
        arch,
    )?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)?;
    Ok(())
}

/// What is allowed: a call with any arguments, or with those of one of its rules.
fn rules(ioctls: &[u32]) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut rules: BTreeMap<_, _> = NEEDED.iter().map(|&call| (call, Vec::new())).collect();
    let numbers = ioctls.iter().copied().map(u64::from).chain(IOCTLS);
    let numbers = numbers.map(|number| argument(1, SeccompCmpOp::Eq, number));
    rules.insert(libc::SYS_ioctl, numbers.collect::<Result<_, _>>()?);
    // Memory that can be executed is neither mapped nor made.
    let executable = SeccompCmpOp::MaskedEq(u64::from(libc::PROT_EXEC.cast_unsigned()));
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![argument(2, executable.clone(), 0)?]);
    }
    let family = u64::from(libc::AF_UNIX.cast_unsigned());
    let socket = argument(0, SeccompCmpOp::Eq, family)?;
    rules.insert(libc::SYS_socket, vec![socket]);
    // The name of a thread.
    let name = u64::from(libc::PR_SET_NAME.cast_unsigned());
    let prctl = argument(0, SeccompCmpOp::Eq, name)?;
    rules.insert(libc::SYS_prctl, vec![prctl]);
    Ok(rules)
}

/// The kernel looks at the lower half of all these arguments only.
fn argument(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)?;
    SeccompRule::new(vec![condition])
}

/// The system calls that a serving pager makes with any arguments, grouped by purpose.
const NEEDED: [libc::c_long; 58] = [
    // Xen's devices, the pagefile, xenstore, logs.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwritev,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_close,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_flock,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_brk,
    // Threads, time, signals.
    libc::SYS_futex,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // The signal pipe, Prometheus' clients, operators, systemd.
    libc::SYS_connect,
    libc::SYS_accept4,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
];
