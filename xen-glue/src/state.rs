// SPDX-License-Identifier: GPL-2.0-only
//! The state of a paged domain: the crate's state, and Xen's side of the ring.

use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use p2m_paging::paging::{Attachment, DropError, EnableError, TakeOverError};
use p2m_paging::pause::VcpuCell;
use p2m_paging::ring::{Epoch, SharedPage};
use p2m_paging::{Errno, Gfn, Paging};

use crate::platform::Xen;
use crate::shim::{self, Domain, PageInfo};

/// One domain's paging. It is in memory that Xen frees with the domain; the vcpus' cells follow it.
pub struct State {
    pub(crate) paging: Paging<'static, Xen>,
    /// The ring page and its mapping. Changed by enable, take_over, detach, disable and shut_down
    /// only, which Xen calls one at a time for a domain.
    page: AtomicPtr<PageInfo>,
    va: AtomicPtr<c_void>,
    /// The pager that is attached has stated its epoch.
    states_epoch: AtomicBool,
}

/// A ring that is mapped, and its event channel.
struct OpenRing {
    page: *mut PageInfo,
    va: *mut c_void,
    port: u32,
    /// Of the pager that is gone.
    port_before: Option<u32>,
}

impl State {
    const CELLS_AT: usize = size_of::<Self>().next_multiple_of(align_of::<VcpuCell>());

    /// Bytes for a domain with this many vcpus; the alignment is 8.
    pub(crate) const fn size(max_vcpus: u32) -> usize {
        const { assert!(align_of::<State>() <= 8 && align_of::<VcpuCell>() <= 8) };
        Self::CELLS_AT + max_vcpus as usize * size_of::<VcpuCell>()
    }

    /// # Safety
    ///
    /// `memory` must be [`Self::size`] bytes, aligned to 8, that stay valid until nobody uses the
    /// state any more. `domain` must stay valid longer. Nobody else uses them yet.
    pub(crate) unsafe fn init(memory: NonNull<u8>, domain: *mut Domain, max_vcpus: u32) {
        // SAFETY: inside the memory.
        let cells: NonNull<VcpuCell> = unsafe { memory.add(Self::CELLS_AT) }.cast();
        for i in 0..max_vcpus as usize {
            // SAFETY: inside the memory, whose size includes it.
            let cell = unsafe { cells.add(i) };
            // SAFETY: aligned, and nobody else's.
            unsafe { cell.write(VcpuCell::new()) };
        }
        // SAFETY: written above, never written again, and there as long as the state itself.
        let cells =
            unsafe { core::slice::from_raw_parts(cells.as_ptr().cast_const(), max_vcpus as usize) };
        // SAFETY: the domain outlives its state.
        let platform = unsafe { Xen::new(domain) };
        let state = Self {
            paging: Paging::new(platform, cells),
            page: AtomicPtr::new(core::ptr::null_mut()),
            va: AtomicPtr::new(core::ptr::null_mut()),
            states_epoch: AtomicBool::new(false),
        };
        // The first use of the ring lock initialises it, while nobody else has it.
        let _ = state.paging.disable();
        // SAFETY: aligned and large enough.
        unsafe { memory.cast().write(state) };
    }

    /// Attaches a pager; yields the event channel's port. The checks are in the order of Xen's own.
    pub(crate) fn enable(&self) -> Result<u32, i32> {
        let refused = |e: EnableError| e.errno().as_return();
        let properties = self.paging.platform().properties();
        properties.check().map_err(refused)?;
        match self.paging.attachment() {
            Attachment::None => {}
            Attachment::Detached => return Err(refused(EnableError::Detached)),
            Attachment::Attached => return Err(refused(EnableError::Enabled)),
        }
        let (ring, shared) = self.open()?;
        self.states_epoch.store(false, Ordering::Relaxed);
        match self.paging.enable(&properties, || Some(shared)) {
            Ok(()) => Ok(self.keep(ring)),
            Err(e) => {
                self.give_up(ring);
                Err(refused(e))
            }
        }
    }

    /// Attaches a pager in the place of one that is gone; yields the event channel's port.
    pub(crate) fn take_over(&self) -> Result<u32, i32> {
        let refused = |e: TakeOverError| e.errno().as_return();
        if !self.paging.is_enabled() {
            return Err(refused(TakeOverError::NotEnabled));
        }
        let (ring, shared) = self.open()?;
        // Who takes over knows epochs. A call that states none is of the pager that is gone.
        self.states_epoch.store(true, Ordering::Relaxed);
        match self.paging.take_over(|| Some(shared)) {
            Ok(_) => Ok(self.keep(ring)),
            Err(e) => {
                self.give_up(ring);
                Err(refused(e))
            }
        }
    }

