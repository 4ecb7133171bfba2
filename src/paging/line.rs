//! The ring, and the vcpus that stand in line for a slot of it: all under the ring lock.
//!
//! A vcpu of the guest that finds the ring full is paused and stands in line with its request; when
//! a slot falls free the request of the first in line is pushed for it. First come, first served:
//! nobody starves, and nobody runs again only to find the ring full (defect 15 of Xen's own). The
//! line is threaded through the vcpus' cells: a vcpu stands in it once.

use core::sync::atomic::Ordering;

use super::populate::Caller;
use crate::frame::{Gfn, VcpuId};
use crate::p2m::P2mType;
use crate::pause::{VcpuPaused, Vcpus};
use crate::ring::{
    Asker, Claim, EntryFlags, Front, Full, Notify, PagingFlags, Request, SLOTS, Stale,
};

/// The ring of a domain, if it has one, and the line before it.
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
    /// The page has its contents: the pager's copy, if it has one, is not the page's home.
    pub(super) in_place: bool,
}

/// What is asked of the pager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bring the page in; the vcpu waits for the page.
    Page,
    /// Forget the page; the vcpu waits only until this has been said.
    Drop,
}

/// What serving the line has brought about.
#[derive(Debug)]
#[must_use]
pub(super) struct Served<'d> {
    pub(super) notify: Notify,
    /// Vcpus that waited only for their turn.
    pub(super) woken: [Option<VcpuPaused<'d>>; SLOTS as usize],
    pub(super) pushed: u32,
}

/// What became of a request.
#[derive(Debug)]
#[must_use]
pub(super) enum Sent {
    /// It is on the ring.
    Pushed(Notify),
    /// Its vcpu stands in line.
    InLine,
    /// It need not be: the page has been asked for.
    Already,
    /// There is no ring, or the vcpu stands in line already.
    Not,
}

/// Why a request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotSent {
    NoRing,
    Full,
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

    /// Whether the ring's counts of slots have been found not to fit.
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
        let front = self.front.as_mut().ok_or(NotSent::NoRing)?;
        front.claim(asker).map_err(|Full| NotSent::Full)
    }

    /// As [`Self::claim`], but vcpus of the guest do not pass those in line.
    pub(super) fn claim_in_turn(&mut self, asker: Asker) -> Result<Claim, NotSent> {
        if asker == Asker::Guest && self.front.is_some() && !self.is_empty() {
            return Err(NotSent::Full);
        }
        self.claim(asker)
    }

    pub(super) fn cancel(&mut self, claim: Claim) {
        if let Some(front) = &mut self.front {
            front.cancel(claim);
        }
    }

    /// Sends a request with a slot claimed before; gives the slot back if somebody else has asked for
    /// the page since: a pager that gets a page's request twice need not answer the second one.
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

    /// Sends the request of a vcpu of the guest that is paused for it, now or when its turn comes.
    /// The line goes first: who comes later does not get the slot that others wait for.
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

    /// As [`Self::send`], for a drop of the vcpu that is paused until the pager has been told. The pause is
    /// given back unless its place in line keeps it.
    pub(super) fn send_drop<'d>(
        &mut self,
        vcpus: Vcpus<'_, 'd>,
        paused: VcpuPaused<'d>,
        want: Want,
    ) -> (Sent, Option<VcpuPaused<'d>>) {
        let sent = self.send(vcpus, paused.vcpu(), want);
        if matches!(sent, Sent::InLine) {
            vcpus.keep_in_line(paused);
            return (sent, None);
        }
        (sent, Some(paused))
    }

    /// As [`Self::send`], for a page that is on its way in: sent unless it has been asked for on this
    /// ring, whose answer ends the wait of all who wait for it. It has not been if the pager was
    /// replaced, or if whoever asks first still stands in line. A vcpu that stands in line with an
    /// outdated request replaces it all the same: what it says there would not be true any more.
    pub(super) fn send_again(&mut self, vcpus: Vcpus<'_, '_>, vcpu: VcpuId, want: Want) -> Sent {
        if self.has_asked(want.gfn) && wanted(vcpus, vcpu).is_none() {
            return Sent::Already;
        }
        self.send(vcpus, vcpu, want)
    }

    /// Whether a request for this page is on this ring and has not been answered.
    pub(super) fn has_asked(&self, gfn: Gfn) -> bool {
        self.front.as_ref().is_some_and(|front| front.asks(gfn))
    }

    /// Pushes what those in line want, as far as there are slots.
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
                    // Home by now; or asked for, and woken by the answer.
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

    /// Empties the line without a ring; yields those who waited only for their turn.
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

    /// Whether this vcpu is paused until a drop of its own has been said.
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
            // What it stood in line for came home meanwhile: it keeps its place.
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

    /// The first in line leaves it.
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
mod tests {
    use core::sync::atomic::AtomicU32;

    use super::*;
    use crate::pause::VcpuCell;
    use crate::ring::testing::TestPage;

    /// A foreign caller claims its slot before the page leaves, a vcpu may ask in between.
    #[test]
    fn a_page_that_was_asked_for_meanwhile_is_not_asked_for_twice() {
        let (cells, waiting) = ([VcpuCell::new()], AtomicU32::new(0));
        let vcpus = Vcpus::new(&cells, &waiting);
        let mut line = Line::new();
        line.open(Front::new(TestPage::new().map(), 1));
        let want = Want {
            gfn: Gfn::new_truncate(7),
            p2mt: P2mType::RamPaged,
            kind: Kind::Page,
            in_place: false,
        };
        let claim = line.claim_in_turn(Asker::Foreign).unwrap();
        assert!(matches!(line.send(vcpus, VcpuId(0), want), Sent::Pushed(_)));
        let sent = line.push(claim, want, Caller::Foreign(VcpuId(0)));
        assert!(matches!(sent, Sent::Already));
        assert_eq!(line.front().unwrap().held(), 1);
    }
}
