// SPDX-License-Identifier: GPL-2.0-only
//! The host p2m of a domain while `gfn_lock` is held.

use core::cell::Cell;
use core::fmt::Write as _;
use core::ptr::NonNull;

use p2m_paging::p2m::{AccessBits, ClearBits, Cleared, Permit};
use p2m_paging::platform::{
    AllocError, Contents, Entry, FrameUsers, Leak, TakeCondition, TakeError,
};
use p2m_paging::{Errno, Gfn, Mfn, P2m, P2mType};

use crate::console::Console;
use crate::platform::{Buffer, Xen};
use crate::shim::{self, Domain, NO_MFN, PageInfo};

/// `gfn_lock` on the host p2m. It is recursive: a caller further up may hold it already.
pub struct LockedP2m<'a> {
    xen: &'a Xen,
    /// The entry read last: a change nearly always follows a lookup of the same gfn.
    seen: Cell<Option<(Gfn, shim::Entry)>>,
}

/// A frame that no entry refers to. The allocation and one reference belong to this value. A frame
/// that is dropped stays allocated; only [`Self::release`] frees it.
#[derive(Debug)]
pub struct Frame {
    page: NonNull<PageInfo>,
    /// The page's contents must not be seen by anybody else: the frame is scrubbed before it is
    /// freed.
    scrub: bool,
}

impl Leak for Frame {
    fn leak(self) {
        // SAFETY: the frame belongs to this value.
        let mfn = unsafe { shim::xen_shim_page_mfn(self.page.as_ptr()) };
        let _ = writeln!(
            Console,
            "memory paging: mfn {mfn:#x} is leaked: its flush is still owed"
        );
    }
}

impl Frame {
    /// Gives the frame back to Xen. If the frame was in an entry, the flush has been done.
    fn release(self) {
        // SAFETY: the allocation and a reference are ours, and no CPU reaches the frame any more.
        unsafe { shim::xen_shim_page_release(self.page.as_ptr(), self.scrub) }
    }

    /// The frame is in an entry now, which keeps its allocation.
    fn into_entry(self) {
        // SAFETY: our reference; the allocation's own stays.
        unsafe { shim::xen_shim_page_put(self.page.as_ptr()) }
    }
}

impl<'a> LockedP2m<'a> {
    pub(crate) fn lock(xen: &'a Xen) -> Self {
        // SAFETY: a live domain.
        unsafe { shim::xen_shim_p2m_lock(xen.domain()) };
        Self {
            xen,
            seen: Cell::new(None),
        }
    }

    fn domain(&self) -> *mut Domain {
        self.xen.domain()
    }

    fn cached_entry(&self, gfn: Gfn) -> shim::Entry {
        match self.seen.get() {
            Some((seen, entry)) if seen == gfn => entry,
            _ => self.read_entry(gfn),
        }
    }

    fn read_entry(&self, gfn: Gfn) -> shim::Entry {
        // SAFETY: the p2m is locked.
        let entry = unsafe { shim::xen_shim_get_entry(self.domain(), gfn.get()) };
        self.seen.set(Some((gfn, entry)));
        entry
    }

    fn set(&mut self, gfn: Gfn, mfn: u64, to: P2mType) -> Result<(), Errno> {
        let access = self.cached_entry(gfn).access;
        self.seen.set(None);
        let to = to.raw().into();
        // SAFETY: the p2m is locked; `mfn` is a frame of the domain, or none.
        let rc = unsafe { shim::xen_shim_set_entry(self.domain(), gfn.get(), mfn, to, access) };
        Errno::from_return(rc).map_or(Ok(()), Err)
    }
}

impl Drop for LockedP2m<'_> {
    fn drop(&mut self) {
        // SAFETY: locked by us.
        unsafe { shim::xen_shim_p2m_unlock(self.domain()) }
    }
}

