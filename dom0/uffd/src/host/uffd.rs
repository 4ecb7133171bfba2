// SPDX-License-Identifier: MIT OR Apache-2.0
//! userfaultfd: faults on guest memory become messages, and the program fills pages itself.
//!
//! This module relies on the following, which was tested on Linux 6.18 with memfd and anonymous
//! memory:
//!
//! - Write-protection also holds for pages without a page-table entry. A hole that is protected and
//!   then filled is writable: discarding and filling remove the protection.
//! - A vcpu that waits on a protected page is not woken when that page is discarded. It must be
//!   woken, and then faults again, as missing.
//! - [`copy`](Userfaultfd::copy) wakes all threads that wait for the pages it has filled, and none
//!   when it fails. A caller that finds a page present already ([`CopyError::Present`]) owes a
//!   wake, since two vcpus on one page send two messages.
//! - `MADV_DONTNEED` on the mapping keeps a memfd's pages and their protection. The kernel alone
//!   handles the next access.
//! - An access to an evicted frame through another process's mapping allocates it: the page *is*
//!   present then, and zero. Read frames with `pread`
//!   ([`GuestFile::read`](super::guest_memory::GuestFile::read)).

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use p2m_paging::PAGE_SIZE;
use rustix::io::Errno;
use rustix::ioctl::Updater;
use thiserror::Error;

use super::frame_run::FrameRun;
use super::guest_memory::{FrameError, GuestMemory};

mod abi;
mod open;

pub use abi::{CopyFlags, Features, Modes};
pub use open::{OpenError, Options, Refusal};

/// The number of messages taken in one read: more than most machines have vcpus.
const MESSAGES: usize = 16;

/// A userfaultfd. Any thread may read faults, and any thread may answer them.
#[derive(Debug)]
pub struct Userfaultfd {
    fd: OwnedFd,
    features: Features,
}

/// A fault: a thread is stopped at an access until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The address in this process. It is the page's first byte unless [`Features::EXACT_ADDRESS`]
    /// is on.
    pub address: u64,
    /// The thread that faulted (`gettid`), if [`Features::THREAD_ID`] is on.
    pub thread_id: Option<u32>,
    /// The kind of fault.
    pub kind: FaultKind,
    /// Whether the access was a write.
    pub write: bool,
}

/// The kind of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The page is missing: copy it in.
    Missing,
    /// The page is write-protected: remove the protection.
    WriteProtect,
}

/// Whether the threads that wait for a range continue at once, or after a wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// They continue at once.
    Now,
    /// A [`Userfaultfd::wake`] is owed.
    Later,
}

/// The source of copied pages: ordinary memory, or memory that others may be writing.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    // INVARIANT: `len` bytes from `address` on are readable for 'a.
    address: u64,
    len: usize,
    memory: PhantomData<&'a [AtomicU64]>,
}

impl<'a> From<&'a [u8]> for Source<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self {
            address: bytes.as_ptr() as u64,
            len: bytes.len(),
            memory: PhantomData,
        }
    }
}

impl<'a> From<&'a [AtomicU64]> for Source<'a> {
    fn from(words: &'a [AtomicU64]) -> Self {
        Self {
            address: words.as_ptr() as u64,
            len: size_of_val(words),
            memory: PhantomData,
        }
    }
}

/// Why an operation on a range failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RangeError {
    /// The range is not part of the guest.
    #[error(transparent)]
    Frames(#[from] FrameError),
    /// The ioctl failed, with ENOENT for memory that is not registered.
    #[error("{step}: {errno}")]
    System {
        /// The ioctl.
        step: &'static str,
        /// Its error.
        errno: Errno,
    },
}

