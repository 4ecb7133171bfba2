// SPDX-License-Identifier: MIT OR Apache-2.0
//! The prep thread: handles the pager's events.
//!
//! On a kick it takes every prep from the mailbox, handles them as one batch, notes each status,
//! and then takes the responses from the ring. Filling a page wakes its vcpu. No vcpu waits for a
//! status.
//!
//! **When the pager learns of a status.** The pager answers a request once it knows that the page
//! is resident, so a ring slot stays in use until the pager has looked at the mailbox. It looks
//! whenever it wakes. It is not woken for a status alone, unless something depends on it. No status
//! is left behind:
//!
//! - A request that finds the pager idle wakes it: when the pager became idle, it found the ring
//!   empty and requested an event for the next request. It then collects all preps that are done.
//! - Whatever waits for a *ring slot* waits while at least [`SLOTS`]/2 are in use: only while 7 are
//!   in use is a vcpu in the wait queue, and only then are foreign callers refused. Take the last
//!   request that was pushed while a vcpu was in the wait queue. If a prep ends it, then at the end
//!   of that prep's round either the vcpu is still in the wait queue or responses have emptied the
//!   queue. Either way at least half the slots are in use, and this thread kicks. If no prep ends
//!   it, the pager was awake for it and collected the preps that were done by then; the others
//!   belong to a later round, which kicks. So while a vcpu is in the wait queue, there is always a
//!   request that the pager has not taken (it is awake or has been kicked), a prep that is not done
//!   (its round will kick), or a kick that has not arrived.
//! - After a prep that failed, its vcpu still waits: this thread kicks.
//! - Nobody waits for the other responses: the pager collects them at its tick, ten times a second.

use p2m_paging::paging::{Job, PrepError, RingState};
use p2m_paging::ring::SLOTS;
use p2m_paging::{Errno, Gfn};

use super::machine::Machine;
use super::p2m::BufferIndex;
use crate::link::PostedPrep;
use crate::link::mailbox::ENTRIES;

/// From this number of ring slots in use on, the pager is woken so that it frees some.
const SHORT_OF_SLOTS: u32 = SLOTS / 2;

/// One round of preps. Its memory is kept for the next round.
struct Round {
    entries: Vec<usize>,
    jobs: Vec<Job<PrepError, Option<BufferIndex>>>,
}

impl Machine {
    /// Handles the pager's events for ever.
    pub(super) fn serve_preps(&self) {
        self.move_to_fault_cpu();
        let mut round = Round {
            entries: Vec::with_capacity(ENTRIES),
            jobs: Vec::with_capacity(ENTRIES),
        };
        loop {
            if let Err(error) = self.doorbell.wait() {
                return self.crash(format!("no more events from the pager: {error}"));
            }
            let done = self.run_preps(&mut round);
            while self.paging().on_event().state == RingState::More {}
            if done.failed || done.any && self.paging().slots_in_use() >= SHORT_OF_SLOTS {
                self.kick_pager();
            }
        }
    }

    fn run_preps(&self, round: &mut Round) -> Done {
        let mut done = Done {
            any: false,
            failed: false,
        };
        let mailbox = self.mailbox.lock();
        for prep in mailbox.take() {
            done.any = true;
            match job(prep) {
                Some(job) => {
                    round.entries.push(prep.entry);
                    round.jobs.push(job);
                }
                None => {
                    mailbox.finish(prep.entry, Err(Errno::EINVAL));
                    done.failed = true;
                }
            }
        }
        self.paging().prep(self.paging().epoch(), &mut round.jobs);
        for (entry, job) in round.entries.drain(..).zip(round.jobs.drain(..)) {
            let result = result(&job);
            done.failed |= result.is_err();
            mailbox.finish(entry, result);
        }
        done
    }

    fn kick_pager(&self) {
        if let Err(error) = self.paging().platform().events().kick() {
            tracing::error!(%error, "the pager's event could not be sent");
        }
    }
}

#[derive(Clone, Copy)]
struct Done {
    any: bool,
    failed: bool,
}

fn job(prep: PostedPrep) -> Option<Job<PrepError, Option<BufferIndex>>> {
    let gfn = Gfn::try_new(prep.gfn)?;
    Some(Job::filled(gfn, BufferIndex(prep.buffer)))
}

/// The result of a prep, as the pager is told.
pub(super) fn result(job: &Job<PrepError, Option<BufferIndex>>) -> Result<(), Errno> {
    job.outcome
        .map_or(Err(Errno::EIO), |done| done.map_err(PrepError::errno))
}
