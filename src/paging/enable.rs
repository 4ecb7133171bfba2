// SPDX-License-Identifier: MIT OR Apache-2.0
//! Row A10: paging begins, and ends.

use core::fmt;
use core::sync::atomic::Ordering;

use super::wait_queue::WaitQueue;
use super::{Attachment, Paging};
use crate::errno::Errno;
use crate::platform::Platform;
use crate::ring::{Epoch, Front, SharedPage};

/// Properties of a domain that decide whether it can be paged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainProperties {
    /// The control domain is an HVM guest. (Its mappings of foreign frames are not tracked.)
    pub hvm_control_domain: bool,
    /// The guest's memory is translated by hardware: EPT or NPT.
    pub hap: bool,
    /// A device may access the guest's memory through an IOMMU. Such an access cannot wait for a page.
    pub iommu: bool,
    /// Memory of the guest is populated on demand.
    pub populate_on_demand: bool,
    /// The guest may run guests of its own. Their faults are decided on tables that this crate does not
    /// see.
    pub nested_virt: bool,
    /// The guest runs on alternate p2ms (Xen's altp2m). One of them could map a frame writable that is
    /// nominated in another.
    pub alternate_p2ms: bool,
}

/// Why paging was not enabled. Nothing has changed.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum EnableError {
    /// Refused by [`DomainProperties::hvm_control_domain`].
    HvmControlDomain,
    /// Refused by [`DomainProperties::hap`].
    NoHap,
    /// Refused by [`DomainProperties::iommu`].
    Iommu,
    /// Refused by [`DomainProperties::populate_on_demand`].
    PopulateOnDemand,
    /// Refused by [`DomainProperties::nested_virt`].
    NestedVirt,
    /// Refused by [`DomainProperties::alternate_p2ms`].
    AlternateP2ms,
    /// A pager is attached already.
    Enabled,
    /// The domain waits for a pager that takes over ([`Paging::take_over`]): the contents of its pages are
    /// with the pager that is gone.
    Detached,
    /// No page is reserved for the ring.
    NoRingPage,
}

impl EnableError {
    /// As `vm_event_domctl` and `vm_event_enable` in Xen 4.17. Xen itself does not check for nested
    /// virtualisation, nor for alternate p2ms.
    pub const fn errno(self) -> Errno {
        match self {
            Self::HvmControlDomain | Self::NestedVirt | Self::AlternateP2ms | Self::NoRingPage => {
                Errno::EOPNOTSUPP
            }
            Self::NoHap => Errno::ENODEV,
            Self::Iommu => Errno::EMLINK,
            Self::PopulateOnDemand => Errno::EXDEV,
            Self::Enabled | Self::Detached => Errno::EBUSY,
        }
    }
}

impl fmt::Display for EnableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HvmControlDomain => "the control domain is an HVM guest",
            Self::NoHap => "the guest has no hardware assisted paging",
            Self::Iommu => "the guest uses an IOMMU",
            Self::PopulateOnDemand => "the guest's memory is populated on demand",
            Self::NestedVirt => "the guest may run guests of its own",
            Self::AlternateP2ms => "the guest runs on alternate p2ms",
            Self::Enabled => "a pager is attached already",
            Self::Detached => "the domain waits for a pager that takes over",
            Self::NoRingPage => "no page has been set aside for the ring",
        })
    }
}

impl core::error::Error for EnableError {}

/// Why paging was not disabled. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisableError {
    /// Vcpus are in the wait queue for a ring slot.
    VcpusQueued,
}

impl DisableError {
    /// As `vm_event_disable` in Xen 4.17.
    pub const fn errno(self) -> Errno {
        match self {
            Self::VcpusQueued => Errno::EBUSY,
        }
    }
}

impl fmt::Display for DisableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VcpusQueued => f.write_str("vcpus are queued for a ring slot"),
        }
    }
}

impl core::error::Error for DisableError {}

impl DomainProperties {
    /// A domain that can be paged.
    pub const PAGEABLE: Self = Self {
        hvm_control_domain: false,
        hap: true,
        iommu: false,
        populate_on_demand: false,
        nested_virt: false,
        alternate_p2ms: false,
    };

