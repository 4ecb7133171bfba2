// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that are not what they should be, until somebody says or sees otherwise.

use p2m_paging::Gfn;

use crate::sparse::SparseSet;

/// Few pages at any time, and usually none.
#[derive(Debug, Default)]
pub(super) struct ProblemPages {
    /// Out, and did not read back when last tried.
    pub(super) unreadable: SparseSet,
    /// Out, and did not read back while a drop was pending: the prep will say whether it is removed.
    pub(super) maybe_dropped: SparseSet,
    /// Found removed when they were paged in. The guest's drop request has not come yet.
    pub(super) removed: SparseSet,
    /// Still nominated although told to be restored.
    pub(super) nominated: SparseSet,
}

impl ProblemPages {
    /// The page did not read back. Returns whether that is news.
    pub(super) fn read_failed(&mut self, gfn: Gfn) -> bool {
        self.unreadable.insert(gfn.get(), ()).is_none()
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
    }

    /// Memory in use, in bytes.
    pub(super) fn table_bytes(&self) -> usize {
        let sets = [
            &self.unreadable,
            &self.maybe_dropped,
            &self.removed,
            &self.nominated,
        ];
        sets.into_iter().map(SparseSet::table_bytes).sum()
    }
}
