// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ring, and the wait queue of vcpus that need a slot of it. All of it is used under the ring lock.
//!
//! A vcpu of the guest that finds the ring full is paused and enters the wait queue with its request.
//! When a slot is freed, the request of the first vcpu in the queue is pushed. The order is first come,
//! first served: no vcpu starves, and none runs again only to find the ring full (defect 15 of Xen's own
//! paging). The queue is linked through the cells of the vcpus, so a vcpu is in it at most once.

use core::sync::atomic::Ordering;

use super::populate::Caller;
use crate::frame::{Gfn, VcpuId};
use crate::p2m::P2mType;
use crate::pause::{VcpuPaused, Vcpus};
use crate::ring::{
    Asker, Claim, EntryFlags, Front, Full, Notify, PagingFlags, Request, SLOTS, Stale,
};

/// The ring of a domain, if it has one, and the wait queue for its slots.
#[derive(Debug)]
pub(super) struct Line {
    front: Option<Front>,
    epoch: u32,
    first: Option<VcpuId>,
    last: Option<VcpuId>,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) gfn: Gfn,
    /// The type that the gfn had.
    pub(super) p2mt: P2mType,
    pub(super) kind: Kind,
    /// The page has its contents, so the pager's copy, if there is one, is not the only one.
    pub(super) in_place: bool,
}

/// What the pager is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bring the page in. The vcpu waits for the page.
    Page,
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
    InLine,
    /// Not needed: a request for the page is pending.
    Already,
    /// There is no ring, or the vcpu is in the wait queue with another request.
    Not,
}

/// Why a request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotSent {
    NoRing,
    Full(FullRing),
}

/// A ring that had no free slot: not the one that is opened after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FullRing {
    epoch: u32,
}

impl Line {
    pub(super) fn new() -> Self {
        Self {
            front: None,
            epoch: 0,
            first: None,
            last: None,
        }
    }

    pub(super) fn front(&mut self) -> Option<&mut Front> {
        self.front.as_mut()
    }

    /// Whether the ring's counts of slots have been found inconsistent.
    pub(super) fn is_broken(&self) -> bool {
        self.front.as_ref().is_some_and(Front::is_broken)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The epoch of the next ring; `None` while there is one.
    pub(super) fn next_epoch(&mut self) -> Option<u32> {
        if self.front.is_some() {
            return None;
        }
        self.epoch = self.epoch.wrapping_add(1);
        Some(self.epoch)
    }

    pub(super) fn open(&mut self, front: Front) {
        self.front = Some(front);
    }

    pub(super) fn close(&mut self) -> Option<Front> {
        self.front.take()
    }

    pub(super) fn claim(&mut self, asker: Asker) -> Result<Claim, NotSent> {
        let full = self.full();
        let front = self.front.as_mut().ok_or(NotSent::NoRing)?;
        front.claim(asker).map_err(|Full| full)
    }

    /// As [`Self::claim`], but a vcpu of the guest does not overtake the wait queue.
    pub(super) fn claim_in_turn(&mut self, asker: Asker) -> Result<Claim, NotSent> {
        if asker == Asker::Guest && self.front.is_some() && !self.is_empty() {
            return Err(self.full());
        }
        self.claim(asker)
    }

    fn full(&self) -> NotSent {
        NotSent::Full(FullRing { epoch: self.epoch })
    }

    pub(super) fn cancel(&mut self, claim: Claim) {
        if let Some(front) = &mut self.front {
            front.cancel(claim);
        }
    }

    /// Pushes a request into a slot that was claimed before. If a request for the page has become pending
    /// since, it releases the slot: a pager need not respond to a second request for one page.
    pub(super) fn push(&mut self, claim: Claim, want: Want, caller: Caller) -> Sent {
        if want.kind == Kind::Page && self.has_asked(want.gfn) {
            self.cancel(claim);
            return Sent::Already;
        }
        let request = want.request(caller, false);
        match self.front.as_mut().map(|front| front.push(claim, &request)) {
            Some(Ok(notify)) => Sent::Pushed(notify),
            Some(Err(Stale)) | None => Sent::Not,
        }
    }

    /// Sends the request of a vcpu that is paused for it: pushes it, or enqueues the vcpu. The wait queue
    /// goes first: a later vcpu does not get the slot that others wait for.
    pub(super) fn send(&mut self, vcpus: Vcpus<'_, '_>, vcpu: VcpuId, want: Want) -> Sent {
        let may_push = self.first.is_none();
        let Some(front) = &mut self.front else {
            return Sent::Not;
        };
        if may_push && let Ok(claim) = front.claim(Asker::Guest) {
            return match front.push(claim, &want.request(Caller::Guest(vcpu), true)) {
                Ok(notify) => Sent::Pushed(notify),
                Err(Stale) => Sent::Not,
            };
        }
        self.stand(vcpus, vcpu, want)
    }

    /// As [`Self::send`], for the drop request of a vcpu that found this ring full and is paused until the
    /// request has been pushed. Nothing is sent on a ring that was opened since: its pager may have evicted
    /// a new page of the gfn. The pause is returned unless the wait queue stores it.
    pub(super) fn send_drop<'d>(
        &mut self,
        vcpus: Vcpus<'_, 'd>,
        paused: VcpuPaused<'d>,
        want: Want,
        full: FullRing,
    ) -> (Sent, Option<VcpuPaused<'d>>) {
        if full.epoch != self.epoch {
            return (Sent::Not, Some(paused));
        }
        let sent = self.send(vcpus, paused.vcpu(), want);
        if matches!(sent, Sent::InLine) {
            vcpus.keep_in_line(paused);
            return (sent, None);
        }
        (sent, Some(paused))
    }

