// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking over: what a pager that was killed has left. The p2m says which pages are out, the index says
//! where they lie, and the store says whether that can be.

use p2m_paging::Gfn;
use pager_core::{Adoption, Location, Pager};
use pager_store::PageStore;
use pager_store::index::{Entry, Index};

use super::machine::{Calls, MachineError, PagingStates};

/// Words of 64 gfns that are listed in one call.
const WORDS: usize = 1024;

/// Lists the states of all pages that the guest or the index can have, and lets the pager adopt those
/// that are out or nominated. The other pager may have paged more of the guest than this one does.
pub(super) fn take_over(
    pager: Pager,
    calls: &mut dyn Calls,
    index: &Index,
    store: &dyn PageStore,
) -> Result<Pager, MachineError> {
    let ends = pager.memory().iter().map(|range| range.end() + 1);
    let end = ends.fold(index.gfns(), u64::max);
    let mut adoption = pager.adopt();
    let mut states = vec![PagingStates::default(); WORDS];
    let mut first = 0;
    while first < end
        && let Some(gfn) = Gfn::try_new(first)
    {
        let words = usize::try_from((end - first).div_ceil(64)).unwrap_or(WORDS);
        let states = &mut states[..words.min(WORDS)];
        states.fill(PagingStates::default());
        calls.paging_states(gfn, states)?;
        for state in states {
            for gfn in gfns(first, state.out) {
                adopt_out(&mut adoption, gfn, index, store);
            }
            gfns(first, state.nominated).for_each(|gfn| adoption.nominated(gfn));
            first += 64;
        }
    }
    let pager = adoption.finish();
    let progress = pager.progress();
    tracing::info!(
        out_pages = progress.adopted,
        lost_pages = progress.lost_pages,
        nominated_pages = progress.nominated_pages,
        "taken over from a pager that was killed"
    );
    Ok(pager)
}

/// A page that is out. An entry that the store knows to be wrong is none, and is removed: another page
/// may get its slot.
fn adopt_out(adoption: &mut Adoption, gfn: Gfn, index: &Index, store: &dyn PageStore) {
    let is_there = |entry: &Entry| match entry.location {
        Location::Slot(slot) => store.adopt(slot, entry.checksum).is_ok(),
        Location::Zeros => true,
    };
    let entry = index.get(gfn).filter(is_there);
    let is_adopted = entry.is_some_and(|entry| adoption.out(gfn, entry.location));
    if !is_adopted {
        adoption.lost(gfn);
        index.clear(gfn);
    }
}

/// The gfns of a bit set.
fn gfns(first: u64, set: u64) -> impl Iterator<Item = Gfn> {
    let bits = (0..64).filter(move |bit| set >> bit & 1 == 1);
    bits.filter_map(move |bit| Gfn::try_new(first + bit))
}

#[cfg(test)]
#[path = "take_over_tests.rs"]
mod tests;