    /// Maps the ring's page and opens an event channel. Events go there from now on: a pager that is
    /// gone needs none.
    fn open(&self) -> Result<(OpenRing, SharedPage), i32> {
        let xen = self.paging.platform();
        // SAFETY: a live domain.
        if !unsafe { shim::xen_shim_has_ring_gfn(xen.domain()) } {
            return Err(EnableError::NoRingPage.errno().as_return());
        }
        let (mut page, mut va) = (core::ptr::null_mut(), core::ptr::null_mut());
        let (p, v) = (&raw mut page, &raw mut va);
        // SAFETY: a live domain, and room for the answers.
        let rc = unsafe { shim::xen_shim_ring_map(xen.domain(), p, v) };
        if rc < 0 {
            return Err(rc);
        }
        // SAFETY: a live domain.
        let port = unsafe { shim::xen_shim_channel_open(xen.domain()) };
        let (Some(base), Ok(port)) = (NonNull::new(va.cast()), u32::try_from(port)) else {
            // SAFETY: mapped above, and used by nobody.
            unsafe { shim::xen_shim_ring_unmap(page, va) };
            return Err(port.min(Errno::EIO.as_return()));
        };
        let ring = OpenRing {
            page,
            va,
            port,
            port_before: xen.set_port(port),
        };
        // SAFETY: mapped as a whole page until it is unmapped, and accessed on this side by the crate
        // only.
        Ok((ring, unsafe { SharedPage::new(base) }))
    }

    /// The crate uses this ring now. What the ring before it needed is given back.
    fn keep(&self, ring: OpenRing) -> u32 {
        let page = self.page.swap(ring.page, Ordering::Relaxed);
        let va = self.va.swap(ring.va, Ordering::Relaxed);
        if let Some(port) = ring.port_before {
            self.close_ring(port, page, va);
        }
        ring.port
    }

    /// The crate does not use this ring. What is there stays.
    fn give_up(&self, ring: OpenRing) {
        let xen = self.paging.platform();
        match ring.port_before {
            Some(port) => drop(xen.set_port(port)),
            None => drop(xen.take_port()),
        }
        self.close_ring(ring.port, ring.page, ring.va);
    }

    /// Detaches the pager.
    pub(crate) fn disable(&self) -> Result<(), Errno> {
        self.paging
            .disable()
            .map_err(p2m_paging::paging::DisableError::errno)?;
        self.close();
        Ok(())
    }

    /// The pager is gone, and another one will take over.
    pub(crate) fn detach(&self) {
        let _ = self.paging.detach();
        self.close();
    }

    /// Shuts paging down, because the domain is dying.
    pub(crate) fn shut_down(&self) {
        let _ = self.paging.shut_down();
        self.close();
    }

    /// The crate does not use the ring any more.
    fn close(&self) {
        if let Some(port) = self.paging.platform().take_port() {
            let page = self.page.swap(core::ptr::null_mut(), Ordering::Relaxed);
            let va = self.va.swap(core::ptr::null_mut(), Ordering::Relaxed);
            self.close_ring(port, page, va);
        }
    }

    /// Nothing refers to this ring any more: neither the crate nor the port of the platform.
    fn close_ring(&self, port: u32, page: *mut PageInfo, va: *mut c_void) {
        // SAFETY: a live domain, and a port that `open` has opened.
        unsafe { shim::xen_shim_channel_close(self.paging.platform().domain(), port) };
        // SAFETY: the mapping that `xen_shim_ring_map` has yielded; nothing refers to it any more.
        unsafe { shim::xen_shim_ring_unmap(page, va) };
    }

    /// The epoch of a caller that states this one, or none (0). [`Epoch::NONE`] for one that is not
    /// attached. A caller that states none is taken for the pager that is attached, until that
    /// pager states its epoch.
    pub(crate) fn caller_epoch(&self, stated: u32) -> Epoch {
        let current = self.paging.epoch();
        match stated {
            0 if self.states_epoch.load(Ordering::Relaxed) => Epoch::NONE,
            0 => current,
            raw if raw == current.as_raw() => {
                self.states_epoch.store(true, Ordering::Relaxed);
                current
            }
            _ => Epoch::NONE,
        }
    }

    /// The pager has sent an event.
    pub(crate) fn on_event(&self) {
        // A tasklet takes the responses that are left (`Platform::defer_event`).
        let _ = self.paging.on_event();
    }

    /// The guest gives a page back. `NotPaging`: the page changed meanwhile, look again.
    pub(crate) fn drop_page(&self, gfn: Gfn) -> Result<(), DropError> {
        match self.paging.drop_page(gfn, self.paging.platform().caller()) {
            // Nobody has a copy to drop.
            Err(DropError::NoRing) => self.paging.discard(gfn).map(drop),
            dropped => dropped,
        }
    }
}
