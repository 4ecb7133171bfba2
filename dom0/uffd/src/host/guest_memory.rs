// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's memory: a memfd, and its mapping in the machine process.
//!
//! [`GuestFile`] is the memory as a file: what the pager gets. It reads frames with `pread`, which
//! costs what a mapping costs and cannot harm: touching an evicted frame through a mapping would
//! put a zero page there, and the guest would find it instead of its own.
//! [`GuestMemory`] is the file and a mapping: what the machine's vcpus run on.
//!
//! The file's size is sealed, so that a mapping of it cannot fault beyond its end. Frame numbers
//! are pages of the file: gfn 0 is at offset 0, there are no holes in the numbering.

use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use p2m_paging::{Gfn, PAGE_SIZE};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use thiserror::Error;

use super::frame_run::FrameRun;

/// 64-bit words in a page.
pub const PAGE_WORDS: usize = PAGE_SIZE / 8;

/// A page, as memory that others may change at any moment.
pub type SharedPage = [AtomicU64; PAGE_WORDS];

/// Seals without which a mapping could outlive the file's pages.
const SIZE_SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// Why guest memory could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CreateError {
    /// A guest without memory.
    #[error("a guest needs at least one page of memory")]
    NoPages,
    /// More than addresses or frame numbers reach.
    #[error("{pages} pages are more than a process can map")]
    TooLarge {
        /// Pages asked for.
        pages: u64,
    },
    /// A file from elsewhere whose size can still change.
    #[error("the file's size is not sealed: it could shrink under its mapping")]
    NotSealed,
    /// A file from elsewhere that ends within a page.
    #[error("the file has {bytes} bytes: not a whole number of pages")]
    PartPage {
        /// Its size in bytes.
        bytes: u64,
    },
    /// The kernel refused a step.
    #[error("{step}: {errno}")]
    System {
        /// The system call.
        step: &'static str,
        /// Its error.
        errno: Errno,
    },
}

impl CreateError {
    fn at(step: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::System { step, errno }
    }
}

/// Why frames could not be read or discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The run goes beyond the guest's memory.
    #[error("frames up to {end:#x} of a guest with {size_pages:#x}")]
    OutOfGuest {
        /// One frame after the last asked for.
        end: u64,
        /// Pages of the guest.
        size_pages: u64,
    },
    /// The buffer is not as large as the run.
    #[error("a buffer of {given} bytes for {needed}")]
    BufferSize {
        /// Bytes of the run.
        needed: u64,
        /// Bytes of the buffer.
        given: usize,
    },
    /// The kernel refused.
    #[error("{step}: {errno}")]
    System {
        /// The system call.
        step: &'static str,
        /// Its error.
        errno: Errno,
    },
}

/// Guest memory as a file.
#[derive(Debug)]
pub struct GuestFile {
    // INVARIANT: the file's size is `pages` pages and sealed.
    file: OwnedFd,
    pages: u64,
}

impl GuestFile {
    /// A new guest's memory: all holes, so it takes none of the host's yet.
    pub fn create(pages: u64) -> Result<Self, CreateError> {
        let bytes = Self::size(pages)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("guest-memory", flags)
            .map_err(CreateError::at("memfd_create"))?;
        rustix::fs::ftruncate(&file, bytes).map_err(CreateError::at("ftruncate"))?;
        rustix::fs::fcntl_add_seals(&file, SIZE_SEALS | SealFlags::SEAL)
            .map_err(CreateError::at("F_ADD_SEALS"))?;
        Ok(Self { file, pages })
    }

    /// A guest's memory that another process made and sent.
    pub fn open(file: OwnedFd) -> Result<Self, CreateError> {
        let seals = rustix::fs::fcntl_get_seals(&file).map_err(CreateError::at("F_GET_SEALS"))?;
        if !seals.contains(SIZE_SEALS) {
            return Err(CreateError::NotSealed);
        }
        let stat = rustix::fs::fstat(&file).map_err(CreateError::at("fstat"))?;
        let bytes = stat.st_size.cast_unsigned();
        if !bytes.is_multiple_of(PAGE_SIZE as u64) {
            return Err(CreateError::PartPage { bytes });
        }
        let pages = bytes / PAGE_SIZE as u64;
        Self::size(pages)?;
        Ok(Self { file, pages })
    }

