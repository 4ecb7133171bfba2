// SPDX-License-Identifier: MIT OR Apache-2.0
//! A ring slot that is claimed before the p2m is locked.

use super::populate::Caller;
use super::wait_queue::{ClaimError, QueuedRequest, Sent};
use super::{Count, Paging};
use crate::platform::Platform;
use crate::ring::{Claim, Epoch, Requester};

/// A claimed slot. If it is dropped unused, it is released and offered to the wait queue. No locks held.
#[must_use = "the slot is released unless a request is pushed"]
pub(super) struct Reserved<'a, 'd, P: Platform> {
    paging: &'a Paging<'d, P>,
    claim: Option<Claim>,
}

impl<'d, P: Platform> Paging<'d, P> {
    /// Claims a slot. A vcpu of the guest does not overtake the wait queue. No locks held.
    pub(super) fn reserve(&self, requester: Requester) -> Result<Reserved<'_, 'd, P>, ClaimError> {
        let claim = self.wait_queue.lock().claim_behind_queue(requester)?;
        Ok(Reserved {
            paging: self,
            claim: Some(claim),
        })
    }
}

impl<P: Platform> Reserved<'_, '_, P> {
    /// The ring on which the slot was claimed.
    pub(super) fn epoch(&self) -> Epoch {
        self.claim.as_ref().map_or(Epoch::NONE, Claim::epoch)
    }

    /// Pushes the request, unless one for its page is pending. No locks held.
    pub(super) fn push(mut self, request: QueuedRequest, caller: Caller) -> Sent {
        let Some(claim) = self.claim.take() else {
            return Sent::Refused;
        };
        let sent = self.paging.wait_queue.lock().push(claim, request, caller);
        match &sent {
            Sent::Pushed(notify) => {
                self.paging.counters.add(Count::Requests, 1);
                self.paging.notify(*notify);
            }
            // The slot was freed.
            Sent::AlreadyPending => self.paging.serve(),
            Sent::Queued | Sent::Refused => {}
        }
        sent
    }
}

impl<P: Platform> Drop for Reserved<'_, '_, P> {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take() {
            self.paging.cancel(claim);
        }
    }
}
