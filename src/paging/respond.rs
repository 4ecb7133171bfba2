//! Row A5: the pager has answered.

use core::sync::atomic::Ordering;

use super::line::Served;
use super::{Count, Paging};
use crate::frame::Gfn;
use crate::p2m::{Found, lookup};
use crate::platform::{Broken, Platform};
use crate::ring::{Claim, EntryError, EntryFlags, Overrun, PagingFlags, Response, SLOTS};

/// Responses that one call of [`Paging::on_event`] takes at most, unless the platform says otherwise.
/// More than a ring full can come only from a pager that answers new requests as fast as they are read;
/// it must not keep a CPU for that.
pub const EVENT_RESPONSES: u32 = 16 * SLOTS;

/// What one event has brought.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handled {
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
    /// Responses may be left: [`Platform::EVENT_RESPONSES`] were taken, and [`Platform::defer_event`] was called.
    More,
    /// The pager's index cannot be. Nothing more is taken until it is mended.
    Overrun(Overrun),
    /// There is no ring.
    NoRing,
}

/// Why a response changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// It makes no sense by itself.
    Entry(EntryError),
    /// It is for a paused vcpu that does not exist.
    NoSuchVcpu,
    /// The gfn is not on its way in, or has no frame to go home with.
    NotOnItsWay,
    /// A later request for the page is still to be answered, and the pager may not have filled it yet.
    AskedAgain,
    /// The entry could not be changed.
    Platform,
}

impl<'d, P: Platform> Paging<'d, P> {
    /// The pager sent its event: takes responses, sends their pages home, wakes who waits, and lets
    /// those in line have the slots that fell free. Takes at most [`Platform::EVENT_RESPONSES`] responses, however
    /// many the pager claims; if that is not all, the platform calls again ([`Platform::defer_event`]).
    /// No locks held.
    pub fn on_event(&self) -> Handled {
        for responses in 0..P::EVENT_RESPONSES {
            let (taken, asked_again, served, broken) = {
                let mut line = self.line.lock();
                let taken = match line.front().map(|front| front.take()) {
                    Some(Ok(Some(taken))) => taken,
                    Some(Ok(None)) => {
                        return Handled {
                            responses,
                            state: RingState::Empty,
                        };
                    }
                    Some(Err(overrun)) => {
                        self.counters.add(Count::Overruns, 1);
                        return Handled {
                            responses,
                            state: RingState::Overrun(overrun),
                        };
                    }
                    None => {
                        return Handled {
                            responses,
                            state: RingState::NoRing,
                        };
                    }
                };
                let answers = taken.response.ok().map(|response| response.gfn);
                let asked_again = answers.is_some_and(|gfn| line.has_asked(gfn));
                let served = (!line.is_empty()).then(|| line.serve(self.vcpus()));
                (taken, asked_again, served, line.is_broken())
            };
            if broken {
                self.platform.broken(Broken::RingSlots);
            }
            self.counters.add(Count::Responses, 1);
            if taken
                .response
                .map_err(Ignored::Entry)
                .and_then(|response| self.resume(&response, taken.asked, asked_again))
                .is_err()
            {
                self.counters.add(Count::Ignored, 1);
            }
            // The request is over, whatever the answer was worth. Those whose page is not home for
            // all that find it still on its way, and ask again.
            if let Some(asked) = taken.asked {
                self.wake(asked);
            }
            if let Some(served) = served {
                self.after_serving(served);
            }
        }
        self.platform.defer_event();
        Handled {
            responses: P::EVENT_RESPONSES,
            state: RingState::More,
        }
    }

    /// Gives a slot back unused: the next in line may have it.
    pub(super) fn cancel(&self, claim: Claim) {
        let broken = {
            let mut line = self.line.lock();
            line.cancel(claim);
            line.is_broken()
        };
        if broken {
            self.platform.broken(Broken::RingSlots);
        }
        self.serve();
    }

    /// A slot fell free.
    pub(super) fn serve(&self) {
        let served = self.line.lock().serve(self.vcpus());
        self.after_serving(served);
    }

    fn after_serving(&self, served: Served<'d>) {
        self.counters.add(Count::Requests, served.pushed.into());
        self.notify(served.notify);
        served
            .woken
            .into_iter()
            .flatten()
            .for_each(|paused| self.unpause(paused));
    }

    /// Sends a page home by the pager's word, and wakes who waits for it. `asked`: the page of the request
    /// that this is the answer to. Most pages are home by now, since their prep had a buffer: then the
    /// answer says nothing new.
    fn resume(
        &self,
        response: &Response,
        asked: Option<Gfn>,
        asked_again: bool,
    ) -> Result<(), Ignored> {
        if response.flags.contains(EntryFlags::VCPU_PAUSED) && !self.vcpus().contains(response.vcpu)
        {
            return Err(Ignored::NoSuchVcpu);
        }
        if response.paging.contains(PagingFlags::DROP_PAGE) {
            return Ok(());
        }
        if self.to_resume.load(Ordering::Acquire) == 0 {
            return if asked == Some(response.gfn) {
                Ok(())
            } else {
                Err(Ignored::NotOnItsWay)
            };
        }
        self.resume_gfn(response.gfn, asked_again)?;
        self.wake(response.gfn);
        Ok(())
    }

    fn resume_gfn(&self, gfn: Gfn, asked_again: bool) -> Result<(), Ignored> {
        let mut p2m = self.platform.lock_p2m();
        match lookup(&mut p2m, gfn) {
            Found::PagingIn(_) if asked_again => return Err(Ignored::AskedAgain),
            Found::PagingIn(slot) => match slot.resume() {
                Ok(_) => {}
                Err(_) => return Err(Ignored::Platform),
            },
            // Filled by a prep: it is home already.
            Found::Ram(_) => return Ok(()),
            _ => return Err(Ignored::NotOnItsWay),
        }
        self.to_resume.fetch_sub(1, Ordering::AcqRel);
        self.counters.add(Count::Resumed, 1);
        Ok(())
    }
}