    fn size(pages: u64) -> Result<u64, CreateError> {
        if pages == 0 {
            return Err(CreateError::NoPages);
        }
        pages
            .checked_mul(PAGE_SIZE as u64)
            .filter(|&bytes| pages <= Gfn::MAX.get() && isize::try_from(bytes).is_ok())
            .ok_or(CreateError::TooLarge { pages })
    }

    /// Pages of the guest: resident or not.
    pub const fn size_pages(&self) -> u64 {
        self.pages
    }

    /// Pages that take memory of the host now.
    pub fn resident_pages(&self) -> Result<u64, Errno> {
        let stat = rustix::fs::fstat(&self.file)?;
        Ok(stat.st_blocks.cast_unsigned() * 512 / PAGE_SIZE as u64)
    }

    /// Checks that all of a run is the guest's.
    pub const fn check(&self, run: FrameRun) -> Result<(), FrameError> {
        if run.end() > self.pages {
            return Err(FrameError::OutOfGuest {
                end: run.end(),
                size_pages: self.pages,
            });
        }
        Ok(())
    }

    /// Gives a run's memory back to the host, in every process that maps it. What was there is
    /// gone; the next access is a missing fault where userfaultfd is registered, else zeros.
    /// Frames that are not resident are skipped.
    pub fn discard(&self, run: FrameRun) -> Result<(), FrameError> {
        self.check(run)?;
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, mode, run.offset_bytes(), run.size_bytes()).map_err(
            |errno| FrameError::System {
                step: "FALLOC_FL_PUNCH_HOLE",
                errno,
            },
        )
    }

    /// Reads a run into `buffer`, whose size must be the run's. A frame that is not resident reads
    /// as zeros and stays so.
    pub fn read(&self, run: FrameRun, buffer: &mut [u8]) -> Result<(), FrameError> {
        self.check(run)?;
        if buffer.len() as u64 != run.size_bytes() {
            return Err(FrameError::BufferSize {
                needed: run.size_bytes(),
                given: buffer.len(),
            });
        }
        let mut done = 0;
        while done < buffer.len() {
            let offset = run.offset_bytes() + done as u64;
            match rustix::io::pread(&self.file, &mut buffer[done..], offset) {
                // The size is sealed: the end of the file cannot come early.
                Ok(0) => {
                    return Err(FrameError::System {
                        step: "pread",
                        errno: Errno::IO,
                    });
                }
                Ok(bytes) => done += bytes,
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(FrameError::System {
                        step: "pread",
                        errno,
                    });
                }
            }
        }
        Ok(())
    }
}

impl AsFd for GuestFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Guest memory, mapped. Also a [`GuestFile`], by `Deref`.
///
/// Everything in it is seen as atomic words: vcpus, the kernel's copies and other processes change
/// it at any time, and that is no data race.
#[derive(Debug)]
pub struct GuestMemory {
    // INVARIANT: `base` is a shared, writable mapping of the whole file, private to this value.
    base: NonNull<u8>,
    file: GuestFile,
}

