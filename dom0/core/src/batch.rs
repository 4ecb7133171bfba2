// SPDX-License-Identifier: MIT OR Apache-2.0
//! Batches: many pages to which the same thing is done.
//!
//! A batch belongs to a *lane* for good. Each lane has its own type of steps, so a page-out batch can
//! never be in a step of page-in. The shell sees one [`Step`] for all lanes: loading a page is the
//! same work whoever wants it.

use std::fmt::Debug;

use p2m_paging::{Errno, Gfn};

use super::locations::Location;
use crate::store::{CompareWith, Saved, StoreError};

/// What to do to the pages of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Hypervisor: nominate (`ram_rw → paging_out`). An error leaves the page as it was.
    Nominate,
    /// Map each frame, write it to its slot, unmap; [`Page::saved`] says what was needed. Nothing may
    /// stay mapped: a mapping makes the evict fail. A frame that cannot be mapped fails alone
    /// ([`PageError::Unmapped`]); mapping is retried per frame, because the whole call may succeed and
    /// single frames not.
    Save,
    /// Hypervisor: evict (`paging_out → paged`).
    Evict,
    /// The page was nominated and stays: let the hypervisor make it resident again. Mapping it as a
    /// foreign page makes Xen ask for it, and the answer to that request does so. A page that is
    /// resident already is no error; `ENOENT` says that the guest gave it back.
    Restore,
    /// Hypervisor: nominate, to see whether the page is resident. It is taken for paged out. An error
    /// says nothing.
    Probe,
    /// Read each slot into the page's buffer; zeros for a page without one.
    Load,
    /// Write the page's buffer to its slot, which is another one than it was loaded from. Done when the
    /// store's device has it.
    Move,
    /// Hypervisor: prep with the page's buffer (`paged | paging_in_start → ram_rw`). Many of these
    /// pages may not have been asked for.
    Prep,
}

/// What a batch is for. A shell with several batches to run takes the lanes in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Somebody waits for these pages.
    Demand,
    /// Pages that are paged in before anybody asks for them (row B4).
    Prefetch,
    /// Pages that move from one slot to another.
    Move,
    /// Pages that are paged out (row B5).
    Out,
}

/// Many pages to which the same thing is done.
///
/// It goes out in an action and comes back in an event. The core keeps no second copy, and a batch
/// cannot be cloned, so each batch ends exactly once.
#[derive(Debug)]
#[must_use = "a batch has to come back with Event::Done"]
pub struct Batch(pub(super) AnyLane);

/// A batch of any lane.
#[derive(Debug)]
pub(super) enum AnyLane {
    /// Of [`Lane::Demand`] or [`Lane::Prefetch`].
    PageIn(LaneBatch<PageInStep>),
    Move(LaneBatch<MoveStep>),
    PageOut(LaneBatch<PageOutStep>),
}

/// A batch whose steps are those of its lane.
#[derive(Debug)]
pub(super) struct LaneBatch<S> {
    pub(super) index: usize,
    pub(super) lane: Lane,
    pub(super) step: S,
    pub(super) pages: Vec<Page>,
    /// Pages that have been saved, while others of the batch are compared with their dedup candidates.
    pub(super) aside: Vec<Page>,
}

/// The steps of a lane.
pub(super) trait LaneStep: Copy + Debug {
    /// The step in which a batch begins.
    const FIRST: Self;

    /// The same, for the shell.
    fn step(self) -> Step;

    /// A batch of this lane, for the shell.
    fn into_batch(batch: LaneBatch<Self>) -> Batch;
}

/// The steps of a batch that is paged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageInStep {
    Load,
    Prep,
}

/// The steps of a batch whose pages move to other slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MoveStep {
    Load,
    Write,
}

/// The steps of a batch that is paged out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageOutStep {
    Nominate,
    Save,
    Evict,
    Restore,
    /// The same, for pages that could not be restored before.
    RestoreLeftovers,
    /// Tries whether pages that are taken for unreadable are resident.
    Probe,
}

impl LaneStep for PageInStep {
    const FIRST: Self = Self::Load;

    fn step(self) -> Step {
        match self {
            Self::Load => Step::Load,
            Self::Prep => Step::Prep,
        }
    }

    fn into_batch(batch: LaneBatch<Self>) -> Batch {
        Batch(AnyLane::PageIn(batch))
    }
}

impl LaneStep for MoveStep {
    const FIRST: Self = Self::Load;

    fn step(self) -> Step {
        match self {
            Self::Load => Step::Load,
            Self::Write => Step::Move,
        }
    }

    fn into_batch(batch: LaneBatch<Self>) -> Batch {
        Batch(AnyLane::Move(batch))
    }
}

impl LaneStep for PageOutStep {
    const FIRST: Self = Self::Nominate;

    fn step(self) -> Step {
        match self {
            Self::Nominate => Step::Nominate,
            Self::Save => Step::Save,
            Self::Evict => Step::Evict,
            Self::Restore | Self::RestoreLeftovers => Step::Restore,
            Self::Probe => Step::Probe,
        }
    }

    fn into_batch(batch: LaneBatch<Self>) -> Batch {
        Batch(AnyLane::PageOut(batch))
    }
}

