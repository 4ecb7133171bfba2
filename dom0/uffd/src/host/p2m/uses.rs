// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds the pages that the guest has used: those that its vcpus' page table maps.
//!
//! The page table belongs to the kernel, which does not show its accessed bits. But the kernel
//! reports which pages it maps (`PAGEMAP_SCAN`), and it removes a mapping on request
//! (`MADV_DONTNEED`). The page then stays in the memfd, and the guest's next access maps it again,
//! without an event from userfaultfd. So a mapped page has been used since its mapping was removed.
//! Each page that the guest still uses costs it a minor fault. Write-protection is kept.

use std::fs::File;
use std::os::fd::AsFd as _;

use p2m_paging::p2m::{ACCESS_BITS_GFNS, AccessBits};
use p2m_paging::{Errno, PAGE_SIZE};
use rustix::ioctl::{Direction, Opcode, Updater, opcode};
use static_assertions::const_assert_eq;

use crate::host::frame_run::FrameRun;
use crate::host::guest_memory::GuestMemory;

/// `PAGEMAP_SCAN` (`linux/fs.h`, Linux 6.7).
const PAGEMAP_SCAN: Opcode =
    opcode::from_components(Direction::ReadWrite, b'f', 16, size_of::<ScanArgument>());
/// `PAGE_IS_PRESENT`.
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_BYTES: u64 = PAGE_SIZE as u64;
/// The number of stretches that one call returns.
const REGIONS: usize = 64;
/// The number of gfns in one [`AccessBits`].
#[expect(clippy::cast_possible_truncation, reason = "a word has 64 bits")]
const WORD_GFNS: usize = ACCESS_BITS_GFNS as usize;

/// `struct pm_scan_arg`.
#[repr(C)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

const_assert_eq!(size_of::<ScanArgument>(), 96);
const_assert_eq!(size_of::<Region>(), 24);

/// The kernel's view of this process's page table.
#[derive(Debug)]
pub(super) struct Pagemap(File);

impl Pagemap {
    /// Opens it. `None` if the file does not exist or may not be read.
    pub(super) fn open() -> Option<Self> {
        File::open("/proc/self/pagemap").ok().map(Self)
    }

    /// Reads and clears. The run begins with the first gfn of `uses` and is no longer than `uses`.
    /// Writes cannot be told from reads, so every page that was used counts as written.
    pub(super) fn take(
        &self,
        memory: &GuestMemory,
        run: FrameRun,
        uses: &mut [AccessBits],
    ) -> Result<(), Errno> {
        let base = memory.address(run).map_err(|_| Errno::EINVAL)?;
        let end = base + run.size_bytes();
        let (mut from, mut any) = (base, false);
        while from < end {
            let mut regions = [Region::default(); REGIONS];
            let walked = self.scan(from, end, &mut regions)?;
            // The kernel fills the array from its start, and none of its entries is empty.
            for region in regions
                .iter()
                .take_while(|region| region.end > region.start)
            {
                any = true;
                for page in (region.start - base) / PAGE_BYTES..(region.end - base) / PAGE_BYTES {
                    let Ok(page) = usize::try_from(page) else {
                        break;
                    };
                    if let Some(uses) = uses.get_mut(page / WORD_GFNS) {
                        uses.accessed.set(page % WORD_GFNS, true);
                    }
                }
            }
            if walked <= from {
                return Err(Errno::EIO);
            }
            from = walked;
        }
        uses.iter_mut().for_each(|uses| uses.dirty.fill(true));
        if any {
            memory.unmap(run).map_err(|_| Errno::EIO)?;
        }
        Ok(())
    }

    /// Finds stretches of mapped pages. Returns the address up to which the kernel has looked.
    fn scan(&self, start: u64, end: u64, regions: &mut [Region]) -> Result<u64, Errno> {
        let mut argument = ScanArgument {
            size: size_of::<ScanArgument>() as u64,
            flags: 0,
            start,
            end,
            walk_end: 0,
            regions: regions.as_mut_ptr() as u64,
            regions_len: regions.len() as u64,
            max_pages: 0,
            category_inverted: 0,
            category_mask: PAGE_IS_PRESENT,
            category_anyof_mask: 0,
            return_mask: PAGE_IS_PRESENT,
        };
        // SAFETY: the opcode was made from this structure's size. The kernel writes to the
        // structure and to the regions, which are plain numbers borrowed for the call. It only
        // reads the page table for the range from `start` on.
        let call = unsafe { Updater::<PAGEMAP_SCAN, _>::new(&mut argument) };
        // SAFETY: as above.
        unsafe { rustix::ioctl::ioctl(self.0.as_fd(), call) }
            // A kernel before 6.7 does not know this call.
            .map_err(|_| Errno::EOPNOTSUPP)?;
        Ok(argument.walk_end)
    }
}
