// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that both processes map.
//!
//! It is accessed as atomic words, since the other side may write at any time. The mappings live
//! until the process ends: a ring page, a page of preps and the pager's buffers are created once
//! and given to threads that live as long as the process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use p2m_paging::PAGE_SIZE;
use p2m_paging::ring::SharedPage;
use pager_store::PageBuf;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

const PAGE_WORDS: usize = PAGE_SIZE / size_of::<AtomicU64>();
const SIZE_SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// Why memory could not be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SharedAreaError {
    /// The other side's memory does not have the agreed size, or its size could change.
    #[error("shared memory of {bytes} bytes, size sealed: {sealed}; {expected} bytes are needed")]
    Size {
        /// Its size.
        bytes: u64,
        /// The agreed size.
        expected: u64,
        /// Whether the size is sealed.
        sealed: bool,
    },
    /// A system call failed.
    #[error("{step}: {errno}")]
    System {
        /// The system call.
        step: &'static str,
        /// Its error.
        errno: Errno,
    },
}

fn at(step: &'static str) -> impl Fn(Errno) -> SharedAreaError {
    move |errno| SharedAreaError::System { step, errno }
}

/// Pages of shared memory that stay mapped.
#[derive(Debug)]
pub struct SharedArea {
    // INVARIANT: `base` is a shared, writable mapping of `pages` pages of `file`, whose size is
    // sealed; it is never unmapped.
    base: NonNull<u8>,
    pages: usize,
    file: OwnedFd,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is accessed as atomics only.
unsafe impl Send for SharedArea {}
// SAFETY: as above.
unsafe impl Sync for SharedArea {}

impl SharedArea {
    /// Creates memory of zeros.
    pub fn create(name: &str, pages: usize) -> Result<Self, SharedAreaError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create(name, flags).map_err(at("memfd_create"))?;
        rustix::fs::ftruncate(&file, size_bytes(pages)).map_err(at("ftruncate"))?;
        rustix::fs::fcntl_add_seals(&file, SIZE_SEALS | SealFlags::SEAL)
            .map_err(at("F_ADD_SEALS"))?;
        Self::map(file, pages)
    }

    /// Maps memory that the other side created and sent. Its size must be exactly `pages` and
    /// sealed: an access to a mapping that has lost its memory would kill this process.
    pub fn open(file: OwnedFd, pages: usize) -> Result<Self, SharedAreaError> {
        // A file that is not a memfd has no seals.
        let seals = rustix::fs::fcntl_get_seals(&file).unwrap_or(SealFlags::empty());
        let bytes = rustix::fs::fstat(&file)
            .map_err(at("fstat"))?
            .st_size
            .cast_unsigned();
        let (expected, sealed) = (size_bytes(pages), seals.contains(SIZE_SEALS));
        if bytes != expected || !sealed {
            return Err(SharedAreaError::Size {
                bytes,
                expected,
                sealed,
            });
        }
        Self::map(file, pages)
    }

    fn map(file: OwnedFd, pages: usize) -> Result<Self, SharedAreaError> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        let bytes = pages * PAGE_SIZE;
        // SAFETY: the kernel picks an unused address range, so no existing mapping is replaced.
        let base = unsafe { rustix::mm::mmap(ptr::null_mut(), bytes, protection, flags, &file, 0) };
        let base =
            NonNull::new(base.map_err(at("mmap"))?.cast()).ok_or(SharedAreaError::System {
                step: "mmap",
                errno: Errno::FAULT,
            })?;
        Ok(Self { base, pages, file })
    }

    /// The number of pages.
    pub fn size_pages(&self) -> usize {
        self.pages
    }

    /// All words, in order.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped and page-aligned by the type's invariant, for longer than `self` lives;
        // atomics allow for other writers.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), self.pages * PAGE_WORDS) }
    }

    /// The words of one page.
    pub fn page(&self, page: usize) -> Option<&[AtomicU64]> {
        let start = page.checked_mul(PAGE_WORDS)?;
        self.words().get(start..start.checked_add(PAGE_WORDS)?)
    }

    /// Page 0, as the page of a ring.
    pub fn ring_page(&'static self) -> SharedPage {
        // SAFETY: it is page-aligned, mapped until the process ends, and at least a page long,
        // since no area has fewer than one. This process accesses it through atomics only.
        unsafe { SharedPage::new(self.base) }
    }

    /// Locks the memory, so that the system does not page it out.
    pub fn lock_in_memory(&self) -> Result<(), Errno> {
        // SAFETY: the range is this value's mapping; locking changes no contents.
        unsafe { rustix::mm::mlock(self.base.as_ptr().cast(), self.pages * PAGE_SIZE) }
    }

    /// Exchanges the view as words for a view as pages, for the side that fills them. The other
    /// side reads a page only through the kernel, and only between being told of it and answering.
    pub fn into_pages(self) -> (&'static mut [PageBuf], OwnedFd) {
        // SAFETY: it is mapped until the process ends, and page-aligned. This is the only view of
        // this process, since `self` is gone and `ring_page` was not taken from a value that is not
        // 'static.
        let pages =
            unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().cast(), self.pages) };
        (pages, self.file)
    }
}

impl AsFd for SharedArea {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn size_bytes(pages: usize) -> u64 {
    pages as u64 * PAGE_SIZE as u64
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn both_mappings_are_one_memory() {
        let area = SharedArea::create("test", 2).unwrap();
        let other = SharedArea::open(area.as_fd().try_clone_to_owned().unwrap(), 2).unwrap();
        area.page(1).unwrap()[3].store(7, Ordering::Relaxed);
        assert_eq!(other.words()[PAGE_WORDS + 3].load(Ordering::Relaxed), 7);
        assert!(area.page(2).is_none() && area.page(usize::MAX).is_none());
    }

    #[test]
    fn memory_that_could_shrink_or_is_too_small_is_refused() {
        let area = SharedArea::create("test", 2).unwrap();
        let small = SharedArea::open(area.as_fd().try_clone_to_owned().unwrap(), 3);
        assert!(matches!(
            small,
            Err(SharedAreaError::Size { sealed: true, .. })
        ));
        let loose = rustix::fs::memfd_create("loose", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&loose, 4096).unwrap();
        assert!(matches!(
            SharedArea::open(loose, 1),
            Err(SharedAreaError::Size { sealed: false, .. })
        ));
    }
}
