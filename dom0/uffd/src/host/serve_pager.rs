// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hypercall thread: handles everything but faults. It serves one pager after the other, and
//! notices when one is gone.

use std::os::fd::AsFd as _;

use p2m_paging::p2m::{AccessBits, ClearBits};
use p2m_paging::paging::{
    AccessBitsError, Attachment, DomainProperties, EvictError, Job, NominateError, PagingStates,
    PagingStatesError, PrepError, RestoreError, TakeOverError,
};
use p2m_paging::{Errno, Gfn};
use pager_shell::socket::{Connection, Listener, PACKET_WORDS, Received};

use super::machine::{Machine, PagerExit};
use super::p2m::BufferIndex;
use super::prep;
use crate::link::packet::MAX_BATCH;
use crate::link::{Op, PROTOCOL, SharedArea};

/// The most buffers of a pager, in pages: 256 MiB.
const MAX_BUFFER_PAGES: u64 = 1 << 16;

/// The arguments and the reply of a call. Their memory is kept for the next call.
struct Call {
    words: Box<[u64; PACKET_WORDS]>,
    reply: Vec<u64>,
}

impl Machine {
    /// Serves pagers for ever.
    pub(super) fn serve_pagers(&self, listener: &Listener) {
        let mut call = Call {
            words: Box::new([0; PACKET_WORDS]),
            reply: Vec::with_capacity(MAX_BATCH + 1),
        };
        loop {
            match listener.accept() {
                Ok(connection) => self.serve_pager(&connection, &mut call),
                Err(error) => return self.crash(format!("no more pagers can attach: {error}")),
            }
        }
    }

    fn serve_pager(&self, connection: &Connection, call: &mut Call) {
        loop {
            match connection.receive(&mut call.words) {
                Ok(Some(received)) => {
                    if let Err(errno) = self.serve_call(connection, received, call) {
                        tracing::warn!(%errno, "a reply could not be sent to the pager");
                        break;
                    }
                }
                Ok(None) => break,
                Err(errno) => {
                    tracing::warn!(%errno, "the pager's connection is broken");
                    break;
                }
            }
        }
        self.pager_left();
    }

    fn serve_call(
        &self,
        connection: &Connection,
        received: Received,
        call: &mut Call,
    ) -> Result<(), rustix::io::Errno> {
        let (op, arguments) = match &call.words[..received.words] {
            [op, arguments @ ..] => (Op::try_from_raw(*op), arguments),
            [] => (None, &[][..]),
        };
        if op == Some(Op::Attach) {
            return self.attach(connection, arguments, received);
        }
        call.reply.clear();
        call.reply.push(0);
        let outcome = match op {
            Some(Op::Info) if arguments == [PROTOCOL] => {
                let cpu = self.cpu().map_or(0, |cpu| cpu as u64 + 1);
                let sizes = [self.memory().size_pages(), cpu, self.counts().paged];
                call.reply.extend(sizes);
                Ok(())
            }
            Some(Op::Enable) => self.enable(),
            Some(Op::Disable) => self.disable(),
            Some(op) => self.batch(op, arguments, &mut call.reply),
            None => Err(Errno::ENOSYS),
        };
        if let Err(errno) = outcome {
            call.reply.clear();
            call.reply.push(errno as u64);
        }
        connection.send(&call.reply, &[])
    }

    fn attach(
        &self,
        connection: &Connection,
        arguments: &[u64],
        mut received: Received,
    ) -> Result<(), rustix::io::Errno> {
        let refuse = |errno: Errno| connection.send(&[errno as u64], &[]);
        let &[pages] = arguments else {
            return refuse(Errno::EINVAL);
        };
        if self.paging().attachment() == Attachment::Attached {
            return refuse(Errno::EBUSY);
        }
        let buffers = match (received.fds.pop(), usize::try_from(pages)) {
            (Some(fd), Ok(pages @ 1..)) if pages as u64 <= MAX_BUFFER_PAGES => {
                SharedArea::open(fd, pages)
            }
            _ => return refuse(Errno::EINVAL),
        };
        let Ok(buffers) = buffers else {
            return refuse(Errno::EINVAL);
        };
        let (watch, watched) = Connection::pair()?;
        {
            let mailbox = self.mailbox.lock();
            mailbox.clear();
            self.paging().platform().set_buffers(Some(buffers));
        }
        let fds = [
            self.memory().as_fd(),
            self.shared.as_fd(),
            self.paging().platform().events().as_fd(),
            self.doorbell.as_fd(),
            watched.as_fd(),
        ];
        connection.send(&[0], &fds)?;
        self.attached(watch);
        Ok(())
    }

    /// A pager that follows one that died takes over its pages.
    fn enable(&self) -> Result<(), Errno> {
        let ring = || Some(self.shared.ring_page());
        if self.paging().attachment() == Attachment::Detached {
            let taken = self.paging().take_over(ring);
            return taken.map(drop).map_err(TakeOverError::errno);
        }
        let enabled = self.paging().enable(&DomainProperties::PAGEABLE, ring);
        enabled.map_err(|error| error.errno())
    }

    fn disable(&self) -> Result<(), Errno> {
        if self.counts().paged > 0 {
            // Xen would permit it, and the guest would then fault on pages that nobody pages in.
            return Err(Errno::EBUSY);
        }
        if let Err(refused) = self.paging().disable() {
            // The disable has taken responses, perhaps not all: the prep thread takes the rest.
            let _ = self.doorbell.kick();
            return Err(refused.errno());
        }
        self.detached(PagerExit::Detached);
        Ok(())
    }

