// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hypervisor's half: pushes requests, and takes responses.

use core::sync::atomic::{Ordering, fence};

use super::abi::{EntryError, EntryFlags, RawEntry, Request, Response, SLOTS};
use super::epoch::Epoch;
use super::page::{Index, SharedPage};
use super::{Notify, Overrun};
use crate::frame::Gfn;

/// The largest number of slots that vcpus of the guest use at a time. One is left for foreign callers,
/// who would otherwise never be served while the guest thrashes.
pub const GUEST_SLOTS: u32 = SLOTS - 1;
/// The largest number of slots that foreign callers use at a time: all. A slot that is freed goes to the
/// wait queue first, so a vcpu of the guest waits for one response at most. A dom0 that maps a whole
/// guest waits one round trip to the pager for each ring full of requests.
pub const FOREIGN_SLOTS: u32 = SLOTS;

/// Who makes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requester {
    /// A vcpu of the paged guest.
    Guest,
    /// Another domain, or the hypervisor for it.
    Foreign,
}

/// A claimed slot. Give it to [`Front::push`] or [`Front::cancel`].
#[must_use = "a claimed slot is lost unless it is pushed or cancelled"]
#[derive(Debug)]
pub struct Claim {
    requester: Requester,
    epoch: Epoch,
}

impl Claim {
    /// The ring on which it was made.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }
}

/// What was taken off the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The page of the request whose slot is free now. It is not pending any more.
    pub request_gfn: Option<Gfn>,
    /// The response, checked.
    pub response: Result<Response, EntryError>,
}

/// The claim was made on a ring that has been torn down since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale;

/// No slot for this requester now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The requesting half of the ring. The embedder's ring lock protects it.
#[derive(Debug)]
pub struct Front {
    page: SharedPage,
    /// Distinguishes this ring from those before and after it.
    epoch: Epoch,
    req_prod: u32,
    rsp_cons: u32,
    /// Slots in use, by requester: claims that were not pushed yet, and pending requests.
    guest: u32,
    foreign: u32,
    /// The pending requests, in the order in which they were pushed, without gaps.
    pending_requests: [Option<(Gfn, Requester)>; SLOTS as usize],
    /// More slots were released than were in use: the counts are not trusted any more.
    counts_inconsistent: bool,
}

impl Front {
    /// Initialises the page. `epoch` must differ from one ring of a domain to the next.
    pub fn new(page: SharedPage, epoch: Epoch) -> Self {
        page.initialise();
        Self {
            page,
            epoch,
            req_prod: 0,
            rsp_cons: 0,
            guest: 0,
            foreign: 0,
            pending_requests: [None; SLOTS as usize],
            counts_inconsistent: false,
        }
    }

    /// Whether the counts of slots have been found inconsistent. Only a new ring corrects that.
    pub fn counts_inconsistent(&self) -> bool {
        self.counts_inconsistent
    }

    /// Returns the page.
    pub fn into_page(self) -> SharedPage {
        self.page
    }

    /// The number of pending requests.
    pub fn outstanding(&self) -> u32 {
        self.req_prod.wrapping_sub(self.rsp_cons)
    }

    /// The number of slots in use: claimed, or with a pending request.
    pub fn slots_in_use(&self) -> u32 {
        self.guest.saturating_add(self.foreign)
    }

    /// Whether a request for this page is pending.
    pub fn has_pending(&self, gfn: Gfn) -> bool {
        self.pending_requests
            .iter()
            .flatten()
            .any(|(asked, _)| *asked == gfn)
    }

    /// The pages of the pending requests, in the order in which they were pushed.
    pub(crate) fn pending_gfns(&self) -> impl Iterator<Item = Gfn> {
        self.pending_requests.iter().flatten().map(|(gfn, _)| *gfn)
    }

    /// Claims a slot.
    pub fn claim(&mut self, requester: Requester) -> Result<Claim, Full> {
        let room = self.slots_in_use() < SLOTS;
        let (held, most) = match requester {
            Requester::Guest => (&mut self.guest, GUEST_SLOTS),
            Requester::Foreign => (&mut self.foreign, FOREIGN_SLOTS),
        };
        if !room || *held >= most {
            return Err(Full);
        }
        *held = held.saturating_add(1);
        Ok(Claim {
            requester,
            epoch: self.epoch,
        })
    }

    /// Releases a claimed slot. A claim on a ring that is gone has no effect.
    pub fn cancel(&mut self, claim: Claim) {
        if claim.epoch == self.epoch {
            self.release_slot(claim.requester);
        }
    }

