// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that hypercalls take their arguments from: Xen reads it through the page table and does
//! not wait for Linux to bring it in.

use std::path::Path;
use std::ptr::{self, NonNull};

use p2m_paging::PAGE_SIZE;
use pager_store::PageBuf;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use super::error::{XenError, device};

/// Maps the kernel's pages for that, which neither move nor leave.
const DEVICE: &str = "/dev/xen/hypercall";

/// Pages that stay where they are until the process ends.
///
/// A kernel without the device (before 4.18) gives locked memory instead, as Xen's own tools do.
pub(super) fn locked_pages(pages: usize) -> Result<&'static mut [PageBuf], XenError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let (prot, bytes) = (ProtFlags::READ | ProtFlags::WRITE, pages * PAGE_SIZE);
    let base = match rustix::fs::open(Path::new(DEVICE), flags, Mode::empty()) {
        Ok(file) => {
            // SAFETY: the kernel picks an unused place; nothing that exists is mapped over.
            unsafe { rustix::mm::mmap(ptr::null_mut(), bytes, prot, MapFlags::SHARED, &file, 0) }
        }
        Err(Errno::NOENT) => {
            let flags = MapFlags::PRIVATE | MapFlags::LOCKED | MapFlags::POPULATE;
            // SAFETY: as above.
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), bytes, prot, flags) }
        }
        Err(errno) => return Err(device(DEVICE)(errno)),
    };
    let base = base.map_err(device("memory for hypercalls"))?;
    let base = NonNull::new(base.cast::<PageBuf>()).ok_or(device(DEVICE)(Errno::FAULT))?;
    // SAFETY: mapped for good with that size, page-aligned, zeroed, and known to nobody else. Xen
    // reads and writes it only during calls that are told of it.
    Ok(unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), pages) })
}
