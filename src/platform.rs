// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the embedder implements: [`Platform`] for a domain, [`P2m`] for its p2m while it is locked.
//!
//! Three platforms of the project implement them: Xen (through C shims), the embedded host (real memory,
//! through userfaultfd) and a plain machine in memory, for tests. The smallest one is the example on the
//! [front page](crate).
//!
//! # Who frees a frame
//!
//! | a frame from | goes to | who frees it |
//! |---|---|---|
//! | [`P2m::alloc`] | [`P2m::install`], always | on an error of `install`, the platform, before it returns |
//! | [`P2m::take`] | [`P2m::free`], after [`P2m::flush`] | the platform, in `free` |
//! | [`P2m::take`], and the flush was lost | [`Leak::leak`] | nobody: it stays allocated |
//!
//! The crate never drops a [`P2m::Frame`]. A platform may therefore make the drop of one a panic, as the
//! test machines do, to find errors.

use lock_api::RawMutex;

use crate::errno::Errno;
use crate::frame::{Gfn, Mfn, VcpuId};
use crate::p2m::{AccessBits, ClearBits, Cleared, P2mType, Permit};

/// One paged domain, as the hypervisor sees it.
pub trait Platform {
    /// The domain's p2m while it is locked; unlocks when dropped.
    type P2m<'a>: P2m<Buffer = Self::Buffer>
    where
        Self: 'a;
    /// Where the contents for a page-in are. The pager names it, so the platform checks it when it
    /// copies.
    type Buffer;
    /// The lock around the ring. It is a leaf: the crate takes no other lock while it holds this one.
    /// Xen uses its spinlock, the embedded host a lock that sleeps. [`SpinLock`] is for embedders
    /// without a lock of their own.
    type RingLock: RawMutex;
    /// The largest number of responses that one call of [`Paging::on_event`](crate::Paging::on_event)
    /// takes.
    const EVENT_RESPONSES: u32 = crate::paging::EVENT_RESPONSES;

    /// Locks the p2m. The crate takes no other lock of its own while it holds this one. Unlocking
    /// flushes what [`P2m::flush`] has not flushed yet, so that all CPUs see every change.
    fn lock_p2m(&self) -> Self::P2m<'_>;

    /// Makes a vcpu stop before it next enters the guest. The call returns without waiting for that: the
    /// p2m may be locked, and the vcpu may be the caller. The crate calls this only for a vcpu that it
    /// has not paused yet. The platform may have paused the vcpu for its own reasons.
    fn pause_vcpu(&self, vcpu: VcpuId);

    /// The vcpu is about to be unpaused, because the page that it waits for is resident or gone. Not
    /// called for a vcpu that is unpaused because the pager detaches. The platform may pin the page until the vcpu has made
    /// progress. Otherwise the pager could evict the page again, and a vcpu that needs several pages at
    /// once could wait for ever. Called without locks.
    fn vcpu_resumes(&self, _vcpu: VcpuId, _gfn: Gfn) {}

    /// Undoes the [`Self::pause_vcpu`] of this vcpu. Called without locks.
    fn unpause_vcpu(&self, vcpu: VcpuId);

    /// Sends the pager its event. Called without locks.
    fn notify_pager(&self);

    /// [`Paging::on_event`] stopped with responses left on the ring, and no event will come for them. The
    /// platform must call it again soon, from another context: a tasklet, a thread, the next turn of a
    /// loop. Called without locks.
    ///
    /// [`Paging::on_event`]: crate::Paging::on_event
    fn defer_event(&self);

    /// An invariant of this crate does not hold. The domain must not continue; the host must. Xen crashes
    /// the domain. May be called with the p2m or the ring locked.
    fn invariant_violated(&self, what: InvariantViolation);
}

/// A spinlock for embedders without a lock of their own. It is a [`RawMutex`] of [`lock_api`].
pub type SpinLock = spin::Mutex<()>;

/// An invariant that does not hold: memory was overwritten, or this crate has a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvariantViolation {
    /// More ring slots were released than were in use.
    RingSlots,
    /// A vcpu was unpaused more often than it was paused.
    Pauses(VcpuId),
}

impl core::fmt::Display for InvariantViolation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::RingSlots => f.write_str("more ring slots given back than were held"),
            Self::Pauses(vcpu) => write!(f, "{vcpu:?} unpaused more often than it was paused"),
        }
    }
}

/// A frame that can be leaked: kept allocated for ever.
pub trait Leak: Sized {
    /// The flush that had to precede the free was lost, so freeing the frame is not safe any more. The
    /// platform may log this; it must not free the frame.
    fn leak(self) {
        core::mem::forget(self);
    }
}

/// A locked p2m.
pub trait P2m {
    /// A frame that is in no p2m entry: not yet, or not any more. The [module](self) says who frees it.
    type Frame: Leak;
    /// As in [`Platform::Buffer`].
    type Buffer;

    /// Reads the entry of a gfn. A gfn beyond the guest's memory has the type [`P2mType::Invalid`].
    fn get(&self, gfn: Gfn) -> Entry;

    /// Who uses a frame that is in an entry.
    fn users(&self, mfn: Mfn) -> FrameUsers;

