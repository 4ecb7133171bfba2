//! Row A10: a pager comes and goes.

use core::fmt;
use core::sync::atomic::Ordering;

use super::Paging;
use crate::errno::Errno;
use crate::platform::Platform;
use crate::ring::{Front, SharedPage};

/// What enabling depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainFacts {
    /// The control domain is itself an HVM guest (its mappings of foreign frames are not tracked).
    pub hvm_control_domain: bool,
    /// The guest's memory is translated by hardware: EPT or NPT.
    pub hap: bool,
    /// A device may access the guest's memory without faulting.
    pub iommu: bool,
    /// Memory of the guest is populated on demand.
    pub populate_on_demand: bool,
    /// The guest may run guests of its own: their faults are decided on tables that this crate does not
    /// see.
    pub nested_virt: bool,
}

/// Why paging was not enabled. Nothing has changed.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum EnableError {
    /// Refused by [`DomainFacts::hvm_control_domain`].
    HvmControlDomain,
    /// Refused by [`DomainFacts::hap`].
    NoHap,
    /// Refused by [`DomainFacts::iommu`].
    Iommu,
    /// Refused by [`DomainFacts::populate_on_demand`].
    PopulateOnDemand,
    /// Refused by [`DomainFacts::nested_virt`].
    NestedVirt,
    /// A pager is attached already.
    Enabled,
    /// No page has been set aside for the ring.
    NoRingPage,
}

impl EnableError {
    /// As `vm_event_domctl` and `vm_event_enable` in Xen 4.17, which does not ask for nested
    /// virtualisation.
    pub const fn errno(self) -> Errno {
        match self {
            Self::HvmControlDomain | Self::NestedVirt | Self::NoRingPage => Errno::EOPNOTSUPP,
            Self::NoHap => Errno::ENODEV,
            Self::Iommu => Errno::EMLINK,
            Self::PopulateOnDemand => Errno::EXDEV,
            Self::Enabled => Errno::EBUSY,
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
            Self::Enabled => "a pager is attached already",
            Self::NoRingPage => "no page has been set aside for the ring",
        })
    }
}

impl core::error::Error for EnableError {}

/// Why paging was not disabled. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisableError {
    /// Vcpus stand in line for a slot.
    VcpusInLine,
}

impl DisableError {
    /// As `vm_event_disable` in Xen 4.17.
    pub const fn errno(self) -> Errno {
        match self {
            Self::VcpusInLine => Errno::EBUSY,
        }
    }
}

impl fmt::Display for DisableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VcpusInLine => f.write_str("vcpus stand in line for a slot of the ring"),
        }
    }
}

impl core::error::Error for DisableError {}

impl DomainFacts {
    /// Whether a domain like this can be paged at all, in the order in which Xen asks.
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
        } else {
            Ok(())
        }
    }
}

impl<P: Platform> Paging<'_, P> {
    /// Attaches a pager. `ring` supplies the mapped ring page, or `None` where none is set aside; it
    /// is asked only when nothing else speaks against it.
    pub fn enable(
        &self,
        facts: &DomainFacts,
        ring: impl FnOnce() -> Option<SharedPage>,
    ) -> Result<(), EnableError> {
        facts.check()?;
        let mut line = self.line.lock();
        let epoch = line.next_epoch().ok_or(EnableError::Enabled)?;
        let page = ring().ok_or(EnableError::NoRingPage)?;
        line.open(Front::new(page, epoch));
        self.enabled.store(true, Ordering::Release);
        Ok(())
    }

    /// Detaches the pager, unless vcpus stand in line. Answers that are on the ring are taken first, heard of or not: a
    /// pager that leaves has answered for every page. Those that wait for a page are woken: they
    /// fault again, and are told that there is no ring. Yields the ring page. No locks held.
    pub fn disable(&self) -> Result<Option<SharedPage>, DisableError> {
        // What else is on the ring of one that is none is of no use to anybody.
        let _ = self.on_event();
        let front = {
            let mut line = self.line.lock();
            if !line.is_empty() {
                return Err(DisableError::VcpusInLine);
            }
            self.enabled.store(false, Ordering::Release);
            line.close()
        };
        self.wake_all();
        Ok(front.map(Front::into_page))
    }

    /// The domain goes away: as [`Self::disable`], and whoever stands in line is woken too.
    pub fn shut_down(&self) -> Option<SharedPage> {
        let front = {
            let mut line = self.line.lock();
            self.enabled.store(false, Ordering::Release);
            line.close()
        };
        loop {
            let dismissed = self.line.lock().dismiss(self.vcpus());
            match dismissed {
                Some(paused) => paused.into_iter().for_each(|paused| self.unpause(paused)),
                None => break,
            }
        }
        self.wake_all();
        front.map(Front::into_page)
    }

    fn wake_all(&self) {
        for paused in self.vcpus().all_woken() {
            self.unpause(paused);
        }
    }
}
