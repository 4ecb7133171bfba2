// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest whose kernel pages by itself (row C9), and which the hypervisor pages as well.
//!
//! Its kernel has address spaces with page tables in its own memory, zero pages, file pages, copy
//! on write, reclaim and swap on a disk of its own, and a balloon. Processes load and store words.
//! The words that they find are compared with a flat memory of each process. All of the guest's
//! code runs on a [`Machine`], one page access at a time. Every access may find its page out: a
//! process's page, a page table, or a page that the kernel zeroes, copies or has the disk read
//! into.
//!
//! The kernel's other records of its frames lie outside the simulated memory, as if in pages that
//! never go out.

mod address_space;
mod balloon;
mod cpu;
mod disk;
mod faults;
mod frames;
mod lock;
mod model;
mod processes;
mod reclaim;
mod swap;
mod system;
mod tables;
#[cfg(test)]
mod tests;
mod wait;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use p2m_paging::Gfn;

pub use address_space::{Backing, Region, SpaceId};
pub use cpu::{Cpu, Machine, Stalled, Step, Task, Wakeup};
pub use disk::{Block, FIRST_SWAP_BLOCK, Io, Way};
pub use faults::Refused;
pub use processes::{DATA, PROGRAM, Plan};
pub use reclaim::OutOfMemory;
pub use system::{Guest, Phase};
pub use tables::{PageFault, Pte, VIRT_PAGES, Virt};

use crate::machine::Page;
use address_space::Space;
use disk::Disk;
use frames::{Frames, Use};
use lock::Lock;
use swap::Swap;
use wait::Waiters;

/// The kernel's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Faults of processes.
    pub faults: u64,
    /// Pages zeroed for a process.
    pub zeroed: u64,
    /// Pages copied because they were written.
    pub copied: u64,
    /// Pages taken to be used by others.
    pub reclaimed: u64,
    /// Blocks of files read.
    pub file_reads: u64,
    /// Blocks of files written.
    pub file_writes: u64,
    /// Blocks read from the swap area.
    pub swap_reads: u64,
    /// Blocks written to the swap area.
    pub swap_writes: u64,
}

impl Figures {
    fn count(&mut self, block: Block, way: Way) {
        let count = match (block.is_swap(), way) {
            (false, Way::Read) => &mut self.file_reads,
            (false, Way::Write) => &mut self.file_writes,
            (true, Way::Read) => &mut self.swap_reads,
            (true, Way::Write) => &mut self.swap_writes,
        };
        *count += 1;
    }
}

/// The state that the kernel's lock protects.
#[derive(Debug)]
struct State {
    frames: Frames,
    swap: Swap,
    disk: Disk,
    spaces: BTreeMap<SpaceId, Space>,
    last_space: u32,
    /// The page of zeros, which every page maps that has not been written.
    zero: Gfn,
    figures: Figures,
}

/// The guest's kernel.
#[derive(Debug)]
pub struct Kernel {
    state: RefCell<State>,
    lock: Lock,
    /// Tasks that wait for transfers between memory and disk to end.
    transfers: Waiters,
    /// Tasks that wait for something to do: another phase, short memory, another target of the
    /// balloon.
    idle: Rc<Waiters>,
    balloon_target: Cell<usize>,
    /// Background reclaim ends at this many free pages.
    high_free: usize,
}

impl Kernel {
    /// A kernel with this memory, all of it free. [`boot`](Self::boot) comes first.
    pub fn new(gfns: impl Iterator<Item = Gfn>) -> Self {
        let idle = Rc::<Waiters>::default();
        let mut frames = Frames::new(gfns, Rc::clone(&idle));
        let zero = frames.alloc(Use::Reserved).expect("a guest has memory");
        let high_free = 2 * frames.low_free();
        Self {
            state: RefCell::new(State {
                frames,
                swap: Swap::default(),
                disk: Disk::default(),
                spaces: BTreeMap::new(),
                last_space: 0,
                zero,
                figures: Figures::default(),
            }),
            lock: Lock::default(),
            transfers: Waiters::default(),
            idle,
            balloon_target: Cell::new(0),
            high_free,
        }
    }

    /// The steps that must be done once, before anything else.
    pub async fn boot(&self, cpu: &Cpu) {
        let zero = self.state.borrow().zero;
        cpu.edit(zero, cpu::Edit::Write(Page::ZERO)).await;
    }

    /// Its counters.
    pub fn figures(&self) -> Figures {
        self.state.borrow().figures
    }

    /// The next order for the back end. It may have several at a time, and end them in any
    /// sequence.
    pub fn next_io(&self) -> Option<Io> {
        self.state.borrow_mut().disk.take_order()
    }

    /// Whether back ends have taken all orders.
    pub fn is_disk_idle(&self) -> bool {
        self.state.borrow().disk.is_idle()
    }

    /// Copies between the order's page, which the back end has mapped, and the disk.
    pub fn copy_for(&self, io: Io, page: &mut Page) {
        self.state.borrow_mut().disk.copy(io, page);
    }

    /// The back end has unmapped the order's page.
    pub fn finish(&self, io: Io) {
        self.state.borrow_mut().disk.finish(io);
        self.transfers.wake_all();
    }

    /// Whether an address space has this root.
    pub fn is_root(&self, gfn: Gfn) -> bool {
        let state = self.state.borrow();
        state.spaces.values().any(|space| space.root == gfn)
    }

    /// Whether the page and the block that it stands for have the same contents.
    pub fn is_on_disk(&self, gfn: Gfn, contents: &Page) -> bool {
        let state = self.state.borrow();
        let home = state.frames.get(gfn).home;
        home.is_some_and(|block| state.disk.contents(block) == *contents)
    }
}