    /// As [`Self::send`], for a page that has been requested before. It is sent unless a request for it is
    /// pending on this ring, whose response ends the wait of all vcpus that wait for the page. None is
    /// pending if the pager was replaced, or if the first vcpu that needs the page is still in the wait
    /// queue. A vcpu that is in the wait queue with an outdated request replaces that request in any case.
    pub(super) fn send_again(&mut self, vcpus: Vcpus<'_, '_>, vcpu: VcpuId, want: Want) -> Sent {
        if self.has_asked(want.gfn) && wanted(vcpus, vcpu).is_none() {
            return Sent::Already;
        }
        self.send(vcpus, vcpu, want)
    }

    /// Whether a request for this page is pending on this ring.
    pub(super) fn has_asked(&self, gfn: Gfn) -> bool {
        self.front.as_ref().is_some_and(|front| front.asks(gfn))
    }

    /// Pushes requests from the wait queue while there are free slots.
    pub(super) fn serve<'d>(&mut self, vcpus: Vcpus<'_, 'd>) -> Served<'d> {
        let mut served = Served {
            notify: Notify::NotOwed,
            woken: [const { None }; SLOTS as usize],
            pushed: 0,
        };
        while let (Some(front), Some(vcpu)) = (&mut self.front, self.first) {
            let want = wanted(vcpus, vcpu);
            let outdated = match want {
                Some(Want {
                    gfn,
                    kind: Kind::Page,
                    ..
                    // Resident by now; or a request is pending, whose response wakes the vcpu.
                }) => vcpus.waits_for(vcpu) != Some(gfn) || front.asks(gfn),
                Some(_) => false,
                None => true,
            };
            if !outdated && let Some(want) = want {
                let Ok(claim) = front.claim(Asker::Guest) else {
                    break;
                };
                let request = want.request(Caller::Guest(vcpu), true);
                if let Ok(notify) = front.push(claim, &request) {
                    served.notify = served.notify.or(notify);
                    served.pushed = served.pushed.saturating_add(1);
                }
            }
            self.step(vcpus);
            if let Some(Want {
                kind: Kind::Drop, ..
            }) = want
            {
                // At most SLOTS claims can succeed in one call, so there is room.
                let room = served.woken.iter_mut().find(|w| w.is_none());
                if let Some(room) = room {
                    *room = vcpus.take_from_line(vcpu);
                }
            }
        }
        served
    }

