//! The fault thread: what an EPT violation is in Xen is a message of userfaultfd here (row A7).

use p2m_paging::p2m::Access;
use p2m_paging::paging::{Caller, PopulateError, Populated};
use p2m_paging::{Gfn, VcpuId};

use super::machine::Machine;
use super::uffd::{Fault, FaultKind};

impl Machine {
    /// Answers faults for ever.
    pub(super) fn serve_faults(&self) {
        self.move_to_fault_cpu();
        let mut faults = Vec::with_capacity(64);
        loop {
            if let Err(error) = self.paging().platform().uffd().read(&mut faults) {
                return self.crash(format!("no more faults can be handled: {error}"));
            }
            faults.drain(..).for_each(|fault| self.on_fault(fault));
        }
    }

    fn on_fault(&self, fault: Fault) {
        // Only guest memory is registered.
        let Some(gfn) = self.memory().gfn(fault.address) else {
            return;
        };
        let write = fault.write || fault.kind == FaultKind::WriteProtect;
        let access = if write {
            Access::READ | Access::WRITE
        } else {
            Access::READ
        };
        let populated = match fault.thread_id.and_then(|id| self.vcpu_of(id)) {
            Some(vcpu) => {
                self.count_fault(vcpu);
                self.paging().platform().note_blocked(vcpu, gfn);
                self.paging().fault(vcpu, gfn, access)
            }
            // A thread that is no vcpu (a device model, say) is as foreign as dom0.
            None => self.paging().populate(gfn, Caller::Foreign(VcpuId(0))),
        };
        match populated {
            // Filling or unprotecting the page wakes whoever is blocked on it.
            Ok(Populated::Waiting | Populated::OnItsWay) => {}
            Ok(Populated::Present) => self.paging().platform().wake(gfn),
            Ok(Populated::NotPaging) => self.not_paging(gfn),
            Err(PopulateError::RingFull) => {
                // Not paused, so it has to ask again; the pager needs this CPU for there to be room.
                std::thread::yield_now();
                self.paging().platform().wake(gfn);
            }
            Err(PopulateError::NoRing) => self.crash(format!(
                "{gfn} is out and there is no pager to bring it back: the guest stands still"
            )),
            Err(error) => self.crash(format!("a fault on {gfn} cannot be handled: {error}")),
        }
    }

    /// It came home since the fault; or it is no memory, and the guest's own mistake.
    fn not_paging(&self, gfn: Gfn) {
        let platform = self.paging().platform();
        match platform.refill(gfn) {
            Ok(true) => {
                self.count_stray();
                tracing::warn!(%gfn, "the guest touched a page it had given back: it is empty");
            }
            Ok(false) => platform.wake(gfn),
            Err(error) => self.crash(format!("{gfn} cannot be given to the guest: {error}")),
        }
    }
}
