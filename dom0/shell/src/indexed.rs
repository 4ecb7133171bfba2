// SPDX-License-Identifier: MIT OR Apache-2.0
//! The index beside the calls to the machine: a page is noted before it is evicted, and not noted any
//! more once it is resident.

use std::sync::Arc;
use std::time::Instant;

use p2m_paging::Errno;
use pager_core::{Location, Page, PageError};
use pager_store::index::{Index, IndexError};
use pager_store::{PageStore, StoreError};

use super::machine::{Calls, MachineError};
use super::repeated::Repeated;

/// The index as the hypercall worker uses it.
pub(super) struct Indexed {
    pub(super) index: Arc<Index>,
    pub(super) store: Arc<dyn PageStore>,
    pub(super) failures: Repeated,
}

impl Indexed {
    /// Notes where each page lies, then evicts those that could be noted. The others stay: a pager that
    /// came after this one would not find them.
    pub(super) fn evict(
        &mut self,
        calls: &mut dyn Calls,
        pages: &mut [Page],
    ) -> Result<(), MachineError> {
        let mut failed = false;
        for page in &mut *pages {
            if let Err(error) = self.note(page) {
                failed = true;
                page.outcome = Err(error);
            }
        }
        if !failed {
            if let Some(lasted) = self.failures.ended(Instant::now()) {
                tracing::warn!("pages can be noted in the index again, after {lasted:.1?}");
            }
            return calls.evict(pages);
        }
        let is_noted = |page: &Page| page.outcome == Err(PageError::NotDone);
        let mut noted: Vec<_> = pages.iter().copied().filter(is_noted).collect();
        if noted.is_empty() {
            return Ok(());
        }
        let evicted = calls.evict(&mut noted);
        for (page, noted) in pages.iter_mut().filter(|page| is_noted(page)).zip(noted) {
            *page = noted;
        }
        evicted
    }

    fn note(&mut self, page: &Page) -> Result<(), PageError> {
        let checksum = match page.location() {
            Location::Zeros => 0,
            Location::Slot(slot) => {
                let checksum = self.store.checksum(slot);
                checksum.ok_or(PageError::Store(StoreError::Empty { slot }))?
            }
        };
        let noted = self.index.set(page.gfn(), page.location(), checksum);
        noted.map_err(|error| {
            if self.failures.happened(Instant::now()) {
                tracing::error!("a page stays resident, as the index has no entry for it: {error}");
            }
            PageError::NotNoted {
                errno: match error {
                    IndexError::System { errno, .. } => Some(errno.raw_os_error()),
                    _ => None,
                },
            }
        })
    }
}

/// These pages have been prepped. Those that are resident now, or that the guest has given back, are not
/// out any more.
pub(super) fn clear_resident(index: Option<&Index>, pages: &[Page]) {
    let Some(index) = index else { return };
    for page in pages {
        if matches!(
            page.outcome,
            Ok(()) | Err(PageError::Refused(Errno::ENOENT))
        ) {
            index.clear(page.gfn());
        }
    }
}
