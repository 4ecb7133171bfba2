// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rounds over the pages of a guest, lowest first, which go on until nothing is left to do.
//!
//! Prefetch and the drain of an area work this way. Each decides by itself when the next round waits
//! and when a round was stalled.

/// Where a series of rounds is.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// The page at which the round goes on.
    pub(super) cursor: u64,
    /// Nothing is done before the next tick.
    pub(super) waits: bool,
    /// Rounds in a row that were stalled.
    pub(super) stalled_rounds: u32,
    failed: bool,
    progress: bool,
}

/// How a round went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Round {
    /// Something did not work for a page.
    pub(super) failed: bool,
    /// Something worked for a page.
    pub(super) progress: bool,
}

impl Rounds {
    /// Something did not work for a page.
    pub(super) fn fails(&mut self) {
        self.failed = true;
    }

    /// Something worked for a page.
    pub(super) fn makes_progress(&mut self) {
        self.progress = true;
    }

    /// The round has come to the last page: the next one begins at the first.
    pub(super) fn next_round(&mut self) -> Round {
        self.cursor = 0;
        Round {
            failed: std::mem::take(&mut self.failed),
            progress: std::mem::take(&mut self.progress),
        }
    }
}
