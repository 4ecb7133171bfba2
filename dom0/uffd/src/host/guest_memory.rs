// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's memory: a memfd, and its mapping in the machine process.
//!
//! [`GuestFile`] is the memory as a file; the pager gets this view. It reads frames with `pread`,
//! which costs as much as a mapping but is safe: an access to an evicted frame through a mapping
//! would put a zero page there, and the guest would find it instead of its own. [`GuestMemory`] is
//! the file and a mapping; the machine's vcpus use it.
//!
//! The file's size is sealed, so an access through a mapping cannot fault beyond its end. A gfn is
//! the number of a page in the file: gfn 0 is at offset 0, and the numbers have no holes.

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

/// A page of memory that others may change at any moment.
pub type SharedPage = [AtomicU64; PAGE_WORDS];

/// The seals that prevent a mapping from outliving the file's pages.
const SIZE_SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// Why guest memory could not be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The guest would have no memory.
    #[error("a guest needs at least one page of memory")]
    NoPages,
    /// The guest has more pages than addresses or frame numbers can name.
    #[error("{pages} pages are more than a process can map")]
    TooLarge {
        /// The requested number of pages.
        pages: u64,
    },
    /// Another process sent a file whose size can still change.
    #[error("the file's size is not sealed: it could shrink under its mapping")]
    NotSealed,
    /// Another process sent a file whose size is not a whole number of pages.
    #[error("the file has {bytes} bytes: not a whole number of pages")]
    PartPage {
        /// The size of the file in bytes.
        bytes: u64,
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
        /// The number of the frame after the last requested one.
        end: u64,
        /// The number of the guest's pages.
        size_pages: u64,
    },
    /// The sizes of the buffer and the run differ.
    #[error("a buffer of {given} bytes for {needed}")]
    BufferSize {
        /// The size of the run in bytes.
        needed: u64,
        /// The size of the buffer in bytes.
        given: usize,
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

/// Guest memory as a file.
#[derive(Debug)]
pub struct GuestFile {
    // INVARIANT: the file's size is `pages` pages and sealed.
    file: OwnedFd,
    pages: u64,
}

impl GuestFile {
    /// Creates a new guest's memory. It consists of holes, so it takes no memory of the host yet.
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

    /// Opens guest memory that another process created and sent.
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

    /// The number of the guest's pages, resident or not.
    pub const fn size_pages(&self) -> u64 {
        self.pages
    }

    /// The number of pages that take memory of the host now.
    pub fn resident_pages(&self) -> Result<u64, Errno> {
        let stat = rustix::fs::fstat(&self.file)?;
        Ok(stat.st_blocks.cast_unsigned() * 512 / PAGE_SIZE as u64)
    }

    /// Checks that all frames of a run belong to the guest.
    pub const fn check(&self, run: FrameRun) -> Result<(), FrameError> {
        if run.end() > self.pages {
            return Err(FrameError::OutOfGuest {
                end: run.end(),
                size_pages: self.pages,
            });
        }
        Ok(())
    }

    /// Returns a run's memory to the host, in every process that maps it. The contents are lost.
    /// The next access is a missing fault where userfaultfd is registered; elsewhere it finds
    /// zeros. Frames that are not resident are skipped.
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

    /// Reads a run into `buffer`, which must have the same size. A frame that is not resident reads
    /// as zeros and stays not resident.
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
                // The size is sealed, so the file cannot end early.
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

/// Mapped guest memory. It is also a [`GuestFile`], by `Deref`.
///
/// All of it is accessed as atomic words: vcpus, the kernel's copies and other processes change it
/// at any time, and that is not a data race.
#[derive(Debug)]
pub struct GuestMemory {
    // INVARIANT: `base` is a shared, writable mapping of the whole file, private to this value.
    base: NonNull<u8>,
    file: GuestFile,
}

// SAFETY: the mapping belongs to the process, not to a thread. It is accessed only as atomics, by
// system calls, and by copies that allow for other writers.
unsafe impl Send for GuestMemory {}
// SAFETY: as above.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Maps guest memory into this process.
    pub fn map(file: GuestFile) -> Result<Self, CreateError> {
        let too_large = CreateError::TooLarge { pages: file.pages };
        let bytes = usize::try_from(GuestFile::size(file.pages)?).map_err(|_| too_large)?;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the kernel picks an unused address range, so no existing mapping is replaced.
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
            // Pages come in and go out one by one.
            (Advice::LinuxNoHugepage, "MADV_NOHUGEPAGE"),
            // The pager alone tracks which pages were used lately. Without this advice the kernel
            // tracks it too: a page that the pager has read counts as used twice when it is
            // discarded, and the kernel moves it to the list of active pages just before it frees
            // it.
            (Advice::Random, "MADV_RANDOM"),
        ] {
            // SAFETY: the range is this mapping; the advice changes no contents.
            let advised = unsafe { rustix::mm::madvise(self.base.as_ptr().cast(), bytes, advice) };
            match advised {
                // A kernel without huge pages does not know this advice, and does not need it.
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

    /// The address of the mapping in this process.
    pub fn base(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// The address of a run in this process.
    pub fn address(&self, run: FrameRun) -> Result<u64, FrameError> {
        self.check(run)?;
        Ok(self.base() + run.offset_bytes())
    }

    /// The frame at an address of this process.
    pub fn gfn(&self, address: u64) -> Option<Gfn> {
        let page = address.checked_sub(self.base())? / PAGE_SIZE as u64;
        (page < self.size_pages()).then_some(Gfn::new_truncate(page))
    }

    /// Removes a run from this process's page table. Its contents stay, and the next access maps a
    /// page again. Pages that userfaultfd has write-protected stay protected.
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

    /// A frame's words. An access to them may block while the page comes in.
    pub fn page(&self, gfn: Gfn) -> Option<&SharedPage> {
        let page = self.page_pointer(gfn)?;
        // SAFETY: `page` points to PAGE_SIZE mapped bytes, page-aligned. The mapping lives as long
        // as `self`, and its size is sealed. Atomics allow for all other writers.
        Some(unsafe { page.cast::<SharedPage>().as_ref() })
    }

    /// Copies a frame out. The copy is not atomic: it may contain part of what a vcpu writes
    /// meanwhile.
    pub fn load(&self, gfn: Gfn, into: &mut [u8; PAGE_SIZE]) -> Option<()> {
        let page = self.page_pointer(gfn)?;
        // SAFETY: PAGE_SIZE bytes readable at `page` while `self` lives, and writable at `into`.
        unsafe { copy_page(page.as_ptr(), into.as_mut_ptr()) };
        Some(())
    }

    /// Copies a page in. The copy is not atomic, as in [`Self::load`].
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
        // SAFETY: this value owns the mapping, and no borrow of it is left.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), bytes) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// Copies a page that others may be writing.
///
/// # Safety
///
/// [`PAGE_SIZE`] bytes must be readable at `from` and writable at `to`, and not overlap.
unsafe fn copy_page(from: *const u8, to: *mut u8) {
    // SAFETY: as the caller promises. The copy is outside the language's memory model, like the
    // kernel's own: a concurrent writer makes the bytes a mixture and does no other harm.
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