    /// Writes a request into a claimed slot and publishes it.
    pub fn push(&mut self, claim: Claim, request: &Request) -> Result<Notify, Stale> {
        let Claim { requester, epoch } = claim;
        if epoch != self.epoch {
            return Err(Stale);
        }
        let mut entry = RawEntry::from(request);
        if requester == Requester::Foreign {
            entry.flags |= EntryFlags::FOREIGN.bits();
        }
        // A claim guarantees that fewer than SLOTS requests are outstanding.
        if let Some(free) = self.pending_requests.iter_mut().find(|a| a.is_none()) {
            *free = Some((request.gfn, requester));
        }
        self.page.write(self.req_prod, &entry);
        let old = self.req_prod;
        self.req_prod = old.wrapping_add(1);
        // The entry before the index: pairs with the pager's acquire load of req_prod.
        self.page
            .store(Index::ReqProd, self.req_prod, Ordering::Release);
        // The index before the look at req_event: pairs with the fence between the pager's store
        // of req_event and its last look at req_prod. One of the two sees the other.
        fence(Ordering::SeqCst);
        let event = self.page.load(Index::ReqEvent, Ordering::Relaxed);
        Ok(Notify::when_reached(old, self.req_prod, event))
    }

    /// Takes the next response. The slot is free from here on, whatever the response says: an
    /// answer that means nothing ([`EntryError`]) is an answer nevertheless.
    ///
    /// `Ok(None)`: none there, and the pager will notify for the next one.
    pub fn take(&mut self) -> Result<Option<Taken>, Overrun> {
        if self.pending()? == 0 {
            self.page.store(
                Index::RspEvent,
                self.rsp_cons.wrapping_add(1),
                Ordering::Relaxed,
            );
            // As in `push`, the other way round: the wish for an event before the last look.
            fence(Ordering::SeqCst);
            if self.pending()? == 0 {
                return Ok(None);
            }
        }
        let entry = self.page.read(self.rsp_cons);
        self.rsp_cons = self.rsp_cons.wrapping_add(1);
        // Which request it answers, it says even where it is worth nothing otherwise: Xen's own pager
        // leaves version and reason unset.
        let request_gfn = self.release(Gfn::try_new(entry.paging.gfn));
        let response = Response::try_from(&entry);
        Ok(Some(Taken {
            request_gfn,
            response,
        }))
    }

    /// Responses that wait to be taken, checked: only what was asked can be answered.
    fn pending(&self) -> Result<u32, Overrun> {
        // Pairs with the pager's release store: entries before index.
        let prod = self.page.load(Index::RspProd, Ordering::Acquire);
        let pending = prod.wrapping_sub(self.rsp_cons);
        let possible = self.outstanding();
        if pending > possible {
            Err(Overrun { pending, possible })
        } else {
            Ok(pending)
        }
    }

    /// Frees the slot of the request that was answered: the one for this gfn, or any one if the
    /// answer names none that was asked. Yields the page that had been asked for.
    fn release(&mut self, gfn: Option<Gfn>) -> Option<Gfn> {
        let by_gfn = |a: &Option<(Gfn, Requester)>| a.is_some_and(|(asked, _)| Some(asked) == gfn);
        let slot = self.pending_requests.iter().position(by_gfn);
        let slot = slot.or_else(|| self.pending_requests.iter().position(Option::is_some));
        let from_here = self.pending_requests.get_mut(slot?..)?;
        let (asked, requester) = from_here.first_mut()?.take()?;
        from_here.rotate_left(1);
        self.release_slot(requester);
        Some(asked)
    }

