//! The seam: what the state machine asks of whoever owns the p2m, the frames and the vcpus.
//!
//! Three platforms implement it: Xen (through C shims), the embedded host (real memory, through
//! userfaultfd) and a plain machine in memory, for tests.

use lock_api::RawMutex;

use crate::errno::Errno;
use crate::frame::{Gfn, Mfn, VcpuId};
use crate::p2m::{Cleared, P2mType, Permit, Take, Uses};

/// One paged domain, as the hypervisor sees it.
pub trait Platform {
    /// The domain's p2m while it is locked; unlocks when dropped.
    type P2m<'a>: P2m<Buffer = Self::Buffer>
    where
        Self: 'a;
    /// Where the contents for a page-in are: a claim of the pager's, checked by the platform when
    /// it copies.
    type Buffer;
    /// The lock around the ring: a leaf, nothing else is locked under it. Xen's spinlock in Xen, one
    /// that sleeps on the embedded host; [`SpinLock`] for everybody who has none of their own.
    type RingLock: RawMutex;
    /// Responses that one call of [`Paging::on_event`](crate::Paging::on_event) takes at most.
    const EVENT_RESPONSES: u32 = crate::paging::EVENT_RESPONSES;

    /// Locks the p2m. Lock order: p2m, then nothing of this crate's. Unlocking makes every change take
    /// effect on all CPUs that [`P2m::flush`] has not been called for.
    fn lock_p2m(&self) -> Self::P2m<'_>;

    /// Asks a vcpu to stop before it next enters the guest. It must not wait for that: the p2m may be
    /// locked, and the vcpu may be the caller. Called for a vcpu that this crate has not paused
    /// already; the platform may have paused it for reasons of its own.
    fn pause_vcpu(&self, vcpu: VcpuId);

    /// The vcpu's wait for the page is over: it is home (or gone, or its request came to nothing), and
    /// the vcpu is about to be woken. A platform whose pager could send the page out again before the
    /// vcpu has got on may keep it from that: a vcpu that needs several pages at once might else wait
    /// for them for ever. Called without locks.
    fn wait_is_over(&self, vcpu: VcpuId, gfn: Gfn) {
        let _ = (vcpu, gfn);
    }

    /// Undoes one [`Self::pause_vcpu`]. Called without locks.
    fn unpause_vcpu(&self, vcpu: VcpuId);

    /// Sends the pager its event. Called without locks.
    fn notify_pager(&self);

    /// [`Paging::on_event`] has stopped with responses left on the ring, and no event will come for
    /// them: it must be called again soon, from another context (a tasklet, a thread, the next turn of
    /// a loop). Called without locks.
    ///
    /// [`Paging::on_event`]: crate::Paging::on_event
    fn defer_event(&self);

    /// An invariant of this crate does not hold. The domain must not go on, the host must: Xen crashes
    /// the domain. May be called with the p2m or the ring locked.
    fn broken(&self, what: Broken);
}

/// A lock for embedders that have none of their own: it spins, and is a [`RawMutex`] of [`lock_api`].
pub type SpinLock = spin::Mutex<()>;

/// An invariant that does not hold: memory was overwritten, or this crate is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// More slots of the ring were given back than were held.
    RingSlots,
    /// A vcpu was unpaused more often than it was paused.
    Pauses(VcpuId),
}

impl core::fmt::Display for Broken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::RingSlots => f.write_str("more ring slots given back than were held"),
            Self::Pauses(vcpu) => write!(f, "{vcpu:?} unpaused more often than it was paused"),
        }
    }
}

/// A frame that can be given up without being freed.
pub trait Leak: Sized {
    /// The flush that the frame waits for cannot be made any more: the frame stays allocated for ever.
    /// The platform may say so; it must not free the frame.
    fn leak(self) {
        core::mem::forget(self);
    }
}

/// A locked p2m.
pub trait P2m {
    /// A frame that is in no p2m entry: not yet, or not any more. One that was taken out of an entry
    /// reaches the platform through [`Self::free`] or [`Leak::leak`] only.
    type Frame: Leak;
    /// As in [`Platform::Buffer`].
    type Buffer;

