// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client of xenstore: the wire protocol of `public/io/xs_wire.h`, over the daemon's socket or
//! the kernel's device. It supports any number of watches.
//!
//! | file | what |
//! |---|---|
//! | `wire` | messages |
//! | `client` | a connection, with a time limit for each request |
//! | `link` | the thread that serves a pager's other threads, so that none of them waits for xenstore |

mod client;
#[cfg(test)]
mod client_tests;
#[cfg(test)]
pub(crate) mod fake_daemon;
mod link;
#[cfg(test)]
mod link_tests;
mod wire;

use rustix::io::Errno;

pub use client::Xenstore;
pub(super) use link::{Link, News, StatusNode};
pub use wire::{Header, PAYLOAD_MAX, message};

/// Why a request to xenstore failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum XenstoreError {
    /// No daemon and no device could be opened.
    #[error("xenstore does not run: /run/xenstored/socket is not there")]
    NotRunning,
    /// The connection failed.
    #[error("xenstore: {step}: {errno}")]
    System {
        /// The system call.
        step: &'static str,
        /// Its error.
        errno: Errno,
    },
    /// Xenstore refused, with the name of an error.
    #[error("xenstore: {path}: {error}")]
    Refused {
        /// The node of the request.
        path: String,
        /// `ENOENT` and the like.
        error: String,
    },
    /// A request was not answered in time.
    #[error("xenstore does not answer")]
    TimedOut,
    /// The connection was closed, or a reply is not valid.
    #[error("xenstore has closed the connection, or its reply is not valid")]
    Broken,
}

fn at(step: &'static str) -> impl Fn(Errno) -> XenstoreError {
    move |errno| XenstoreError::System { step, errno }
}

/// The node at which a domain's pager publishes its metrics. The guest may read it, but not write
/// it.
pub fn status_path(domain: u16) -> String {
    format!("/local/domain/{domain}/memory/paging")
}
