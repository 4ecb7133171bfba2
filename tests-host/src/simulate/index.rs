// SPDX-License-Identifier: MIT OR Apache-2.0
//! The index of what is out: where each page lies. It survives the pager, and has the rules of the real
//! one (`dom0/store/src/index.rs`): an entry is set before the page is evicted and cleared after it has
//! come in, and a page that moves changes its entry at once.

use std::collections::BTreeMap;

use p2m_paging::Gfn;
use pager_core::Location;

/// Where a page lies, and the checksum of what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) location: Location,
    pub(super) checksum: u64,
}

/// The entries, by gfn. Those of pages that are not out mean nothing.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: BTreeMap<Gfn, Entry>,
}

impl Index {
    /// A page is about to be evicted; its contents are durable there.
    pub(super) fn set(&mut self, gfn: Gfn, entry: Entry) {
        self.entries.insert(gfn, entry);
    }

    /// A page that is out lies elsewhere, with the same contents.
    pub(super) fn move_to(&mut self, gfn: Gfn, location: Location) {
        let entry = self.entries.get_mut(&gfn);
        entry
            .unwrap_or_else(|| panic!("{gfn} moves and has no entry"))
            .location = location;
    }

    /// A page is resident, or gone.
    pub(super) fn clear(&mut self, gfn: Gfn) {
        self.entries.remove(&gfn);
    }

    pub(super) fn get(&self, gfn: Gfn) -> Option<Entry> {
        self.entries.get(&gfn).copied()
    }
}
