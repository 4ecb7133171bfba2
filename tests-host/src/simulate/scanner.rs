// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pager's worker reads accessed bits. The machine panics if a use is missing in them.

use p2m_paging::Errno;
use p2m_paging::p2m::{AccessBits, ClearBits};

use super::event_queue::SimEvent;
use super::scenario::Knob;
use super::world::World;

/// 64 gfns each: all gfns of such a small guest on either side of the hole, and twice the number
/// that is read under one lock.
const WORDS: usize = 16;

impl World<'_> {
    /// Reads and clears the bits of the part that the pager has asked about.
    pub(super) fn scans(&self, id: u32) {
        let taken = {
            let mut pager = self.pager.borrow_mut();
            let process = pager.as_mut().filter(|process| process.id == id);
            process.and_then(|process| process.scan.take())
        };
        // The pager that asked was killed.
        let Some(mut scan) = taken else { return };
        let clear = if self.chance(500) {
            ClearBits::Accessed
        } else {
            ClearBits::AccessedAndDirty
        };
        let mut uses = [AccessBits::default(); WORDS];
        scan.outcome = if self.strikes(Knob::Unseen) {
            Err(Errno::EOPNOTSUPP)
        } else {
            let taken = self
                .paging
                .read_clear_access_bits(scan.first(), &mut uses, clear);
            taken.map_err(|error| error.errno())
        };
        for (word, uses) in scan.accessed.iter_mut().zip(uses) {
            *word = uses.accessed.into_inner()[0];
        }
        let used: usize = uses.iter().map(|uses| uses.accessed.count_ones()).sum();
        self.note("scan", [scan.first().get(), used as u64]);
        let mut pager = self.pager.borrow_mut();
        if let Some(process) = pager.as_mut().filter(|process| process.id == id) {
            process.scan = Some(scan);
            drop(pager);
            self.soon(4_000, SimEvent::ScanDone(id));
        }
    }
}