impl PageOutStep {
    /// Whether a page in this step is to be evicted, as far as is known.
    pub(super) fn evicts(self) -> bool {
        match self {
            Self::Nominate | Self::Save | Self::Evict => true,
            Self::Restore | Self::RestoreLeftovers | Self::Probe => false,
        }
    }

    /// Whether a page in this step is neither out nor a leftover.
    pub(super) fn pages_out(self) -> bool {
        match self {
            Self::Nominate | Self::Save | Self::Evict | Self::Restore => true,
            Self::RestoreLeftovers | Self::Probe => false,
        }
    }
}

impl<S: LaneStep> LaneBatch<S> {
    /// An empty batch with room for `capacity` pages.
    pub(super) fn new(index: usize, lane: Lane, capacity: usize) -> Self {
        Self {
            index,
            lane,
            step: S::FIRST,
            pages: Vec::with_capacity(capacity),
            aside: Vec::new(),
        }
    }

    /// Nothing is to be done to its pages any more.
    pub(super) fn clear(&mut self) {
        self.pages.clear();
        self.aside.clear();
    }

    /// Adds a page to be paged in, or moved.
    pub(super) fn add(&mut self, gfn: Gfn, location: Location) {
        self.add_to_save(gfn, location, CompareWith::Nothing, false);
    }

    /// Adds a page to be saved.
    pub(super) fn add_to_save(
        &mut self,
        gfn: Gfn,
        location: Location,
        compare_with: CompareWith,
        had_copy: bool,
    ) {
        let buffer = self.pages.len();
        self.pages.push(Page {
            gfn,
            location,
            compare_with,
            had_copy,
            buffer,
            outcome: Err(PageError::NotDone),
            saved: Saved::Written,
        });
    }
}

impl Batch {
    /// Which set of buffers belongs to it: below [`Pager::batches`](super::Pager::batches), and no
    /// two batches in flight have the same. The set is the same one from Load to Prep or Move.
    pub fn index(&self) -> usize {
        match &self.0 {
            AnyLane::PageIn(batch) => batch.index,
            AnyLane::Move(batch) => batch.index,
            AnyLane::PageOut(batch) => batch.index,
        }
    }

    /// What it is for.
    pub fn lane(&self) -> Lane {
        match &self.0 {
            AnyLane::PageIn(batch) => batch.lane,
            AnyLane::Move(batch) => batch.lane,
            AnyLane::PageOut(batch) => batch.lane,
        }
    }

    /// What is to be done.
    pub fn step(&self) -> Step {
        match &self.0 {
            AnyLane::PageIn(batch) => batch.step.step(),
            AnyLane::Move(batch) => batch.step.step(),
            AnyLane::PageOut(batch) => batch.step.step(),
        }
    }

    /// The pages.
    pub fn pages(&self) -> &[Page] {
        match &self.0 {
            AnyLane::PageIn(batch) => &batch.pages,
            AnyLane::Move(batch) => &batch.pages,
            AnyLane::PageOut(batch) => &batch.pages,
        }
    }

    /// The pages, to set their outcomes.
    pub fn pages_mut(&mut self) -> &mut [Page] {
        match &mut self.0 {
            AnyLane::PageIn(batch) => &mut batch.pages,
            AnyLane::Move(batch) => &mut batch.pages,
            AnyLane::PageOut(batch) => &mut batch.pages,
        }
    }
}

/// One page of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    pub(super) gfn: Gfn,
    pub(super) location: Location,
    pub(super) compare_with: CompareWith,
    /// It has been out before, and what it was then is known.
    pub(super) had_copy: bool,
    pub(super) buffer: usize,
    /// Set by the shell. [`PageError::NotDone`] when the batch goes out.
    pub outcome: Result<(), PageError>,
    /// What saving it took: set by the shell with [`Step::Save`], together with the outcome.
    pub saved: Saved,
}

impl Page {
    /// Which page of the guest.
    pub fn gfn(&self) -> Gfn {
        self.gfn
    }

    /// Its location in the store. A page to be saved has a slot.
    pub fn location(&self) -> Location {
        self.location
    }

    /// To be saved: what its contents are to be compared with.
    pub fn compare_with(&self) -> CompareWith {
        self.compare_with
    }

    /// Which buffer of the batch's set belongs to it, from Load to Prep. This is not its position in
    /// the batch: pages that fail in between leave gaps.
    pub fn buffer(&self) -> usize {
        self.buffer
    }
}

/// Why a step did not work for one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// The hypervisor refused.
    #[error("refused: {0}")]
    Refused(Errno),
    /// The frame could not be mapped.
    #[error("not mapped: {0}")]
    Unmapped(Errno),
    /// The store could not write or read it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its location could not be noted for a pager that comes after this one.
    #[error("not noted in the index: error {errno:?}")]
    NotNoted {
        /// Linux's number, if a system call failed.
        errno: Option<i32>,
    },
    /// The shell did not get to it.
    #[error("not done")]
    NotDone,
    /// Evict only: it is not known whether the page is out or still nominated.
    #[error("it is not known whether the page was evicted")]
    Uncertain,
}
