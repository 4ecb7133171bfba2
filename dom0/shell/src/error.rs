// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a pager does not start, or stops with an error.

use std::io;

use pager_store::index::StoreIdentity;
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
    /// The index is about another store, or the store is one that does not survive its pager.
    #[error("the index is about another store than the pager has: {index}, not {store:?}")]
    OtherStore {
        /// The store that the index is about.
        index: StoreIdentity,
        /// The store of the pager. `None`: memory, or swap areas.
        store: Option<StoreIdentity>,
    },
    /// A thread has panicked. Everything was paged back in.
    #[error("a thread of the pager has panicked")]
    Panicked,
    /// The machine's events could not be received any more. Everything was paged back in.
    #[error("no more events from the machine: {0}")]
    Events(Errno),
    /// Every page is resident, but the calls that disable paging are gone with their thread.
    #[error("paging stays enabled, because the thread that disables it has panicked")]
    StaysEnabled,
    /// The guest has another pager now.
    #[error(
        "another pager has attached to the guest: this one ends and changes nothing ({out_pages} pages were out, or on their way out)"
    )]
    Replaced {
        /// The pages that this pager had out, or on their way out.
        out_pages: u64,
    },
    /// An operator wants another pager to take over.
    #[error("another pager is to take over: this one ends, and {out_pages} pages stay out")]
    HandedOver {
        /// The pages that stay out.
        out_pages: u64,
    },
    /// Paging was disabled, and not by this pager.
    #[error(
        "paging of the guest was disabled, and not by this pager: it cannot serve the guest any more, and \
         ends ({out_pages} pages were out, or on their way out)"
    )]
    Disabled {
        /// The pages that this pager had out, or on their way out.
        out_pages: u64,
    },
}

pub(super) fn at(step: &'static str) -> impl Fn(io::Error) -> ShellError {
    move |error| ShellError::System { step, error }
}
