// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine: a guest's memory and vcpus, the hypervisor half of paging, and the threads that run
//! it.
//!
//! | thread | blocks in | does |
//! |---|---|---|
//! | each vcpu | its pause, at a page that is not there | `fault`: asks for the page |
//! | prep | read of the doorbell | `prep`: fills pages, takes answers |
//! | hypercall | receive on the socket | `hypercall`: batches, attach and detach |
//!
//! The second runs on one CPU together with the pager's main thread, unless told not to: a wake-up
//! across CPUs costs more than the whole rest of a fault.

mod trap;

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use p2m_paging::fault::Mapper;
use p2m_paging::paging::{Caller, DropError, PopulateError, Populated};
use p2m_paging::pause::VcpuCell;
use p2m_paging::{Gfn, P2mType, Paging, VcpuId};
use pager_shell::socket::{ConnectError, Connection, Listener};
use pager_shell::{EventChannel, MachineEvent, pin_to};
use parking_lot::Mutex;
use rustix::io::Errno;

use super::guest_memory::{CreateError, GuestMemory};
use super::p2m::{HostPlatform, PageCounts};
use super::uffd::{Modes, OpenError, Options, RangeError, Userfaultfd};
use crate::link::packet::event_words;
use crate::link::shared_area::SharedAreaError;
use crate::link::{Mailbox, SharedArea};

