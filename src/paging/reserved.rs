//! A slot of the ring that is reserved while the p2m is looked at.

use super::line::{NotSent, Sent, Want};
use super::populate::Caller;
use super::{Count, Paging};
use crate::platform::Platform;
use crate::ring::{Asker, Claim};

/// A reserved slot. Dropped unused, it goes back to the ring, and to the next in line. No locks held.
#[must_use = "the slot goes back unless a request is pushed"]
pub(super) struct Reserved<'a, 'd, P: Platform> {
    paging: &'a Paging<'d, P>,
    claim: Option<Claim>,
}

impl<'d, P: Platform> Paging<'d, P> {
    /// Reserves a slot. Vcpus of the guest do not pass those in line. No locks held.
    pub(super) fn reserve(&self, asker: Asker) -> Result<Reserved<'_, 'd, P>, NotSent> {
        let claim = self.line.lock().claim_in_turn(asker)?;
        Ok(Reserved {
            paging: self,
            claim: Some(claim),
        })
    }
}

impl<P: Platform> Reserved<'_, '_, P> {
    /// Pushes the request, unless its page has been asked for. No locks held.
    pub(super) fn push(mut self, want: Want, caller: Caller) -> Sent {
        let Some(claim) = self.claim.take() else {
            return Sent::Not;
        };
        let sent = self.paging.line.lock().push(claim, want, caller);
        match &sent {
            Sent::Pushed(notify) => {
                self.paging.counters.add(Count::Requests, 1);
                self.paging.notify(*notify);
            }
            // The slot fell free.
            Sent::Already => self.paging.serve(),
            Sent::InLine | Sent::Not => {}
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
