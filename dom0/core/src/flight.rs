// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that are on their way, and requests that wait.
//!
//! Both are small and bounded (a few batches, the slots of a ring) and have their memory from the
//! start, so that a fault allocates nothing.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use p2m_paging::Gfn;
use p2m_paging::ring::abi::{PagingFlags, Request, Response};

use super::event::{Action, Actions};

/// Which way a page goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Out,
    In,
}

/// What is to become of a page under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on.
    Going,
    /// On its way out: its contents are in the guest and stay there, so any request for it can be
    /// answered at once. `again`: it may be chosen again as if nothing had been tried.
    Stays { again: bool },
    /// The guest gave it back: there is nothing to bring anywhere.
    Dropped,
    /// On its way in: the guest gave back what it took for its page. If the page turns out to be gone, that was the drop
    /// to be heard of; if not, it was one of an earlier life, or of the page once it was home.
    MaybeDropped,
}

impl Fate {
    /// Of a page on its way in: it goes on.
    pub(super) fn goes_in(self) -> bool {
        matches!(self, Self::Going | Self::MaybeDropped)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) way: Way,
    pub(super) fate: Fate,
}

/// The pages in all batches under way.
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

    pub(super) fn start(&mut self, gfn: Gfn, way: Way) {
        self.map.insert(
            gfn,
            Flight {
                way,
                fate: Fate::Going,
            },
        );
    }

    pub(super) fn set_fate(&mut self, gfn: Gfn, fate: Fate) {
        if let Some(flight) = self.map.get_mut(&gfn) {
            flight.fate = fate;
        }
    }

    /// What a page was destined for; `Going` if it was not under way.
    pub(super) fn fate(&self, gfn: Gfn) -> Fate {
        self.get(gfn).map_or(Fate::Going, |flight| flight.fate)
    }

    pub(super) fn end(&mut self, gfn: Gfn) -> Fate {
        self.map
            .remove(&gfn)
            .map_or(Fate::Going, |flight| flight.fate)
    }

    pub(super) fn clear(&mut self) {
        self.map.clear();
    }
}

/// Whether a request can be served now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    /// As soon as its page is not under way.
    Ready,
    /// At the next tick, or when memory may have become free.
    WantsMemory,
    /// At the next tick.
    NextTick,
}

#[derive(Clone, Copy, Debug)]
struct Ask {
    request: Request,
    readiness: Readiness,
    failed_reads: u32,
}

/// Requests that have not been answered yet.
///
/// Each is for a page that is out or under way: all others are answered at once.
#[derive(Debug)]
pub(super) struct Asks {
    list: Vec<Ask>,
}

impl Asks {
    pub(super) fn with_room_for(requests: usize) -> Self {
        Self {
            list: Vec::with_capacity(requests),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn has(&self, gfn: Gfn) -> bool {
        self.list.iter().any(|ask| ask.request.gfn == gfn)
    }

    /// Whether one of them says that the page was given back.
    pub(super) fn has_drop(&self, gfn: Gfn) -> bool {
        let drops = |ask: &Ask| ask.request.paging.contains(PagingFlags::DROP_PAGE);
        let mut list = self.list.iter();
        list.any(|ask| ask.request.gfn == gfn && drops(ask))
    }

    pub(super) fn push(&mut self, request: Request) {
        self.list.push(Ask {
            request,
            readiness: Readiness::Ready,
            failed_reads: 0,
        });
    }

    /// The pages of requests that can be served now, in the order in which they came.
    pub(super) fn ready(&self, nth: usize) -> Option<(usize, Gfn)> {
        self.list
            .iter()
            .enumerate()
            .skip(nth)
            .find(|(_, ask)| ask.readiness == Readiness::Ready)
            .map(|(nth, ask)| (nth, ask.request.gfn))
    }

    /// Answers every request for a page; how many there were.
    pub(super) fn answer(&mut self, gfn: Gfn, actions: &mut Actions) -> usize {
        let before = self.list.len();
        self.list.retain(|ask| {
            let keep = ask.request.gfn != gfn;
            if !keep {
                actions.push(Action::Respond(Response::to(&ask.request)));
            }
            keep
        });
        before - self.list.len()
    }

    /// The hypervisor had no memory for this page.
    pub(super) fn wait_for_memory(&mut self, gfn: Gfn) {
        for ask in self.list.iter_mut().filter(|ask| ask.request.gfn == gfn) {
            ask.readiness = Readiness::WantsMemory;
        }
    }

    /// This page did not read back. Requests that have seen so many attempts are over: they are
    /// answered without their page.
    pub(super) fn read_failed(&mut self, gfn: Gfn, attempts: u32, actions: &mut Actions) {
        self.list.retain_mut(|ask| {
            if ask.request.gfn != gfn {
                return true;
            }
            ask.failed_reads += 1;
            ask.readiness = Readiness::NextTick;
            let keep = ask.failed_reads < attempts;
            if !keep {
                actions.push(Action::Respond(Response::to(&ask.request)));
            }
            keep
        });
    }

    /// Memory may have become free.
    pub(super) fn memory_freed(&mut self) {
        self.wake(|readiness| readiness == Readiness::WantsMemory);
    }

    pub(super) fn tick(&mut self) {
        self.wake(|_| true);
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    fn wake(&mut self, which: impl Fn(Readiness) -> bool) {
        for ask in self.list.iter_mut().filter(|ask| which(ask.readiness)) {
            ask.readiness = Readiness::Ready;
        }
    }
}
