// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine: a guest's memory and vcpus, the hypervisor half of paging, and the threads that run
//! them.
//!
//! | thread | blocks in | does |
//! |---|---|---|
//! | each vcpu | its pause, at a page that is out | `fault`: requests the page |
//! | prep | read of the doorbell | `prep`: fills pages, takes responses |
//! | hypercall | receive on the socket | `hypercall`: batches, attach and detach |
//!
//! The prep thread runs on one CPU together with the pager's main thread, unless configured
//! otherwise: a wake-up across CPUs costs more than all the rest of a fault.

mod trap;

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use p2m_paging::fault::Mapper;
use p2m_paging::paging::{Caller, DropError, PopulateError, Populated};
use p2m_paging::pause::VcpuCell;
use p2m_paging::platform::Platform as _;
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

/// The configuration of a machine.
#[derive(Clone, Debug)]
pub struct MachineOptions {
    /// The number of vcpus; at least one.
    pub vcpus: u32,
    /// The CPU on which machine and pager handle faults. `None`: the scheduler chooses.
    pub cpu: Option<usize>,
    /// The name under which pagers find the machine.
    pub name: String,
}

/// Why a machine does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UffdMachineError {
    /// The guest's memory could not be created.
    #[error("guest memory: {0}")]
    Memory(#[from] CreateError),
    /// userfaultfd could not be opened, most often because a permission is missing.
    #[error(transparent)]
    Userfaultfd(#[from] OpenError),
    /// The guest's memory cannot be registered with userfaultfd.
    #[error("guest memory cannot be watched: {0}")]
    Register(#[from] RangeError),
    /// The pages shared with the pager could not be created.
    #[error("ring page: {0}")]
    Shared(#[from] SharedAreaError),
    /// An event channel could not be created.
    #[error("event channel: {0}")]
    Events(Errno),
    /// The socket could not be opened.
    #[error("hypercall socket: {0}")]
    Socket(#[from] ConnectError),
    /// A thread could not be started.
    #[error("thread: {0}")]
    Thread(std::io::Error),
    /// The handler of SIGBUS could not be installed.
    #[error("SIGBUS: {0}")]
    Trap(std::io::Error),
    /// The guest would have no vcpus.
    #[error("a guest needs at least one vcpu")]
    NoVcpus,
}

/// How a pager ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagerExit {
    /// It disabled paging: no page is out.
    Detached,
    /// It died. Vcpus that need a page wait until another pager takes over, or until
    /// [`Machine::give_up`].
    Died {
        /// Pages that were out.
        out_pages: u64,
    },
}

/// A running machine. It lives as long as the process.
pub struct Machine {
    paging: Paging<'static, HostPlatform>,
    /// The number of faults of each vcpu. A vcpu uses it to tell whether its own access faulted.
    faults: Box<[AtomicU64]>,
    pub(super) shared: &'static SharedArea,
    /// Locked for a whole round of preps, and while a pager's mailbox and buffers are replaced by
    /// the next pager's: an entry of the mailbox refers to the buffers that are set.
    pub(super) mailbox: Mutex<Mailbox>,
    pub(super) doorbell: EventChannel,
    cpu: Option<usize>,
    watch: Mutex<PagerWatch>,
    /// The first error after which the machine cannot continue.
    crashed: OnceLock<String>,
    stray: AtomicU64,
    /// The guest is paused as a whole.
    is_paused: AtomicBool,
}

/// What the machine tells an attached pager without being asked.
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
    /// Starts a guest with this memory, all of it resident, and a socket at which a pager may
    /// attach. From here on SIGBUS is handled in the whole process; a signal that no vcpu caused
    /// goes to the previous handler.
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
            is_paused: AtomicBool::new(false),
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

    /// The guest's memory. A thread that accesses it must be a vcpu ([`Self::become_vcpu`]), or
    /// hold the page with [`Self::map`], or know that no page is out. Otherwise an access to a page
    /// that is out ends the process. Reading frames
    /// ([`GuestFile::read`](super::guest_memory::GuestFile::read)) is open to all.
    pub fn memory(&self) -> &GuestMemory {
        self.paging.platform().memory()
    }

    /// The numbers of resident pages and of others.
    pub fn counts(&self) -> PageCounts {
        self.paging.platform().counts()
    }

    /// Makes the calling thread this vcpu, if the guest has such a vcpu.
    pub fn become_vcpu(&'static self, vcpu: VcpuId) {
        if self.paging.vcpus().contains(vcpu) {
            trap::enter(self, vcpu);
        }
    }

    /// The number of faults that this vcpu has taken so far.
    pub fn faults(&self, vcpu: VcpuId) -> u64 {
        self.faults
            .get(vcpu.index())
            .map_or(0, |faults| faults.load(Ordering::Relaxed))
    }

    /// The number of the guest's accesses to pages that it had given back.
    pub fn stray_accesses(&self) -> u64 {
        self.stray.load(Ordering::Relaxed)
    }

    /// The guest's balloon gives back a page that is out or on its way (row A6). A vcpu that finds
    /// the ring full returns after the pager has been told. The caller holds no lock.
    pub fn give_back(&self, gfn: Gfn, caller: Caller) -> Result<(), DropError> {
        self.paging.drop_page(gfn, caller)?;
        self.tell(MachineEvent::Resident(self.counts().resident()));
        if let Caller::Guest(vcpu) = caller {
            self.paging.platform().wait_while_paused(vcpu);
        }
        Ok(())
    }

    /// A foreign caller uses a frame, and may write it, until [`Self::unmap`].
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
        // The machine acts for the control domain, as its vcpu 0.
        self.paging.populate(gfn, Caller::Foreign(VcpuId(0)))
    }

    /// Sets how many pages the guest is to have resident; below zero: all. The pager is told now or
    /// when it attaches.
    pub fn set_target(&self, pages: i64) {
        self.watch.lock().target = pages;
        self.tell(MachineEvent::Target(pages));
    }

    /// Shuts the guest down: the pager is told that the guest is gone.
    pub fn release_domain(&self) {
        self.tell(MachineEvent::DomainGone);
    }

    /// How the last pager ended; `None` while a pager is attached, or before the first.
    pub fn pager_exit(&self) -> Option<PagerExit> {
        self.watch.lock().pager_exit
    }

    /// No pager will take over: vcpus that need a page fail.
    pub fn give_up(&self) {
        self.paging.shut_down();
    }

    /// Pauses the guest, unless it is paused. Each vcpu stops at its next fault, or when it calls
    /// [`Self::wait_while_paused`].
    pub fn pause_guest(&self) {
        if !self.is_paused.swap(true, Ordering::Relaxed) {
            self.all_vcpus(|vcpu| self.paging.platform().pause_vcpu(vcpu));
        }
    }

    /// Lets a guest go on that is paused.
    pub fn unpause_guest(&self) {
        if self.is_paused.swap(false, Ordering::Relaxed) {
            self.all_vcpus(|vcpu| self.paging.platform().unpause_vcpu(vcpu));
        }
    }

    /// Whether the guest is paused.
    pub fn is_guest_paused(&self) -> bool {
        self.is_paused.load(Ordering::Relaxed)
    }

    /// Returns once this vcpu is not paused, on whose thread it is called.
    pub fn wait_while_paused(&self, vcpu: VcpuId) {
        self.paging.platform().wait_while_paused(vcpu);
    }

    fn all_vcpus(&self, each: impl FnMut(VcpuId)) {
        let vcpus = 0..u32::try_from(self.faults.len()).unwrap_or(u32::MAX);
        vcpus.map(VcpuId).for_each(each);
    }

    /// The error after which the machine cannot continue, if there was one.
    pub fn crashed(&self) -> Option<&str> {
        self.crashed.get().map(String::as_str)
    }

    /// Notes an error after which the guest cannot continue. The guest stops, and the program that
    /// runs the machine ends it.
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

    /// Moves the calling thread to the CPU on which faults are handled.
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

    /// Whether a pager is attached.
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

/// The last CPU that this process may use. The first CPUs take most of the machine's interrupts.
pub fn usual_fault_cpu() -> Option<usize> {
    let allowed = rustix::thread::sched_getaffinity(None).ok()?;
    (0..rustix::thread::CpuSet::MAX_CPU)
        .rev()
        .find(|&cpu| allowed.is_set(cpu))
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
