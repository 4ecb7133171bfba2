// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rights that the pager gives up once it has opened everything it needs. A pager sees all of a
//! guest's memory, and it reads a ring that the guest's domain shares.
//!
//! Descriptors that are open stay usable. What is forbidden afterwards:
//!
//! | what | by |
//! |---|---|
//! | opening a file, removing one outside the folders of [`Needs::removed_files`] | Landlock |
//! | binding or connecting TCP sockets | Landlock, and no socket is made but AF_UNIX |
//! | abstract sockets and signals to processes outside | Landlock, if the kernel has scopes |
//! | any system call that a serving pager does not make (`calls`) | seccomp |
//! | ioctls but those of [`Needs::ioctls`] and a few of Rust's library | seccomp |
//! | memory that can be executed | seccomp |
//! | all capabilities but those that `keep_capabilities` names | capset |
//!
//! A system call outside the allowed ones fails with EPERM and does not end the process: a pager that
//! dies makes its guest wait.

mod calls;
#[cfg(test)]
mod tests;

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, Scope,
};
use rustix::io::Errno;
use rustix::mm::MlockAllFlags;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

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
    /// The capabilities could not be given up.
    #[error("capabilities: {0}")]
    Capabilities(Errno),
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

/// What a serving pager needs beyond what every pager needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs<'a> {
    /// The files whose names are removed at the end.
    pub removed_files: &'a [&'a Path],
    /// The ioctls of the machine's devices.
    pub ioctls: &'a [u32],
}

/// Call this after everything has been opened and before other threads exist.
pub fn drop_privileges(needs: Needs<'_>) -> Result<(), HardenError> {
    let folders: Vec<&Path> = needs
        .removed_files
        .iter()
        .map(|file| folder(file))
        .collect();
    restrict_files(&folders)?;
    keep_capabilities(&folders)?;
    calls::restrict(needs.ioctls)
}

fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Forbids opening any file, and removing one outside these folders.
fn restrict_files(folders: &[&Path]) -> Result<(), HardenError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))?
        .handle_access(AccessNet::from_all(ABI::V5))?;
    if !systemd_listens_in_the_abstract() {
        rules = rules.scope(Scope::from_all(ABI::V6))?;
    }
    let mut rules = rules.create()?;
    for folder in folders {
        let folder = PathFd::new(folder)?;
        rules = rules.add_rule(PathBeneath::new(folder, AccessFs::RemoveFile))?;
    }
    rules.restrict_self()?;
    Ok(())
}

/// Whether systemd's socket is an abstract one, as in some containers.
fn systemd_listens_in_the_abstract() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|name| name.as_bytes().starts_with(b"@"))
}

/// Keeps the right to lock memory: all future memory is locked, and the limit may be lower. Keeps the
/// right to go around file modes only if a file is to be removed from a folder of another user.
fn keep_capabilities(folders: &[&Path]) -> Result<(), HardenError> {
    let user = rustix::process::geteuid();
    let is_own =
        |folder: &Path| rustix::fs::stat(folder).is_ok_and(|folder| folder.st_uid == user.as_raw());
    let mut kept = CapabilitySet::IPC_LOCK;
    if !folders.iter().all(|folder| is_own(folder)) {
        kept |= CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER;
    }
    let had = rustix::thread::capabilities(None).map_err(HardenError::Capabilities)?;
    let kept = CapabilitySets {
        effective: had.effective & kept,
        permitted: had.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, kept).map_err(HardenError::Capabilities)
}