    /// Takes one vcpu out of the wait queue of a ring that is gone. Returns its pause if it waited only
    /// until its request was pushed; `None` if the queue is empty.
    pub(super) fn dismiss<'d>(&mut self, vcpus: Vcpus<'_, 'd>) -> Option<Option<VcpuPaused<'d>>> {
        let vcpu = self.first?;
        let dropping = Self::is_dropping(vcpus, vcpu);
        self.step(vcpus);
        Some(if dropping {
            vcpus.take_from_line(vcpu)
        } else {
            None
        })
    }

    /// Whether this vcpu is in the wait queue with a drop request.
    pub(super) fn is_dropping(vcpus: Vcpus<'_, '_>, vcpu: VcpuId) -> bool {
        matches!(
            wanted(vcpus, vcpu),
            Some(Want {
                kind: Kind::Drop,
                ..
            })
        )
    }

    fn stand(&mut self, vcpus: Vcpus<'_, '_>, vcpu: VcpuId, want: Want) -> Sent {
        let Some(cell) = vcpus.cell(vcpu) else {
            return Sent::Not;
        };
        let before = Want::unpack(cell.in_line.load(Ordering::Relaxed));
        let still_wanted = match before {
            Some(Want {
                kind: Kind::Page,
                gfn,
                ..
            }) => gfn != want.gfn && vcpus.waits_for(vcpu) == Some(gfn),
            Some(Want {
                kind: Kind::Drop, ..
            }) => true,
            None => false,
        };
        if still_wanted {
            return Sent::Not;
        }
        cell.in_line.store(want.pack(), Ordering::Relaxed);
        if before.is_some() {
            // The page of its former request is resident by now: the vcpu keeps its place.
            return Sent::InLine;
        }
        cell.next.store(0, Ordering::Relaxed);
        match self.last.and_then(|last| vcpus.cell(last)) {
            Some(last) => last.next.store(vcpu.0.wrapping_add(1), Ordering::Relaxed),
            None => self.first = Some(vcpu),
        }
        self.last = Some(vcpu);
        Sent::InLine
    }

    /// Takes the first vcpu out of the queue.
    fn step(&mut self, vcpus: Vcpus<'_, '_>) {
        let Some(cell) = self.first.and_then(|first| vcpus.cell(first)) else {
            return;
        };
        cell.in_line.store(0, Ordering::Relaxed);
        self.first = cell
            .next
            .swap(0, Ordering::Relaxed)
            .checked_sub(1)
            .map(VcpuId);
        if self.first.is_none() {
            self.last = None;
        }
    }
}

fn wanted(vcpus: Vcpus<'_, '_>, vcpu: VcpuId) -> Option<Want> {
    Want::unpack(vcpus.cell(vcpu)?.in_line.load(Ordering::Relaxed))
}

const OCCUPIED: u64 = 1 << 63;
const DROP: u64 = 1 << 62;
const IN_PLACE: u64 = 1 << 61;
const TYPE_SHIFT: u32 = 48;
const TYPE_MASK: u64 = 0xff;

impl Want {
    fn request(self, caller: Caller, paused: bool) -> Request {
        let mut flags = EntryFlags::empty();
        flags.set(EntryFlags::VCPU_PAUSED, paused && self.kind == Kind::Page);
        let mut paging = PagingFlags::empty();
        paging.set(PagingFlags::DROP_PAGE, self.kind == Kind::Drop);
        paging.set(PagingFlags::EVICT_FAIL, self.in_place);
        Request {
            gfn: self.gfn,
            vcpu: caller.vcpu(),
            flags,
            p2mt: self.p2mt,
            paging,
        }
    }

    fn pack(self) -> u64 {
        let kind = if self.kind == Kind::Drop { DROP } else { 0 };
        let in_place = if self.in_place { IN_PLACE } else { 0 };
        OCCUPIED | kind | in_place | u64::from(self.p2mt.raw()) << TYPE_SHIFT | self.gfn.get()
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
                Kind::Page
            } else {
                Kind::Drop
            },
            in_place: raw & IN_PLACE != 0,
        })
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
