// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the program ends.

use std::process::ExitCode;

/// How the program ends. The [command line](crate::cli) lists the codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Every page is resident.
    Done = 0,
    /// An error occurred, and every page is resident.
    Failed = 1,
    /// Bad arguments.
    Usage = 2,
    /// The pager could not start.
    NotStarted = 3,
    /// Pages are out that were not brought back.
    PagesOut = 4,
    /// Pages of a guest that lives are out, or paging is enabled, and this pager is gone. Another one
    /// with the same arguments takes over.
    NextTakesOver = 5,
}

impl Exit {
    /// The exit code of two guests: the one that needs attention first.
    #[must_use]
    pub fn worst(self, other: Self) -> Self {
        let urgency = |exit: &Self| match exit {
            Self::Done => 0,
            Self::Usage => 1,
            Self::NotStarted => 2,
            Self::Failed => 3,
            Self::PagesOut => 4,
            // A guest waits, and another pager serves it.
            Self::NextTakesOver => 5,
        };
        std::cmp::max_by_key(self, other, urgency)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
