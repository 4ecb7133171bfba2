// SPDX-License-Identifier: MIT OR Apache-2.0
//! Row A5: resume, when the pager has responded.

use core::sync::atomic::Ordering;

use super::wait_queue::Served;
use super::{Count, Paging};
use crate::frame::Gfn;
use crate::p2m::{Found, lookup};
use crate::platform::{InvariantViolation, Platform};
use crate::ring::{Claim, EntryError, EntryFlags, Epoch, Overrun, PagingFlags, Response, SLOTS};

/// The largest number of responses that one call of [`Paging::on_event`] takes, unless the platform
/// chooses another one. More than [`SLOTS`] can come only from a pager that responds to new requests as
/// fast as they are pushed; such a pager must not occupy a CPU.
pub const EVENT_RESPONSES: u32 = 16 * SLOTS;

/// What one call of [`Paging::on_event`] did.
#[must_use = "responses are left on the ring if the state is `More`"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventOutcome {
    /// Responses taken.
    pub responses: u32,
    /// How the ring was left.
    pub state: RingState,
}

/// How the ring was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingState {
    /// Empty: the pager sends an event for its next response.
    Empty,
    /// Responses may be left, and no event will come for them: [`Platform::EVENT_RESPONSES`] were taken.
    /// [`Platform::defer_event`] was called, and [`Paging::on_event`] must be called again.
    More,
    /// The pager's index is impossible. No response is taken until the pager corrects it.
    Overrun(Overrun),
    /// There is no ring.
    NoRing,
}

/// Why a response changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// Its entry is invalid.
    Entry(EntryError),
    /// It names a paused vcpu that does not exist.
    NoSuchVcpu,
    /// The page is not paging in, or has no frame yet.
    NotInFlight,
    /// A later request for the page is pending, so the pager may not have filled it yet.
    RequestPending,
    /// Another pager has attached since, and may not have filled the page yet.
    Replaced,
    /// The entry could not be changed.
    Platform,
}

impl<'d, P: Platform> Paging<'d, P> {
    /// Handles the pager's event: takes responses, makes their pages resident, wakes the vcpus that wait
    /// for them, and gives the freed ring slots to the wait queue.
    ///
    /// One call takes at most [`Platform::EVENT_RESPONSES`] responses. If it returns
    /// [`RingState::More`], call it again: no event will come for what is left. For that it also calls
    /// [`Platform::defer_event`]. No locks held.
    pub fn on_event(&self) -> EventOutcome {
        for responses in 0..P::EVENT_RESPONSES {
            let (taken, ring, request_pending, served, broken) = {
                let mut queue = self.wait_queue.lock();
                let taken = match queue.front().map(|front| front.take()) {
                    Some(Ok(Some(taken))) => taken,
                    Some(Ok(None)) => {
                        return EventOutcome {
                            responses,
                            state: RingState::Empty,
                        };
                    }
                    Some(Err(overrun)) => {
                        self.counters.add(Count::Overruns, 1);
                        return EventOutcome {
                            responses,
                            state: RingState::Overrun(overrun),
                        };
                    }
                    None => {
                        return EventOutcome {
                            responses,
                            state: RingState::NoRing,
                        };
                    }
                };
                let answers = taken.response.ok().map(|response| response.gfn);
                let request_pending = answers.is_some_and(|gfn| queue.has_pending(gfn));
                let served = (!queue.is_empty()).then(|| queue.serve(self.vcpus()));
                let broken = queue.counts_inconsistent();
                (taken, queue.epoch(), request_pending, served, broken)
            };
            if broken {
                self.platform
                    .invariant_violated(InvariantViolation::RingSlots);
            }
            self.counters.add(Count::Responses, 1);
            if taken
                .response
                .map_err(Ignored::Entry)
                .and_then(|response| {
                    self.resume(&response, taken.request_gfn, request_pending, ring)
                })
                .is_err()
            {
                self.counters.add(Count::Ignored, 1);
            }
            // The request is done, even if the response was ignored. A vcpu whose page is still not
            // resident faults again, and requests it again.
            if let Some(request_gfn) = taken.request_gfn {
                self.wake(request_gfn);
            }
            if let Some(served) = served {
                self.after_serving(served);
            }
        }
        self.platform.defer_event();
        EventOutcome {
            responses: P::EVENT_RESPONSES,
            state: RingState::More,
        }
    }