    /// Changes the type and keeps the frame. If the new type allows more, the change takes effect before
    /// this returns. If it allows less, a flush is owed.
    fn set_type(&mut self, permit: Permit, gfn: Gfn, to: P2mType) -> Result<(), Errno>;

    /// Takes the frame out of the entry and sets its type to `to`. With [`TakeCondition::SoleOwner`] the
    /// platform checks, atomically with taking it, that nobody else uses the frame. On an error the
    /// entry is unchanged.
    fn take(
        &mut self,
        permit: Permit,
        gfn: Gfn,
        mfn: Mfn,
        to: P2mType,
        condition: TakeCondition,
    ) -> Result<Self::Frame, TakeError>;

    /// Allocates a frame for the domain and fills it. Data of another owner never remains in it. On an
    /// error nothing is allocated.
    fn alloc(&mut self, contents: Contents<'_, Self::Buffer>) -> Result<Self::Frame, AllocError>;

    /// Puts a frame into the entry, with the type `to`. The change takes effect before this returns.
    /// Nobody can see the frame at this gfn before its contents. On an error the platform frees the
    /// frame, and the entry is unchanged.
    fn install(
        &mut self,
        permit: Permit,
        gfn: Gfn,
        frame: Self::Frame,
        to: P2mType,
    ) -> Result<Mfn, Errno>;

    /// Writes the m2p entry of the frame (row A5; Xen lost it before daf20794ed).
    fn restore_m2p(&mut self, mfn: Mfn, gfn: Gfn);

    /// The type that a page gets when it becomes resident: [`P2mType::RamLogDirty`] while the domain logs
    /// dirty pages (Xen lost this before 2ad467f6a3), otherwise [`P2mType::RamRw`].
    fn resident_type(&self) -> P2mType;

    /// Flushes: when this returns, all CPUs see every change so far.
    fn flush(&mut self);

    /// Scrubs and frees frames that were taken out. The crate calls it after the flush.
    fn free(&mut self, frames: impl Iterator<Item = Self::Frame>);

    /// Reads and clears accessed and dirty bits. Each element of `bits` stands for 64 gfns; the first
    /// starts at `first`, a multiple of 64. The elements are zero when this is called. Gfns beyond the
    /// guest's memory have no bits. A platform without such bits returns an error.
    fn read_clear_access_bits(
        &mut self,
        first: Gfn,
        bits: &mut [AccessBits],
        clear: ClearBits,
    ) -> Result<Cleared, Errno> {
        let _ = (first, bits, clear);
        Err(Errno::EOPNOTSUPP)
    }

    /// A page was paged out: `paged_pages` goes up by one.
    fn count_out(&mut self);

    /// A page that was out has a frame again, or was removed: `paged_pages` goes down by one.
    fn count_in(&mut self);
}

/// A p2m entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The type of the gfn.
    pub p2mt: P2mType,
    /// Its frame, if it has a valid one.
    pub mfn: Option<Mfn>,
}

impl Entry {
    /// Whether the entry contradicts itself: a paging type that needs a frame and has none, or must not
    /// have one and does. Somebody else has damaged the entry, and its page cannot be brought back.
    pub const fn is_inconsistent(self) -> bool {
        match self.p2mt {
            P2mType::RamPagingOut | P2mType::RamPagingIn => self.mfn.is_none(),
            P2mType::RamPaged | P2mType::RamPagingInStart => self.mfn.is_some(),
            _ => false,
        }
    }
}

/// Who uses a frame. The default: ordinary memory that nobody else uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameUsers {
    /// I/O memory.
    pub mmio: bool,
    /// References, including the one of the allocation.
    pub references: u32,
    /// Uses with a type in Xen's sense: as a page table, as a writable mapping.
    pub typed: u32,
}

impl FrameUsers {
    /// Whether nobody but the owner uses the frame.
    pub const fn sole_owner(self) -> bool {
        self.references <= 1 && self.typed == 0
    }
}

/// What must hold for a frame to be taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeCondition {
    /// Nobody else uses it. Required when its contents are about to be lost.
    SoleOwner,
    /// Nothing. The owner gives the frame up, and the platform frees it when its last user is gone.
    Any,
}

/// Why a frame was not taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeError {
    /// Somebody else uses it.
    InUse {
        /// References, the allocation itself included.
        references: u32,
        /// Typed uses.
        typed: u32,
    },
    /// The platform could not change the entry.
    Platform(Errno),
}

/// What a new frame contains.
#[derive(Debug)]
pub enum Contents<'b, B> {
    /// Zeros.
    Zero,
    /// What the pager supplies.
    From(&'b B),
}

/// Why no frame was allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocError {
    /// No memory now.
    NoMemory,
    /// The buffer is not what a page can be copied from: not page-aligned, or beyond what the
    /// caller may name.
    InvalidBuffer,
    /// Copying from the buffer faulted.
    BufferFault,
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    #[test]
    fn a_frame_that_is_leaked_is_not_freed() {
        struct Frame<'a>(&'a Cell<bool>);
        impl Leak for Frame<'_> {}
        impl Drop for Frame<'_> {
            fn drop(&mut self) {
                self.0.set(true);
            }
        }
        let freed = Cell::new(false);
        Frame(&freed).leak();
        assert!(!freed.get());
    }
}
