// SPDX-License-Identifier: MIT OR Apache-2.0
//! The walks that a CPU remembers until it is flushed. An owed flush that is not done shows as a
//! guest that still uses a frame.

use p2m_paging::Gfn;
use p2m_paging::p2m::Access;

use super::tables::Translation;

const WAYS: usize = 16;

/// The translations that one vcpu's CPU remembers.
#[derive(Clone, Debug, Default)]
pub(super) struct Tlb([Option<(Gfn, Translation)>; WAYS]);

impl Tlb {
    /// A remembered translation that allows this access. One that allows less is walked again. So
    /// is a first write, which must set the dirty bit.
    pub(super) fn get(&self, gfn: Gfn, access: Access) -> Option<Translation> {
        let (held, translation) = self.0[way(gfn)]?;
        let usable = held == gfn
            && translation.allowed.contains(access)
            && (translation.dirty || !access.contains(Access::WRITE));
        usable.then_some(translation)
    }

    /// Remembers a walk.
    pub(super) fn fill(&mut self, gfn: Gfn, translation: Translation) {
        self.0[way(gfn)] = Some((gfn, translation));
    }

    /// Forgets everything.
    pub(super) fn flush(&mut self) {
        self.0 = [None; WAYS];
    }
}

fn way(gfn: Gfn) -> usize {
    usize::try_from(gfn.get() % WAYS as u64).expect("below 16")
}