    /// Releases a claimed slot that was not used, and offers it to the wait queue.
    pub(super) fn cancel(&self, claim: Claim) {
        let broken = {
            let mut queue = self.wait_queue.lock();
            queue.cancel(claim);
            queue.counts_inconsistent()
        };
        if broken {
            self.platform
                .invariant_violated(InvariantViolation::RingSlots);
        }
        self.serve();
    }

    /// A slot was freed: serves the wait queue.
    pub(super) fn serve(&self) {
        let served = self.wait_queue.lock().serve(self.vcpus());
        self.after_serving(served);
    }

    pub(super) fn after_serving(&self, served: Served<'d>) {
        self.counters.add(Count::Requests, served.pushed.into());
        self.notify(served.notify);
        served
            .woken
            .into_iter()
            .flatten()
            .for_each(|paused| self.unpause(paused));
    }

    /// Makes a page resident because of a response, and wakes the vcpus that wait for it. `request_gfn`: the page
    /// of the request that this responds to. Most pages are resident by now, because their prep had a
    /// buffer; then there is nothing to do.
    fn resume(
        &self,
        response: &Response,
        request_gfn: Option<Gfn>,
        request_pending: bool,
        ring: Epoch,
    ) -> Result<(), Ignored> {
        if response.flags.contains(EntryFlags::VCPU_PAUSED) && !self.vcpus().contains(response.vcpu)
        {
            return Err(Ignored::NoSuchVcpu);
        }
        if response.paging.contains(PagingFlags::DROP_PAGE) {
            return Ok(());
        }
        if self.awaiting_response.load(Ordering::Acquire) == 0 {
            return if request_gfn == Some(response.gfn) {
                Ok(())
            } else {
                Err(Ignored::NotInFlight)
            };
        }
        self.resume_gfn(response.gfn, request_pending, ring)?;
        self.wake(response.gfn);
        Ok(())
    }

    fn resume_gfn(&self, gfn: Gfn, request_pending: bool, ring: Epoch) -> Result<(), Ignored> {
        let mut p2m = self.platform.lock_p2m();
        match lookup(&mut p2m, gfn) {
            Found::PagingIn(_) if request_pending => return Err(Ignored::RequestPending),
            Found::PagingIn(_) if self.is_replaced(ring) => return Err(Ignored::Replaced),
            Found::PagingIn(slot) => match slot.resume() {
                Ok(_) => {}
                Err(_) => return Err(Ignored::Platform),
            },
            // A prep has filled it: it is resident already.
            Found::Ram(_) => return Ok(()),
            _ => return Err(Ignored::NotInFlight),
        }
        self.awaiting_response.fetch_sub(1, Ordering::AcqRel);
        self.counters.add(Count::Resumed, 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pause::VcpuCell;
    use crate::ring::testing::{TestPage, request};
    use crate::ring::{Back, Front, Requester};
    use crate::testing::Machine;

    /// Domains cannot get such a claim: of another ring that passes for this one.
    fn forged() -> Claim {
        Front::new(TestPage::new().map(), Epoch::from_raw(1))
            .claim(Requester::Guest)
            .unwrap()
    }

    #[test]
    fn the_platform_hears_of_slots_that_were_given_back_too_often() {
        let cells = [VcpuCell::new()];
        let paging = Paging::new(Machine::default(), &cells);
        let page = TestPage::new();
        paging
            .wait_queue
            .lock()
            .open(Front::new(page.map(), Epoch::from_raw(1)));
        paging.cancel(forged());
        assert_eq!(
            paging.platform().take_broken(),
            [InvariantViolation::RingSlots]
        );
    }

    #[test]
    fn the_platform_hears_of_an_answer_whose_slot_was_given_back_before() {
        let cells = [VcpuCell::new()];
        let paging = Paging::new(Machine::default(), &cells);
        let page = TestPage::new();
        let mut front = Front::new(page.map(), Epoch::from_raw(1));
        let mut back = Back::new(page.map());
        for gfn in [1, 2] {
            let claim = front.claim(Requester::Guest).unwrap();
            let _ = front.push(claim, &request(gfn)).unwrap();
        }
        front.cancel(forged());
        paging.wait_queue.lock().open(front);
        let mut answer = || {
            let request = back.take().unwrap().unwrap().unwrap();
            back.respond(&Response::to(&request)).unwrap();
            let _ = back.publish();
            assert_eq!(paging.on_event().responses, 1);
            paging.platform().take_broken()
        };
        assert_eq!(answer(), [], "the counts still fit");
        assert_eq!(answer(), [InvariantViolation::RingSlots]);
    }
}
