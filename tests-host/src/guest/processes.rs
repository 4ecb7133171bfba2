// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes that act at random: load, store, fork and end.

use std::rc::Rc;

use super::address_space::{Backing, Region, SpaceId};
use super::cpu::Cpu;
use super::disk::Block;
use super::faults::Refused;
use super::system::{Guest, Phase};
use super::tables::{VIRT_PAGES, Virt};
use super::wait::relax;
use crate::machine::SECTORS;

/// The file that processes map for themselves. The other file is one that they share. A file is
/// mapped in one way only: it is not defined what a private mapping shows of another's writes.
pub const PROGRAM: Block = Block(0);
/// The file that they share.
pub const DATA: Block = Block(1000);

/// What processes do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// The source of random choices.
    pub seed: u64,
    /// Processes at the start.
    pub processes: usize,
    /// Processes at most.
    pub most: usize,
    /// Pages that each may address.
    pub pages: u32,
    /// Stores, in a thousand accesses.
    pub stores: u32,
    /// Forks and ends, in a thousand actions.
    pub forks: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    GoesOn,
    Ends,
}

impl Guest {
    pub(super) fn begin_process(self: &Rc<Self>, space: Option<SpaceId>) {
        self.living.set(self.living.get() + 1);
        self.begin(|guest, cpu| async move { guest.process(&cpu, space).await });
    }

    async fn process(self: &Rc<Self>, cpu: &Cpu, space: Option<SpaceId>) {
        let mut space = match space {
            Some(space) => space,
            None => self.some_space(cpu).await,
        };
        loop {
            let phase = self.phase.get();
            let done = match phase.0 {
                Phase::Run => self.act(cpu, space).await,
                Phase::Rest => Ok(Life::GoesOn),
                Phase::ReadAll => self.read_all(cpu, space).await,
            };
            match done {
                Ok(Life::GoesOn) if phase.0 == Phase::Run => {}
                Ok(Life::GoesOn) => self.rest(phase).await,
                Ok(Life::Ends) => break,
                // Row C3: somebody must give memory.
                Err(_) if self.living.get() > 1 => break,
                Err(_) => {
                    self.end(cpu, space).await;
                    space = self.some_space(cpu).await;
                }
            }
        }
        self.living.set(self.living.get() - 1);
        self.end(cpu, space).await;
    }

    async fn some_space(&self, cpu: &Cpu) -> SpaceId {
        let regions = self.regions();
        loop {
            if let Ok(space) = self.new_space(cpu, regions.clone()).await {
                return space;
            }
            relax().await;
        }
    }

    /// Memory of its own, a program, and data that all share.
    fn regions(&self) -> Vec<Region> {
        let rng = &mut *self.rng.borrow_mut();
        let pages = self.plan.pages.clamp(3, VIRT_PAGES / 2);
        let own = rng.u32(1..pages - 1);
        let program = rng.u32(1..pages - own);
        let mut start = rng.u32(0..VIRT_PAGES / 2);
        let parts = [
            (own, Backing::Anonymous),
            (program, Backing::Private(PROGRAM)),
            (pages - own - program, Backing::Shared(DATA)),
        ];
        parts
            .map(|(pages, backing)| {
                let first = Virt(start);
                start += pages;
                Region {
                    start: first,
                    pages,
                    backing,
                }
            })
            .to_vec()
    }

    /// One action of a process.
    async fn act(self: &Rc<Self>, cpu: &Cpu, space: SpaceId) -> Result<Life, Refused> {
        let (chance, stores) = {
            let mut rng = self.rng.borrow_mut();
            (rng.u32(0..1000), rng.u32(0..1000) < self.plan.stores)
        };
        if chance < self.plan.forks {
            if self.living.get() >= self.plan.most {
                return Ok(if self.living.get() > 1 {
                    Life::Ends
                } else {
                    Life::GoesOn
                });
            }
            // A process that finds no memory goes on alone.
            if let Ok(child) = self.fork(cpu, space).await {
                self.begin_process(Some(child));
            }
            return Ok(Life::GoesOn);
        }
        let (virt, word) = self.choose(space);
        if stores {
            self.store(cpu, space, virt, word).await?;
        } else {
            self.access(cpu, space, virt, word, None).await?;
        }
        Ok(Life::GoesOn)
    }

    /// A page, the first ones of each region more often, and a word.
    fn choose(&self, space: SpaceId) -> (Virt, usize) {
        let (flat, rng) = (self.flat.borrow(), &mut *self.rng.borrow_mut());
        let region = flat.regions(space)[rng.usize(0..3)];
        let most = if rng.bool() {
            region.pages
        } else {
            region.pages.div_ceil(4)
        };
        let virt = Virt(region.start.0 + rng.u32(0..most));
        (virt, rng.usize(0..SECTORS))
    }

    async fn read_all(self: &Rc<Self>, cpu: &Cpu, space: SpaceId) -> Result<Life, Refused> {
        let virts: Vec<_> = {
            let flat = self.flat.borrow();
            flat.regions(space).iter().flat_map(Region::virts).collect()
        };
        for virt in virts {
            for word in [0, SECTORS - 1] {
                self.access(cpu, space, virt, word, None).await?;
            }
        }
        Ok(Life::GoesOn)
    }
}
