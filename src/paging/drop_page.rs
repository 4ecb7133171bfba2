// SPDX-License-Identifier: MIT OR Apache-2.0
//! Row A6: drop.

use core::fmt;
use core::sync::atomic::Ordering;

use super::populate::Caller;
use super::reserved_ring_slot::Reserved;
use super::wait_queue::{ClaimError, QueuedRequest, RequestKind, Sent};
use super::{Count, Paging};
use crate::errno::Errno;
use crate::frame::{Gfn, VcpuId};
use crate::p2m::{FlushOwed, Found, P2mType, classify};
use crate::platform::{Entry, P2m, Platform};
use crate::ring::Epoch;

/// Why the page was not dropped. Nothing has changed.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropError {
    /// The gfn has no paging type. The caller removes it like any other page.
    NotPaging(P2mType),
    /// The ring is full, so the pager cannot be told now: retry later.
    RingFull,
    /// There is no pager to tell.
    NoRing,
    /// The entry could not be changed.
    Platform(Errno),
}

impl DropError {
    /// The number for callers in the hypervisor.
    pub const fn errno(self) -> Errno {
        match self {
            Self::NotPaging(_) => Errno::EINVAL,
            Self::RingFull => Errno::EAGAIN,
            Self::NoRing => Errno::EOPNOTSUPP,
            Self::Platform(errno) => errno,
        }
    }
}

impl fmt::Display for DropError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPaging(t) => write!(f, "not being paged ({t:?})"),
            Self::RingFull => f.write_str("the ring is full"),
            Self::NoRing => f.write_str("no pager is attached"),
            Self::Platform(errno) => write!(f, "the p2m entry could not be changed: {errno}"),
        }
    }
}

impl core::error::Error for DropError {}

/// The ring slot for a drop request.
enum SlotForDrop<'a, 'd, P: Platform> {
    Reserved(Reserved<'a, 'd, P>),
    /// The vcpu waits for one of this ring.
    Awaited(VcpuId, Epoch),
    /// There is no pager to tell.
    NotNeeded,
}

impl<P: Platform> Paging<'_, P> {
    /// Removes a page of any paging type and tells the pager to forget its copy. Vcpus that wait for the
    /// page are woken and find it gone.
    ///
    /// If the ring is full, a vcpu of the guest is paused until the pager has been told; its page is
    /// removed at once. A foreign caller gets [`DropError::RingFull`].
    ///
    /// If the pager is gone and another one will take over, nobody is told: the next pager sees that the page
    /// is gone when it lists the states. No locks held.
    pub fn drop_page(&self, gfn: Gfn, caller: Caller) -> Result<(), DropError> {
        // Again only if another pager has attached meanwhile.
        let (slot, entry) = loop {
            let (slot, ring) = match (self.reserve(caller.requester()), caller) {
                (Ok(reserved), _) => {
                    let ring = reserved.epoch();
                    (SlotForDrop::Reserved(reserved), ring)
                }
                (Err(ClaimError::NoRing), _) => return Err(DropError::NoRing),
                (Err(ClaimError::Detached(ring)), _) => (SlotForDrop::NotNeeded, ring),
                (Err(ClaimError::RingFull(ring)), Caller::Guest(vcpu))
                    if !self.is_being_paused(vcpu) =>
                {
                    (SlotForDrop::Awaited(vcpu, ring), ring)
                }
                (Err(ClaimError::RingFull(_)), _) => {
                    self.counters.add(Count::RingFull, 1);
                    return Err(DropError::RingFull);
                }
            };
            let p2m = self.platform.lock_p2m();
            if !self.is_replaced(ring) {
                break (slot, self.discard_locked(p2m, gfn)?);
            }
        };
        let request = QueuedRequest {
            gfn,
            p2mt: entry.p2mt,
            kind: RequestKind::Drop,
            // The pager may not know that this page is out. When it reads this request, the gfn may be
            // a new page that it has evicted since, and must not forget.
            contents_resident: entry.mfn.is_some(),
        };
        match slot {
            // If the ring has gone meanwhile, the next pager sees that the page has gone before.
            SlotForDrop::Reserved(reserved) => {
                let _ = reserved.push(request, caller);
            }
            SlotForDrop::Awaited(vcpu, ring) => self.queue_drop(vcpu, request, ring),
            SlotForDrop::NotNeeded => {}
        }
        Ok(())
    }

    /// Queues the drop request of a vcpu, which is paused until it has been pushed.
    fn queue_drop(&self, vcpu: VcpuId, request: QueuedRequest, ring: Epoch) {
        // Paused first: whoever serves the wait queue unpauses it, possibly at once.
        let Some(paused) = self.pause(vcpu) else {
            return;
        };
        let (sent, paused) = self
            .wait_queue
            .lock()
            .send_drop(self.vcpus(), paused, request, ring);
        match sent {
            Sent::Pushed(notify) => {
                self.counters.add(Count::Requests, 1);
                self.notify(notify);
            }
            Sent::Queued => self.counters.add(Count::Queued, 1),
            Sent::AlreadyPending | Sent::Refused => {}
        }
        if let Some(paused) = paused {
            self.unpause(paused);
        }
    }

    /// Removes a page of any paging type without telling a pager. For a platform that has no pager now, so
    /// that no copy exists. Returns the former entry. No locks held.
    pub fn discard(&self, gfn: Gfn) -> Result<Entry, DropError> {
        self.discard_locked(self.platform.lock_p2m(), gfn)
    }

    fn discard_locked(&self, mut p2m: P::P2m<'_>, gfn: Gfn) -> Result<Entry, DropError> {
        let (entry, owed) = remove(&mut p2m, gfn)?;
        owed.flush_and_free(&mut p2m);
        if entry.mfn.is_some() && entry.p2mt != P2mType::RamPagingOut {
            self.awaiting_response.fetch_sub(1, Ordering::AcqRel);
        }
        drop(p2m);
        self.counters.add(Count::Dropped, 1);
        self.wake(gfn);
        Ok(entry)
    }
}

/// Returns the former entry.
fn remove<M: P2m>(p2m: &mut M, gfn: Gfn) -> Result<(Entry, FlushOwed<M::Frame>), DropError> {
    let entry = p2m.get(gfn);
    let removed = match classify(p2m, gfn, entry) {
        Found::PagingOut(slot) => slot.discard().map_err(|(_, e)| e),
        Found::Paged(slot) => slot.discard().map_err(|(_, e)| e),
        Found::PagingInStart(slot) => slot.discard().map_err(|(_, e)| e),
        Found::PagingIn(slot) => slot.discard().map_err(|(_, e)| e),
        Found::Ram(_) | Found::Other(_) => return Err(DropError::NotPaging(entry.p2mt)),
    };
    Ok((entry, removed.map_err(DropError::Platform)?))
}
