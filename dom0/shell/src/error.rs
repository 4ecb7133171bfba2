// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a pager does not start, or stops with an error.

use std::io;

use rustix::io::Errno;

use super::machine::MachineError;

/// Why the pager could not start, or could not continue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShellError {
    /// The machine has failed.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A thread or a signal handler could not be set up.
    #[error("{step}: {error}")]
    System {
        /// The step that failed.
        step: &'static str,
        /// The error of this step.
        error: io::Error,
    },
    /// A worker thread has panicked.
    #[error("a worker thread has failed")]
    Worker,
    /// The machine's events cannot be received any more.
    #[error("no more events from the machine: {0}")]
    Events(Errno),
    /// Vcpus kept requesting pages although no page is out.
    #[error("paging cannot be disabled: vcpus are still queued for a ring slot")]
    StillQueued,
}

pub(super) fn at(step: &'static str) -> impl Fn(io::Error) -> ShellError {
    move |error| ShellError::System { step, error }
}
