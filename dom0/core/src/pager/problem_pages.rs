// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that are not what they should be, until somebody says or sees otherwise.

use p2m_paging::Gfn;

use crate::event::Report;
use crate::outage::{Outage, Ticks};
use crate::sparse::SparseSet;

/// Few pages at any time, and usually none.
#[derive(Debug, Default)]
pub(super) struct ProblemPages {
    /// Out, and did not read back when last tried.
    pub(super) unreadable: SparseSet,
    /// Out since before this pager came, and nothing says where they lie.
    pub(super) lost: SparseSet,
    /// Out, and did not read back while a drop was pending: the prep will say whether it is removed.
    pub(super) maybe_dropped: SparseSet,
    /// Found removed when they were paged in. The guest's drop request has not come yet.
    pub(super) removed: SparseSet,
    /// Still nominated although told to be restored. They are told again before the pager ends.
    pub(super) nominated: SparseSet,
    /// Since when some page has been unreadable.
    pub(super) reads_fail: Outage,
    /// Since when some page has been nominated that should not be.
    pub(super) restores_fail: Outage,
    /// One of them has been requested: they are restored now, and not only before the pager ends.
    pub(super) restore_soon: bool,
    /// They have been told since the last tick.
    pub(super) restore_waits: bool,
}

impl ProblemPages {
    /// The page did not read back. Returns whether this is to be reported.
    pub(super) fn read_failed(&mut self, gfn: Gfn) -> bool {
        self.unreadable.insert(gfn.get(), ());
        self.reads_fail.happens()
    }

    /// The page was not restored. Returns whether this is to be reported.
    pub(super) fn restore_failed(&mut self, gfn: Gfn) -> bool {
        self.nominated.insert(gfn.get(), ());
        self.restores_fail.happens()
    }

    /// Some time passed. Returns what has ended.
    pub(super) fn tick(&mut self) -> [Option<Report>; 2] {
        self.restore_waits = false;
        self.reads_fail.tick();
        self.restores_fail.tick();
        self.ended(Outage::end_if_quiet)
    }

    /// The pager finishes. Returns what has ended.
    pub(super) fn finish(&mut self) -> [Option<Report>; 2] {
        self.ended(Outage::end)
    }

    fn ended(&mut self, end: impl Fn(&mut Outage) -> Option<Ticks>) -> [Option<Report>; 2] {
        let readable = if self.unreadable.is_empty() {
            end(&mut self.reads_fail)
        } else {
            None
        };
        let restored = if self.nominated.is_empty() {
            end(&mut self.restores_fail)
        } else {
            None
        };
        [
            readable.map(|lasted| Report::ReadableAgain { lasted }),
            restored.map(|lasted| Report::AllRestored { lasted }),
        ]
    }

    /// The page was read, or is not wanted any more.
    pub(super) fn not_unreadable(&mut self, gfn: Gfn) {
        self.unreadable.remove(gfn.get());
    }

    /// The page is resident, or forgotten.
    pub(super) fn not_maybe_dropped(&mut self, gfn: Gfn) {
        self.maybe_dropped.remove(gfn.get());
    }

    /// The page has left the state `paging_out`, or is about to.
    pub(super) fn not_nominated(&mut self, gfn: Gfn) {
        self.nominated.remove(gfn.get());
        if self.nominated.is_empty() {
            self.restore_soon = false;
        }
    }

    /// Memory in use, in bytes.
    pub(super) fn table_bytes(&self) -> usize {
        let sets = [
            &self.unreadable,
            &self.lost,
            &self.maybe_dropped,
            &self.removed,
            &self.nominated,
        ];
        sets.into_iter().map(SparseSet::table_bytes).sum()
    }
}
