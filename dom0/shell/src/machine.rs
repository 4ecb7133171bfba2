// SPDX-License-Identifier: MIT OR Apache-2.0
//! The interface between the shell and the machine whose guest it pages.
//!
//! Two machines implement it: Xen and the embedded host. [`Machine::attach`] returns one part for
//! each thread: [`EventPort`] and [`Preps`] for the main thread, [`Calls`] for the hypercall
//! worker, [`Frames`] for the store worker, and [`Watch`] for the watch thread.

use std::error::Error;
use std::fmt::Debug;
use std::ops::RangeInclusive;

use p2m_paging::ring::SharedPage;
use p2m_paging::{Errno, Gfn};
use pager_core::{Batch, Page, Scan};
use pager_store::PageBuf;

use super::buffers::BufferPlace;
use super::event_channel::EventChannel;

/// Why the machine as a whole fails, as opposed to one page. Each kind of machine has its own
/// reasons.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct MachineError(Box<dyn Error + Send + Sync>);

impl MachineError {
    /// Wraps a machine's own error.
    pub fn new(error: impl Error + Send + Sync + 'static) -> Self {
        Self(Box::new(error))
    }

    /// The machine's own error, if it is of this type.
    pub fn get<E: Error + 'static>(&self) -> Option<&E> {
        self.0.downcast_ref()
    }

    /// Whether the machine's own error is of this type.
    pub fn is<E: Error + 'static>(&self) -> bool {
        self.get::<E>().is_some()
    }
}

/// What a pager knows of a guest before it attaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestInfo {
    /// The guest's maximum size (`max_pages`). It bounds every target.
    pub max_pages: u64,
    /// Pages that are out already. A pager that attaches now does not know them.
    pub out_pages: u64,
    /// The ranges in which the guest may have memory, lowest first. Holes in them are refused page
    /// by page.
    pub memory: Vec<RangeInclusive<u64>>,
    /// The UUID of the guest, if it has one.
    pub uuid: [u8; 16],
    /// The CPU on which the machine handles faults. The pager should run on it too.
    pub cpu: Option<usize>,
}

/// How a pager attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// The guest has no pager.
    Enable,
    /// The guest's pager was killed, and this one knows where the pages lie that are out.
    TakeOver,
}

/// A guest that has been found.
pub trait Machine {
    /// What is known of the guest.
    fn guest(&self) -> &GuestInfo;

    /// Attaches as the guest's pager, with this many buffers for pages on their way in. Paging is
    /// enabled afterwards. An error leaves everything as it was.
    fn attach(self: Box<Self>, buffers: usize, mode: AttachMode) -> Result<Attached, MachineError>;
}

/// What a pager gets when it attaches.
pub struct Attached {
    /// The ring, in its initial state.
    pub ring: SharedPage,
    /// The requested buffers, in memory that is locked if the system allows it.
    pub buffers: &'static mut [PageBuf],
    /// Main thread: sleeps and wakes.
    pub event_port: Box<dyn EventPort>,
    /// Main thread: preps pages that somebody waits for.
    pub preps: Box<dyn Preps>,
    /// Hypercall worker: all other calls.
    pub calls: Box<dyn Calls>,
    /// Store worker: reads pages that go to the store.
    pub frames: Box<dyn Frames>,
    /// Watch thread: receives notices.
    pub watch: Box<dyn Watch>,
    /// Whether [`Calls::scan`] reports which pages are used.
    pub has_access_bits: bool,
    /// Reporter thread: publishes metrics for the host's operators.
    pub publish: Option<Box<dyn Publish>>,
}

/// Where the main thread sleeps, and how it wakes the machine.
pub trait EventPort: Send {
    /// The channel that other threads kick to wake the main thread.
    fn waker(&self) -> std::io::Result<EventChannel>;

    /// Sleeps until the machine or another thread has kicked since the last call.
    fn wait(&mut self) -> rustix::io::Result<()>;

    /// Wakes the machine: the ring has responses, or preps have been posted.
    fn notify(&mut self) -> rustix::io::Result<()>;
}

/// Preps of pages that somebody waits for. They neither allocate nor sleep.
pub trait Preps: Send {
    /// Preps every page of the batch from its buffer in the set. The batch is returned at once with
    /// its outcomes set, or by a later [`Self::collect_done`] after the machine has been notified.
    fn prep(&mut self, batch: Batch, buffers: BufferPlace) -> Option<Batch>;

