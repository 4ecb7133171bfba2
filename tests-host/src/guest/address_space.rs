// SPDX-License-Identifier: MIT OR Apache-2.0
//! Address spaces: the pages that a process may address, and the tables that map them.

use p2m_paging::Gfn;

use super::cpu::{Cpu, Edit};
use super::disk::Block;
use super::frames::Use;
use super::reclaim::OutOfMemory;
use super::tables::{Entry, LEVELS, Pte, Virt, index};
use super::{Kernel, State};
use crate::machine::Page;

/// The number of an address space. Numbers are not used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpaceId(pub u32);

/// Neighbouring pages of a process with one kind of backing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first page.
    pub start: Virt,
    /// Their number.
    pub pages: u32,
    /// The source of their contents.
    pub backing: Backing,
}

/// The source of the contents of a region's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Zeros; each process has pages of its own.
    Anonymous,
    /// A file from this block on; a process's writes stay its own.
    Private(Block),
    /// A file from this block on; writes go to the file.
    Shared(Block),
}

/// An address space.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) root: Gfn,
    /// All its tables, the root among them.
    tables: Vec<Gfn>,
    pub(super) regions: Vec<Region>,
}

impl Region {
    /// The block of the file behind a page.
    pub fn block(&self, virt: Virt) -> Option<Block> {
        match self.backing {
            Backing::Anonymous => None,
            Backing::Private(first) | Backing::Shared(first) => {
                Some(first.after(virt.0 - self.start.0))
            }
        }
    }

    /// Its pages.
    pub fn virts(&self) -> impl Iterator<Item = Virt> + use<> {
        (self.start.0..self.start.0 + self.pages).map(Virt)
    }
}

impl Space {
    pub(super) fn region(&self, virt: Virt) -> Option<Region> {
        let mut regions = self.regions.iter().copied();
        regions.find(|region| (region.start.0..region.start.0 + region.pages).contains(&virt.0))
    }

    fn virts(&self) -> Vec<Virt> {
        self.regions.iter().flat_map(Region::virts).collect()
    }
}

impl State {
    pub(super) fn space(&self, id: SpaceId) -> &Space {
        &self.spaces[&id]
    }
}

/// The place of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    table: Gfn,
    index: usize,
}

impl Kernel {
    /// A new address space, of one table.
    pub async fn new_space(&self, cpu: &Cpu, regions: &[Region]) -> Result<SpaceId, OutOfMemory> {
        let mut held = self.lock.take().await;
        self.reserve(cpu, &mut held, 1).await?;
        Ok(self.empty_space(cpu, regions.to_vec()).await)
    }

    async fn empty_space(&self, cpu: &Cpu, regions: Vec<Region>) -> SpaceId {
        let root = self.new_table(cpu).await;
        let mut state = self.state.borrow_mut();
        state.last_space += 1;
        let id = SpaceId(state.last_space);
        let tables = vec![root];
        state.spaces.insert(
            id,
            Space {
                root,
                tables,
                regions,
            },
        );
        id
    }

    /// An empty table. There is memory for it.
    async fn new_table(&self, cpu: &Cpu) -> Gfn {
        let table = self.state.borrow_mut().frames.alloc(Use::Table);
        let table = table.expect("memory was reserved");
        cpu.edit(table, Edit::Write(Page::ZERO)).await;
        table
    }

    /// The place of a page's entry, if all tables on the way exist.
    pub(super) async fn find(&self, cpu: &Cpu, space: SpaceId, virt: Virt) -> Option<Place> {
        let mut table = self.state.borrow().space(space).root;
        for level in (1..LEVELS).rev() {
            let bits = cpu.edit(table, Edit::Read).await.0[index(virt, level)];
            let Entry::Page { gfn, .. } = Pte(bits).entry() else {
                return None;
            };
            table = gfn;
        }
        Some(Place {
            table,
            index: index(virt, 0),
        })
    }

    /// The place of a page's entry. Missing tables on the way are made. There is memory for them.
    pub(super) async fn find_or_make(&self, cpu: &Cpu, space: SpaceId, virt: Virt) -> Place {
        let mut table = self.state.borrow().space(space).root;
        for level in (1..LEVELS).rev() {
            let at = index(virt, level);
            let bits = cpu.edit(table, Edit::Read).await.0[at];
            table = match Pte(bits).entry() {
                Entry::Page { gfn, .. } => gfn,
                _ => {
                    let next = self.new_table(cpu).await;
                    cpu.edit(table, Edit::Swap(at, Pte::page(next, true).0))
                        .await;
                    let mut state = self.state.borrow_mut();
                    let space = state.spaces.get_mut(&space).expect("it exists");
                    space.tables.push(next);
                    next
                }
            };
        }
        Place {
            table,
            index: index(virt, 0),
        }
    }

    pub(super) async fn pte(&self, cpu: &Cpu, at: Place) -> Pte {
        Pte(cpu.edit(at.table, Edit::Read).await.0[at.index])
    }

