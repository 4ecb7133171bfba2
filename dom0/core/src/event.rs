// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes into the core and what comes out: the seam between it and a shell.

use p2m_paging::ring::abi::{Request, Response};
use p2m_paging::{Errno, Gfn};

use super::batch::{Batch, PageError};
use super::locations::Location;
use super::outage::Ticks;
use super::scan::Scan;
use crate::store::{Slot, SlotRange, StoreError};

/// Something happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Requests that came off the ring, in order. The shell takes no more at a time than
    /// [`Pager::room`](super::Pager::room); each is answered by one [`Action::Respond`].
    Requests(&'a [Request]),
    /// A batch that [`Action::Run`] gave out comes back, each page's outcome set.
    Done(Batch),
    /// How many pages the guest is to have resident (`memory/target-tot_pages`). Below zero or
    /// above the maximum means the maximum: nothing is to be out (row B1).
    Target(i64),
    /// How many pages the hypervisor counts as resident now (`tot_pages`), so that a guest that
    /// balloons is not paged out for memory it already gave back (row B10).
    Resident(u64),
    /// Some time passed: a shell sends this about ten times a second. Whatever failed for want of
    /// memory, room or a readable page is tried again.
    Tick,
    /// A part that [`Action::Scan`] gave out comes back.
    Scanned(Scan),
    /// The store has one more area, which has none of the slots of the others.
    AreaAdded(SlotRange),
    /// This area is to go: nothing is to be left there. Ends with [`Action::Drained`].
    Drain(SlotRange),
    /// Bring everything back, then [`Action::Finished`] (row B3).
    Stop,
    /// The guest is gone: nothing is worth doing any more.
    DomainGone,
}

/// What a shell is to do, in the order given.
#[derive(Debug)]
pub enum Action {
    /// Do [`Batch::step`] to every page of the batch, set the outcomes, and hand the batch back with
    /// [`Event::Done`], whatever happened. Batches may run at the same time and end in any order.
    Run(Batch),
    /// Read and clear the accessed bits of a part of guest memory, and hand it back with
    /// [`Event::Scanned`], whatever happened. One at a time, and not urgent.
    Scan(Scan),
    /// Put this answer on the ring. One notification after all answers of a call is enough.
    Respond(Response),
    /// The contents of a page that is out lie there now, durable, and not where they were. For an
    /// index, which is to name the new location before a later [`Action::Free`] gives the old slot up.
    Moved(Gfn, Location),
    /// The slot's contents are not needed any more (`PageStore::free`). To be done before any
    /// later [`Action::Run`], which may write the same slot.
    Free(Slot),
    /// After [`Event::Drain`]: the area is empty and will not be used again, or stays. Not said if the pager finishes
    /// before.
    Drained(SlotRange, Result<(), DrainError>),
    /// A page is gone for good, and somebody needs it, or the pager cannot end without it: stop the guest
    /// as its operator wants. Said once, until that page is back.
    StopGuest(Loss),
    /// For the log.
    Report(Report),
    /// After [`Event::Stop`] or [`Event::DomainGone`]: no batch is under way, nothing more will come.
    Finished(Summary),
}

/// A page that is gone for good, and that the guest cannot do without any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{gfn} is lost, and {need}: {cause}")]
pub struct Loss {
    /// The page.
    pub gfn: Gfn,
    /// Why it is lost.
    pub cause: LossCause,
    /// Why this matters now.
    pub need: Need,
}

/// Why a page is gone for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LossCause {
    /// A pager before this one took it out, and left no entry.
    #[error("it is out, and nothing says where it lies")]
    NoEntry,
    /// The store has something else, however often it is read ([`StoreError::is_loss`]).
    #[error("{0}")]
    Store(StoreError),
}

/// Why a lost page matters. One that nobody needs hurts nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Need {
    /// A vcpu or another domain has requested it.
    #[error("somebody needs it")]
    Requested,
    /// Everything is to be brought back.
    #[error("the pager cannot end without it")]
    Stopping,
}

/// Why an area stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DrainError {
    /// Its pages fit nowhere else.
    #[error("{pages} pages have no room elsewhere")]
    NoRoom {
        /// How many are left in it.
        pages: u64,
    },
    /// Pages do not read back, or cannot be written elsewhere.
    #[error("{pages} pages cannot be read, or not be written elsewhere")]
    Failed {
        /// How many are left in it.
        pages: u64,
    },
}

