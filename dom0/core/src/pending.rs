// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pending requests: those that have not been answered yet.
//!
//! They are few (the slots of a ring) and have their memory from the start, so a fault allocates
//! nothing.

use p2m_paging::Gfn;
use p2m_paging::ring::abi::{PagingFlags, Request, Response};

use super::event::{Action, Actions};

/// Whether a request can be served now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    /// As soon as its page is not in flight.
    Ready,
    /// At the next tick, or when memory may have become free.
    AwaitsMemory,
    /// At the next tick.
    NextTick,
}

#[derive(Clone, Copy, Debug)]
struct PendingRequest {
    request: Request,
    readiness: Readiness,
    failed_reads: u32,
    /// Each time the store had something else.
    only_gone: bool,
}

/// Requests that have not been answered yet.
///
/// Each is for a page that is out or in flight: all others are answered at once.
#[derive(Debug)]
pub(super) struct PendingRequests {
    list: Vec<PendingRequest>,
}

impl PendingRequests {
    pub(super) fn with_room_for(requests: usize) -> Self {
        Self {
            list: Vec::with_capacity(requests),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn has(&self, gfn: Gfn) -> bool {
        self.list.iter().any(|pending| pending.request.gfn == gfn)
    }

    /// Whether one of them says that the page was given back.
    pub(super) fn has_drop(&self, gfn: Gfn) -> bool {
        let drops =
            |pending: &PendingRequest| pending.request.paging.contains(PagingFlags::DROP_PAGE);
        let mut list = self.list.iter();
        list.any(|pending| pending.request.gfn == gfn && drops(pending))
    }

    pub(super) fn push(&mut self, request: Request) {
        self.list.push(PendingRequest {
            request,
            readiness: Readiness::Ready,
            failed_reads: 0,
            only_gone: true,
        });
    }

    /// The pages of requests that can be served now, in the order in which they came.
    pub(super) fn ready(&self, nth: usize) -> Option<(usize, Gfn)> {
        self.list
            .iter()
            .enumerate()
            .skip(nth)
            .find(|(_, pending)| pending.readiness == Readiness::Ready)
            .map(|(nth, pending)| (nth, pending.request.gfn))
    }

    /// Answers every request for a page and returns how many there were.
    pub(super) fn answer(&mut self, gfn: Gfn, actions: &mut Actions) -> usize {
        let before = self.list.len();
        self.list.retain(|pending| {
            let keep = pending.request.gfn != gfn;
            if !keep {
                actions.push(Action::Respond(Response::to(&pending.request)));
            }
            keep
        });
        before - self.list.len()
    }

    /// The hypervisor had no memory for this page: its requests wait for some.
    pub(super) fn wait_for_memory(&mut self, gfn: Gfn) {
        for pending in self
            .list
            .iter_mut()
            .filter(|pending| pending.request.gfn == gfn)
        {
            pending.readiness = Readiness::AwaitsMemory;
        }
    }

    /// This page did not read back, because it is gone or for another reason. Requests that have seen so
    /// many attempts are over: they are answered without their page. Returns whether somebody needs the
    /// page and it was gone at each of these attempts.
    pub(super) fn read_failed(
        &mut self,
        gfn: Gfn,
        is_gone: bool,
        attempts: u32,
        actions: &mut Actions,
    ) -> bool {
        let mut is_needed = false;
        self.list.retain_mut(|pending| {
            if pending.request.gfn != gfn {
                return true;
            }
            pending.failed_reads += 1;
            pending.only_gone &= is_gone;
            pending.readiness = Readiness::NextTick;
            let keep = pending.failed_reads < attempts;
            if !keep {
                let drops = pending.request.paging.contains(PagingFlags::DROP_PAGE);
                is_needed |= pending.only_gone && !drops;
                actions.push(Action::Respond(Response::to(&pending.request)));
            }
            keep
        });
        is_needed
    }

    /// Memory may have become free.
    pub(super) fn memory_freed(&mut self) {
        self.wake(|readiness| readiness == Readiness::AwaitsMemory);
    }

    pub(super) fn tick(&mut self) {
        self.wake(|_| true);
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    fn wake(&mut self, which: impl Fn(Readiness) -> bool) {
        for pending in self
            .list
            .iter_mut()
            .filter(|pending| which(pending.readiness))
        {
            pending.readiness = Readiness::Ready;
        }
    }
}
