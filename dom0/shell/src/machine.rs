// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the shell asks of the machine whose guest it pages: the seam between serving and a hypervisor.
//!
//! Two machines implement it: Xen, and the embedded host. What attaching yields comes apart by thread: the main thread has [`EventPort`] and [`Preps`], the caller
//! [`Calls`], the store worker [`Frames`], the watch thread [`Watch`].

use std::error::Error;
use std::fmt::Debug;
use std::ops::RangeInclusive;

use p2m_paging::Errno;
use p2m_paging::ring::SharedPage;
use pager_core::{Batch, Page, Scan};
use pager_store::PageBuf;

use super::buffers::BufferPlace;
use super::event_channel::EventChannel;

/// Why the machine as a whole fails, and not for one page: each kind of machine has its reasons.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct MachineError(Box<dyn Error + Send + Sync>);

impl MachineError {
    /// For a machine's own error.
    pub fn new(error: impl Error + Send + Sync + 'static) -> Self {
        Self(Box::new(error))
    }
}

/// What a pager may know before it attaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestInfo {
    /// The guest's size at most (`max_pages`): the bound of any target.
    pub max_pages: u64,
    /// Pages that are out already, and whoever attaches now knows nothing of.
    pub out_pages: u64,
    /// Where it may have memory, lowest first. Holes in it are refused page by page.
    pub memory: Vec<RangeInclusive<u64>>,
    /// The CPU on which the machine handles faults, and the pager is to.
    pub cpu: Option<usize>,
}

/// A guest that has been found and is not paged yet.
pub trait Machine {
    /// What is known of it.
    fn guest(&self) -> &GuestInfo;

    /// Becomes its pager, with so many buffers for pages on their way in. Paging is enabled from here
    /// on. After an error everything is as it was.
    fn attach(self: Box<Self>, buffers: usize) -> Result<Attached, MachineError>;
}

/// What a pager gets when it attaches.
pub struct Attached {
    /// The ring, just set up.
    pub ring: SharedPage,
    /// As many buffers as were asked for, in memory that is locked if the system allows it.
    pub buffers: &'static mut [PageBuf],
    /// Main thread: sleeps and wakes.
    pub event_port: Box<dyn EventPort>,
    /// Main thread: pages that somebody waits for.
    pub preps: Box<dyn Preps>,
    /// Hypercall worker: everything else.
    pub calls: Box<dyn Calls>,
    /// Store worker: what goes to the store.
    pub frames: Box<dyn Frames>,
    /// Watch thread.
    pub watch: Box<dyn Watch>,
    /// Whether [`Calls::scan`] says which pages are used.
    pub has_access_bits: bool,
    /// Reporter thread: where the host's operators look.
    pub publish: Option<Box<dyn Publish>>,
}

/// Where the main thread sleeps, and how it wakes the machine.
pub trait EventPort: Send {
    /// What other threads kick to wake the main thread.
    fn waker(&self) -> std::io::Result<EventChannel>;

    /// Sleeps until the machine or another thread has kicked since the last call.
    fn wait(&mut self) -> rustix::io::Result<()>;

    /// Wakes the machine: there are answers on the ring, or posted preps.
    fn notify(&mut self) -> rustix::io::Result<()>;
}

/// Preps of pages that somebody waits for. Nothing is allocated here, and nobody sleeps.
pub trait Preps: Send {
    /// Preps every page of the batch from its buffer in the set. The batch comes back at once with its
    /// outcomes set, or from a later [`Self::collect_done`] once the machine has been rung.
    fn prep(&mut self, batch: Batch, buffers: BufferPlace) -> Option<Batch>;

    /// Hands on the batches that have been done since.
    fn collect_done(&mut self, done: &mut dyn FnMut(Batch));

    /// The machine is gone: hands on what will not be done any more.
    fn abandon(&mut self, done: &mut dyn FnMut(Batch));
}

/// Calls on many pages, each of whose outcomes is set. An error as a whole is the machine's end.
pub trait Calls: Send {
    /// [`Step::Nominate`](pager_core::Step::Nominate).
    fn nominate(&mut self, pages: &mut [Page]) -> Result<(), MachineError>;

    /// [`Step::Evict`](pager_core::Step::Evict).
    fn evict(&mut self, pages: &mut [Page]) -> Result<(), MachineError>;

    /// [`Step::Restore`](pager_core::Step::Restore): the main thread answers meanwhile.
    fn restore(&mut self, pages: &mut [Page]) -> Result<(), MachineError>;

    /// Whether [`Self::restore`] is one call for many pages, and tells a page that was nominated from one that
    /// was not.
    fn restores_at_once(&self) -> bool;

    /// [`Step::Prep`](pager_core::Step::Prep), from the buffers of the set.
    fn prep(&mut self, pages: &mut [Page], buffers: BufferPlace) -> Result<(), MachineError>;

    /// Reads and clears accessed bits. A scan that is not carried out is left as it came.
    fn scan(&mut self, scan: &mut Scan) -> Result<(), MachineError>;

    /// Detaches; nothing may be out. False: vcpus are queued for the ring. They are to be
    /// answered, and this tried again.
    fn disable(&mut self) -> Result<bool, MachineError>;
}

/// Where metrics are published.
pub trait Publish: Send {
    /// Replaces what was published last by this line.
    fn publish(&mut self, line: &str);
}

/// The frames of nominated pages.
pub trait Frames: Send {
    /// Copies them. Entry n of each list belongs to page n; what could not be read has an errno, and
    /// its copy means nothing. Nothing stays mapped.
    fn read(&mut self, pages: &[Page], into: &mut [PageBuf], unread: &mut [Option<Errno>]);
}

/// A host that says how much of its memory is free.
pub trait FreeMemory: Debug + Send {
    /// All of its pages.
    fn total_pages(&self) -> u64;

    /// Pages that are free now.
    fn free_pages(&mut self) -> Result<u64, MachineError>;
}

/// What the machine tells a pager unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// How many pages the guest is to have resident (`memory/target-tot_pages`).
    Target(i64),
    /// How many it has (`tot_pages`).
    Resident(u64),
    /// The guest is gone (`@releaseDomain`).
    DomainGone,
}

/// The source of notices.
pub trait Watch: Send {
    /// Waits for notices and passes them on, until the guest or the machine is gone.
    fn run(self: Box<Self>, tell: &dyn Fn(MachineEvent));
}
