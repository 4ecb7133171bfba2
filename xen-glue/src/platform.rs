// SPDX-License-Identifier: GPL-2.0-only
//! Xen as the crate's [`Platform`]: one domain, its vcpus, and its connection to the pager.

use core::fmt::Write as _;

use lock_api::Mutex;
use p2m_paging::paging::{Caller, DomainProperties};
use p2m_paging::platform::InvariantViolation;
use p2m_paging::{Gfn, Platform, VcpuId};

use crate::console::Console;
use crate::p2m::LockedP2m;
use crate::ring_lock::XenLock;
use crate::shim::{self, Domain};

/// Where the pager has a page's contents: a guest handle of the calling domain. Xen checks every
/// copy from it; a bad handle causes an error number and nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Buffer(pub(crate) u64);

/// One domain.
#[derive(Debug)]
pub struct Xen {
    // INVARIANT: the domain that this state belongs to. It outlives the state, which is freed with
    // it.
    domain: *mut Domain,
    /// The port of the event channel to the pager, while there is one. Locked while an event is
    /// sent, because the guest may soon own a port that was closed. A leaf.
    channel: Mutex<XenLock, Option<u32>>,
}

// SAFETY: Xen's functions may be called for a domain from every CPU; the pointer is never written.
unsafe impl Send for Xen {}
// SAFETY: as above.
unsafe impl Sync for Xen {}

impl Xen {
    /// # Safety
    ///
    /// `domain` must be a domain that lives as long as the returned value.
    pub(crate) unsafe fn new(domain: *mut Domain) -> Self {
        let channel = Mutex::new(None);
        // The first use of a lock initialises it, while nobody else has it.
        drop(channel.lock());
        Self { domain, channel }
    }

    pub(crate) fn domain(&self) -> *mut Domain {
        self.domain
    }

    /// Sets the port: events go there from now on. Returns the port before, for the caller to close.
    pub(crate) fn set_port(&self, port: u32) -> Option<u32> {
        self.channel.lock().replace(port)
    }

    /// Takes the port, so that the caller can close it. No event goes there any more.
    pub(crate) fn take_port(&self) -> Option<u32> {
        self.channel.lock().take()
    }

    /// The caller that runs on this CPU, as seen from this domain.
    pub(crate) fn caller(&self) -> Caller {
        let mut own = false;
        // SAFETY: a live domain, and room for the answer.
        let vcpu = VcpuId(unsafe { shim::xen_shim_caller(self.domain, &raw mut own) });
        if own {
            Caller::Guest(vcpu)
        } else {
            Caller::Foreign(vcpu)
        }
    }

    /// The properties of the domain that enabling depends on.
    pub(crate) fn properties(&self) -> DomainProperties {
        // SAFETY: a live domain.
        let bits = unsafe { shim::xen_shim_domain_properties(self.domain) };
        DomainProperties {
            hvm_control_domain: bits & 1 != 0,
            hap: bits & 2 != 0,
            iommu: bits & 4 != 0,
            populate_on_demand: bits & 8 != 0,
            nested_virt: bits & 16 != 0,
            alternate_p2ms: bits & 32 != 0,
        }
    }
}

impl Platform for Xen {
    type P2m<'a> = LockedP2m<'a>;
    type Buffer = Buffer;
    type RingLock = XenLock;

    fn lock_p2m(&self) -> LockedP2m<'_> {
        LockedP2m::lock(self)
    }

    fn pause_vcpu(&self, vcpu: VcpuId) {
        // SAFETY: a live domain; the shim looks the vcpu up.
        unsafe { shim::xen_shim_vcpu_pause(self.domain, vcpu.0) }
    }

    fn vcpu_resumes(&self, vcpu: VcpuId, gfn: Gfn) {
        // SAFETY: a live domain; the shim looks the vcpu and the page up.
        unsafe { shim::xen_shim_pin_page(self.domain, vcpu.0, gfn.get()) }
    }

    fn unpause_vcpu(&self, vcpu: VcpuId) {
        // SAFETY: as above, and paused by us before.
        unsafe { shim::xen_shim_vcpu_unpause(self.domain, vcpu.0) }
    }

    fn notify_pager(&self) {
        if let Some(port) = *self.channel.lock() {
            // SAFETY: a live domain, and a port that is not closed before the lock is released.
            unsafe { shim::xen_shim_notify(self.domain, port) }
        }
    }

    fn defer_event(&self) {
        // SAFETY: a live domain, whose tasklet exists as long as this state.
        unsafe { shim::xen_shim_defer_event(self.domain) }
    }

    fn invariant_violated(&self, what: InvariantViolation) {
        let _ = writeln!(Console, "memory paging: invariant violated: {what}");
        // SAFETY: a live domain.
        unsafe { shim::xen_shim_crash(self.domain) }
    }
}