/// Why pages were not filled, or not all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The range is not part of the guest.
    #[error(transparent)]
    Frames(#[from] FrameError),
    /// The sizes of the source and the range differ.
    #[error("{given} bytes for a range of {needed}")]
    SourceSize {
        /// The size of the range in bytes.
        needed: u64,
        /// The size of the source in bytes.
        given: usize,
    },
    /// The first page is present already. No thread was woken.
    #[error("the page is present already")]
    Present,
    /// The first `pages` were filled, and their waiters were woken. The next page is present, or
    /// failed.
    #[error("only {pages} pages were filled")]
    Partial {
        /// The number of pages filled.
        pages: u64,
    },
    /// The host has no memory for the page.
    #[error("the host is out of memory")]
    OutOfMemory,
    /// The ioctl failed, with ENOENT for memory that is not registered, or EFAULT for a source that
    /// cannot be read.
    #[error("{step}: {errno}")]
    System {
        /// The ioctl.
        step: &'static str,
        /// Its error.
        errno: Errno,
    },
}

/// Why faults could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The read failed.
    #[error("read from userfaultfd: {0}")]
    System(Errno),
    /// A message of a kind that was not enabled.
    #[error("unexpected userfaultfd event {event:#x}, flags {flags:#x}")]
    Unexpected {
        /// `UFFD_EVENT_*`.
        event: u8,
        /// `UFFD_PAGEFAULT_FLAG_*`.
        flags: u64,
    },
}

impl Userfaultfd {
    /// The features it was opened with.
    pub const fn features(&self) -> Features {
        self.features
    }

    /// From now on, faults on this memory are messages of this userfaultfd.
    pub fn register(&self, memory: &GuestMemory, modes: Modes) -> Result<(), RangeError> {
        let mut argument = abi::RegisterArgument {
            range: whole(memory),
            mode: modes.bits(),
            ioctls: 0,
        };
        call::<{ abi::REGISTER }, _>(&self.fd, &mut argument).map_err(at("UFFDIO_REGISTER"))
    }

    /// From now on the kernel handles faults on this memory again, including those that wait now:
    /// holes become zeros.
    pub fn unregister(&self, memory: &GuestMemory) -> Result<(), RangeError> {
        call::<{ abi::UNREGISTER }, _>(&self.fd, &mut whole(memory))
            .map_err(at("UFFDIO_UNREGISTER"))
    }

