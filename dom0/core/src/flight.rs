// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages in flight: those in the batches that the shell has.
//!
//! They are few (a few batches) and have their memory from the start, so a fault allocates nothing.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use p2m_paging::Gfn;

/// Whether a page is being paged out or in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Out,
    In,
}

/// What is to become of a page in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlightOutcome {
    /// It goes on.
    Proceed,
    /// Being paged out: its contents are in the guest and stay there, so any request for it can be
    /// answered at once. `again`: it may be chosen again as if nothing had been tried.
    Cancelled { again: bool },
    /// The guest gave it back: there is nothing left to move.
    Dropped,
    /// Being paged in: the guest gave back what it took for its page. If the page turns out to be removed,
    /// that was its drop; if not, it was one of an earlier life, or of the page once it was resident.
    DropUncertain,
    /// Resident and still nominated, because it could not be restored before. It is being restored,
    /// and any request for it can be answered at once.
    Leftover,
    /// Out and unreadable. It is being probed; requests wait for the end of that.
    Probe,
}

impl FlightOutcome {
    /// Of a page that is being paged in: it goes on.
    pub(super) fn goes_in(self) -> bool {
        matches!(self, Self::Proceed | Self::DropUncertain)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) direction: Direction,
    pub(super) outcome: FlightOutcome,
}

/// The pages in all batches in flight.
#[derive(Debug)]
pub(super) struct Flights {
    map: HashMap<Gfn, Flight, RandomState>,
}

impl Flights {
    pub(super) fn with_room_for(pages: usize) -> Self {
        // A map that is at most half full cleans up in place where it would otherwise grow.
        Self {
            map: HashMap::with_capacity_and_hasher(2 * pages, RandomState::default()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn get(&self, gfn: Gfn) -> Option<Flight> {
        self.map.get(&gfn).copied()
    }

    pub(super) fn contains(&self, gfn: Gfn) -> bool {
        self.map.contains_key(&gfn)
    }

    pub(super) fn start(&mut self, gfn: Gfn, direction: Direction) {
        self.map.insert(
            gfn,
            Flight {
                direction,
                outcome: FlightOutcome::Proceed,
            },
        );
    }

    pub(super) fn set_outcome(&mut self, gfn: Gfn, outcome: FlightOutcome) {
        if let Some(flight) = self.map.get_mut(&gfn) {
            flight.outcome = outcome;
        }
    }

    /// What a page was destined for; `Proceed` if it was not in flight.
    pub(super) fn outcome(&self, gfn: Gfn) -> FlightOutcome {
        self.get(gfn)
            .map_or(FlightOutcome::Proceed, |flight| flight.outcome)
    }

    pub(super) fn end(&mut self, gfn: Gfn) -> FlightOutcome {
        self.map
            .remove(&gfn)
            .map_or(FlightOutcome::Proceed, |flight| flight.outcome)
    }

    pub(super) fn clear(&mut self) {
        self.map.clear();
    }
}
