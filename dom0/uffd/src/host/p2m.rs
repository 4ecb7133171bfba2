// SPDX-License-Identifier: MIT OR Apache-2.0
//! The p2m of a guest whose memory is a memfd: the type of each gfn, and how userfaultfd enforces
//! it.
//!
//! | state | in the memfd | a vcpu's access |
//! |---|---|---|
//! | `ram_rw` | present | passes |
//! | `paging_out`, `paging_in_start` with its frame | present, write-protected | reads pass, writes trap |
//! | `paged`, `paging_in_start` | hole | traps |
//! | `invalid` | hole | traps |
//!
//! The frame behind gfn n is page n of the memfd, so mfn and gfn are the same number. One step
//! (`UFFDIO_COPY`) both allocates and fills a frame.
//!
//! **Pausing.** A trap (`trap.rs`) runs on the vcpu's own thread, which sleeps in it as long as the
//! vcpu is paused and then tries its access again. No thread waits inside the kernel, so no
//! operation here has to wake one.
//!
//! Locks: the p2m lock is one mutex around the whole table. A thread sleeps while it waits for it,
//! because the holder may lose the CPU in user space.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use p2m_paging::fault::{MapDecision, Mapper, decide_map};
use p2m_paging::platform::{InvariantViolation, Platform};
use p2m_paging::{Gfn, P2mType, VcpuId};
use pager_shell::EventChannel;
use parking_lot::Mutex;
use rustix::thread::futex;

use super::frame_run::{FrameRun, runs};
use super::guest_memory::GuestMemory;
use super::uffd::{CopyError, CopyFlags, RangeError, Userfaultfd, Wake};
use crate::link::SharedArea;

mod locked;
mod table;
mod uses;

pub use locked::{HostFrame, LockedP2m};
use table::{HostEntry, Table};
use uses::Pagemap;

/// Attempts at an operation for which the kernel returns EAGAIN, before it counts as refused.
const KERNEL_RETRIES: usize = 1000;

/// The hypervisor's side of the guest: its memory, and which of its vcpus are paused.
#[derive(Debug)]
pub struct HostPlatform {
    memory: GuestMemory,
    uffd: Userfaultfd,
    pagemap: Option<Pagemap>,
    table: Mutex<Table>,
    /// The number of pauses of each vcpu that have not been undone. Pause and unpause may arrive
    /// here in either order, so a number may be below zero for a moment.
    pauses: Box<[AtomicU32]>,
    /// The event channel to the pager.
    events: EventChannel,
}

/// An offset in bytes in the pager's buffers. It is not trusted, and is checked when a page is
/// filled from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferIndex(pub u64);

/// The numbers of pages in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// All gfns.
    pub size: u64,
    /// Pages without a frame because they are out.
    pub paged: u64,
    /// Pages that the guest has given back.
    pub given_back: u64,
}

impl PageCounts {
    /// The number of pages that have a frame (`tot_pages`).
    pub const fn resident(&self) -> u64 {
        self.size - self.paged - self.given_back
    }
}

