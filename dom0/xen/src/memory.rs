// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory for the arguments of hypercalls. Xen writes results to it through the page table and does
//! not wait for Linux. A result that cannot be written is lost, and with it a page whose evict was
//! done. So this memory is never moved or paged out.

use std::path::Path;
use std::ptr::{self, NonNull};

use p2m_paging::PAGE_SIZE;
use pager_store::PageBuf;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use super::error::{XenError, device};

/// Maps memory of the kernel's own, which stays in place. Locked memory of the process does not:
/// Linux may move it. The device came with Linux 4.18.
const DEVICE: &str = "/dev/xen/hypercall";

/// Pages that stay in place until the process ends.
pub(super) fn locked_pages(pages: usize) -> Result<&'static mut [PageBuf], XenError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(Path::new(DEVICE), flags, Mode::empty()).map_err(not_opened)?;
    let (prot, bytes) = (ProtFlags::READ | ProtFlags::WRITE, pages * PAGE_SIZE);
    // SAFETY: the kernel picks an unused address range, so no existing mapping is replaced.
    let base =
        unsafe { rustix::mm::mmap(ptr::null_mut(), bytes, prot, MapFlags::SHARED, &file, 0) };
    let base = base.map_err(device("memory for hypercalls"))?;
    let base = NonNull::new(base.cast::<PageBuf>()).ok_or(device(DEVICE)(Errno::FAULT))?;
    // SAFETY: it is mapped until the process ends with that size, page-aligned, zeroed, and known
    // to nothing else. Xen reads and writes it only during calls that name it.
    Ok(unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), pages) })
}

fn not_opened(errno: Errno) -> XenError {
    match errno {
        Errno::NOENT => XenError::NoCallMemory,
        errno => device(DEVICE)(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_memory_that_stays_in_place_is_refused() {
        assert!(matches!(not_opened(Errno::NOENT), XenError::NoCallMemory));
        assert!(matches!(
            not_opened(Errno::ACCESS),
            XenError::Device {
                what: DEVICE,
                errno: Errno::ACCESS
            }
        ));
    }
}
