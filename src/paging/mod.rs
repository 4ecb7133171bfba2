// SPDX-License-Identifier: MIT OR Apache-2.0
//! One paged domain: the operations of rows A1 to A10 over a [`Platform`].
//!
//! | operation | who calls it |
//! |---|---|
//! | [`Paging::enable`], [`Paging::disable`], [`Paging::shut_down`] | the toolstack: a pager attaches, paging ends, the domain dies |
//! | [`Paging::take_over`], [`Paging::detach`] | the toolstack: the pager is gone, and another one attaches in its place, at once or later |
//! | [`Paging::paging_states`] | a pager that has taken over: which pages are out, and which nominated |
//! | [`Paging::nominate`], [`Paging::evict`], [`Paging::restore`], [`Paging::prep`] | the pager, in batches |
//! | [`Paging::nested_fault`] | the fault handler |
//! | [`Paging::populate`] | any other code that needs a page |
//! | [`Paging::drop_page`] | whoever removes a page of a paging type |
//! | [`Paging::on_event`] | the handler of the pager's event |
//!
//! Each operation of the pager takes a batch of [`Job`]s and sets the outcome of each. It processes
//! [`CHUNK`] gfns under one hold of the p2m lock, with one flush, so the lock is never held for long.
//! Under that lock it compares the caller's [`Epoch`] with the current one. A pager that was replaced is
//! refused: it could evict a page that its successor has nominated, or bring in an outdated copy.
//!
//! Locks: the p2m lock and the ring lock are never held together.
//!
//! **Waiting and waking.** A vcpu starts to wait for a page under the p2m lock, while the page is not
//! resident. Whoever makes the page resident or removes it does so under the same lock, and then wakes
//! all vcpus that wait for it. So no vcpu waits for a resident page. The pager's response frees the ring
//! slot. It changes nothing for a resident page, so a late, repeated or missing response is harmless.

mod access_bits;
mod counters;
mod drop_page;
mod enable;
mod evict;
mod nominate;
mod paging_states;
mod populate;
mod prep;
mod reserved_ring_slot;
mod respond;
mod restore;
mod take_over;
mod vcpu_list;
mod wait_queue;

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use lock_api::Mutex;

pub use access_bits::{ACCESS_BITS_CHUNK, AccessBitsError};
pub use counters::{Count, Counters};
pub use drop_page::DropError;
pub use enable::{DisableError, DomainProperties, EnableError};
pub use evict::EvictError;
pub use nominate::NominateError;
pub use paging_states::{PagingStates, PagingStatesError};
pub use populate::{Caller, PopulateError, Populated};
pub use prep::PrepError;
pub use respond::{EVENT_RESPONSES, EventOutcome, Ignored, RingState};
pub use restore::RestoreError;
pub use take_over::TakeOverError;

use crate::frame::{Gfn, VcpuId};
use crate::pause::{PauseEdge, VcpuCell, VcpuPaused, Vcpus};
use crate::platform::Platform;
use crate::ring::{Epoch, Notify};
use wait_queue::WaitQueue;

/// Gfns that are processed under one hold of the p2m lock.
pub const CHUNK: usize = 64;

/// One page of a batch, and its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job<E, B = ()> {
    /// The page.
    pub gfn: Gfn,
    /// For [`Paging::prep`]: where the page's contents are. Nothing for other operations.
    pub buffer: B,
    /// The outcome; `None` until the batch has been processed.
    pub outcome: Option<Result<(), E>>,
}

impl<E> Job<E> {
    /// A page without an outcome yet.
    pub const fn new(gfn: Gfn) -> Self {
        Self {
            gfn,
            buffer: (),
            outcome: None,
        }
    }
}

impl<E, B> Job<E, Option<B>> {
    /// A page with its contents.
    pub const fn filled(gfn: Gfn, buffer: B) -> Self {
        Self {
            gfn,
            buffer: Some(buffer),
            outcome: None,
        }
    }

    /// A page that the pager fills through a mapping.
    pub const fn empty(gfn: Gfn) -> Self {
        Self {
            gfn,
            buffer: None,
            outcome: None,
        }
    }
}

/// Whether a domain has a pager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// No. An access to a page that is out fails.
    None,
    /// The pager is gone, and another one will take over: who needs a page waits.
    Detached,
    /// Yes.
    Attached,
}

/// A paged domain. The [front page](crate) has an example.
#[derive(Debug)]
pub struct Paging<'d, P: Platform> {
    platform: P,
    cells: &'d [VcpuCell],
    waiting: AtomicU32,
    /// Pages that wait for a response to become resident: they have an empty frame, which the pager fills.
    /// While the number is 0, as it nearly always is, a response needs no look at the p2m. It is
    /// incremented before anybody can respond for the page. If another subsystem removes the page, the
    /// number stays too high; the only cost is one extra lookup for each response.
    awaiting_response: AtomicU32,
    /// Whether a pager is attached or will take over, readable without the ring lock.
    enabled: AtomicBool,
    /// The [`Epoch`] of the pager that is attached. It begins under the ring lock, and ends under the p2m
    /// lock.
    epoch: AtomicU32,
    wait_queue: Mutex<P::RingLock, WaitQueue>,
    counters: Counters,
}

