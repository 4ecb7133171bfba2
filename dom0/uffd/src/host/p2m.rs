// SPDX-License-Identifier: MIT OR Apache-2.0
//! The p2m of a guest whose memory is a memfd: what each gfn is, and how that is made true with
//! userfaultfd.
//!
//! | state | in the memfd | a vcpu's access |
//! |---|---|---|
//! | `ram_rw` | present | passes |
//! | `paging_out`, `paging_in_start` with its frame | present, write-protected | reads pass, writes trap |
//! | `paged`, `paging_in_start` | hole | traps |
//! | `invalid` | hole | traps |
//!
//! The frame behind gfn n is page n of the memfd, so mfn and gfn are the same number, and a frame
//! is "allocated" and filled in the one step that puts it in (`UFFDIO_COPY`).
//!
//! **Pausing.** A trap (`trap.rs`) runs on the vcpu's own thread, which sleeps in it for as long as the
//! vcpu is paused, and then tries its access again. The kernel keeps nobody waiting, so no operation
//! here has anybody to wake.
//!
//! Locks: the p2m lock is one mutex around the whole table. It sleeps, because user space may lose
//! the CPU while it holds it.

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

/// Retries of an operation that the kernel asks to try again, before it counts as refused.
const KERNEL_RETRIES: usize = 1000;

/// The guest's memory, and which of its vcpus are paused: the hypervisor's side.
#[derive(Debug)]
pub struct HostPlatform {
    memory: GuestMemory,
    uffd: Userfaultfd,
    pagemap: Option<Pagemap>,
    table: Mutex<Table>,
    /// By vcpu: pauses not undone yet. Whoever pauses and whoever unpauses may come here in either
    /// order, so for a moment one may be below zero.
    pauses: Box<[AtomicU32]>,
    /// To the pager.
    events: EventChannel,
}

/// A byte in the pager's buffers: a claim, checked when a page is filled from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferIndex(pub u64);

/// How many pages are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// All gfns.
    pub size: u64,
    /// Without a frame because they are out.
    pub paged: u64,
    /// Given back by the guest.
    pub given_back: u64,
}

impl PageCounts {
    /// Pages that have a frame (`tot_pages`).
    pub const fn resident(&self) -> u64 {
        self.size - self.paged - self.given_back
    }
}

impl HostPlatform {
    /// A guest whose memory is all home. `uffd` has `memory` registered, for missing pages and
    /// write-protection.
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

    /// The channel to the pager.
    pub fn events(&self) -> &EventChannel {
        &self.events
    }

    /// How many pages are where.
    pub fn counts(&self) -> PageCounts {
        let table = self.table.lock();
        PageCounts {
            size: table.entries.len() as u64,
            paged: table.paged,
            given_back: table.given_back,
        }
    }

    /// Where the contents of preps are from here on.
    pub fn set_buffers(&self, buffers: Option<SharedArea>) {
        self.table.lock().buffers = buffers;
    }

    /// Somebody outside the guest uses a frame: it cannot be nominated, nor evicted. Refused with the
    /// type if the gfn has no frame, or one that this mapper is not to see now.
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

    /// One user fewer. False if there was none.
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

    /// The guest touches a page that it gave back: it gets an empty one. False if the gfn is
    /// something else by now.
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

    /// The guest wrote a page that is home, and trapped: it is writable from here on. Protection is left on
    /// such a page only where the kernel failed to lift it before.
    pub fn lift_protection(&self, gfn: Gfn) -> Result<(), RangeError> {
        let p2m = self.lock_p2m();
        match p2m.table.entry(gfn).p2mt() {
            P2mType::RamRw => p2m.unprotect(gfn),
            _ => Ok(()),
        }
    }

    /// Returns when the vcpu is not paused. To be called on its thread, before it runs on.
    pub(super) fn wait_while_paused(&self, vcpu: VcpuId) {
        let Some(pauses) = self.pauses.get(vcpu.index()) else {
            return;
        };
        loop {
            let paused = pauses.load(Ordering::Acquire);
            if paused.cast_signed() <= 0 {
                return;
            }
            // It may have changed meanwhile, or a signal may have come: looked at again.
            let _ = futex::wait(pauses, futex::Flags::PRIVATE, paused, None);
        }
    }

    fn discard(&self, gfns: impl IntoIterator<Item = Gfn>) {
        for run in runs(gfns) {
            if let Err(error) = self.memory.discard(run) {
                // The stale page is what the pager has a copy of; it is replaced on the way in.
                tracing::error!(first = %run.first(), pages = run.size_pages(), %error,
                    "memory of evicted pages was not given back");
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
                // The p2m says that there is no frame, so what is there is nobody's page: a hole
                // that was touched past the p2m, or memory that could not be given back.
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

    /// Nothing to do: the prep thread looks again as long as it is told [`RingState::More`], and a disable
    /// that is refused wakes it.
    ///
    /// [`RingState::More`]: p2m_paging::paging::RingState::More
    fn defer_event(&self) {}

    /// The process is the domain, and nothing else is lost with it.
    fn invariant_violated(&self, what: InvariantViolation) {
        tracing::error!(%what, "an invariant does not hold");
        std::process::abort();
    }
}

#[cfg(test)]
#[path = "p2m_tests.rs"]
mod tests;
