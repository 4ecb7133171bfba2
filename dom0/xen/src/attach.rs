// SPDX-License-Identifier: MIT OR Apache-2.0
//! Attaches a pager to a domain (row B1), in an order in which a failure leaves nothing half-done.

use std::mem::offset_of;
use std::ops::RangeInclusive;
use std::sync::Arc;

use p2m_paging::ring::{Epoch, SharedPage};
use pager_shell::{AttachMode, Attached, GuestInfo, Machine, MachineError};
use rustix::io::Errno;
use rustix::mm::ProtFlags;

use super::abi::{
    DECREASE_RESERVATION, HVM_OP, HVMOP_GET_PARAM, HvmParam, MAXIMUM_GPFN, MEMORY_OP,
    OneReservation, PARAM_PAGING_RING_PFN, POPULATE_PHYSMAP,
};
use super::attachment::Attachment;
use super::calls::{Disabling, DomainCalls, DomainFrames};
use super::device_model::DeviceModel;
use super::domain_watch::DomainWatch;
use super::domctl::DomctlVersion;
use super::error::{XenError, call, device};
use super::evtchn::XenEventPort;
use super::memory::locked_pages;
use super::paging_ops::PagingOps;
use super::privcmd::{ForeignFrames, Privcmd};
use super::xenstore::{Link, StatusNode, Xenstore};

/// The first frame above 4 GiB. Below it is a hole for devices, so a guest of any size may have
/// memory above it.
const FOUR_GIB: u64 = 1 << 20;

/// A domain that has been found and can be paged.
pub struct Domain {
    xen: Privcmd,
    domctl: DomctlVersion,
    id: u16,
    guest: GuestInfo,
}

impl Domain {
    /// Finds a domain.
    pub fn find(id: u16) -> Result<Self, XenError> {
        let mut xen = Privcmd::open()?;
        let domctl = DomctlVersion::probe(&mut xen)?;
        let info = domctl.domain_info(&mut xen, id);
        let info = info.map_err(call("domain information"))?;
        let info = info
            .filter(|info| !info.is_dying)
            .ok_or(XenError::NoDomain(id))?;
        if !info.is_hvm {
            return Err(XenError::NotHvm(id));
        }
        let mut domid = u64::from(id);
        let last_gfn = xen.call(MEMORY_OP, Some(MAXIMUM_GPFN), &mut domid);
        let last_gfn = u64::from(last_gfn.map_err(call("the domain's last frame"))?);
        tracing::info!(
            tot_pages = info.tot_pages,
            max_pages = info.max_pages,
            paged_pages = info.paged_pages,
            last_gfn,
            "domain {id}"
        );
        Ok(Self {
            xen,
            domctl,
            id,
            guest: GuestInfo {
                max_pages: info.max_pages,
                out_pages: info.paged_pages,
                memory: memory(info.max_pages, last_gfn),
                uuid: info.uuid,
                cpu: None,
            },
        })
    }

    /// Maps the ring's page. The guest can access it too until it is removed from the physmap.
    fn map_ring(&mut self, gfn: u64) -> Result<ForeignFrames, XenError> {
        if let Ok(frames) = self.map_one(gfn) {
            return Ok(frames);
        }
        // The frame has no memory yet, or an earlier pager removed it.
        self.reserve(POPULATE_PHYSMAP, gfn)?;
        self.map_one(gfn).map_err(call("mapping the ring"))
    }

    fn map_one(&self, gfn: u64) -> Result<ForeignFrames, Errno> {
        let mut error = [0];
        let frames = self.xen.map(
            self.id,
            &[gfn],
            &mut error,
            ProtFlags::READ | ProtFlags::WRITE,
        )?;
        match error {
            [0] => Ok(frames),
            [errno] => Err(Errno::from_raw_os_error(-errno)),
        }
    }

    /// Gives the domain a page at this frame, or removes it.
    fn reserve(&mut self, command: u64, gfn: u64) -> Result<(), XenError> {
        let gfn_at = self.xen.argument_address() + offset_of!(OneReservation, gfn) as u64;
        let mut reservation = OneReservation {
            extent_start: gfn_at,
            nr_extents: 1,
            extent_order: 0,
            mem_flags: 0,
            domid: self.id,
            pad: [0; 3],
            gfn,
        };
        let what = "a page for the ring";
        match self.xen.call(MEMORY_OP, Some(command), &mut reservation) {
            Ok(1) => Ok(()),
            Ok(_) => Err(call(what)(Errno::NOMEM)),
            Err(errno) => Err(call(what)(errno)),
        }
    }

    fn ring_gfn(&mut self) -> Result<u64, XenError> {
        let mut param = HvmParam {
            domid: self.id,
            pad: 0,
            index: PARAM_PAGING_RING_PFN,
            value: 0,
        };
        let got = self.xen.call(HVM_OP, Some(HVMOP_GET_PARAM), &mut param);
        got.map_err(call("the ring's frame number"))?;
        match param.value {
            0 => Err(XenError::NoRingGfn(self.id)),
            gfn => Ok(gfn),
        }
    }

