// SPDX-License-Identifier: MIT OR Apache-2.0
//! A vcpu's fault. What is an EPT violation in Xen is a [trap](super::machine) here (row A7).

use std::thread;

use p2m_paging::p2m::Access;
use p2m_paging::paging::{PopulateError, Populated};
use p2m_paging::{Gfn, VcpuId};

use super::machine::Machine;

impl Machine {
    /// Handles a fault on the thread of the vcpu that has it. When this returns, the vcpu tries the
    /// access again. The caller holds no lock.
    pub(super) fn on_fault(&self, vcpu: VcpuId, gfn: Gfn, access: Access) {
        self.count_fault(vcpu);
        match self.paging().fault(vcpu, gfn, access) {
            Ok(Populated::Paused | Populated::Present) => {}
            // The vcpu is not paused, so it has to request the page again; the pager may need this
            // CPU to make progress. An entry that could not be changed now may change later: the
            // page is in place, or the store has it.
            Ok(Populated::InFlight) | Err(PopulateError::RingFull | PopulateError::Platform(_)) => {
                thread::yield_now()
            }
            Ok(Populated::NotPaging) => self.not_paging(gfn),
            Err(PopulateError::NoRing) => self.stand_still(format!(
                "{gfn} is out and there is no pager to page it in: the guest stops"
            )),
            Err(error) => self.stand_still(format!("a fault on {gfn} cannot be handled: {error}")),
        }
        self.paging().platform().wait_while_paused(vcpu);
    }

    /// Handles a fault on a page that is not paged: it is resident by now, or the guest has no
    /// memory there, which is the guest's own error.
    fn not_paging(&self, gfn: Gfn) {
        match self.paging().platform().refill(gfn) {
            Ok(true) => {
                self.count_stray();
                tracing::warn!(%gfn, "the guest touched a page it had given back: it is empty");
            }
            Ok(false) => {
                if let Err(error) = self.paging().platform().lift_protection(gfn) {
                    self.stand_still(format!("{gfn} cannot be made writable: {error}"));
                }
            }
            Err(error) => self.stand_still(format!("{gfn} cannot be given to the guest: {error}")),
        }
    }

    /// Stops the calling vcpu for ever.
    fn stand_still(&self, reason: String) -> ! {
        self.crash(reason);
        loop {
            thread::park();
        }
    }
}
