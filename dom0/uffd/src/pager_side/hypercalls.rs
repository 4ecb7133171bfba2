// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls to the embedded host: the pager's end of the socket.

use std::os::fd::{AsFd as _, OwnedFd};

use p2m_paging::{Errno, Gfn};
use pager_shell::socket::{ConnectError, Connection, PACKET_WORDS};
use pager_shell::{EventChannel, MachineError, OnLoss, PagingStates};

use crate::host::guest_memory::{CreateError, GuestFile};
use crate::link::packet::MAX_BATCH;
use crate::link::shared_area::SharedAreaError;
use crate::link::{Op, PROTOCOL, SharedArea};

/// Why a call as a whole failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The host could not be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The machine is gone, or its reply is not valid.
    #[error("the embedded host does not answer: {0}")]
    Gone(rustix::io::Errno),
    /// The machine refused the call.
    #[error("{op:?} is refused: {errno}")]
    Refused {
        /// The call.
        op: Op,
        /// The machine's reason.
        errno: Errno,
    },
    /// The guest memory that was sent is not valid.
    #[error("guest memory: {0}")]
    Memory(#[from] CreateError),
    /// The shared pages that were sent are not valid, or memory to share could not be created.
    #[error("shared memory: {0}")]
    Shared(#[from] SharedAreaError),
}

impl From<CallError> for MachineError {
    fn from(error: CallError) -> Self {
        Self::new(error)
    }
}

/// The socket, and buffers for a packet each way.
#[derive(Debug)]
pub struct Hypercalls {
    connection: Connection,
    packet: Vec<u64>,
    reply: Box<[u64; PACKET_WORDS]>,
}

/// What the host gives to a pager that attaches.
#[derive(Debug)]
pub struct Handles {
    /// The guest's memory.
    pub memory: GuestFile,
    /// The ring page and the mailbox.
    pub shared: SharedArea,
    /// Kicked by the machine.
    pub events: EventChannel,
    /// Kicked by the pager.
    pub doorbell: EventChannel,
    /// The connection on which notices arrive.
    pub watch: Connection,
}

/// What the host reports of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostInfo {
    /// The guest's size.
    pub max_pages: u64,
    /// The CPU on which the machine handles faults. The pager should run on it too.
    pub cpu: Option<usize>,
    /// Pages that an earlier pager left out.
    pub out_pages: u64,
}

impl Hypercalls {
    /// Connects to the host with this name.
    pub fn connect(name: &str) -> Result<Self, ConnectError> {
        Ok(Self {
            connection: Connection::connect(name)?,
            packet: Vec::with_capacity(PACKET_WORDS),
            reply: Box::new([0; PACKET_WORDS]),
        })
    }

    /// Asks what kind of guest this is.
    pub fn info(&mut self) -> Result<HostInfo, CallError> {
        self.packet.clear();
        self.packet.push(PROTOCOL);
        if self.exchange(Op::Info)? != 3 {
            return Err(CallError::Gone(rustix::io::Errno::BADMSG));
        }
        Ok(HostInfo {
            max_pages: self.reply[0],
            cpu: usize::try_from(self.reply[1])
                .ok()
                .and_then(|cpu| cpu.checked_sub(1)),
            out_pages: self.reply[2],
        })
    }

    /// Attaches as the guest's pager, with this memory for pages on their way in.
    pub fn attach(&mut self, buffers: &OwnedFd, pages: usize) -> Result<Handles, CallError> {
        self.packet.clear();
        self.packet.extend([Op::Attach as u64, pages as u64]);
        let sent = self.connection.send(&self.packet, &[buffers.as_fd()]);
        sent.map_err(CallError::Gone)?;
        let (_, fds) = self.receive(Op::Attach)?;
        let Ok([memory, shared, events, doorbell, watch]) = <[OwnedFd; 5]>::try_from(fds) else {
            return Err(CallError::Gone(rustix::io::Errno::BADMSG));
        };
        Ok(Handles {
            memory: GuestFile::open(memory)?,
            shared: SharedArea::open(shared, 2)?,
            events: EventChannel::from_fd(events),
            doorbell: EventChannel::from_fd(doorbell),
            watch: Connection::from_fd(watch),
        })
    }

    /// Makes a call without arguments.
    pub fn call(&mut self, op: Op) -> Result<(), CallError> {
        self.packet.clear();
        self.exchange(op).map(|_| ())
    }

