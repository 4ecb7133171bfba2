// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ring, and the wait queue of vcpus that need a slot of it. All of it is used under the ring lock.
//!
//! A vcpu of the guest that finds the ring full is paused and enters the wait queue with its request.
//! When a slot is freed, the request of the first vcpu in the queue is pushed. The order is first come,
//! first served: no vcpu starves, and none runs again only to find the ring full (defect 15 of Xen's own
//! paging). The queue is linked through the cells of the vcpus, so a vcpu is in it at most once.
//!
//! When the pager is gone, its ring is closed and the queue stays. The pages that were requested on the ring
//! are requested again from the next pager, before those of the vcpus that are in the queue.

use core::sync::atomic::Ordering;

use super::Attachment;
use super::populate::Caller;
use super::vcpu_list::VcpuList;
use crate::frame::{Gfn, VcpuId};
use crate::p2m::P2mType;
use crate::pause::{VcpuPaused, Vcpus};
use crate::ring::{
    Claim, EntryFlags, Epoch, Front, Full, Notify, PagingFlags, Request, Requester, SLOTS, Stale,
};

/// The ring of a domain, if it has one, and the wait queue for its slots.
#[derive(Debug)]
pub(super) struct WaitQueue {
    ring: Ring,
    /// Of the ring, or of the last one.
    epoch: Epoch,
    queue: VcpuList,
    /// Vcpus that were in the queue with a drop request for a pager that is gone. They are about to be
    /// unpaused.
    withdrawn: VcpuList,
}

/// As [`Attachment`], with the ring.
#[allow(clippy::large_enum_variant)] // There is one for each domain.
#[derive(Debug)]
enum Ring {
    None,
    Detached,
    Attached(Front),
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueuedRequest {
    pub(super) gfn: Gfn,
    /// The type that the gfn had.
    pub(super) p2mt: P2mType,
    pub(super) kind: RequestKind,
    /// The page has its contents, so the pager's copy, if there is one, is not the only one.
    pub(super) contents_resident: bool,
}

/// What the pager is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// Bring the page in. The vcpu waits for the page.
    PageIn,
    /// Forget the page. The vcpu waits only until the request has been pushed.
    Drop,
}

/// The result of serving the wait queue.
#[derive(Debug)]
#[must_use]
pub(super) struct Served<'d> {
    pub(super) notify: Notify,
    /// Vcpus that waited only until their request was pushed.
    pub(super) woken: [Option<VcpuPaused<'d>>; SLOTS as usize],
    pub(super) pushed: u32,
}

/// The outcome of sending a request.
#[derive(Debug)]
#[must_use]
pub(super) enum Sent {
    /// It is on the ring.
    Pushed(Notify),
    /// Its vcpu is in the wait queue.
    Queued,
    /// Not needed: a request for the page is pending.
    AlreadyPending,
    /// There is no ring, or the vcpu is in the wait queue with another request.
    Refused,
}

/// Why no slot was claimed. The epoch is that of the ring, or of the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClaimError {
    NoRing,
    /// The pager is gone, and another one will take over.
    Detached(Epoch),
    RingFull(Epoch),
}

impl WaitQueue {
    pub(super) fn new() -> Self {
        Self {
            ring: Ring::None,
            epoch: Epoch::NONE,
            queue: VcpuList::new(),
            withdrawn: VcpuList::new(),
        }
    }

    pub(super) fn front(&mut self) -> Option<&mut Front> {
        match &mut self.ring {
            Ring::Attached(front) => Some(front),
            Ring::None | Ring::Detached => None,
        }
    }

    pub(super) fn attachment(&self) -> Attachment {
        match self.ring {
            Ring::None => Attachment::None,
            Ring::Detached => Attachment::Detached,
            Ring::Attached(_) => Attachment::Attached,
        }
    }

