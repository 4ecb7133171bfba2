// SPDX-License-Identifier: MIT OR Apache-2.0
//! A shared mapping of a sparse file, as atomic words. It allocates none of the file's memory.

use std::fs::File;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use rustix::io::Errno;
use rustix::mm::{MapFlags, MlockFlags, MprotectFlags, ProtFlags};

/// Words of a file.
#[derive(Debug)]
pub(super) struct Mapping {
    // INVARIANT: `base` is a shared mapping of `bytes` bytes, which can be read and written until it is
    // dropped. Nothing else unmaps it.
    base: NonNull<AtomicU64>,
    bytes: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is accessed as atomics only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps this part of the file; the file has it. The caller touches only what is allocated: the
    /// system would have to allocate the rest, and kills the process if it cannot.
    pub(super) fn new(file: &File, from: u64, bytes: usize) -> Result<Self, Errno> {
        // A pager locks all its future memory. Memory that cannot be accessed yet is not allocated for
        // that.
        let protection = ProtFlags::empty();
        // SAFETY: the kernel picks an unused address range, so no existing mapping is replaced.
        let base = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                bytes,
                protection,
                MapFlags::SHARED,
                file,
                from,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(Errno::FAULT)?;
        let mapping = Self { base, bytes };
        let start = mapping.base.as_ptr().cast();
        // SAFETY: the range is this value's mapping; locking changes no contents.
        if unsafe { rustix::mm::mlock_with(start, bytes, MlockFlags::ONFAULT) }.is_err() {
            // SAFETY: as above. Without the right to lock, nothing was locked.
            unsafe { rustix::mm::munlock(start, bytes) }?;
        }
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the range is this value's mapping, and nobody uses it yet.
        unsafe { rustix::mm::mprotect(start, bytes, access) }?;
        Ok(mapping)
    }

    /// All words, in order.
    pub(super) fn words(&self) -> &[AtomicU64] {
        let words = self.bytes / size_of::<AtomicU64>();
        // SAFETY: mapped, page-aligned and accessible by the type's invariant, for as long as `self`
        // lives; atomics allow for other writers.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this value's mapping, and no reference to it outlives `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}
