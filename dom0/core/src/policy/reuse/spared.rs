// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that came in unasked, and are spared for a while.

use std::collections::VecDeque;

use p2m_paging::Gfn;

use super::super::ScanPart;

/// At most.
const MOST: usize = 512;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct SparedReadAhead {
    /// Oldest first; each page once.
    pages: VecDeque<SparedPage>,
}

#[derive(Clone, Copy, Debug)]
struct SparedPage {
    gfn: Gfn,
    /// Its accessed bit has not been read and cleared since it came in ([`ScanPart::shows_use`]).
    first_look: bool,
}

impl Default for SparedReadAhead {
    fn default() -> Self {
        Self {
            pages: VecDeque::with_capacity(MOST),
        }
    }
}

impl SparedReadAhead {
    /// A page has come in. The one that is spared no longer, where there are more than `limit`.
    pub(super) fn push(&mut self, gfn: Gfn, limit: u64) -> Option<Gfn> {
        let limit = usize::try_from(limit).unwrap_or(MOST).clamp(1, MOST - 1);
        self.pages.push_back(SparedPage {
            gfn,
            first_look: true,
        });
        (self.pages.len() > limit).then(|| self.pop()).flatten()
    }

    /// The oldest, if there is nothing else.
    pub(super) fn pop(&mut self) -> Option<Gfn> {
        self.pages.pop_front().map(|page| page.gfn)
    }

    /// The page is no memory any more.
    pub(super) fn remove(&mut self, gfn: Gfn) {
        self.pages.retain(|page| page.gfn != gfn);
    }

    /// Accessed bits have been read and cleared: takes out those that have been used.
    pub(super) fn scanned(&mut self, part: &ScanPart<'_>) -> Vec<Gfn> {
        let mut used = Vec::new();
        self.pages.retain_mut(|page| {
            let is_used = part.shows_use(page.gfn.get(), &mut page.first_look);
            if is_used {
                used.push(page.gfn);
            }
            !is_used
        });
        used
    }

    /// Memory in use, in bytes.
    pub(super) fn table_bytes(&self) -> usize {
        self.pages.capacity() * size_of::<SparedPage>()
    }
}