// SAFETY: the mapping belongs to the process, not to a thread; it is reached only as atomics, by
// system calls, and by copies that expect others to write meanwhile.
unsafe impl Send for GuestMemory {}
// SAFETY: as above.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Maps guest memory into this process.
    pub fn map(file: GuestFile) -> Result<Self, CreateError> {
        let too_large = CreateError::TooLarge { pages: file.pages };
        let bytes = usize::try_from(GuestFile::size(file.pages)?).map_err(|_| too_large)?;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the kernel picks an unused place; nothing that exists is mapped over.
        let base = unsafe { rustix::mm::mmap(ptr::null_mut(), bytes, prot, flags, &file, 0) }
            .map_err(CreateError::at("mmap"))?;
        let base = NonNull::new(base.cast()).ok_or(CreateError::System {
            step: "mmap",
            errno: Errno::FAULT,
        })?;
        let memory = Self { base, file };
        memory.advise(bytes)?;
        Ok(memory)
    }

    fn advise(&self, bytes: usize) -> Result<(), CreateError> {
        for (advice, step) in [
            // Pages come and go one by one.
            (Advice::LinuxNoHugepage, "MADV_NOHUGEPAGE"),
            // Which pages were used lately is the pager's business. Without this the kernel keeps
            // account of it too: a page that the pager has read counts as used twice when it is
            // discarded, and is moved to the list of active pages just before it is freed.
            (Advice::Random, "MADV_RANDOM"),
        ] {
            // SAFETY: the range is this mapping; the advice changes no content.
            let advised = unsafe { rustix::mm::madvise(self.base.as_ptr().cast(), bytes, advice) };
            match advised {
                // A kernel without huge pages does not know of them, which is as good.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(errno) => return Err(CreateError::System { step, errno }),
            }
        }
        Ok(())
    }

    /// Creates and maps a new guest's memory.
    pub fn create(pages: u64) -> Result<Self, CreateError> {
        Self::map(GuestFile::create(pages)?)
    }

    /// Where the mapping starts in this process.
    pub fn base(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// Where a run is in this process.
    pub fn address(&self, run: FrameRun) -> Result<u64, FrameError> {
        self.check(run)?;
        Ok(self.base() + run.offset_bytes())
    }

    /// The frame that an address of this process is in.
    pub fn gfn(&self, address: u64) -> Option<Gfn> {
        let page = address.checked_sub(self.base())? / PAGE_SIZE as u64;
        (page < self.size_pages()).then_some(Gfn::new_truncate(page))
    }

    /// Has this process's page table forget a run. Its contents stay, and whoever touches a page next maps it
    /// again; what userfaultfd has write-protected stays so.
    pub fn unmap(&self, run: FrameRun) -> Result<(), FrameError> {
        let at = std::ptr::with_exposed_provenance_mut(
            usize::try_from(self.address(run)?).unwrap_or(usize::MAX),
        );
        let bytes = usize::try_from(run.size_bytes()).unwrap_or(usize::MAX);
        // SAFETY: the range is inside this mapping, which is shared: no content is lost.
        unsafe { rustix::mm::madvise(at, bytes, Advice::LinuxDontNeed) }.map_err(|errno| {
            FrameError::System {
                step: "MADV_DONTNEED",
                errno,
            }
        })
    }

    /// A frame's words. Touching one may block while the page is fetched.
    pub fn page(&self, gfn: Gfn) -> Option<&SharedPage> {
        let page = self.page_pointer(gfn)?;
        // SAFETY: `page` points to PAGE_SIZE mapped bytes, page-aligned; the mapping lives as long
        // as `self` and cannot be cut short (sealed size); atomics allow for all other writers.
        Some(unsafe { page.cast::<SharedPage>().as_ref() })
    }

    /// Copies a frame out. Not one atomic step: a vcpu that writes meanwhile may be seen in part.
    pub fn load(&self, gfn: Gfn, into: &mut [u8; PAGE_SIZE]) -> Option<()> {
        let page = self.page_pointer(gfn)?;
        // SAFETY: PAGE_SIZE bytes readable at `page` while `self` lives, and writable at `into`.
        unsafe { copy_page(page.as_ptr(), into.as_mut_ptr()) };
        Some(())
    }

    /// Copies a page in. Not one atomic step, as [`Self::load`].
    pub fn store(&self, gfn: Gfn, from: &[u8; PAGE_SIZE]) -> Option<()> {
        let page = self.page_pointer(gfn)?;
        // SAFETY: PAGE_SIZE bytes readable at `from`, and writable at `page` while `self` lives.
        unsafe { copy_page(from.as_ptr(), page.as_ptr()) };
        Some(())
    }

    fn page_pointer(&self, gfn: Gfn) -> Option<NonNull<u8>> {
        self.check(FrameRun::one(gfn)).ok()?;
        let offset = usize::try_from(gfn.get()).ok()? * PAGE_SIZE;
        // SAFETY: the frame is the guest's, so the offset is inside the mapping.
        Some(unsafe { self.base.add(offset) })
    }
}

impl Deref for GuestMemory {
    type Target = GuestFile;

    fn deref(&self) -> &GuestFile {
        &self.file
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        let bytes = usize::try_from(self.size_pages()).unwrap_or(0) * PAGE_SIZE;
        // SAFETY: the mapping is this value's own, and nothing borrowed from it is left.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), bytes) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// Copies a page that somebody else may be writing.
///
/// # Safety
///
/// [`PAGE_SIZE`] bytes must be readable at `from` and writable at `to`, and not overlap.
unsafe fn copy_page(from: *const u8, to: *mut u8) {
    // SAFETY: as the caller promises. The copy is outside the language's memory model, like the
    // kernel's own: a writer on the other side makes the bytes a mixture, nothing worse.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") PAGE_SIZE => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(test)]
#[path = "guest_memory_tests.rs"]
mod tests;