    /// Whether the ring's counts of slots have been found inconsistent.
    pub(super) fn counts_inconsistent(&self) -> bool {
        matches!(&self.ring, Ring::Attached(front) if front.counts_inconsistent())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The epoch of the ring, or of the last one.
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Begins the epoch of the ring that is opened next.
    pub(super) fn next_epoch(&mut self) -> Epoch {
        self.epoch = self.epoch.next();
        self.epoch
    }

    pub(super) fn open(&mut self, front: Front) {
        self.ring = Ring::Attached(front);
    }

    /// No pager is there any more, and none is expected.
    pub(super) fn close(&mut self) -> Option<Front> {
        match core::mem::replace(&mut self.ring, Ring::None) {
            Ring::Attached(front) => Some(front),
            Ring::None | Ring::Detached => None,
        }
    }

    /// The pager is gone, and another one will take over. Each page that was requested on the ring, and for
    /// which a vcpu waits, is requested from the next pager: one of these vcpus enters the wait queue. They
    /// come before all others, in the order in which the requests were pushed.
    ///
    /// Drop requests are withdrawn. The next pager sees that their pages are gone when it lists the states.
    /// To it they could be about a page that it has evicted itself. [`Self::take_withdrawn`] returns their
    /// vcpus.
    pub(super) fn detach(&mut self, vcpus: Vcpus<'_, '_>) -> Option<Front> {
        if let Ring::None = self.ring {
            return None;
        }
        let Ring::Attached(front) = core::mem::replace(&mut self.ring, Ring::Detached) else {
            return None;
        };
        let mut queue = VcpuList::new();
        for gfn in front.pending_gfns() {
            let waits = |(vcpu, awaited): &(VcpuId, Gfn)| {
                *awaited == gfn && queued_request(vcpus, *vcpu).is_none()
            };
            // Without such a vcpu nobody waits, or all who do are in the wait queue already.
            if let Some((vcpu, _)) = vcpus.waiting().find(waits) {
                let request = QueuedRequest {
                    gfn,
                    p2mt: P2mType::RamPagingInStart,
                    kind: RequestKind::PageIn,
                    contents_resident: false,
                };
                queue_request(vcpus, vcpu, Some(request));
                queue.push(vcpus, vcpu);
            }
        }
        while let Some(vcpu) = self.queue.pop(vcpus) {
            if Self::is_queued_for_drop(vcpus, vcpu) {
                self.withdrawn.push(vcpus, vcpu);
            } else {
                queue.push(vcpus, vcpu);
            }
        }
        self.queue = queue;
        Some(front)
    }

    /// The pause of a vcpu whose drop request was withdrawn.
    pub(super) fn take_withdrawn<'d>(&mut self, vcpus: Vcpus<'_, 'd>) -> Option<VcpuPaused<'d>> {
        let vcpu = self.withdrawn.pop(vcpus)?;
        queue_request(vcpus, vcpu, None);
        vcpus.take_queued_pause(vcpu)
    }

    /// Claims a slot. A vcpu of the guest does not overtake the wait queue.
    pub(super) fn claim_behind_queue(&mut self, requester: Requester) -> Result<Claim, ClaimError> {
        let behind = requester == Requester::Guest && !self.queue.is_empty();
        match &mut self.ring {
            Ring::None => Err(ClaimError::NoRing),
            Ring::Detached => Err(ClaimError::Detached(self.epoch)),
            Ring::Attached(_) if behind => Err(ClaimError::RingFull(self.epoch)),
            Ring::Attached(front) => front
                .claim(requester)
                .map_err(|Full| ClaimError::RingFull(self.epoch)),
        }
    }

    pub(super) fn cancel(&mut self, claim: Claim) {
        if let Some(front) = self.front() {
            front.cancel(claim);
        }
    }

    /// Pushes a request into a slot that was claimed before. If a request for the page has become pending
    /// since, it releases the slot: a pager need not respond to a second request for one page.
    pub(super) fn push(&mut self, claim: Claim, request: QueuedRequest, caller: Caller) -> Sent {
        if request.kind == RequestKind::PageIn && self.has_pending(request.gfn) {
            self.cancel(claim);
            return Sent::AlreadyPending;
        }
        let ring_request = request.to_ring(caller, false);
        match self.front().map(|front| front.push(claim, &ring_request)) {
            Some(Ok(notify)) => Sent::Pushed(notify),
            Some(Err(Stale)) | None => Sent::Refused,
        }
    }

    /// Sends the request of a vcpu that is paused for it: pushes it, or enqueues the vcpu. The wait queue
    /// goes first: a later vcpu does not get the slot that others wait for. While no pager is attached and
    /// one will take over, the vcpu is enqueued.
    pub(super) fn send(
        &mut self,
        vcpus: Vcpus<'_, '_>,
        vcpu: VcpuId,
        request: QueuedRequest,
    ) -> Sent {
        let may_push = self.queue.is_empty();
        if let Ring::None = self.ring {
            return Sent::Refused;
        }
        if may_push
            && let Some(front) = self.front()
            && let Ok(claim) = front.claim(Requester::Guest)
        {
            return match front.push(claim, &request.to_ring(Caller::Guest(vcpu), true)) {
                Ok(notify) => Sent::Pushed(notify),
                Err(Stale) => Sent::Refused,
            };
        }
        self.enqueue(vcpus, vcpu, request)
    }

    /// As [`Self::send`], for the drop request of a vcpu that found this ring full and is paused until the
    /// request has been pushed. Nothing is sent if the ring, that of epoch `full`, is gone: the next pager
    /// sees that the page is gone, and may have evicted a new page of the gfn. The pause is returned unless
    /// the wait queue stores it.
    pub(super) fn send_drop<'d>(
        &mut self,
        vcpus: Vcpus<'_, 'd>,
        paused: VcpuPaused<'d>,
        request: QueuedRequest,
        full: Epoch,
    ) -> (Sent, Option<VcpuPaused<'d>>) {
        if full != self.epoch || self.attachment() != Attachment::Attached {
            return (Sent::Refused, Some(paused));
        }
        let sent = self.send(vcpus, paused.vcpu(), request);
        if matches!(sent, Sent::Queued) {
            vcpus.store_queued_pause(paused);
            return (sent, None);
        }
        (sent, Some(paused))
    }