    fn batch(&self, op: Op, arguments: &[u64], reply: &mut Vec<u64>) -> Result<(), Errno> {
        let gfns = || arguments.iter().map(|&raw| Gfn::try_new(raw));
        match op {
            Op::Nominate => {
                let mut jobs = jobs::<NominateError>(arguments)?;
                self.paging().nominate(self.paging().epoch(), &mut jobs);
                reply.extend(
                    jobs.iter()
                        .map(|job| status(job.outcome, NominateError::errno)),
                );
            }
            Op::Evict => {
                let mut jobs = jobs::<EvictError>(arguments)?;
                self.paging().evict(self.paging().epoch(), &mut jobs);
                reply.extend(
                    jobs.iter()
                        .map(|job| status(job.outcome, EvictError::errno)),
                );
            }
            Op::Prep => {
                let mut jobs = prep_jobs(arguments)?;
                self.paging().prep(self.paging().epoch(), &mut jobs);
                reply.extend(jobs.iter().map(|job| number(prep::result(job))));
            }
            Op::Restore => {
                let mut jobs = jobs::<RestoreError>(arguments)?;
                self.paging().restore(self.paging().epoch(), &mut jobs);
                reply.extend(
                    jobs.iter()
                        .map(|job| status(job.outcome, RestoreError::errno)),
                );
            }
            Op::Map => reply.extend(
                gfns().map(|gfn| number(gfn.ok_or(Errno::EINVAL).and_then(|gfn| self.map(gfn)))),
            ),
            Op::Unmap => reply.extend(
                gfns().map(|gfn| number(gfn.ok_or(Errno::EINVAL).and_then(|gfn| self.unmap(gfn)))),
            ),
            Op::AccessBits => self.uses(arguments, reply)?,
            Op::PagingStates => self.states(arguments, reply)?,
            Op::StopGuest => match arguments {
                [0] => self.pause_guest(),
                [1] => self.crash("the pager has crashed the guest: a page is lost".into()),
                _ => return Err(Errno::EINVAL),
            },
            Op::Attach | Op::Enable | Op::Disable | Op::Info => return Err(Errno::ENOSYS),
        }
        Ok(())
    }

    fn uses(&self, arguments: &[u64], reply: &mut Vec<u64>) -> Result<(), Errno> {
        let &[first, words] = arguments else {
            return Err(Errno::EINVAL);
        };
        let first = Gfn::try_new(first).ok_or(Errno::EINVAL)?;
        let words = usize::try_from(words).unwrap_or(usize::MAX);
        if words > MAX_BATCH {
            return Err(Errno::EINVAL);
        }
        let mut uses = [AccessBits::default(); MAX_BATCH];
        let uses = &mut uses[..words];
        self.paging()
            .read_clear_access_bits(first, uses, ClearBits::Accessed)
            .map_err(AccessBitsError::errno)?;
        reply.extend(uses.iter().map(|uses| uses.accessed.into_inner()[0]));
        Ok(())
    }

    fn states(&self, arguments: &[u64], reply: &mut Vec<u64>) -> Result<(), Errno> {
        let &[first, groups] = arguments else {
            return Err(Errno::EINVAL);
        };
        let first = Gfn::try_new(first).ok_or(Errno::EINVAL)?;
        let groups = usize::try_from(groups).unwrap_or(usize::MAX);
        if groups > MAX_BATCH / 2 {
            return Err(Errno::EINVAL);
        }
        let mut states = [PagingStates::default(); MAX_BATCH / 2];
        let states = &mut states[..groups];
        let listed = self
            .paging()
            .paging_states(self.paging().epoch(), first, states);
        listed.map_err(PagingStatesError::errno)?;
        for states in states {
            reply.extend(states.out.into_inner());
            reply.extend(states.nominated.into_inner());
        }
        Ok(())
    }

    fn pager_left(&self) {
        // Also a pager that died before it took over.
        if self.paging().is_enabled() {
            self.paging().detach();
            let out_pages = self.counts().paged;
            self.detached(PagerExit::Died { out_pages });
        } else if self.is_watched() {
            // It had attached, and left before it enabled paging.
            self.detached(PagerExit::Detached);
        }
        self.paging().platform().set_buffers(None);
    }
}

fn jobs<E>(arguments: &[u64]) -> Result<Vec<Job<E>>, Errno> {
    let gfn = |&raw: &u64| Gfn::try_new(raw).map(Job::new).ok_or(Errno::EINVAL);
    arguments.iter().map(gfn).collect()
}

fn prep_jobs(arguments: &[u64]) -> Result<Vec<Job<PrepError, Option<BufferIndex>>>, Errno> {
    let (pairs, []) = arguments.as_chunks::<2>() else {
        return Err(Errno::EINVAL);
    };
    let job = |&[gfn, buffer]: &[u64; 2]| {
        let gfn = Gfn::try_new(gfn).ok_or(Errno::EINVAL)?;
        Ok(Job::filled(gfn, BufferIndex(buffer)))
    };
    pairs.iter().map(job).collect()
}

fn status<E: Copy>(done: Option<Result<(), E>>, errno: impl Fn(E) -> Errno) -> u64 {
    number(done.map_or(Err(Errno::EIO), |done| done.map_err(errno)))
}

fn number(result: Result<(), Errno>) -> u64 {
    result.map_or_else(|errno| errno as u64, |()| 0)
}
