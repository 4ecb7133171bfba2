//! The pager itself.

use std::ops::RangeInclusive;

use p2m_paging::Gfn;
use p2m_paging::ring::abi::SLOTS;

use super::event::{Actions, Event};

/// What a pager is told at the start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the guest has memory. May include holes: the hypervisor refuses what is not memory.
    pub memory: Vec<RangeInclusive<u64>>,
    /// The guest's size in pages (`max_pages`), the bound of any target.
    pub max_pages: u64,
    /// Pages that go out together at most.
    pub out_batch: usize,
    /// Pages that come in together ahead of need at most. A fault waits for such a batch at worst.
    pub ahead_batch: usize,
    /// Page-out starts when at least so many pages are to go, or at the next tick: single pages are
    /// not worth a batch each.
    pub out_threshold: u64,
    /// Requests that can be under way together: the slots of the ring.
    pub requests: usize,
    /// How often an unreadable page is read before it counts as lost to this run.
    pub read_attempts: u32,
}

impl Config {
    /// The usual figures for a guest of so many pages, all below one another from gfn 0.
    pub fn new(max_pages: u64) -> Self {
        Self {
            memory: vec![0..=max_pages.saturating_sub(1)],
            max_pages,
            out_batch: 256,
            ahead_batch: 64,
            out_threshold: 32,
            requests: SLOTS as usize,
            read_attempts: 5,
        }
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Pages out now.
    pub out_pages: u64,
    /// Pages that are to be out.
    pub wanted_out_pages: u64,
    /// Of those out, the ones that do not read back.
    pub unreadable_pages: u64,
    /// Pages evicted since the start.
    pub evicted: u64,
    /// Pages brought home since the start, asked for or not.
    pub paged_in: u64,
    /// Of those, the ones that nobody had asked for.
    pub prefetched: u64,
    /// Copies forgotten because the guest gave the page back.
    pub dropped: u64,
    /// Nominations or evictions that the hypervisor refused.
    pub refused: u64,
    /// Requests that needed no I/O.
    pub answered_resident: u64,
}

/// The pager's core. See the [module](super) for how pages move through it.
#[derive(Debug)]
pub struct Pager {
    config: Config,
    progress: Progress,
}

impl Pager {
    /// A pager with nothing out.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            progress: Progress::default(),
        }
    }

    /// Takes one event; what is to be done about it is added to `actions`.
    pub fn handle(&mut self, event: Event<'_>, actions: &mut Actions) {
        let _ = (event, actions);
    }

    /// How many more requests may be taken off the ring now.
    pub fn room(&self) -> usize {
        self.config.requests
    }

    /// How many batches can be under way: the number of buffer sets that a shell prepares.
    pub fn batches(&self) -> usize {
        self.config.requests + 2
    }

    /// How many buffers the set of batch `index` needs; 0 where no pages are loaded.
    pub fn buffers(&self, index: usize) -> usize {
        let _ = index;
        self.config.ahead_batch
    }

    /// Figures.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// The pages that are out and do not read back, in order.
    pub fn unreadable(&self) -> impl Iterator<Item = Gfn> + '_ {
        std::iter::empty()
    }
}