/// What kind of machine.
#[derive(Clone, Debug)]
pub struct MachineOptions {
    /// How many vcpus; at least one.
    pub vcpus: u32,
    /// The CPU on which faults are handled, machine's side and pager's; `None`: the scheduler's
    /// choice.
    pub cpu: Option<usize>,
    /// The name under which pagers find it.
    pub name: String,
}

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UffdMachineError {
    /// The guest's memory.
    #[error("guest memory: {0}")]
    Memory(#[from] CreateError),
    /// userfaultfd: permission, most often.
    #[error(transparent)]
    Userfaultfd(#[from] OpenError),
    /// The guest's memory cannot be registered with userfaultfd.
    #[error("guest memory cannot be watched: {0}")]
    Register(#[from] RangeError),
    /// The pages shared with the pager.
    #[error("ring page: {0}")]
    Shared(#[from] SharedAreaError),
    /// The event channels.
    #[error("event channel: {0}")]
    Events(Errno),
    /// The socket.
    #[error("hypercall socket: {0}")]
    Socket(#[from] ConnectError),
    /// A thread.
    #[error("thread: {0}")]
    Thread(std::io::Error),
    /// SIGBUS cannot be handled.
    #[error("SIGBUS: {0}")]
    Trap(std::io::Error),
    /// A guest without vcpus.
    #[error("a guest needs at least one vcpu")]
    NoVcpus,
}

/// How a pager left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagerExit {
    /// It disabled paging: nothing is out.
    Detached,
    /// It went without a word, and with it the only copy of so many pages.
    Died {
        /// Pages that were out.
        lost_pages: u64,
    },
}

/// A running machine. It lives as long as the process.
pub struct Machine {
    paging: Paging<'static, HostPlatform>,
    /// By vcpu: faults taken, so that a vcpu can tell that an access of its own was one.
    faults: Box<[AtomicU64]>,
    pub(super) shared: &'static SharedArea,
    /// Locked for a whole round of preps, and while one pager's mailbox and buffers become another's: what is
    /// in the mailbox means the buffers that are set.
    pub(super) mailbox: Mutex<Mailbox>,
    pub(super) doorbell: EventChannel,
    cpu: Option<usize>,
    watch: Mutex<PagerWatch>,
    /// The first thing that went wrong beyond repair.
    crashed: OnceLock<String>,
    stray: AtomicU64,
}

/// What an attached pager is told unasked.
#[derive(Debug)]
struct PagerWatch {
    target: i64,
    connection: Option<Connection>,
    pager_exit: Option<PagerExit>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("counts", &self.counts())
            .field("crashed", &self.crashed)
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// A guest with this memory, all of it home, and a socket where a pager may attach. SIGBUS is handled
    /// from here on, in the whole process: what is no vcpu's is handed on to whoever handled it before.
    pub fn start(
        memory: GuestMemory,
        options: &MachineOptions,
    ) -> Result<&'static Self, UffdMachineError> {
        if options.vcpus == 0 {
            return Err(UffdMachineError::NoVcpus);
        }
        trap::install().map_err(UffdMachineError::Trap)?;
        let uffd = Userfaultfd::open(Options::GUEST)?;
        uffd.register(&memory, Modes::MISSING | Modes::WRITE_PROTECT)?;
        let shared: &'static SharedArea =
            Box::leak(Box::new(SharedArea::create("paging-ring", 2)?));
        let mailbox = Mailbox::new(shared).ok_or(UffdMachineError::Events(Errno::INVAL))?;
        let events = EventChannel::new().map_err(UffdMachineError::Events)?;
        let vcpus = options.vcpus as usize;
        let cells: &'static [VcpuCell] =
            Box::leak((0..vcpus).map(|_| VcpuCell::new()).collect::<Box<[_]>>());
        let target = memory.size_pages().cast_signed();
        let machine: &'static Self = Box::leak(Box::new(Self {
            paging: Paging::new(HostPlatform::new(memory, uffd, vcpus, events), cells),
            faults: (0..vcpus).map(|_| AtomicU64::new(0)).collect(),
            shared,
            mailbox: Mutex::new(mailbox),
            doorbell: EventChannel::new().map_err(UffdMachineError::Events)?,
            cpu: options.cpu,
            watch: Mutex::new(PagerWatch {
                target,
                connection: None,
                pager_exit: None,
            }),
            crashed: OnceLock::new(),
            stray: AtomicU64::new(0),
        }));
        let listener = Listener::bind(&options.name)?;
        machine.spawn("prep", Self::serve_preps)?;
        machine.spawn("hypercall", move |machine| machine.serve_pagers(&listener))?;
        Ok(machine)
    }

    fn spawn(
        &'static self,
        name: &str,
        serve: impl FnOnce(&Self) + Send + 'static,
    ) -> Result<(), UffdMachineError> {
        let run = move || serve(self);
        let builder = thread::Builder::new().name(name.into());
        builder
            .spawn(run)
            .map_err(UffdMachineError::Thread)
            .map(drop)
    }

    /// The hypervisor half of paging.
    pub fn paging(&self) -> &Paging<'static, HostPlatform> {
        &self.paging
    }

    /// The guest's memory. Who touches it must be a vcpu ([`Self::become_vcpu`]), or hold the page with
    /// [`Self::map`], or know that nothing is out: a page that is out ends any other thread, and with it
    /// the process. Reading frames ([`GuestFile::read`](super::guest_memory::GuestFile::read)) is open to all.
    pub fn memory(&self) -> &GuestMemory {
        self.paging.platform().memory()
    }

    /// How many pages are where.
    pub fn counts(&self) -> PageCounts {
        self.paging.platform().counts()
    }

    /// The calling thread is this vcpu from here on, if the guest has such a vcpu.
    pub fn become_vcpu(&'static self, vcpu: VcpuId) {
        if self.paging.vcpus().contains(vcpu) {
            trap::enter(self, vcpu);
        }
    }

    /// Faults that this vcpu has taken so far.
    pub fn faults(&self, vcpu: VcpuId) -> u64 {
        self.faults
            .get(vcpu.index())
            .map_or(0, |faults| faults.load(Ordering::Relaxed))
    }

    /// Accesses of the guest to pages that it had given back.
    pub fn stray_accesses(&self) -> u64 {
        self.stray.load(Ordering::Relaxed)
    }

    /// The guest's balloon gives a page back that is out, or on its way (row A6). A vcpu that finds the
    /// ring full returns when the pager has been told. No locks held.
    pub fn give_back(&self, gfn: Gfn, caller: Caller) -> Result<(), DropError> {
        self.paging.drop_page(gfn, caller)?;
        self.tell(MachineEvent::Resident(self.counts().resident()));
        if let Caller::Guest(vcpu) = caller {
            self.paging.platform().wait_while_paused(vcpu);
        }
        Ok(())
    }

    /// Somebody outside the guest needs a frame and uses it, perhaps writing, until [`Self::unmap`].
    pub fn map(&self, gfn: Gfn) -> Result<(), p2m_paging::Errno> {
        use p2m_paging::Errno;
        match self.paging.platform().map(gfn, Mapper::Writer) {
            Ok(()) => Ok(()),
            Err(P2mType::Invalid) => Err(Errno::EINVAL),
            Err(_) => match self.populate(gfn) {
                Ok(_) => Err(Errno::ENOENT),
                Err(error) => Err(error.errno()),
            },
        }
    }

    /// Ends a [`Self::map`].
    pub fn unmap(&self, gfn: Gfn) -> Result<(), p2m_paging::Errno> {
        if self.paging.platform().unmap(gfn) {
            Ok(())
        } else {
            Err(p2m_paging::Errno::EINVAL)
        }
    }

    pub(super) fn populate(&self, gfn: Gfn) -> Result<Populated, PopulateError> {
        // The machine itself acts for the control domain, on its vcpu 0.
        self.paging.populate(gfn, Caller::Foreign(VcpuId(0)))
    }

    /// How many pages the guest is to have resident; below zero: all. Tells the pager, now or when
    /// it attaches.
    pub fn set_target(&self, pages: i64) {
        self.watch.lock().target = pages;
        self.tell(MachineEvent::Target(pages));
    }

    /// The guest shuts down: the pager is told that there is nothing more to do.
    pub fn release_domain(&self) {
        self.tell(MachineEvent::DomainGone);
    }

    /// How the last pager left; `None` while there is one, or none has come yet.
    pub fn pager_exit(&self) -> Option<PagerExit> {
        self.watch.lock().pager_exit
    }

    /// What went wrong beyond repair, if anything.
    pub fn crashed(&self) -> Option<&str> {
        self.crashed.get().map(String::as_str)
    }

    /// A guest that cannot go on: it stays where it is, and whoever runs the machine ends it.
    pub(super) fn crash(&self, reason: String) {
        tracing::error!("{reason}");
        // Only the first reason is kept.
        let _ = self.crashed.set(reason);
    }

    pub(super) fn count_fault(&self, vcpu: VcpuId) {
        self.faults[vcpu.index()].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_stray(&self) {
        self.stray.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn cpu(&self) -> Option<usize> {
        self.cpu
    }

    /// The calling thread handles faults: it runs on their CPU.
    pub(super) fn move_to_fault_cpu(&self) {
        if let Some(cpu) = self.cpu {
            pin_to(cpu);
        }
    }

    pub(super) fn attached(&self, watch: Connection) {
        let mut state = self.watch.lock();
        state.pager_exit = None;
        state.connection = Some(watch);
        let target = state.target;
        drop(state);
        self.tell(MachineEvent::Target(target));
    }

    /// Whether a pager has attached that has not left yet.
    pub(super) fn is_watched(&self) -> bool {
        self.watch.lock().connection.is_some()
    }

    pub(super) fn detached(&self, pager_exit: PagerExit) {
        let mut state = self.watch.lock();
        state.connection = None;
        state.pager_exit = Some(pager_exit);
    }

    fn tell(&self, event: MachineEvent) {
        let state = self.watch.lock();
        if let Some(connection) = &state.connection
            && let Err(errno) = connection.try_send(&event_words(event))
        {
            tracing::warn!(?event, %errno, "the pager was not told");
        }
    }
}

/// The last CPU that this process may use: the first ones take most of the machine's interrupts.
pub fn usual_fault_cpu() -> Option<usize> {
    let allowed = rustix::thread::sched_getaffinity(None).ok()?;
    (0..rustix::thread::CpuSet::MAX_CPU)
        .rev()
        .find(|&cpu| allowed.is_set(cpu))
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