    /// Writes an entry; yields the old one, with bits that hardware has set meanwhile.
    pub(super) async fn set_pte(&self, cpu: &Cpu, at: Place, to: Pte) -> Pte {
        let page = cpu.edit(at.table, Edit::Swap(at.index, to.0)).await;
        Pte(page.0[at.index])
    }

    /// Clears bits of an entry; yields the old one.
    pub(super) async fn mask_pte(&self, cpu: &Cpu, at: Place, mask: u64) -> Pte {
        let page = cpu.edit(at.table, Edit::And(at.index, mask)).await;
        Pte(page.0[at.index])
    }

    /// Entries of an address space have changed: all CPUs forget the old ones.
    pub(super) async fn flush(&self, cpu: &Cpu, space: SpaceId) {
        let root = self.state.borrow().space(space).root;
        cpu.flush(root).await;
    }

    /// A copy of an address space. Pages that each process has for itself are shared until they are
    /// written.
    pub async fn fork(&self, cpu: &Cpu, parent: SpaceId) -> Result<SpaceId, OutOfMemory> {
        let mut held = self.lock.take().await;
        let tables = self.state.borrow().space(parent).tables.len();
        self.reserve(cpu, &mut held, tables).await?;
        let (regions, virts) = {
            let state = self.state.borrow();
            let space = state.space(parent);
            (space.regions.clone(), space.virts())
        };
        let child = self.empty_space(cpu, regions).await;
        for virt in virts {
            if let Some(from) = self.find(cpu, parent, virt).await {
                self.copy_entry(cpu, from, child, virt).await;
            }
        }
        self.flush(cpu, parent).await;
        Ok(child)
    }

    async fn copy_entry(&self, cpu: &Cpu, from: Place, child: SpaceId, virt: Virt) {
        let copy = match self.pte(cpu, from).await.entry() {
            Entry::Nothing => return,
            Entry::Swapped(block) => {
                self.state.borrow_mut().swap.name(block);
                Pte::swapped(block)
            }
            Entry::Page { gfn, writable, .. } => {
                let is_shared = self.state.borrow().is_shared(child, virt);
                if !is_shared {
                    self.mask_pte(cpu, from, Pte::NOT_WRITABLE).await;
                }
                let mut state = self.state.borrow_mut();
                if gfn != state.zero {
                    state.frames.get_mut(gfn).mapped.push((child, virt));
                }
                Pte::page(gfn, writable && is_shared)
            }
        };
        let to = self.find_or_make(cpu, child, virt).await;
        self.set_pte(cpu, to, copy).await;
    }

    /// The end of an address space.
    pub async fn end_space(&self, cpu: &Cpu, space: SpaceId) {
        let held = self.lock.take().await;
        let virts = self.state.borrow().space(space).virts();
        for virt in virts {
            let Some(at) = self.find(cpu, space, virt).await else {
                continue;
            };
            let entry = self.set_pte(cpu, at, Pte::NOTHING).await.entry();
            self.state.borrow_mut().unmap(space, virt, entry);
        }
        let mut state = self.state.borrow_mut();
        let space = state.spaces.remove(&space).expect("it existed");
        space
            .tables
            .into_iter()
            .for_each(|table| state.frames.free(table));
        drop(state);
        drop(held);
    }
}

impl State {
    fn is_shared(&self, space: SpaceId, virt: Virt) -> bool {
        let region = self.space(space).region(virt);
        matches!(
            region.map(|region| region.backing),
            Some(Backing::Shared(_))
        )
    }

    /// An entry with this value is gone.
    pub(super) fn unmap(&mut self, space: SpaceId, virt: Virt, entry: Entry) {
        let gfn = match entry {
            Entry::Nothing => return,
            Entry::Swapped(block) => {
                self.swap.unname(block);
                let cached = self.frames.cached(block);
                if cached.is_none() && self.swap.names(block) == 0 {
                    self.swap.give_back(block);
                }
                cached
            }
            Entry::Page { gfn, dirty, .. } => {
                if gfn == self.zero {
                    return;
                }
                let frame = self.frames.get_mut(gfn);
                frame.mapped.retain(|by| *by != (space, virt));
                frame.dirty |= dirty;
                Some(gfn)
            }
        };
        if let Some(gfn) = gfn {
            self.free_if_unused(gfn);
        }
    }

    /// Frees a process's own page that nobody maps or names, unless the disk uses it: the task that
    /// ordered this tries again afterwards. Pages of files stay until memory is short.
    pub(super) fn free_if_unused(&mut self, gfn: Gfn) {
        let frame = self.frames.get(gfn);
        let named = frame
            .home
            .is_some_and(|block| block.is_swap() && self.swap.names(block) > 0);
        let is_used = !frame.mapped.is_empty() || named;
        if frame.used != Use::Anonymous || is_used || !frame.may_go() {
            return;
        }
        if let Some(block) = self.frames.forget_home(gfn) {
            self.swap.give_back(block);
        }
        self.frames.free(gfn);
    }
}