    /// As [`Self::send`], for a page that has been requested before. It is sent unless a request for it is
    /// pending on this ring, whose response ends the wait of all vcpus that wait for the page. None is
    /// pending if the pager was replaced, or if the first vcpu that needs the page is still in the wait
    /// queue. A vcpu that is in the wait queue with an outdated request replaces that request in any case.
    pub(super) fn send_unless_pending(
        &mut self,
        vcpus: Vcpus<'_, '_>,
        vcpu: VcpuId,
        request: QueuedRequest,
    ) -> Sent {
        if self.has_pending(request.gfn) && queued_request(vcpus, vcpu).is_none() {
            return Sent::AlreadyPending;
        }
        self.send(vcpus, vcpu, request)
    }

    /// Whether a request for this page is pending on this ring.
    pub(super) fn has_pending(&self, gfn: Gfn) -> bool {
        matches!(&self.ring, Ring::Attached(front) if front.has_pending(gfn))
    }

    /// Pushes requests from the wait queue while there are free slots.
    pub(super) fn serve<'d>(&mut self, vcpus: Vcpus<'_, 'd>) -> Served<'d> {
        let mut served = Served {
            notify: Notify::NotOwed,
            woken: [const { None }; SLOTS as usize],
            pushed: 0,
        };
        while let (Ring::Attached(front), Some(vcpu)) = (&mut self.ring, self.queue.first()) {
            let request = queued_request(vcpus, vcpu);
            let outdated = match request {
                Some(QueuedRequest {
                    gfn,
                    kind: RequestKind::PageIn,
                    ..
                    // Resident by now; or a request is pending, whose response wakes the vcpu.
                }) => vcpus.waits_for(vcpu) != Some(gfn) || front.has_pending(gfn),
                Some(_) => false,
                None => true,
            };
            if !outdated && let Some(request) = request {
                let Ok(claim) = front.claim(Requester::Guest) else {
                    break;
                };
                let ring_request = request.to_ring(Caller::Guest(vcpu), true);
                if let Ok(notify) = front.push(claim, &ring_request) {
                    served.notify = served.notify.or(notify);
                    served.pushed = served.pushed.saturating_add(1);
                }
            }
            self.dequeue(vcpus);
            if let Some(QueuedRequest {
                kind: RequestKind::Drop,
                ..
            }) = request
            {
                // At most SLOTS claims can succeed in one call, so there is room.
                let room = served.woken.iter_mut().find(|w| w.is_none());
                if let Some(room) = room {
                    *room = vcpus.take_queued_pause(vcpu);
                }
            }
        }
        served
    }

    /// Takes one vcpu out of the wait queue of a ring that is gone. Returns its pause if it waited only
    /// until its request was pushed; `None` if the queue is empty.
    pub(super) fn drain_one<'d>(&mut self, vcpus: Vcpus<'_, 'd>) -> Option<Option<VcpuPaused<'d>>> {
        let vcpu = self.queue.first()?;
        let dropping = Self::is_queued_for_drop(vcpus, vcpu);
        self.dequeue(vcpus);
        Some(if dropping {
            vcpus.take_queued_pause(vcpu)
        } else {
            None
        })
    }

