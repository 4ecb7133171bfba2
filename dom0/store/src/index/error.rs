// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why an index is not to be had, or does not take an entry.

use p2m_paging::Gfn;
use rustix::io::Errno;

use super::MAX_GFNS;
use super::header::{GuestIdentity, StoreIdentity, VERSION};

/// Why an index cannot be made, opened, or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// A system call failed.
    #[error("{what}: {errno}")]
    System {
        /// The step that failed.
        what: &'static str,
        /// The error of this step.
        errno: Errno,
    },
    /// A pager that lives has the index.
    #[error("the index is in use: the guest has a pager")]
    Locked,
    /// The file is not one that only its owner can change.
    #[error(
        "the index is not a file that belongs to user {user} alone: its owner is {owner}, its mode {mode:o}"
    )]
    Exposed {
        /// The user of this process.
        user: u32,
        /// The owner of the file.
        owner: u32,
        /// Type and permissions of the file.
        mode: u32,
    },
    /// An index is made in an empty file only.
    #[error("the file for a new index has {bytes} bytes already")]
    NotEmpty {
        /// Its size.
        bytes: u64,
    },
    /// The file is too short for a header.
    #[error("{bytes} bytes are too few for an index")]
    TooShort {
        /// Its size.
        bytes: u64,
    },
    /// The file has not the size that its header states.
    #[error("the index has {bytes} bytes, not {expected}")]
    OtherSize {
        /// Its size.
        bytes: u64,
        /// The size for the number of gfns in the header.
        expected: u64,
    },
    /// The magic is wrong. A file of zeros is an index whose pager was killed while it made it: no page
    /// was ever noted there.
    #[error("not an index: its magic is \"{}\"", found.escape_ascii())]
    NotAnIndex {
        /// The magic in the file.
        found: [u8; 8],
    },
    /// The checksum of the header is wrong.
    #[error("damaged index: the checksum of its header is {found:#010x}, not {expected:#010x}")]
    Damaged {
        /// The checksum in the header.
        found: u32,
        /// The checksum of the header's contents.
        expected: u32,
    },
    /// The version is unknown.
    #[error(
        "index of another version of xenpaging: its version is {found}, not {}",
        VERSION
    )]
    OtherVersion {
        /// The version in the header.
        found: u32,
    },
    /// The index has pages of another guest.
    #[error("index of another guest: {found}, not {expected}")]
    OtherGuest {
        /// The guest in the header.
        found: GuestIdentity,
        /// The guest that the pager is for.
        expected: GuestIdentity,
        /// The store in the header.
        store: StoreIdentity,
    },
    /// The index is about another store.
    #[error("index of another store: {found}, not {expected}")]
    OtherStore {
        /// The store in the header.
        found: StoreIdentity,
        /// The store that the pager has.
        expected: StoreIdentity,
    },
    /// No index is that large, or that small.
    #[error("no index has {gfns} gfns: 1 to {MAX_GFNS} are possible")]
    Gfns {
        /// The number of gfns.
        gfns: u64,
    },
    /// The gfn is none of the index.
    #[error("{gfn} is beyond the {gfns} gfns of the index")]
    Beyond {
        /// The gfn.
        gfn: Gfn,
        /// How many gfns the index has.
        gfns: u64,
    },
    /// A page is to be moved that has no entry.
    #[error("{gfn} has no entry")]
    NoEntry {
        /// The gfn.
        gfn: Gfn,
    },
}

pub(super) fn at(what: &'static str) -> impl Fn(Errno) -> IndexError {
    move |errno| IndexError::System { what, errno }
}