    /// Passes on the batches that have been done since the last call.
    fn collect_done(&mut self, done: &mut dyn FnMut(Batch));

    /// The machine is gone: passes on the batches that will not be done any more.
    fn abandon(&mut self, done: &mut dyn FnMut(Batch));
}

/// Calls for many pages. Each page has its own outcome; an error of the whole call means that the
/// machine has failed.
pub trait Calls: Send {
    /// [`Step::Nominate`](pager_core::Step::Nominate).
    fn nominate(&mut self, pages: &mut [Page]) -> Result<(), MachineError>;

    /// [`Step::Evict`](pager_core::Step::Evict).
    fn evict(&mut self, pages: &mut [Page]) -> Result<(), MachineError>;

    /// [`Step::Restore`](pager_core::Step::Restore). The main thread answers requests meanwhile.
    fn restore(&mut self, pages: &mut [Page]) -> Result<(), MachineError>;

    /// Whether [`Self::restore`] is one call for many pages that reports which of them were
    /// nominated.
    fn restores_at_once(&self) -> bool;

    /// [`Step::Prep`](pager_core::Step::Prep), from the buffers of the set.
    fn prep(&mut self, pages: &mut [Page], buffers: BufferPlace) -> Result<(), MachineError>;

    /// Reads and clears accessed bits. A scan that cannot be carried out is left unchanged.
    fn scan(&mut self, scan: &mut Scan) -> Result<(), MachineError>;

    /// Lists the states of pages, 64 in each entry, from `first` on, which is a multiple of 64. For a
    /// pager that takes over from one that was killed.
    fn paging_states(
        &mut self,
        first: Gfn,
        states: &mut [PagingStates],
    ) -> Result<(), MachineError> {
        let _ = (first, states);
        Err(MachineError::new(NoPagingStates))
    }

    /// Stops the guest, which needs a page that is gone for good.
    fn stop_guest(&mut self, how: OnLoss) -> Result<(), MachineError>;

    /// Detaches. No page may be out. `false`: vcpus are in the wait queue. Answer them and try
    /// again.
    fn disable(&mut self) -> Result<bool, MachineError>;
}

/// What becomes of a guest that needs a page that is gone for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLoss {
    /// The domain is paused, once. Its operator decides.
    #[default]
    Pause,
    /// The domain crashes, as if its own kernel had.
    Crash,
}

/// The states of 64 pages. Bit n stands for the nth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PagingStates {
    /// Pages without a frame, requested or not.
    pub out: u64,
    /// Pages that are nominated.
    pub nominated: u64,
}

/// The machine does not say which pages are out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this hypervisor does not list which pages are out: no pager can take over from another")]
pub struct NoPagingStates;

/// Where metrics are published.
pub trait Publish: Send {
    /// Publishes this line in place of the last one.
    fn publish(&mut self, line: &str);
}

/// The frames of nominated pages.
pub trait Frames: Send {
    /// Copies the frames. Entry n of each list belongs to page n. A page that could not be read has
    /// an errno, and its copy is not valid. Nothing stays mapped.
    fn read(&mut self, pages: &[Page], into: &mut [PageBuf], unread: &mut [Option<Errno>]);
}

/// A host that reports how much of its memory is free.
pub trait FreeMemory: Debug + Send {
    /// The number of all its pages.
    fn total_pages(&self) -> u64;

    /// The number of pages that are free now.
    fn free_pages(&mut self) -> Result<u64, MachineError>;
}

/// What the machine reports to a pager without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// The number of pages that the guest is to have resident (`memory/target-tot_pages`).
    Target(i64),
    /// The number of pages that it has (`tot_pages`).
    Resident(u64),
    /// The guest is gone (`@releaseDomain`).
    DomainGone,
    /// The guest has another pager now. This one must not change anything any more.
    Replaced,
    /// Paging was disabled, not by this pager, and the guest lives. It has no pager.
    Disabled,
}

/// The source of notices.
pub trait Watch: Send {
    /// Waits for notices and passes them on, until the guest or the machine is gone.
    fn run(self: Box<Self>, tell: &dyn Fn(MachineEvent));
}
