// SPDX-License-Identifier: GPL-2.0-only
//! The state of a paged domain: the crate's state, and Xen's side of the ring.

use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use p2m_paging::paging::{DropError, EnableError};
use p2m_paging::pause::VcpuCell;
use p2m_paging::ring::{Epoch, SharedPage};
use p2m_paging::{Errno, Gfn, Paging};

use crate::platform::Xen;
use crate::shim::{self, Domain, PageInfo};

/// One domain's paging. It is in memory that Xen frees with the domain; the vcpus' cells follow it.
pub struct State {
    pub(crate) paging: Paging<'static, Xen>,
    /// The ring page and its mapping. Changed by enable, disable and shut_down only, which Xen
    /// calls one at a time for a domain.
    page: AtomicPtr<PageInfo>,
    va: AtomicPtr<c_void>,
    /// The pager that is attached has stated its epoch.
    states_epoch: AtomicBool,
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
        let xen = self.paging.platform();
        let properties = xen.properties();
        properties.check().map_err(refused)?;
        if self.paging.is_enabled() {
            return Err(refused(EnableError::Enabled));
        }
        // SAFETY: a live domain.
        if !unsafe { shim::xen_shim_has_ring_gfn(xen.domain()) } {
            return Err(refused(EnableError::NoRingPage));
        }
        let (mut page, mut va) = (core::ptr::null_mut(), core::ptr::null_mut());
        let (p, v) = (&raw mut page, &raw mut va);
        // SAFETY: a live domain, and room for the answers.
        let rc = unsafe { shim::xen_shim_ring_map(xen.domain(), p, v) };
        if rc < 0 {
            return Err(rc);
        }
        self.states_epoch.store(false, Ordering::Relaxed);
        self.page.store(page, Ordering::Relaxed);
        self.va.store(va, Ordering::Relaxed);
        // SAFETY: a live domain.
        let port = unsafe { shim::xen_shim_channel_open(xen.domain()) };
        let Ok(port) = u32::try_from(port) else {
            self.unmap();
            return Err(port);
        };
        xen.set_port(port);
        // SAFETY: mapped as a whole page until `unmap`, and accessed on this side by the crate
        // only.
        let ring = NonNull::new(va.cast()).map(|base| unsafe { SharedPage::new(base) });
        match self.paging.enable(&properties, || ring) {
            Ok(()) => Ok(port),
            Err(e) => {
                self.close();
                Err(refused(e))
            }
        }
    }

    /// Detaches the pager.
    pub(crate) fn disable(&self) -> Result<(), Errno> {
        self.paging
            .disable()
            .map_err(p2m_paging::paging::DisableError::errno)?;
        self.close();
        Ok(())
    }

    /// Shuts paging down, because the domain is dying.
    pub(crate) fn shut_down(&self) {
        let _ = self.paging.shut_down();
        self.close();
    }

    /// The crate does not use the ring any more.
    fn close(&self) {
        let xen = self.paging.platform();
        if let Some(port) = xen.take_port() {
            // SAFETY: a live domain, and the port that `enable` has opened.
            unsafe { shim::xen_shim_channel_close(xen.domain(), port) };
            self.unmap();
        }
    }

    fn unmap(&self) {
        let page = self.page.swap(core::ptr::null_mut(), Ordering::Relaxed);
        let va = self.va.swap(core::ptr::null_mut(), Ordering::Relaxed);
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
