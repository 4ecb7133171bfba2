// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a pagefile is not to be had.

use std::path::PathBuf;

use rustix::io::Errno;

/// Why a pagefile could not be created, opened again or removed.
#[derive(Debug, thiserror::Error)]
pub enum PagefileError {
    /// Something with that name exists: a file, a link, anything.
    #[error("{} exists already; remove it, if no other pager uses it", path.display())]
    Exists {
        /// The path that was given.
        path: PathBuf,
    },
    /// The file could not be created.
    #[error("{} cannot be created: {errno}", path.display())]
    Create {
        /// The path that was given.
        path: PathBuf,
        /// The error.
        errno: Errno,
    },
    /// The file could not be opened again.
    #[error("{} cannot be opened: {errno}", path.display())]
    Open {
        /// The path that was given.
        path: PathBuf,
        /// The error.
        errno: Errno,
    },
    /// Another pager has the file.
    #[error("{} is in use", path.display())]
    InUse {
        /// The path that was given.
        path: PathBuf,
    },
    /// The file is not one that only its owner can change.
    #[error(
        "{} is not a file that belongs to user {user} alone: its owner is {owner}, its mode {mode:o}",
        path.display()
    )]
    Exposed {
        /// The path that was given.
        path: PathBuf,
        /// The user of this process.
        user: u32,
        /// The owner of the file.
        owner: u32,
        /// Type and permissions of the file.
        mode: u32,
    },
    /// The file could not be unlinked.
    #[error("{} cannot be unlinked: {errno}", path.display())]
    Unlink {
        /// The path that was given.
        path: PathBuf,
        /// The error.
        errno: Errno,
    },
}