    fn enable(
        &mut self,
        ring: SharedPage,
        ring_gfn: u64,
        buffers: usize,
        mode: AttachMode,
    ) -> Result<Attached, XenError> {
        let domain = self.id;
        let attached = self.domctl.attach(&mut self.xen, domain, mode);
        let (port, epoch) = attached.map_err(|errno| match (mode, errno) {
            (AttachMode::TakeOver, Errno::NOSYS) => XenError::NoTakeOver(domain),
            _ => XenError::Refused { domain, errno },
        })?;
        if epoch.is_none() {
            // Xen's C leaves this to the pager. It is done when no other pager can have this ring.
            ring.initialise();
        }
        self.connect(ring, ring_gfn, port, epoch, buffers)
            .inspect_err(|_| {
                if mode == AttachMode::TakeOver {
                    // Pages may be out. The next pager takes over.
                    return;
                }
                let disabled = self.domctl.disable_paging(&mut self.xen, domain, epoch);
                if let Err(errno) = disabled {
                    tracing::error!(%errno, "paging stays enabled");
                }
            })
    }

    /// Does everything that follows after paging has been enabled.
    fn connect(
        &mut self,
        ring: SharedPage,
        ring_gfn: u64,
        port: u32,
        epoch: Option<Epoch>,
        buffers: usize,
    ) -> Result<Attached, XenError> {
        let event_port = XenEventPort::bind(self.id, port)?;
        // From here on the guest cannot access the ring: only Xen and the pager hold its page.
        self.reserve(DECREASE_RESERVATION, ring_gfn)?;
        let buffers = locked_pages(buffers)?;
        let address = buffers.as_ptr() as u64;
        let attachment = Attachment::default();
        let ops = |xen| PagingOps::new(xen, self.id, epoch, attachment.clone(), address);
        let link = Link::new(self.id).map_err(device("eventfd"))?;
        let (mut xen, domctl, id) = (self.xen.another()?, self.domctl, self.id);
        let watch = DomainWatch {
            info: Box::new(move || domctl.domain_info(&mut xen, id)),
            attachment: attachment.clone(),
            link: Arc::clone(&link),
            store: Some(Xenstore::connect()?),
        };
        let mut callers = ops(self.xen.another()?)?;
        let has_access_bits = callers.has_access_bits()?;
        let calls = DomainCalls {
            ops: callers,
            domctl: self.domctl,
            disabling: Disabling::default(),
            device_model: DeviceModel::new(Arc::clone(&link)),
        };
        let frames = DomainFrames {
            ops: ops(self.xen.another()?)?,
            gfns: Vec::new(),
            errors: Vec::new(),
        };
        let preps = ops(self.xen.another()?)?;
        Ok(Attached {
            ring,
            buffers,
            event_port: Box::new(event_port),
            preps: Box::new(preps),
            calls: Box::new(calls),
            frames: Box::new(frames),
            watch: Box::new(watch),
            has_access_bits,
            publish: Some(Box::new(StatusNode(link))),
        })
    }
}

impl Machine for Domain {
    fn guest(&self) -> &GuestInfo {
        &self.guest
    }

    fn attach(
        mut self: Box<Self>,
        buffers: usize,
        mode: AttachMode,
    ) -> Result<Attached, MachineError> {
        let ring_gfn = self.ring_gfn()?;
        let frames = self.map_ring(ring_gfn)?;
        // SAFETY: a whole page. It stays mapped until the process ends or, after an error, until
        // the ring is gone. This side accesses it through the ring only.
        let ring = unsafe { SharedPage::new(frames.base()) };
        let attached = self.enable(ring, ring_gfn, buffers, mode);
        match attached {
            Ok(_) => frames.leak(),
            // The guest has no use for this page, whether or not it existed before. The next pager
            // creates another one.
            Err(_) => drop((frames, self.reserve(DECREASE_RESERVATION, ring_gfn))),
        }
        Ok(attached?)
    }
}

/// The ranges in which a domain of this many pages may have memory: one from the start on, and all
/// frames above 4 GiB. Between them are devices, and frames that Xen and the toolstack keep for
/// themselves.
fn memory(max_pages: u64, last_gfn: u64) -> Vec<RangeInclusive<u64>> {
    let low_end = max_pages.min(FOUR_GIB).min(last_gfn.saturating_add(1));
    let mut ranges = Vec::new();
    if low_end > 0 {
        ranges.push(0..=low_end - 1);
    }
    if last_gfn >= FOUR_GIB {
        ranges.push(FOUR_GIB..=last_gfn);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Defect 6: the last frame number of a guest is not its size.
    #[test]
    fn b1_memory_above_the_hole_for_devices_is_handled() {
        // 96 MiB, PVH: the toolstack's own frames lie just below 4 GiB.
        assert_eq!(memory(24_832, 0xf_efff), [0..=24_831]);
        // 2 GiB, half of which lies above 4 GiB.
        assert_eq!(
            memory(0x8_0000, 0x13_ffff),
            [0..=0x7_ffff, 0x10_0000..=0x13_ffff]
        );
        assert_eq!(memory(100, 49), [0..=49]);
        assert_eq!(memory(0, 0), []);
    }
}