/// Something an operator wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Report {
    /// Page-out goes no further until there is room. Said once until it goes on.
    #[error("the page store is full with {pages_out} pages out: page-out waits for room")]
    StoreFull {
        /// Pages out at that moment.
        pages_out: u64,
    },
    /// The store cannot write; the page stayed in the guest. Said once until it goes on.
    #[error("{gfn} cannot be saved, page-out waits: {error}")]
    StoreFailed {
        /// The first page it happened to.
        gfn: Gfn,
        /// What happened.
        error: PageError,
    },
    /// An area of the store could not take a page; others have room. Said once.
    #[error("the swap area of slot {} is used only when no other has room any more: {error}", slot.0)]
    AreaFailed {
        /// A slot that is in it.
        slot: Slot,
        /// What happened.
        error: PageError,
    },
    /// An area that failed takes pages again, and has not failed for a time. Said once for each
    /// [`Self::AreaFailed`].
    #[error("the swap area of slot {} takes pages again", slot.0)]
    AreaRecovered {
        /// A slot that is in it.
        slot: Slot,
    },
    /// Which pages are used is not to be known any more. Said once.
    #[error("accessed bits cannot be read, what is paged out is chosen without: {0}")]
    NoScans(Errno),
    /// The store takes pages again.
    #[error("the page store takes pages again, after {lasted}")]
    StoreRecovered {
        /// How long it did not.
        lasted: Ticks,
    },
    /// A page did not read back. It is not given to the guest; its slot is kept. Said once until all
    /// pages read back.
    #[error("{gfn} cannot be read back, and is read again until it can: {error}")]
    Unreadable {
        /// The first page it happened to.
        gfn: Gfn,
        /// What happened.
        error: PageError,
    },
    /// No page is unreadable any more.
    #[error("every page that could not be read back has been, after {lasted}")]
    ReadableAgain {
        /// How long some page was.
        lasted: Ticks,
    },
    /// A page could not be given to the guest, though it was read. It is tried again. Said once until it
    /// has not happened for a second.
    #[error("{gfn} cannot be brought in now, and is tried again until it can: {error}")]
    Delayed {
        /// The first page it happened to.
        gfn: Gfn,
        /// What happened.
        error: PageError,
    },
    /// Pages can be given to the guest.
    #[error("pages can be brought in again, after {lasted}")]
    DelayOver {
        /// How long some could not.
        lasted: Ticks,
    },
    /// A pager before this one took pages out, and nothing says where they lie. Whoever needs one waits.
    /// Said once.
    #[error("{pages} pages are lost, {first} first: they are out, and nothing says where they lie")]
    Lost {
        /// How many.
        pages: u64,
        /// The first of them.
        first: Gfn,
    },
    /// The page for which the guest was to be stopped is back, or not wanted any more. The guest stays
    /// as it is.
    #[error("{gfn} is not lost any more. If the guest is paused, unpause it")]
    LossOver {
        /// The page.
        gfn: Gfn,
    },
    /// A nominated page could not be restored, or may be nominated. With the crate the guest's next write makes it resident; on
    /// Xen's C that write needs a pager, so the pager does not end before the page is restored. Said once
    /// until all are.
    #[error("{gfn} stays nominated: {error}")]
    StaysNominated {
        /// The first page it happened to.
        gfn: Gfn,
        /// What happened.
        error: PageError,
    },
    /// No page is nominated any more that should not be.
    #[error("no page stays nominated any more, after {lasted}")]
    AllRestored {
        /// How long some page was.
        lasted: Ticks,
    },
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// False if the guest was gone.
    pub domain_alive: bool,
    /// Pages still out because they cannot be read, or are lost;
    /// [`Pager::unreadable`](super::Pager::unreadable) and [`Pager::lost`](super::Pager::lost) name
    /// them. While there are any, paging must stay enabled and the pagefile be kept.
    pub unreadable_pages: u64,
}

/// The actions of one [`Pager::handle`](super::Pager::handle), in the order to do them.
///
/// One is made at the start and used for ever, so that handling a fault allocates nothing.
#[derive(Debug)]
pub struct Actions {
    list: Vec<Action>,
}

impl Actions {
    /// With room for `capacity` actions before it has to grow.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            list: Vec::with_capacity(capacity),
        }
    }

    /// Takes the actions out, in order.
    pub fn drain(&mut self) -> std::vec::Drain<'_, Action> {
        self.list.drain(..)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn push(&mut self, action: Action) {
        self.list.push(action);
    }

    pub(super) fn extend(&mut self, actions: impl IntoIterator<Item = Action>) {
        self.list.extend(actions);
    }
}
