// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory for the arguments of hypercalls. Xen reads it through the page table and does not wait
//! for Linux to page it in.

use std::path::Path;
use std::ptr::{self, NonNull};

use p2m_paging::PAGE_SIZE;
use pager_store::PageBuf;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use super::error::{XenError, device};

/// Maps pages of the kernel that are neither moved nor paged out.
const DEVICE: &str = "/dev/xen/hypercall";

/// Pages that stay in place until the process ends.
///
/// On a kernel without the device (before 4.18) this is locked memory, as in Xen's own tools.
pub(super) fn locked_pages(pages: usize) -> Result<&'static mut [PageBuf], XenError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let (prot, bytes) = (ProtFlags::READ | ProtFlags::WRITE, pages * PAGE_SIZE);
    let base = match rustix::fs::open(Path::new(DEVICE), flags, Mode::empty()) {
        Ok(file) => {
            // SAFETY: the kernel picks an unused address range, so no existing mapping is replaced.
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
    // SAFETY: it is mapped until the process ends with that size, page-aligned, zeroed, and known
    // to nothing else. Xen reads and writes it only during calls that name it.
    Ok(unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), pages) })
}
