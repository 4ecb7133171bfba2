// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a pager does not start, or does not go on.

use std::io;

use rustix::io::Errno;

use super::machine::MachineError;

/// Why the pager could not start, or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShellError {
    /// The machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The threads and signals of the pager.
    #[error("{step}: {error}")]
    System {
        /// What was tried.
        step: &'static str,
        /// Why not.
        error: io::Error,
    },
    /// A thread that pages out has failed.
    #[error("a worker thread has failed")]
    Worker,
    /// The machine's events.
    #[error("no more events from the machine: {0}")]
    Events(Errno),
    /// Vcpus kept asking for pages although none is out.
    #[error("paging cannot be disabled: vcpus are still queued for a ring slot")]
    StillQueued,
}

pub(super) fn at(step: &'static str) -> impl Fn(io::Error) -> ShellError {
    move |error| ShellError::System { step, error }
}
