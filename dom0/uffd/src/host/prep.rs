// SPDX-License-Identifier: MIT OR Apache-2.0
//! The prep thread: what an event from the pager brings.
//!
//! On a kick it takes every prep from the mailbox, works them off as one batch, notes each status,
//! and then takes the answers off the ring. Filling a page wakes its vcpu; nobody waits for a status.
//!
//! **When the pager learns of it.** The pager answers a request when it knows that the page is home,
//! so a slot stays taken until it has looked at the mailbox. It looks whenever it wakes; it is not
//! woken for a status alone unless something depends on it. Nothing is left behind:
//!
//! - A request that finds the pager idle wakes it: when it went idle it found the ring empty and said
//!   that it wants an event for the next request. It then harvests all that was done.
//! - What waits for a *slot* waits while at least [`SLOTS`]/2 are held: a vcpu stands in line only
//!   while 7 are, and so are foreign callers turned away. Take the last request pushed while a vcpu
//!   stands in line. If it ends in a prep, that prep's round ends with the line still standing, or the
//!   line was served by answers: at least half the slots are held and this thread kicks. If it ends
//!   without a prep, the pager was awake for it, and collected then what was done; what was not done
//!   then is a later round, which kicks. So with a line standing there is always a request not taken
//!   yet (the pager is awake or has been kicked), a prep not worked off yet (whose round will kick), or
//!   a kick not yet heard.
//! - A prep that failed has its vcpu still waiting: this thread kicks.
//! - The rest is answers that nobody waits for: the pager's tick, ten times a second, collects them.

use p2m_paging::paging::{PrepError, PrepJob, RingState};
use p2m_paging::ring::SLOTS;
use p2m_paging::{Errno, Gfn};

use super::machine::Machine;
use super::p2m::BufferIndex;
use crate::link::PostedPrep;
use crate::link::mailbox::ENTRIES;

/// Slots held from which on the pager is woken to give some back.
const SHORT_OF_SLOTS: u32 = SLOTS / 2;

/// One round of preps, kept from round to round for its memory.
struct Round {
    entries: Vec<usize>,
    jobs: Vec<PrepJob<BufferIndex>>,
}

impl Machine {
    /// Serves the pager's events for ever.
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
        self.paging().prep(&mut round.jobs);
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

fn job(prep: PostedPrep) -> Option<PrepJob<BufferIndex>> {
    let gfn = Gfn::try_new(prep.gfn)?;
    Some(PrepJob::filled(gfn, BufferIndex(prep.buffer)))
}

/// What a pager is told of a prep.
pub(super) fn result(job: &PrepJob<BufferIndex>) -> Result<(), Errno> {
    job.outcome
        .map_or(Err(Errno::EIO), |done| done.map_err(PrepError::errno))
}