    /// Looks a gfn up. A gfn beyond the guest's memory is [`P2mType::Invalid`].
    fn get(&self, gfn: Gfn) -> Entry;

    /// What is known of a mapped frame.
    fn facts(&self, mfn: Mfn) -> FrameFacts;

    /// Changes the type and keeps the frame. More permissive types take effect by the time this
    /// returns; for less permissive ones a flush is owed.
    fn set_type(&mut self, permit: Permit, gfn: Gfn, to: P2mType) -> Result<(), Errno>;

    /// Takes the frame out, leaving `to`. With [`Demand::SoleOwner`] it is checked once more, in
    /// one step with taking, that nobody else uses it. On error the entry is as before.
    fn take(
        &mut self,
        permit: Permit,
        gfn: Gfn,
        mfn: Mfn,
        to: P2mType,
        demand: Demand,
    ) -> Result<Self::Frame, TakeError>;

    /// Allocates a frame for the domain, with these contents and never another owner's data.
    fn alloc(&mut self, contents: Contents<'_, Self::Buffer>) -> Result<Self::Frame, AllocError>;

    /// Puts a frame in. Takes effect by the time this returns; nobody sees the gfn with the frame
    /// before its contents. On error the frame is freed and the entry as before.
    fn install(
        &mut self,
        permit: Permit,
        gfn: Gfn,
        frame: Self::Frame,
        to: P2mType,
    ) -> Result<Mfn, Errno>;

    /// Writes the machine-to-physical entry (row A5; lost in Xen before daf20794ed).
    fn restore_m2p(&mut self, mfn: Mfn, gfn: Gfn);

    /// The type of ordinary memory now: [`P2mType::RamLogDirty`] while the domain logs dirty pages
    /// (lost in Xen before 2ad467f6a3), else [`P2mType::RamRw`].
    fn home_type(&self) -> P2mType;

    /// Makes every change so far take effect on all CPUs.
    fn flush(&mut self);

    /// Scrubs and frees frames that were taken out. Called after the flush.
    fn free(&mut self, frames: impl Iterator<Item = Self::Frame>);

    /// Reads and clears what hardware has noted of 64 gfns for each of `uses`, from `first` on, a multiple
    /// of 64. They come as zeros; gfns beyond the guest's memory have no bits. A platform that does not see uses
    /// refuses.
    fn take_uses(&mut self, first: Gfn, uses: &mut [Uses], take: Take) -> Result<Cleared, Errno> {
        let _ = (first, uses, take);
        Err(Errno::EOPNOTSUPP)
    }

    /// Counts a gfn out (`paged_pages` goes up by one).
    fn count_out(&mut self);

    /// Counts a gfn back in, or gone.
    fn count_in(&mut self);
}

/// A p2m entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the gfn is.
    pub p2mt: P2mType,
    /// The frame behind it, if it has a valid one.
    pub mfn: Option<Mfn>,
}

impl Entry {
    /// Whether the entry contradicts itself: a paging type that needs a frame without one, or one that
    /// has none with one. Somebody else has damaged it, and its page cannot be brought back.
    pub const fn is_bad(self) -> bool {
        match self.p2mt {
            P2mType::RamPagingOut | P2mType::RamPagingIn => self.mfn.is_none(),
            P2mType::RamPaged | P2mType::RamPagingInStart => self.mfn.is_some(),
            _ => false,
        }
    }
}

/// Who uses a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameFacts {
    /// I/O memory.
    pub mmio: bool,
    /// References, the allocation itself included.
    pub references: u32,
    /// Uses as something special: a page table, a writable mapping.
    pub typed: u32,
}

impl FrameFacts {
    /// Nobody but the owner uses it.
    pub const fn sole_owner(self) -> bool {
        self.references <= 1 && self.typed == 0
    }
}

/// What must hold for a frame to be taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Nobody else uses it: its contents are about to be lost.
    SoleOwner,
    /// Nothing: the owner gives it up, and it is freed once its last user is gone.
    Nothing,
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
