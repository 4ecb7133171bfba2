// SPDX-License-Identifier: MIT OR Apache-2.0
//! What processes must find: flat memory, without tables, frames or a disk.

use std::collections::BTreeMap;

use super::Kernel;
use super::address_space::{Backing, Region, SpaceId};
use super::disk::{Block, Way};
use super::tables::{Entry, LEVELS, Pte, Virt, index};
use crate::machine::Page;
use p2m_paging::Gfn;

/// The memory of all processes, as they must see it.
#[derive(Debug, Default)]
pub(super) struct Flat {
    spaces: BTreeMap<SpaceId, Memory>,
    /// Blocks of files that were written through shared regions.
    shared: BTreeMap<Block, Page>,
    last_value: u64,
}

#[derive(Clone, Debug)]
struct Memory {
    regions: Vec<Region>,
    /// Pages that it wrote for itself.
    own: BTreeMap<Virt, Page>,
}

impl Flat {
    pub(super) fn begin(&mut self, space: SpaceId, regions: Vec<Region>) {
        let own = BTreeMap::new();
        self.spaces.insert(space, Memory { regions, own });
    }

    pub(super) fn fork(&mut self, parent: SpaceId, child: SpaceId) {
        let memory = self.spaces[&parent].clone();
        self.spaces.insert(child, memory);
    }

    pub(super) fn end(&mut self, space: SpaceId) {
        self.spaces.remove(&space);
    }

    pub(super) fn regions(&self, space: SpaceId) -> &[Region] {
        &self.spaces[&space].regions
    }

    /// All that is to be seen.
    pub(super) fn pages(&self) -> impl Iterator<Item = (SpaceId, Virt)> + '_ {
        self.spaces.iter().flat_map(|(space, memory)| {
            let virts = memory.regions.iter().flat_map(Region::virts);
            virts.map(|virt| (*space, virt))
        })
    }

    /// A value that was never stored before.
    pub(super) fn fresh_value(&mut self) -> u64 {
        self.last_value += 1;
        0x57 << 56 | self.last_value
    }

    fn region(&self, space: SpaceId, virt: Virt) -> Region {
        let regions = self.regions(space);
        let found = regions
            .iter()
            .find(|region| region.virts().any(|other| other == virt));
        *found.expect("a page of the process")
    }

    /// What a page must contain.
    pub(super) fn page(&self, space: SpaceId, virt: Virt) -> Page {
        if let Some(own) = self.spaces[&space].own.get(&virt) {
            return *own;
        }
        let block = self.region(space, virt).block(virt);
        block.map_or(Page::ZERO, |block| {
            let written = self.shared.get(&block).copied();
            written.unwrap_or_else(|| block.initial())
        })
    }

    /// A process stored a word.
    pub(super) fn store(&mut self, space: SpaceId, virt: Virt, word: usize, value: u64) {
        let mut page = self.page(space, virt);
        page.0[word] = value;
        let region = self.region(space, virt);
        match (region.backing, region.block(virt)) {
            (Backing::Shared(_), Some(block)) => self.shared.insert(block, page),
            _ => {
                let memory = self.spaces.get_mut(&space).expect("it lives");
                memory.own.insert(virt, page)
            }
        };
    }
}

impl Kernel {
    /// What a process would find in a page, looked up from outside: in memory where the tables say
    /// so, else where the kernel would bring it from.
    pub(super) fn view(&self, space: SpaceId, virt: Virt, memory: &dyn Fn(Gfn) -> Page) -> Page {
        let state = self.state.borrow();
        let on_disk_or_cached = |block: Block| {
            let cached = state.frames.cached(block);
            let there = cached.filter(|page| state.frames.get(*page).busy != Some(Way::Read));
            there.map_or_else(|| state.disk.contents(block), memory)
        };
        let mut table = state.space(space).root;
        for level in (0..LEVELS).rev() {
            match Pte(memory(table).0[index(virt, level)]).entry() {
                Entry::Page { gfn, .. } => table = gfn,
                Entry::Swapped(block) => return on_disk_or_cached(block),
                Entry::Nothing => {
                    let region = state.space(space).region(virt);
                    let block = region.and_then(|region| region.block(virt));
                    return block.map_or(Page::ZERO, on_disk_or_cached);
                }
            }
        }
        memory(table)
    }
}