impl HostPlatform {
    /// A guest whose pages are all resident. `memory` is registered with `uffd` for missing pages
    /// and for write-protection.
    pub fn new(memory: GuestMemory, uffd: Userfaultfd, vcpus: usize, events: EventChannel) -> Self {
        let pages = usize::try_from(memory.size_pages()).unwrap_or(usize::MAX);
        Self {
            memory,
            uffd,
            pagemap: Pagemap::open(),
            table: Mutex::new(Table::new(pages)),
            pauses: (0..vcpus).map(|_| AtomicU32::new(0)).collect(),
            events,
        }
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The event channel to the pager.
    pub fn events(&self) -> &EventChannel {
        &self.events
    }

    /// The numbers of pages in each state.
    pub fn counts(&self) -> PageCounts {
        let table = self.table.lock();
        PageCounts {
            size: table.entries.len() as u64,
            paged: table.paged,
            given_back: table.given_back,
        }
    }

    /// Sets the buffers from which preps take their contents.
    pub fn set_buffers(&self, buffers: Option<SharedArea>) {
        self.table.lock().buffers = buffers;
    }

    /// Counts a foreign user of a frame. A frame that is used is not nominated and not evicted.
    /// Refused with the type if the gfn has no frame, or one that this mapper must not see now.
    pub fn map(&self, gfn: Gfn, mapper: Mapper) -> Result<(), P2mType> {
        let mut table = self.table.lock();
        let entry = table.entry(gfn);
        match decide_map(entry.p2mt(), entry.has_frame(), mapper) {
            MapDecision::Map | MapDecision::NotPaging if entry.has_frame() => {
                *table.users.entry(gfn.get()).or_default() += 1;
                Ok(())
            }
            _ => Err(entry.p2mt()),
        }
    }

    /// Removes a foreign user. `false` if there was none.
    pub fn unmap(&self, gfn: Gfn) -> bool {
        let mut table = self.table.lock();
        let Some(users) = table.users.get_mut(&gfn.get()) else {
            return false;
        };
        *users -= 1;
        if *users == 0 {
            table.users.remove(&gfn.get());
        }
        true
    }

    /// Gives the guest an empty page where it accessed one that it gave back. `false` if the gfn
    /// has another type by now.
    pub fn refill(&self, gfn: Gfn) -> Result<bool, CopyError> {
        let mut table = self.table.lock();
        let Some(index) = table.index(gfn) else {
            return Ok(false);
        };
        if table.entries[index].p2mt() != P2mType::Invalid {
            return Ok(false);
        }
        self.uffd
            .zero(&self.memory, FrameRun::one(gfn), Wake::Later)?;
        table.entries[index] = HostEntry::new(P2mType::RamRw, true);
        table.given_back -= 1;
        Ok(true)
    }

    /// Makes a resident page writable after a write of the guest trapped. Such a page is protected
    /// only if the kernel failed to lift the protection before.
    pub fn lift_protection(&self, gfn: Gfn) -> Result<(), RangeError> {
        let p2m = self.lock_p2m();
        match p2m.table.entry(gfn).p2mt() {
            P2mType::RamRw => p2m.unprotect(gfn),
            _ => Ok(()),
        }
    }

    /// Returns once the vcpu is not paused. It is called on the vcpu's thread, before the vcpu
    /// continues.
    pub(super) fn wait_while_paused(&self, vcpu: VcpuId) {
        let Some(pauses) = self.pauses.get(vcpu.index()) else {
            return;
        };
        loop {
            let paused = pauses.load(Ordering::Acquire);
            if paused.cast_signed() <= 0 {
                return;
            }
            // The value may have changed, or a signal may have arrived: it is read again.
            let _ = futex::wait(pauses, futex::Flags::PRIVATE, paused, None);
        }
    }

    fn discard(&self, gfns: impl IntoIterator<Item = Gfn>) {
        for run in runs(gfns) {
            if let Err(error) = self.memory.discard(run) {
                // The pager has a copy of this stale page. It is replaced when the page comes in.
                tracing::error!(first = %run.first(), pages = run.size_pages(), %error,
                    "memory of evicted pages was not returned to the host");
            }
        }
    }

    /// Fills a hole from the pager's buffers.
    fn fill(&self, gfn: Gfn, words: &[AtomicU64]) -> Result<(), CopyError> {
        let run = FrameRun::one(gfn);
        let mut replaced = false;
        for _ in 0..KERNEL_RETRIES {
            match self
                .uffd
                .copy(&self.memory, run, words, CopyFlags::DONT_WAKE)
            {
                // The p2m says that there is no frame, so this page belongs to no gfn: a hole that
                // was touched without the p2m, or memory that could not be returned to the host.
                Err(CopyError::Present) if !replaced => {
                    replaced = true;
                    self.discard([gfn]);
                }
                Err(CopyError::System {
                    errno: rustix::io::Errno::AGAIN,
                    ..
                }) => std::thread::yield_now(),
                other => return other,
            }
        }
        Err(CopyError::Present)
    }
}

impl Platform for HostPlatform {
    type P2m<'a> = LockedP2m<'a>;
    type Buffer = BufferIndex;
    type RingLock = parking_lot::RawMutex;

    fn lock_p2m(&self) -> LockedP2m<'_> {
        LockedP2m {
            platform: self,
            table: self.table.lock(),
        }
    }

    fn pause_vcpu(&self, vcpu: VcpuId) {
        if let Some(pauses) = self.pauses.get(vcpu.index()) {
            pauses.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn unpause_vcpu(&self, vcpu: VcpuId) {
        let Some(pauses) = self.pauses.get(vcpu.index()) else {
            return;
        };
        if pauses.fetch_sub(1, Ordering::AcqRel) == 1
            && let Err(error) = futex::wake(pauses, futex::Flags::PRIVATE, 1)
        {
            tracing::error!(?vcpu, %error, "a vcpu could not be woken");
        }
    }

    fn notify_pager(&self) {
        if let Err(error) = self.events.kick() {
            tracing::error!(%error, "the pager's event could not be sent");
        }
    }

    /// Nothing to do. The prep thread looks again as long as it gets [`RingState::More`], and a
    /// refused disable wakes it.
    ///
    /// [`RingState::More`]: p2m_paging::paging::RingState::More
    fn defer_event(&self) {}

    /// Only logs: the process is the domain, and nothing else depends on it.
    fn invariant_violated(&self, what: InvariantViolation) {
        tracing::error!(%what, "an invariant does not hold");
        std::process::abort();
    }
}

#[cfg(test)]
#[path = "p2m_tests.rs"]
mod tests;