    /// Appends the faults that have arrived to `faults` and returns their number. Waits for one
    /// unless opened nonblocking. Allocates nothing while `faults` has room for 16 more.
    pub fn read(&self, faults: &mut Vec<Fault>) -> Result<usize, ReadError> {
        let mut buffer = [0; MESSAGES * abi::MESSAGE_SIZE];
        let bytes = loop {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(bytes) => break bytes,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(0),
                Err(errno) => return Err(ReadError::System(errno)),
            }
        };
        let (messages, _) = buffer[..bytes].as_chunks::<{ abi::MESSAGE_SIZE }>();
        for message in messages {
            faults.push(self.understand(abi::RawMessage::parse(message))?);
        }
        Ok(messages.len())
    }

    fn understand(&self, message: abi::RawMessage) -> Result<Fault, ReadError> {
        let abi::RawMessage {
            event,
            flags,
            address,
            thread,
        } = message;
        if event != abi::EVENT_PAGE_FAULT || flags & abi::FAULT_MINOR != 0 {
            return Err(ReadError::Unexpected { event, flags });
        }
        let kind = match flags & abi::FAULT_WRITE_PROTECT {
            0 => FaultKind::Missing,
            _ => FaultKind::WriteProtect,
        };
        let thread_id = self
            .features
            .contains(Features::THREAD_ID)
            .then_some(thread);
        Ok(Fault {
            address,
            thread_id,
            kind,
            write: flags & abi::FAULT_WRITE != 0,
        })
    }

    /// Fills missing pages. Each page is filled in one step, so no vcpu sees it in part.
    pub fn copy<'a>(
        &self,
        memory: &GuestMemory,
        run: FrameRun,
        from: impl Into<Source<'a>>,
        flags: CopyFlags,
    ) -> Result<(), CopyError> {
        let (from, needed) = (from.into(), run.size_bytes());
        if from.len as u64 != needed {
            return Err(CopyError::SourceSize {
                needed,
                given: from.len,
            });
        }
        let to = memory.address(run)?;
        let mode = flags.bits();
        let mut argument = abi::CopyArgument {
            to,
            from: from.address,
            len: needed,
            mode,
            copied: 0,
        };
        match call::<{ abi::COPY }, _>(&self.fd, &mut argument) {
            Ok(()) => Ok(()),
            Err(errno) => Err(not_filled("UFFDIO_COPY", errno, argument.copied)),
        }
    }

    /// Fills missing pages with zeros.
    pub fn zero(&self, memory: &GuestMemory, run: FrameRun, wake: Wake) -> Result<(), CopyError> {
        let range = abi::Range {
            start: memory.address(run)?,
            len: run.size_bytes(),
        };
        let mode = if wake == Wake::Later {
            abi::ZEROPAGE_DONT_WAKE
        } else {
            0
        };
        let mut argument = abi::ZeropageArgument {
            range,
            mode,
            zeroed: 0,
        };
        match call::<{ abi::ZEROPAGE }, _>(&self.fd, &mut argument) {
            Ok(()) => Ok(()),
            Err(errno) => Err(not_filled("UFFDIO_ZEROPAGE", errno, argument.zeroed)),
        }
    }

    /// When this returns, no vcpu can write to the run until it is unprotected.
    pub fn protect(&self, memory: &GuestMemory, run: FrameRun) -> Result<(), RangeError> {
        self.set_protection(memory, run, abi::PROTECT_ON)
    }

    /// Makes a run writable again.
    pub fn unprotect(
        &self,
        memory: &GuestMemory,
        run: FrameRun,
        wake: Wake,
    ) -> Result<(), RangeError> {
        let mode = if wake == Wake::Later {
            abi::PROTECT_DONT_WAKE
        } else {
            0
        };
        self.set_protection(memory, run, mode)
    }

    fn set_protection(
        &self,
        memory: &GuestMemory,
        run: FrameRun,
        mode: u64,
    ) -> Result<(), RangeError> {
        let range = abi::Range {
            start: memory.address(run)?,
            len: run.size_bytes(),
        };
        let mut argument = abi::WriteProtectArgument { range, mode };
        call::<{ abi::WRITE_PROTECT }, _>(&self.fd, &mut argument)
            .map_err(at("UFFDIO_WRITEPROTECT"))
    }

    /// Wakes the threads that wait for a page of the run. Each tries its access again.
    pub fn wake(&self, memory: &GuestMemory, run: FrameRun) -> Result<(), RangeError> {
        let mut range = abi::Range {
            start: memory.address(run)?,
            len: run.size_bytes(),
        };
        call::<{ abi::WAKE }, _>(&self.fd, &mut range).map_err(at("UFFDIO_WAKE"))
    }
}

impl AsFd for Userfaultfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn whole(memory: &GuestMemory) -> abi::Range {
    abi::Range {
        start: memory.base(),
        len: memory.size_pages() * PAGE_SIZE as u64,
    }
}

fn at(step: &'static str) -> impl Fn(Errno) -> RangeError {
    move |errno| RangeError::System { step, errno }
}

fn not_filled(step: &'static str, errno: Errno, done: i64) -> CopyError {
    match (errno, u64::try_from(done)) {
        (Errno::AGAIN, Ok(bytes)) if bytes > 0 => CopyError::Partial {
            pages: bytes / PAGE_SIZE as u64,
        },
        (Errno::EXIST, _) => CopyError::Present,
        (Errno::NOMEM, _) => CopyError::OutOfMemory,
        (errno, _) => CopyError::System { step, errno },
    }
}

/// Makes one of userfaultfd's ioctls.
fn call<const OPCODE: rustix::ioctl::Opcode, T>(
    fd: &OwnedFd,
    argument: &mut T,
) -> Result<(), Errno> {
    // SAFETY: each caller pairs an opcode with the structure that its size field was made from
    // (`abi`). The kernel checks the addresses inside. Those it writes to are guest memory, which
    // is accessed as atomics only.
    let updater = unsafe { Updater::<OPCODE, T>::new(argument) };
    // SAFETY: as above.
    unsafe { rustix::ioctl::ioctl(fd, updater) }
}

#[cfg(test)]
#[path = "uffd_tests.rs"]
mod tests;