    /// Whether such a domain can be paged. The order of the checks is Xen's.
    pub const fn check(&self) -> Result<(), EnableError> {
        if self.hvm_control_domain {
            Err(EnableError::HvmControlDomain)
        } else if !self.hap {
            Err(EnableError::NoHap)
        } else if self.iommu {
            Err(EnableError::Iommu)
        } else if self.populate_on_demand {
            Err(EnableError::PopulateOnDemand)
        } else if self.nested_virt {
            Err(EnableError::NestedVirt)
        } else if self.alternate_p2ms {
            Err(EnableError::AlternateP2ms)
        } else {
            Ok(())
        }
    }
}

impl<P: Platform> Paging<'_, P> {
    /// Attaches a pager. `ring` returns the mapped ring page, or `None` if none is reserved; it is called
    /// with the ring locked, and only if all other checks pass.
    ///
    /// For one domain, calls of `enable`, [`take_over`](Self::take_over), [`detach`](Self::detach) and
    /// [`disable`](Self::disable) come one at a time. No locks held.
    pub fn enable(
        &self,
        properties: &DomainProperties,
        ring: impl FnOnce() -> Option<SharedPage>,
    ) -> Result<(), EnableError> {
        properties.check()?;
        let mut queue = self.wait_queue.lock();
        match queue.attachment() {
            Attachment::None => {}
            Attachment::Detached => return Err(EnableError::Detached),
            Attachment::Attached => return Err(EnableError::Enabled),
        }
        let page = ring().ok_or(EnableError::NoRingPage)?;
        self.open_ring(&mut queue, page);
        self.enabled.store(true, Ordering::Release);
        Ok(())
    }

    /// Opens a ring, and begins its epoch.
    pub(super) fn open_ring(&self, queue: &mut WaitQueue, page: SharedPage) {
        let epoch = queue.next_epoch();
        queue.open(Front::new(page, epoch));
        self.epoch.store(epoch.as_raw(), Ordering::Release);
    }

    /// Ends paging: the pager is detached, and no other one will take over. Responses on the ring are taken
    /// first. Vcpus that wait for a page are woken: they fault again and get
    /// [`PopulateError::NoRing`](super::PopulateError::NoRing). Returns the ring page, which the caller
    /// unmaps. Refused while a pager is attached and vcpus are in the wait queue. No locks held.
    pub fn disable(&self) -> Result<Option<SharedPage>, DisableError> {
        // If more responses are left than one call takes, the pager is broken and they do not matter.
        let _ = self.on_event();
        let front = {
            let mut queue = self.wait_queue.lock();
            if queue.attachment() == Attachment::Attached && !queue.is_empty() {
                return Err(DisableError::VcpusQueued);
            }
            self.enabled.store(false, Ordering::Release);
            queue.close()
        };
        self.let_everybody_go();
        Ok(front.map(Front::into_page))
    }

    /// The domain is dying: as [`Self::disable`], but never refused. Vcpus in the wait queue are woken too.
    pub fn shut_down(&self) -> Option<SharedPage> {
        let front = {
            let mut queue = self.wait_queue.lock();
            self.enabled.store(false, Ordering::Release);
            queue.close()
        };
        self.let_everybody_go();
        front.map(Front::into_page)
    }

    /// There is no ring any more. Nobody waits when this returns.
    fn let_everybody_go(&self) {
        loop {
            let drained = self.wait_queue.lock().drain_one(self.vcpus());
            match drained {
                Some(paused) => paused.into_iter().for_each(|paused| self.unpause(paused)),
                None => break,
            }
        }
        self.end_epoch();
        for paused in self.vcpus().take_all_waiters() {
            self.unpause(paused);
        }
    }

    /// No operation of the pager that was attached is in progress when this returns, and none begins.
    pub(super) fn end_epoch(&self) {
        let _p2m = self.platform.lock_p2m();
        self.epoch.store(Epoch::NONE.as_raw(), Ordering::Release);
    }
}