    /// Whether this vcpu is in the wait queue with a drop request.
    pub(super) fn is_queued_for_drop(vcpus: Vcpus<'_, '_>, vcpu: VcpuId) -> bool {
        matches!(
            queued_request(vcpus, vcpu),
            Some(QueuedRequest {
                kind: RequestKind::Drop,
                ..
            })
        )
    }

    fn enqueue(&mut self, vcpus: Vcpus<'_, '_>, vcpu: VcpuId, request: QueuedRequest) -> Sent {
        if !vcpus.contains(vcpu) {
            return Sent::Refused;
        }
        let before = queued_request(vcpus, vcpu);
        let still_wanted = match before {
            Some(QueuedRequest {
                kind: RequestKind::PageIn,
                gfn,
                ..
            }) => gfn != request.gfn && vcpus.waits_for(vcpu) == Some(gfn),
            Some(QueuedRequest {
                kind: RequestKind::Drop,
                ..
            }) => true,
            None => false,
        };
        if still_wanted {
            return Sent::Refused;
        }
        queue_request(vcpus, vcpu, Some(request));
        // The page of a former request is resident by now: the vcpu keeps its place.
        if before.is_none() {
            self.queue.push(vcpus, vcpu);
        }
        Sent::Queued
    }

    /// Takes the first vcpu out of the queue.
    fn dequeue(&mut self, vcpus: Vcpus<'_, '_>) {
        if let Some(vcpu) = self.queue.pop(vcpus) {
            queue_request(vcpus, vcpu, None);
        }
    }
}

/// The request with which the vcpu is in the queue.
fn queued_request(vcpus: Vcpus<'_, '_>, vcpu: VcpuId) -> Option<QueuedRequest> {
    QueuedRequest::unpack(vcpus.cell(vcpu)?.queued_request.load(Ordering::Relaxed))
}

fn queue_request(vcpus: Vcpus<'_, '_>, vcpu: VcpuId, request: Option<QueuedRequest>) {
    if let Some(cell) = vcpus.cell(vcpu) {
        let packed = request.map_or(0, QueuedRequest::pack);
        cell.queued_request.store(packed, Ordering::Relaxed);
    }
}

const OCCUPIED: u64 = 1 << 63;
const DROP: u64 = 1 << 62;
const CONTENTS_RESIDENT: u64 = 1 << 61;
const TYPE_SHIFT: u32 = 48;
const TYPE_MASK: u64 = 0xff;

impl QueuedRequest {
    fn to_ring(self, caller: Caller, paused: bool) -> Request {
        let mut flags = EntryFlags::empty();
        flags.set(
            EntryFlags::VCPU_PAUSED,
            paused && self.kind == RequestKind::PageIn,
        );
        let mut paging = PagingFlags::empty();
        paging.set(PagingFlags::DROP_PAGE, self.kind == RequestKind::Drop);
        paging.set(PagingFlags::EVICT_FAIL, self.contents_resident);
        Request {
            gfn: self.gfn,
            vcpu: caller.vcpu(),
            flags,
            p2mt: self.p2mt,
            paging,
        }
    }

    fn pack(self) -> u64 {
        let kind = if self.kind == RequestKind::Drop {
            DROP
        } else {
            0
        };
        let contents_resident = if self.contents_resident {
            CONTENTS_RESIDENT
        } else {
            0
        };
        OCCUPIED
            | kind
            | contents_resident
            | u64::from(self.p2mt.raw()) << TYPE_SHIFT
            | self.gfn.get()
    }

    fn unpack(raw: u64) -> Option<Self> {
        if raw & OCCUPIED == 0 {
            return None;
        }
        let p2mt = u32::try_from((raw >> TYPE_SHIFT) & TYPE_MASK).ok()?;
        Some(Self {
            gfn: Gfn::new_truncate(raw),
            p2mt: P2mType::try_from_raw(p2mt)?,
            kind: if raw & DROP == 0 {
                RequestKind::PageIn
            } else {
                RequestKind::Drop
            },
            contents_resident: raw & CONTENTS_RESIDENT != 0,
        })
    }
}

#[cfg(test)]
#[path = "wait_queue_tests.rs"]
mod tests;
