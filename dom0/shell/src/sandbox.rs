// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rights that the pager gives up once it has opened everything it needs. A pager sees all of a
//! guest's memory, and it reads a ring that the guest's domain shares.
//!
//! Descriptors that are open stay usable. A system call outside the allowed ones fails with EPERM
//! and does not end the process: a pager that dies loses the guest's pages.

use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _,
};
use rustix::mm::MlockAllFlags;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// Why a right was not given up. The pager continues; it is then as well protected as any other
/// program.
#[derive(Debug, thiserror::Error)]
pub enum HardenError {
    /// Access to files could not be restricted.
    #[error("Landlock: {0}")]
    Files(#[from] landlock::RulesetError),
    /// The directory in which files may still be removed could not be opened.
    #[error("Landlock: {0}")]
    Directory(#[from] landlock::PathFdError),
    /// The system call filter could not be installed.
    #[error("seccomp: {0}")]
    Calls(#[from] seccompiler::Error),
    /// The system call filter could not be built.
    #[error("seccomp filter: {0}")]
    Filter(#[from] seccompiler::BackendError),
}

/// Call this before the pager sees any of the guest's data. It forbids core dumps and debuggers of
/// the same user, and locks all present and future memory.
pub fn protect_memory() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(errno) = rustix::process::setrlimit(Resource::Core, none) {
        tracing::warn!(%errno, "core dumps stay possible");
    }
    if let Err(errno) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%errno, "debuggers may attach");
    }
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE;
    if let Err(errno) = rustix::mm::mlockall(flags) {
        tracing::warn!(
            %errno,
            "the pager's memory is not locked: raise RLIMIT_MEMLOCK, or a fault may wait for the \
             pager itself"
        );
    }
}

/// Call this after everything has been opened and before other threads exist. `pagefiles` are those
/// whose names are removed at the end.
pub fn drop_privileges(pagefiles: &[&Path]) -> Result<(), HardenError> {
    restrict_files(pagefiles)?;
    restrict_calls()
}

/// Forbids opening any file.
fn restrict_files(pagefiles: &[&Path]) -> Result<(), HardenError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))?
        .create()?;
    for pagefile in pagefiles {
        let directory = match pagefile.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let directory = PathFd::new(directory)?;
        rules = rules.add_rule(PathBeneath::new(directory, AccessFs::RemoveFile))?;
    }
    rules.restrict_self()?;
    Ok(())
}

fn restrict_calls() -> Result<(), HardenError> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(
        NEEDED.iter().map(|&call| (call, Vec::new())).collect(),
        SeccompAction::Errno(libc::EPERM.cast_unsigned()),
        SeccompAction::Allow,
        arch,
    )?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)?;
    Ok(())
}

/// The system calls that a serving pager makes, grouped by purpose.
const NEEDED: [libc::c_long; 62] = [
    // Xen's devices, the pagefile, xenstore, logs.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_ioctl,
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
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_brk,
    // Threads, time, signals.
    libc::SYS_futex,
    libc::SYS_prctl,
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
    libc::SYS_socket,
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
