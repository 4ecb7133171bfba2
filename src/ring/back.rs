// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pager's half: takes requests, and responds.

use core::sync::atomic::{Ordering, fence};

use super::abi::{EntryError, RawEntry, Request, Response, SLOTS};
use super::page::{Index, SharedPage};
use super::{Notify, Overrun};

/// The responding half of the ring.
#[derive(Debug)]
pub struct Back {
    page: SharedPage,
    req_cons: u32,
    /// Responses written, and responses published.
    rsp_prod: u32,
    published: u32,
}

/// There is no pending request to respond to: the caller responded to one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPendingRequest;

impl core::fmt::Display for NoPendingRequest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("every request has been answered already")
    }
}

impl core::error::Error for NoPendingRequest {}

impl Back {
    /// Starts at the first request of a ring that has just been set up.
    pub fn new(page: SharedPage) -> Self {
        Self {
            page,
            req_cons: 0,
            rsp_prod: 0,
            published: 0,
        }
    }

    /// Takes the next request.
    ///
    /// `Ok(None)`: there is none, and the hypervisor sends an event for the next one. An invalid request
    /// is returned as an error and needs no response.
    pub fn take(&mut self) -> Result<Option<Result<Request, EntryError>>, Overrun> {
        if self.pending()? == 0 {
            self.page.store(
                Index::ReqEvent,
                self.req_cons.wrapping_add(1),
                Ordering::Relaxed,
            );
            // Request the event before the last check; pairs with the fence in `Front::push`.
            fence(Ordering::SeqCst);
            if self.pending()? == 0 {
                return Ok(None);
            }
        }
        let request = Request::try_from(&self.page.read(self.req_cons));
        self.req_cons = self.req_cons.wrapping_add(1);
        Ok(Some(request))
    }

    /// Whether there is a request to take. For a pager that polls instead of waiting for the event.
    pub fn has_request(&self) -> bool {
        self.page.load(Index::ReqProd, Ordering::Relaxed) != self.req_cons
    }

    /// The number of requests that were taken and have no response yet.
    pub fn pending_requests(&self) -> u32 {
        self.req_cons.wrapping_sub(self.rsp_prod)
    }

    /// Writes a response. The hypervisor sees it after [`Self::publish`].
    pub fn respond(&mut self, response: &Response) -> Result<(), NoPendingRequest> {
        if self.pending_requests() == 0 {
            return Err(NoPendingRequest);
        }
        // Responses overwrite requests that have been copied: rsp_prod < req_cons.
        self.page.write(self.rsp_prod, &RawEntry::from(response));
        self.rsp_prod = self.rsp_prod.wrapping_add(1);
        Ok(())
    }

    /// Publishes the responses that were written since the last call.
    pub fn publish(&mut self) -> Notify {
        let old = self.published;
        self.published = self.rsp_prod;
        // Entries before the index: pairs with the acquire load in `Front`.
        self.page
            .store(Index::RspProd, self.rsp_prod, Ordering::Release);
        // The index before the look at rsp_event; pairs with the fence in `Front::take`.
        fence(Ordering::SeqCst);
        let event = self.page.load(Index::RspEvent, Ordering::Relaxed);
        Notify::when_reached(old, self.rsp_prod, event)
    }

    /// The number of requests to take, checked: a slot with an unread response holds no request.
    fn pending(&self) -> Result<u32, Overrun> {
        // Pairs with the hypervisor's release store: entries before index.
        let prod = self.page.load(Index::ReqProd, Ordering::Acquire);
        let pending = prod.wrapping_sub(self.req_cons);
        let possible = SLOTS - self.pending_requests().min(SLOTS);
        if pending > possible {
            Err(Overrun { pending, possible })
        } else {
            Ok(pending)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestPage, request};
    use super::super::{Epoch, Front, Requester};
    use super::*;
    use crate::Gfn;

    #[test]
    fn questions_come_in_order_and_answers_in_any() {
        let page = TestPage::new();
        let mut front = Front::new(page.map(), Epoch::from_raw(0));
        let mut back = Back::new(page.map());
        for round in 0..1000_u64 {
            let gfns = [round * 3, round * 3 + 1, round * 3 + 2];
            for gfn in gfns {
                let claim = front.claim(Requester::Guest).unwrap();
                let _ = front.push(claim, &request(gfn)).unwrap();
            }
            let taken = gfns.map(|gfn| {
                let taken = back.take().unwrap().unwrap().unwrap();
                assert_eq!(taken.gfn, Gfn::new_truncate(gfn));
                taken
            });
            assert_eq!(back.take(), Ok(None));
            for taken in taken.iter().rev() {
                back.respond(&Response::to(taken)).unwrap();
            }
            assert_eq!(back.publish(), Notify::Owed);
            for gfn in gfns.iter().rev() {
                let response = front.take().unwrap().unwrap().response.unwrap();
                assert_eq!(response.gfn, Gfn::new_truncate(*gfn));
            }
            assert_eq!(front.take(), Ok(None));
        }
    }

    #[test]
    fn no_event_is_owed_to_a_side_that_has_not_slept() {
        let page = TestPage::new();
        let mut front = Front::new(page.map(), Epoch::from_raw(0));
        let mut back = Back::new(page.map());
        let mut push = |gfn| {
            let claim = front.claim(Requester::Guest).unwrap();
            front.push(claim, &request(gfn)).unwrap()
        };
        assert_eq!(push(1), Notify::Owed, "asleep since the ring was set up");
        assert_eq!(push(2), Notify::NotOwed, "awake, has not looked yet");
        while back.take().unwrap().is_some() {}
        assert_eq!(push(3), Notify::Owed, "said that it goes to sleep");
    }

    #[test]
    fn an_answer_too_many_is_refused() {
        let page = TestPage::new();
        let _front = Front::new(page.map(), Epoch::from_raw(0));
        let mut back = Back::new(page.map());
        assert_eq!(
            back.respond(&Response::to(&request(0))),
            Err(NoPendingRequest)
        );
    }

    #[test]
    fn a_hostile_hypervisor_index_is_an_error() {
        let page = TestPage::new();
        let mut back = Back::new(page.map());
        page.map().initialise();
        for garbage in [SLOTS + 1, 1 << 31, u32::MAX] {
            page.map().store(Index::ReqProd, garbage, Ordering::Relaxed);
            assert_eq!(
                back.take(),
                Err(Overrun {
                    pending: garbage,
                    possible: SLOTS
                })
            );
        }
    }

    #[test]
    fn requests_whose_answers_have_not_been_read_leave_no_room_for_as_many() {
        let page = TestPage::new();
        let mut front = Front::new(page.map(), Epoch::from_raw(0));
        let mut back = Back::new(page.map());
        for gfn in 0..3 {
            let claim = front.claim(Requester::Guest).unwrap();
            let _ = front.push(claim, &request(gfn)).unwrap();
            assert!(back.has_request());
            assert!(back.take().unwrap().is_some());
            assert!(!back.has_request());
        }
        assert_eq!(back.pending_requests(), 3);
        let (possible, pending) = (SLOTS - 3, SLOTS - 2);
        page.map()
            .store(Index::ReqProd, 3 + pending, Ordering::Relaxed);
        assert_eq!(back.take(), Err(Overrun { pending, possible }));
        page.map()
            .store(Index::ReqProd, 3 + possible, Ordering::Relaxed);
        assert!(back.take().unwrap().is_some());
    }
}
