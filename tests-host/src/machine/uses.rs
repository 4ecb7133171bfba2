// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the machine itself knows of uses. The bits that are read are compared with it.

use std::collections::BTreeMap;

use p2m_paging::Gfn;
use p2m_paging::p2m::{Access, ClearBits};

/// Gfns whose bits have been cleared, and the accesses since. An entry that is written anew is not
/// followed any more: a CPU may still use what it remembers, and leave no trace in the new entry.
#[derive(Debug, Default)]
pub(super) struct Followed(BTreeMap<Gfn, Since>);

#[derive(Clone, Copy, Debug, Default)]
struct Since {
    accessed: bool,
    /// `None`: its dirty bit was not cleared.
    dirty: Option<bool>,
}

impl Followed {
    /// The entry is written.
    pub(super) fn forget(&mut self, gfn: Gfn) {
        self.0.remove(&gfn);
    }

    /// A vcpu has made an access.
    pub(super) fn used(&mut self, gfn: Gfn, access: Access) {
        if let Some(since) = self.0.get_mut(&gfn) {
            since.accessed = true;
            since.dirty = since
                .dirty
                .map(|dirty| dirty || access.contains(Access::WRITE));
        }
    }

    /// The bits have been read, and cleared.
    pub(super) fn taken(&mut self, gfn: Gfn, (accessed, dirty): (bool, bool), clear: ClearBits) {
        if let Some(since) = self.0.get(&gfn) {
            assert!(accessed || !since.accessed, "{gfn} was used unnoted");
            assert!(
                dirty || since.dirty != Some(true),
                "{gfn} was written unnoted"
            );
        }
        let both = clear == ClearBits::AccessedAndDirty;
        // Only cleared entries are flushed. If an entry was written lately and not used since, a
        // CPU may still remember the entry that was there before.
        if accessed || dirty && both {
            let (accessed, dirty) = (false, both.then_some(false));
            self.0.insert(gfn, Since { accessed, dirty });
        }
    }
}