impl<'d, P: Platform> Paging<'d, P> {
    /// A domain without a pager. `cells` has one cell for each vcpu: vcpu n has cell n.
    pub fn new(platform: P, cells: &'d [VcpuCell]) -> Self {
        Self {
            platform,
            cells,
            waiting: AtomicU32::new(0),
            awaiting_response: AtomicU32::new(0),
            enabled: AtomicBool::new(false),
            epoch: AtomicU32::new(Epoch::NONE.as_raw()),
            wait_queue: Mutex::new(WaitQueue::new()),
            counters: Counters::default(),
        }
    }

    /// The embedder's platform.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// What has happened so far, in numbers.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The domain's vcpus: which are paused, and which wait for which page.
    pub fn vcpus(&self) -> Vcpus<'_, 'd> {
        Vcpus::new(self.cells, &self.waiting)
    }

    /// Whether a vcpu that needs a page waits for it: a pager is attached, or another one will take over.
    /// While this is true, no access fails for want of a pager.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Whether a pager is attached. During [`Self::take_over`] the answer may be [`Attachment::Detached`].
    pub fn attachment(&self) -> Attachment {
        match (self.is_enabled(), self.epoch()) {
            (false, _) => Attachment::None,
            (true, Epoch::NONE) => Attachment::Detached,
            (true, _) => Attachment::Attached,
        }
    }

    /// The epoch of the pager that is attached, or [`Epoch::NONE`]. The embedder tells it to the pager
    /// after [`Self::enable`], and passes on what the pager states in its calls. An embedder passes the
    /// current one only for a caller that cannot state its own, as one that was written for Xen's C: then
    /// two pagers are not told apart.
    pub fn epoch(&self) -> Epoch {
        Epoch::from_raw(self.epoch.load(Ordering::Acquire))
    }

    /// Whether this is the epoch of the pager that is attached. [`Epoch::NONE`] never is. The answer holds
    /// while the p2m is locked.
    pub fn is_current(&self, epoch: Epoch) -> bool {
        epoch != Epoch::NONE && epoch == self.epoch()
    }

    /// Whether a pager has attached since the ring of this epoch was there. The answer "no" holds for all
    /// that is done under the same hold of the p2m lock: a pager that attaches meanwhile sees it.
    fn is_replaced(&self, epoch: Epoch) -> bool {
        let current = self.epoch();
        current != Epoch::NONE && current != epoch
    }

    /// Ring slots in use: claimed, or with a pending request. A vcpu of the guest is in the wait queue only
    /// while all slots are in use, or the guest uses [`GUEST_SLOTS`](crate::ring::GUEST_SLOTS) of them.
    pub fn slots_in_use(&self) -> u32 {
        self.wait_queue
            .lock()
            .front()
            .map_or(0, |front| front.slots_in_use())
    }

    /// Pauses a vcpu for a reason of the caller, independent of pauses for pages (row A8). The returned
    /// value must go to [`Self::unpause`]. `None`: the domain has no such vcpu.
    pub fn pause(&self, vcpu: VcpuId) -> Option<VcpuPaused<'d>> {
        let (paused, edge) = self.vcpus().pause(vcpu)?;
        if edge == PauseEdge::Changed {
            self.platform.pause_vcpu(vcpu);
        }
        Some(paused)
    }

    /// Undoes one pause. No locks held.
    pub fn unpause(&self, paused: VcpuPaused<'d>) {
        let vcpu = paused.vcpu();
        match self.vcpus().unpause(paused) {
            Ok(PauseEdge::Changed) => self.platform.unpause_vcpu(vcpu),
            Ok(PauseEdge::Unchanged) => {}
            Err(violation) => self.platform.invariant_violated(violation),
        }
    }

    /// Wakes all vcpus that wait for a page that is resident or gone. No locks held.
    #[inline]
    fn wake(&self, gfn: Gfn) {
        if self.vcpus().anyone_waits() {
            self.wake_waiting(gfn);
        }
    }

    fn wake_waiting(&self, gfn: Gfn) {
        for paused in self.vcpus().take_waiters(gfn) {
            self.counters.add(Count::Woken, 1);
            self.platform.vcpu_resumes(paused.vcpu(), gfn);
            self.unpause(paused);
        }
    }

    fn notify(&self, notify: Notify) {
        if notify == Notify::Owed {
            self.counters.add(Count::Notified, 1);
            self.platform.notify_pager();
        }
    }
}
