//! The p2m of a guest whose memory is a memfd: what each gfn is, and how that is made true with
//! userfaultfd.
//!
//! | state | in the memfd | a vcpu's access |
//! |---|---|---|
//! | `ram_rw` | present | passes |
//! | `paging_out`, `paging_in_start` with its frame | present, write-protected | reads pass |
//! | `paged`, `paging_in_start` | hole | blocks: missing |
//! | `invalid` | hole | blocks: missing |
//!
//! The frame behind gfn n is page n of the memfd, so mfn and gfn are the same number, and a frame
//! is "allocated" and filled in the one step that puts it in (`UFFDIO_COPY`).
//!
//! **Waking.** A vcpu that faults is blocked by the kernel before this crate hears of it, and goes on
//! when its page is filled or unprotected: both wake whoever waits for that page. So the pause the
//! state machine asks for has happened already, and the unpause that follows a page's coming home
//! has too. What is left for [`Platform::unpause_vcpu`] are vcpus whose page did *not* come home
//! (dropped, or no pager any more): `blocked` says which vcpu still waits where.
//!
//! **Evicting under a waiting vcpu.** The kernel says nothing more to a vcpu that waits on a protected
//! page when that page is discarded. Such a vcpu's message has not been worked off yet, or the page
//! would be on its way in and not be evicted; when it is, the page is found to be out, asked for, and
//! filling it wakes the vcpu. No wake-up is owed for evicting.
//!
//! Locks: the p2m lock is one mutex around the whole table. It sleeps, because user space may lose
//! the CPU while it holds it.

use std::sync::atomic::{AtomicU64, Ordering};

use p2m_paging::fault::{MapDecision, Mapper, decide_map};
use p2m_paging::platform::Platform;
use p2m_paging::{Gfn, P2mType, VcpuId};
use parking_lot::Mutex;

use super::frame_run::{FrameRun, runs};
use super::guest_memory::GuestMemory;
use super::uffd::{CopyError, CopyFlags, Userfaultfd, Wake};
use crate::link::{EventChannel, SharedArea};

mod locked;
mod table;

pub use locked::{HostFrame, LockedP2m};
use table::{HostEntry, Table};

/// Retries of an operation that the kernel asks to try again, before it counts as refused.
const KERNEL_RETRIES: usize = 1000;

/// The guest's memory, and who is blocked on it: the hypervisor's side.
#[derive(Debug)]
pub struct HostPlatform {
    memory: GuestMemory,
    uffd: Userfaultfd,
    table: Mutex<Table>,
    /// By vcpu: the gfn it is blocked on in the kernel, plus one; 0: none.
    blocked: Box<[AtomicU64]>,
    /// To the pager.
    events: EventChannel,
}

/// A byte in the pager's buffers: a claim, checked when a page is filled from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferClaim(pub u64);

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
            table: Mutex::new(Table::new(pages)),
            blocked: (0..vcpus).map(|_| AtomicU64::new(0)).collect(),
            events,
        }
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Where its faults are read.
    pub fn uffd(&self) -> &Userfaultfd {
        &self.uffd
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
        match decide_map(entry.p2mt(), mapper) {
            MapDecision::Map | MapDecision::NotOurs if entry.has_frame() => {
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
            .zero(&self.memory, FrameRun::one(gfn), Wake::Now)?;
        table.entries[index] = HostEntry::new(P2mType::RamRw, true);
        table.given_back -= 1;
        self.went_on(gfn);
        Ok(true)
    }

    /// Notes that a vcpu is blocked on a page.
    pub(super) fn note_blocked(&self, vcpu: VcpuId, gfn: Gfn) {
        if let Some(blocked) = self.blocked.get(vcpu.index()) {
            blocked.store(gfn.get() + 1, Ordering::Release);
        }
    }

    /// Lets whoever is blocked on a page try its access again.
    pub(super) fn wake(&self, gfn: Gfn) {
        self.went_on(gfn);
        if let Err(error) = self.uffd.wake(&self.memory, FrameRun::one(gfn)) {
            tracing::error!(%gfn, %error, "a vcpu could not be woken");
        }
    }

    /// The same for all that are blocked anywhere.
    pub(super) fn wake_all(&self) {
        for blocked in &self.blocked {
            if let Some(gfn) = blocked.swap(0, Ordering::AcqRel).checked_sub(1) {
                self.wake(Gfn::new_truncate(gfn));
            }
        }
    }

    /// The kernel has woken whoever was blocked on this page.
    fn went_on(&self, gfn: Gfn) {
        for blocked in &self.blocked {
            if blocked.load(Ordering::Relaxed) == gfn.get() + 1 {
                // Blocked anew on the same page since then: it will be woken once too often.
                let _ =
                    blocked.compare_exchange(gfn.get() + 1, 0, Ordering::AcqRel, Ordering::Relaxed);
            }
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

    /// Fills a hole from the pager's buffers, and wakes who waits for it.
    fn fill(&self, gfn: Gfn, words: &[AtomicU64]) -> Result<(), CopyError> {
        let run = FrameRun::one(gfn);
        let mut replaced = false;
        for _ in 0..KERNEL_RETRIES {
            match self.uffd.copy(&self.memory, run, words, CopyFlags::empty()) {
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
    type Buffer = BufferClaim;
    type RingLock = parking_lot::RawMutex;

    fn lock_p2m(&self) -> LockedP2m<'_> {
        LockedP2m {
            platform: self,
            table: self.table.lock(),
        }
    }

    /// The vcpu is blocked: it is paused for a page after the kernel has stopped it at that page. No
    /// vcpu of this host is paused for another reason.
    fn pause_vcpu(&self, _vcpu: VcpuId) {}

    fn unpause_vcpu(&self, vcpu: VcpuId) {
        let blocked = self.blocked.get(vcpu.index());
        let gfn = blocked.and_then(|b| b.swap(0, Ordering::AcqRel).checked_sub(1));
        if let Some(gfn) = gfn {
            self.wake(Gfn::new_truncate(gfn));
        }
    }

    fn notify_pager(&self) {
        if let Err(error) = self.events.kick() {
            tracing::error!(%error, "the pager's event could not be sent");
        }
    }
}

#[cfg(test)]
#[path = "p2m_tests.rs"]
mod tests;