impl P2m for LockedP2m<'_> {
    type Frame = Frame;
    type Buffer = Buffer;

    fn get(&self, gfn: Gfn) -> Entry {
        let seen = self.read_entry(gfn);
        Entry {
            p2mt: P2mType::try_from_raw(seen.p2mt).unwrap_or(P2mType::Invalid),
            mfn: Mfn::try_new(seen.mfn),
        }
    }

    fn users(&self, mfn: Mfn) -> FrameUsers {
        // SAFETY: a valid frame number, read from an entry under the lock.
        let users = unsafe { shim::xen_shim_page_users(mfn.get()) };
        FrameUsers {
            mmio: users.mmio,
            references: users.references,
            typed: users.typed,
        }
    }

    fn set_type(&mut self, _permit: Permit, gfn: Gfn, to: P2mType) -> Result<(), Errno> {
        let mfn = match to {
            P2mType::Invalid => NO_MFN,
            _ => self.cached_entry(gfn).mfn,
        };
        self.set(gfn, mfn, to)
    }

    fn take(
        &mut self,
        _permit: Permit,
        gfn: Gfn,
        mfn: Mfn,
        to: P2mType,
        condition: TakeCondition,
    ) -> Result<Frame, TakeError> {
        // SAFETY: a live domain; a valid frame number, read from its p2m under the lock.
        let held = unsafe { shim::xen_shim_page_get(self.domain(), mfn.get()) };
        let users = FrameUsers {
            mmio: false,
            references: held.references,
            typed: held.typed,
        };
        let in_use = TakeError::InUse {
            references: users.references,
            typed: users.typed,
        };
        // Not the domain's own any more, or about to be freed.
        let page = NonNull::new(held.page).ok_or(in_use)?;
        let scrub = condition == TakeCondition::SoleOwner;
        let taken = if scrub && !users.sole_owner() {
            Err(in_use)
        } else {
            self.set(gfn, NO_MFN, to).map_err(TakeError::Platform)
        };
        if let Err(e) = taken {
            // SAFETY: the reference from above.
            unsafe { shim::xen_shim_page_put(page.as_ptr()) };
            return Err(e);
        }
        if !scrub {
            // It may live on with its other users. Xen's allocator clears the m2p entry of a frame
            // that is freed.
            // SAFETY: a frame of the domain that is in no entry any more.
            unsafe { shim::xen_shim_clear_m2p(mfn.get()) };
        }
        Ok(Frame { page, scrub })
    }

    fn alloc(&mut self, contents: Contents<'_, Buffer>) -> Result<Frame, AllocError> {
        // Xen does not bring a page back without contents (row A4): it could not tell another
        // domain that maps the page from its pager.
        if let Contents::From(Buffer(0)) = contents {
            return Err(AllocError::InvalidBuffer);
        }
        // SAFETY: a live domain; the lock order is checked by the shim.
        let page = NonNull::new(unsafe { shim::xen_shim_page_alloc(self.domain()) });
        let page = page.ok_or(AllocError::NoMemory)?;
        let filled = match contents {
            Contents::Zero => {
                // SAFETY: nobody else knows the frame.
                unsafe { shim::xen_shim_page_clear(page.as_ptr()) };
                true
            }
            // SAFETY: as above; Xen checks the address.
            Contents::From(buffer) => unsafe { shim::xen_shim_page_fill(page.as_ptr(), buffer.0) },
        };
        if filled {
            return Ok(Frame { page, scrub: false });
        }
        // A failed copy may have left half of the pager's contents.
        Frame { page, scrub: true }.release();
        Err(AllocError::BufferFault)
    }

    fn install(
        &mut self,
        _permit: Permit,
        gfn: Gfn,
        frame: Frame,
        to: P2mType,
    ) -> Result<Mfn, Errno> {
        // SAFETY: the frame belongs to this value.
        let raw = unsafe { shim::xen_shim_page_mfn(frame.page.as_ptr()) };
        let mfn = Mfn::try_new(raw).ok_or(Errno::EIO);
        match mfn.and_then(|mfn| self.set(gfn, raw, to).map(|()| mfn)) {
            Ok(mfn) => {
                frame.into_entry();
                Ok(mfn)
            }
            Err(errno) => {
                // It has contents of the guest, which nobody else may see.
                Frame {
                    scrub: true,
                    ..frame
                }
                .release();
                Err(errno)
            }
        }
    }

    fn restore_m2p(&mut self, mfn: Mfn, gfn: Gfn) {
        // SAFETY: the frame is in the gfn's entry, and the p2m is locked.
        unsafe { shim::xen_shim_set_m2p(mfn.get(), gfn.get()) }
    }

    fn resident_type(&self) -> P2mType {
        // SAFETY: a live domain.
        if unsafe { shim::xen_shim_log_dirty(self.domain()) } {
            P2mType::RamLogDirty
        } else {
            P2mType::RamRw
        }
    }

    fn flush(&mut self) {
        // SAFETY: the p2m is locked.
        unsafe { shim::xen_shim_flush(self.domain()) }
    }

    fn read_clear_access_bits(
        &mut self,
        first: Gfn,
        uses: &mut [AccessBits],
        clear: ClearBits,
    ) -> Result<Cleared, Errno> {
        let count = u32::try_from(uses.len()).map_err(|_| Errno::EINVAL)?;
        let (pairs, both) = (
            uses.as_mut_ptr().cast(),
            clear == ClearBits::AccessedAndDirty,
        );
        // SAFETY: the p2m is locked; `AccessBits` is two words, the accessed bits first.
        let rc = unsafe {
            shim::xen_shim_read_clear_access_bits(self.domain(), first.get(), pairs, count, both)
        };
        // The shim has flushed what it cleared.
        Errno::from_return(rc).map_or(Ok(Cleared::Nothing), Err)
    }

    fn free(&mut self, frames: impl Iterator<Item = Frame>) {
        frames.for_each(Frame::release);
    }

    fn count_out(&mut self) {
        // SAFETY: a live domain.
        unsafe { shim::xen_shim_count_out(self.domain()) }
    }

    fn count_in(&mut self) {
        // SAFETY: a live domain.
        unsafe { shim::xen_shim_count_in(self.domain()) }
    }
}
