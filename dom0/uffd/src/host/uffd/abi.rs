// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers and layouts of `linux/userfaultfd.h`, as of Linux 6.18. Installed headers are often
//! older, so this module does not use them.

use std::mem::{offset_of, size_of};

use bitflags::bitflags;
use rustix::ioctl::{Opcode, opcode};
use static_assertions::const_assert_eq;

/// `UFFD_API`: both the version of the interface and the group of its ioctls.
pub(super) const API: u64 = 0xaa;
const GROUP: u8 = 0xaa;

/// `UFFD_USER_MODE_ONLY`: faults of system calls on the memory are not handled; the calls fail
/// (EFAULT).
pub(super) const USER_MODE_ONLY: u32 = 1;

/// `UFFD_EVENT_PAGEFAULT`.
pub(super) const EVENT_PAGE_FAULT: u8 = 0x12;

bitflags! {
    /// The features of a userfaultfd (`UFFD_FEATURE_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// Write-protection, at least of anonymous memory (Linux 5.7).
        const WRITE_PROTECT = 1 << 0;
        /// Missing pages of memfds and shared memory (4.11).
        const MISSING_SHARED = 1 << 5;
        /// A fault ends the access with SIGBUS instead of a message (4.14).
        const SIGBUS = 1 << 7;
        /// A message names the thread that faulted (4.14).
        const THREAD_ID = 1 << 8;
        /// A message holds the address of the byte instead of the page (5.18).
        const EXACT_ADDRESS = 1 << 11;
        /// Write-protection also of memfds and shared memory (5.19).
        const WRITE_PROTECT_SHARED = 1 << 12;
        /// Write-protection holds for pages of anonymous memory that were never touched (6.4).
        const WRITE_PROTECT_UNPOPULATED = 1 << 13;
    }
}

bitflags! {
    /// The faults of a range that become messages (`UFFDIO_REGISTER_MODE_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Modes: u64 {
        /// Accesses to missing pages.
        const MISSING = 1 << 0;
        /// Writes to pages that are write-protected.
        const WRITE_PROTECT = 1 << 1;
    }
}

bitflags! {
    /// How a page is copied in (`UFFDIO_COPY_MODE_*`). Without flags the page is writable, and the
    /// threads that wait for it wake.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CopyFlags: u64 {
        /// No thread wakes; a [`wake`](super::Userfaultfd::wake) is owed.
        const DONT_WAKE = 1 << 0;
        /// The page is write-protected.
        const WRITE_PROTECT = 1 << 1;
    }
}

/// `UFFD_PAGEFAULT_FLAG_WRITE`.
pub(super) const FAULT_WRITE: u64 = 1 << 0;
/// `UFFD_PAGEFAULT_FLAG_WP`.
pub(super) const FAULT_WRITE_PROTECT: u64 = 1 << 1;
/// `UFFD_PAGEFAULT_FLAG_MINOR`.
pub(super) const FAULT_MINOR: u64 = 1 << 2;
/// `UFFDIO_ZEROPAGE_MODE_DONTWAKE`.
pub(super) const ZEROPAGE_DONT_WAKE: u64 = 1 << 0;
/// `UFFDIO_WRITEPROTECT_MODE_WP`.
pub(super) const PROTECT_ON: u64 = 1 << 0;
/// `UFFDIO_WRITEPROTECT_MODE_DONTWAKE`.
pub(super) const PROTECT_DONT_WAKE: u64 = 1 << 1;

/// `struct uffdio_api`.
#[repr(C)]
pub(super) struct ApiArgument {
    pub(super) api: u64,
    pub(super) features: u64,
    pub(super) ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) len: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
pub(super) struct RegisterArgument {
    pub(super) range: Range,
    pub(super) mode: u64,
    pub(super) ioctls: u64,
}

/// `struct uffdio_copy`.
#[repr(C)]
pub(super) struct CopyArgument {
    pub(super) to: u64,
    pub(super) from: u64,
    pub(super) len: u64,
    pub(super) mode: u64,
    /// Output: bytes done, or a negative errno.
    pub(super) copied: i64,
}

/// `struct uffdio_zeropage`.
#[repr(C)]
pub(super) struct ZeropageArgument {
    pub(super) range: Range,
    pub(super) mode: u64,
    /// Output: bytes done, or a negative errno.
    pub(super) zeroed: i64,
}

/// `struct uffdio_writeprotect`.
#[repr(C)]
pub(super) struct WriteProtectArgument {
    pub(super) range: Range,
    pub(super) mode: u64,
}

const_assert_eq!(size_of::<ApiArgument>(), 24);
const_assert_eq!(size_of::<Range>(), 16);
const_assert_eq!(size_of::<RegisterArgument>(), 32);
const_assert_eq!(offset_of!(RegisterArgument, mode), 16);
const_assert_eq!(size_of::<CopyArgument>(), 40);
const_assert_eq!(offset_of!(CopyArgument, copied), 32);
const_assert_eq!(size_of::<ZeropageArgument>(), 32);
const_assert_eq!(size_of::<WriteProtectArgument>(), 24);

/// The size of a message (`struct uffd_msg`) in bytes.
pub(super) const MESSAGE_SIZE: usize = 32;

/// A message as it is read from the descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawMessage {
    pub(super) event: u8,
    pub(super) flags: u64,
    pub(super) address: u64,
    pub(super) thread: u32,
}

impl RawMessage {
    /// Splits the bytes: the event is at 0, and for a page fault the flags are at 8, the address at
    /// 16 and the thread at 24.
    pub(super) fn parse(bytes: &[u8; MESSAGE_SIZE]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(word)
        };
        Self {
            event: bytes[0],
            flags: word(8),
            address: word(16),
            thread: u32::from_ne_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]),
        }
    }
}

/// `USERFAULTFD_IOC_NEW`, on `/dev/userfaultfd`.
pub(super) const NEW: Opcode = opcode::none(GROUP, 0x00);
pub(super) const UFFDIO_API: Opcode = opcode::read_write::<ApiArgument>(GROUP, 0x3f);
pub(super) const REGISTER: Opcode = opcode::read_write::<RegisterArgument>(GROUP, 0x00);
// The kernel's header declares it as reading, although the kernel is the one that reads.
pub(super) const UNREGISTER: Opcode = opcode::read::<Range>(GROUP, 0x01);
pub(super) const WAKE: Opcode = opcode::read::<Range>(GROUP, 0x02);
pub(super) const COPY: Opcode = opcode::read_write::<CopyArgument>(GROUP, 0x03);
pub(super) const ZEROPAGE: Opcode = opcode::read_write::<ZeropageArgument>(GROUP, 0x04);
pub(super) const WRITE_PROTECT: Opcode = opcode::read_write::<WriteProtectArgument>(GROUP, 0x06);

const_assert_eq!(NEW, 0xaa00);
const_assert_eq!(UFFDIO_API, 0xc018_aa3f);
const_assert_eq!(REGISTER, 0xc020_aa00);
const_assert_eq!(UNREGISTER, 0x8010_aa01);
const_assert_eq!(WAKE, 0x8010_aa02);
const_assert_eq!(COPY, 0xc028_aa03);
const_assert_eq!(ZEROPAGE, 0xc020_aa04);
const_assert_eq!(WRITE_PROTECT, 0xc018_aa06);
