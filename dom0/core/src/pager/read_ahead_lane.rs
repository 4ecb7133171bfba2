// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is to be paged in together with pages that are asked for.

use p2m_paging::Gfn;

use crate::read_ahead::{ReadAhead, ReadAheadRange};

/// Read-ahead, and the ranges that it wants and that are not in a batch yet.
#[derive(Debug)]
pub(super) struct ReadAheadLane {
    pub(super) streams: ReadAhead,
    wanted: Vec<ReadAheadRange>,
}

impl ReadAheadLane {
    /// Ranges of at most `max_pages` pages, for as many requests as there can be.
    pub(super) fn new(max_pages: usize, requests: usize) -> Self {
        Self {
            streams: ReadAhead::new(max_pages as u64),
            wanted: Vec::with_capacity(requests),
        }
    }

    /// A page that is out is asked for. Where more ranges are wanted than there can be requests, the
    /// request adds none: nothing is allocated for it.
    pub(super) fn fault(&mut self, gfn: Gfn) {
        if self.wanted.len() < self.wanted.capacity() {
            self.wanted.extend(self.streams.fault(gfn));
        }
    }

    /// The nth range that is wanted.
    pub(super) fn wanted(&self, nth: usize) -> Option<ReadAheadRange> {
        self.wanted.get(nth).copied()
    }

    /// The ranges have been put into a batch, or there is none for them.
    pub(super) fn clear_wanted(&mut self) {
        self.wanted.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_ranges_are_wanted_than_there_is_room_for() {
        let mut lane = ReadAheadLane::new(7, 4);
        let room = lane.wanted.capacity();
        // Every second fault is the second of a stream, and wants a range.
        for n in 0..1000 {
            lane.fault(Gfn::new_truncate(n / 2 * 1000 + n % 2));
        }
        assert_eq!((lane.wanted.len(), lane.wanted.capacity()), (room, room));
        assert!(lane.wanted(room - 1).is_some() && lane.wanted(room).is_none());
        lane.clear_wanted();
        assert!(lane.wanted(0).is_none());
    }
}