    /// Pauses the guest, or crashes it.
    pub fn stop_guest(&mut self, how: OnLoss) -> Result<(), CallError> {
        self.packet.clear();
        self.packet.push(match how {
            OnLoss::Pause => 0,
            OnLoss::Crash => 1,
        });
        self.exchange(Op::StopGuest).map(drop)
    }

    /// Makes a call for any number of pages. `done` gets the results in order.
    pub fn batch(
        &mut self,
        op: Op,
        gfns: impl IntoIterator<Item = Gfn>,
        done: impl FnMut(Result<(), Errno>),
    ) -> Result<(), CallError> {
        self.items(op, gfns.into_iter().map(|gfn| [gfn.get()]), done)
    }

    /// Preps pages like [`Self::batch`]. Each page comes with its buffer's offset in bytes.
    pub fn prep(
        &mut self,
        preps: impl IntoIterator<Item = (Gfn, u64)>,
        done: impl FnMut(Result<(), Errno>),
    ) -> Result<(), CallError> {
        let items = preps.into_iter().map(|(gfn, buffer)| [gfn.get(), buffer]);
        self.items(Op::Prep, items, done)
    }

    /// Reads and clears accessed bits, 64 gfns a word, from `first` on, which is a multiple of 64.
    /// The inner error is the machine's refusal.
    pub fn uses(&mut self, first: Gfn, into: &mut [u64]) -> Result<Result<(), Errno>, CallError> {
        self.packet.clear();
        self.packet.extend([first.get(), into.len() as u64]);
        match self.exchange(Op::AccessBits) {
            Ok(words) if words == into.len() => {
                into.copy_from_slice(&self.reply[..words]);
                Ok(Ok(()))
            }
            Ok(_) => Err(CallError::Gone(rustix::io::Errno::BADMSG)),
            Err(CallError::Refused { errno, .. }) => Ok(Err(errno)),
            Err(error) => Err(error),
        }
    }

    /// Lists the states of 64 gfns for each element, from `first` on, which is a multiple of 64.
    pub fn states(&mut self, first: Gfn, into: &mut [PagingStates]) -> Result<(), CallError> {
        let mut at = first.get();
        for into in into.chunks_mut(MAX_BATCH / 2) {
            self.packet.clear();
            self.packet.extend([at, into.len() as u64]);
            if self.exchange(Op::PagingStates)? != 2 * into.len() {
                return Err(CallError::Gone(rustix::io::Errno::BADMSG));
            }
            let (pairs, _) = self.reply[..2 * into.len()].as_chunks::<2>();
            for (states, &[out, nominated]) in into.iter_mut().zip(pairs) {
                *states = PagingStates { out, nominated };
            }
            at += 64 * into.len() as u64;
        }
        Ok(())
    }

    fn items<const N: usize>(
        &mut self,
        op: Op,
        items: impl Iterator<Item = [u64; N]>,
        mut done: impl FnMut(Result<(), Errno>),
    ) -> Result<(), CallError> {
        let mut items = items.peekable();
        while items.peek().is_some() {
            self.packet.clear();
            for item in items.by_ref().take(MAX_BATCH) {
                self.packet.extend(item);
            }
            let asked = self.packet.len() / N;
            let answered = self.exchange(op)?;
            if answered != asked {
                return Err(CallError::Gone(rustix::io::Errno::BADMSG));
            }
            self.reply[..asked]
                .iter()
                .for_each(|&raw| done(result(raw)));
        }
        Ok(())
    }

    /// Sends the packet and copies the results to the start of the reply.
    fn exchange(&mut self, op: Op) -> Result<usize, CallError> {
        self.packet.insert(0, op as u64);
        let sent = self.connection.send(&self.packet, &[]);
        sent.map_err(CallError::Gone)?;
        Ok(self.receive(op)?.0)
    }

    /// Receives a reply and returns the number of its results, which are at the start of the reply.
    fn receive(&mut self, op: Op) -> Result<(usize, Vec<OwnedFd>), CallError> {
        let received = self.connection.receive(&mut self.reply);
        let received = received.map_err(CallError::Gone)?;
        let received = received.ok_or(CallError::Gone(rustix::io::Errno::PIPE))?;
        let results = received.words.checked_sub(1);
        let results = results.ok_or(CallError::Gone(rustix::io::Errno::BADMSG))?;
        result(self.reply[0]).map_err(|errno| CallError::Refused { op, errno })?;
        self.reply.copy_within(1..received.words, 0);
        Ok((results, received.fds))
    }
}

fn result(raw: u64) -> Result<(), Errno> {
    let raw = i32::try_from(raw).unwrap_or(i32::MAX);
    Errno::from_return(-raw).map_or(Ok(()), Err)
}