    fn release_slot(&mut self, requester: Requester) {
        let held = match requester {
            Requester::Guest => &mut self.guest,
            Requester::Foreign => &mut self.foreign,
        };
        match held.checked_sub(1) {
            Some(left) => *held = left,
            None => self.counts_inconsistent = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestPage, request};
    use super::*;

    #[test]
    fn guest_and_foreign_slots_are_apart() {
        let page = TestPage::new();
        let mut front = Front::new(page.map(), Epoch::from_raw(0));
        let guests = [(); GUEST_SLOTS as usize].map(|()| front.claim(Requester::Guest).unwrap());
        assert_eq!(front.claim(Requester::Guest).unwrap_err(), Full);
        let foreign = front.claim(Requester::Foreign).unwrap();
        assert_eq!(front.claim(Requester::Foreign).unwrap_err(), Full);
        guests.into_iter().for_each(|claim| front.cancel(claim));
        front.cancel(foreign);
        let foreign =
            [(); FOREIGN_SLOTS as usize].map(|()| front.claim(Requester::Foreign).unwrap());
        assert_eq!(front.claim(Requester::Foreign).unwrap_err(), Full);
        foreign.into_iter().for_each(|claim| front.cancel(claim));
        assert_eq!(front.slots_in_use(), 0);
    }

    #[test]
    fn a_slot_given_back_twice_is_noticed_and_counts_for_nothing() {
        let mut front = Front::new(TestPage::new().map(), Epoch::from_raw(0));
        let claim = front.claim(Requester::Guest).unwrap();
        front.guest = 0;
        assert!(!front.counts_inconsistent());
        front.cancel(claim);
        assert!(front.counts_inconsistent());
        assert_eq!(front.slots_in_use(), 0);
    }

    #[test]
    fn a_claim_on_a_ring_that_is_gone_does_nothing() {
        let (old_page, new_page) = (TestPage::new(), TestPage::new());
        let mut old = Front::new(old_page.map(), Epoch::from_raw(0));
        let (push, cancel) = (
            old.claim(Requester::Guest).unwrap(),
            old.claim(Requester::Foreign).unwrap(),
        );
        let mut new = Front::new(new_page.map(), Epoch::from_raw(1));
        assert_eq!(new.push(push, &request(1)), Err(Stale));
        new.cancel(cancel);
        assert_eq!((new.slots_in_use(), new.outstanding()), (0, 0));
    }

    #[test]
    fn an_answer_that_names_nothing_asked_frees_one_slot_all_the_same() {
        let page = TestPage::new();
        let mut front = Front::new(page.map(), Epoch::from_raw(0));
        let mut back = super::super::Back::new(page.map());
        let claim = front.claim(Requester::Guest).unwrap();
        assert_eq!(front.push(claim, &request(7)), Ok(Notify::Owed));
        let asked = back.take().unwrap().unwrap().unwrap();
        let other = Response {
            gfn: Gfn::new_truncate(8),
            ..Response::to(&asked)
        };
        back.respond(&other).unwrap();
        assert_eq!(back.publish(), Notify::Owed);
        let taken = Taken {
            request_gfn: Some(asked.gfn),
            response: Ok(other),
        };
        assert_eq!(front.take(), Ok(Some(taken)));
        assert_eq!((front.slots_in_use(), front.outstanding()), (0, 0));
        assert_eq!(front.take(), Ok(None));
    }

    /// Defect: C's front half takes `rsp_prod` as it stands and walks up to 2^32 responses.
    #[test]
    fn defect_12_more_answers_than_questions_is_an_error() {
        let page = TestPage::new();
        let mut front = Front::new(page.map(), Epoch::from_raw(0));
        for garbage in [1, SLOTS, SLOTS + 1, u32::MAX] {
            page.map().store(Index::RspProd, garbage, Ordering::Relaxed);
            let overrun = front.take().unwrap_err();
            assert_eq!(
                overrun,
                Overrun {
                    pending: garbage,
                    possible: 0
                }
            );
        }
        page.map().store(Index::RspProd, 0, Ordering::Relaxed);
        assert_eq!(
            front.take(),
            Ok(None),
            "a pager that mends its index is served again"
        );
    }

    #[test]
    fn pending_requests_keep_their_order_whichever_is_answered() {
        let page = TestPage::new();
        let mut front = Front::new(page.map(), Epoch::from_raw(0));
        let mut back = super::super::Back::new(page.map());
        let push = |front: &mut Front, gfn| {
            let claim = front.claim(Requester::Foreign).unwrap();
            let _ = front.push(claim, &request(gfn)).unwrap();
        };
        (1..=4).for_each(|gfn| push(&mut front, gfn));
        let requests = [(); 4].map(|()| back.take().unwrap().unwrap().unwrap());
        for nth in [1, 3] {
            back.respond(&Response::to(&requests[nth])).unwrap();
            let _ = back.publish();
            assert!(front.take().unwrap().is_some());
        }
        (5..=6).for_each(|gfn| push(&mut front, gfn));
        assert!(front.pending_gfns().map(Gfn::get).eq([1, 3, 5, 6]));
    }

    /// Answered out of turn, so that the slot is not merely the first one in use: what remains asked
    /// must be what is still to come, or it would be asked for twice.
    #[test]
    fn an_answer_of_another_version_frees_its_own_slot_and_says_why() {
        let page = TestPage::new();
        let mut front = Front::new(page.map(), Epoch::from_raw(0));
        for gfn in [6, 7] {
            let claim = front.claim(Requester::Foreign).unwrap();
            let _ = front.push(claim, &request(gfn)).unwrap();
        }
        let mut entry = RawEntry::ZERO;
        entry.version = 3;
        entry.paging.gfn = 7;
        page.map().write(0, &entry);
        page.map().store(Index::RspProd, 1, Ordering::Release);
        let taken = Taken {
            request_gfn: Some(Gfn::new_truncate(7)),
            response: Err(EntryError::Version(3)),
        };
        assert_eq!(front.take(), Ok(Some(taken)));
        assert_eq!(front.slots_in_use(), 1);
        assert!(front.has_pending(Gfn::new_truncate(6)));
    }
}
