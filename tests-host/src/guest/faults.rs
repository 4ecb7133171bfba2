// SPDX-License-Identifier: MIT OR Apache-2.0
//! Demand paging (row C9). A page that a process accesses for the first time comes from the zero
//! page or from its file. A page that was swapped comes from memory or from the disk. A shared page
//! is copied when it is written.

use p2m_paging::Gfn;

use super::Kernel;
use super::address_space::{Backing, Place, Region, SpaceId};
use super::cpu::{Cpu, Edit};
use super::disk::{Block, Way};
use super::frames::Use;
use super::lock::Held;
use super::reclaim::OutOfMemory;
use super::tables::{Entry, LEVELS, Pte, Virt};
use crate::machine::Page;

/// The reason why a process cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It may not address this page.
    #[error("page {:#x} is no part of the address space", .0.0)]
    NoRegion(Virt),
    /// There is no memory for it.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// One fault.
#[derive(Clone, Copy, Debug)]
struct Fault {
    space: SpaceId,
    virt: Virt,
    region: Region,
    store: bool,
    at: Place,
}

impl Kernel {
    /// A process could not load from this page, or store to it. Afterwards it can, unless the page
    /// is taken again first.
    pub async fn fault(
        &self,
        cpu: &Cpu,
        space: SpaceId,
        virt: Virt,
        store: bool,
    ) -> Result<(), Refused> {
        let mut held = self.lock.take().await;
        self.state.borrow_mut().figures.faults += 1;
        let region = self.state.borrow().space(space).region(virt);
        let region = region.ok_or(Refused::NoRegion(virt))?;
        let mut read = None;
        let done = loop {
            // A table for each level below the root, and the page.
            let reserved = self.reserve(cpu, &mut held, LEVELS as usize).await;
            if reserved.is_err() {
                break reserved;
            }
            let at = self.find_or_make(cpu, space, virt).await;
            let fault = Fault {
                space,
                virt,
                region,
                store,
                at,
            };
            let is_over = match self.pte(cpu, at).await.entry() {
                Entry::Page { writable, .. } if writable || !store => true,
                Entry::Page { gfn, .. } => self.write_shared(cpu, &fault, gfn).await,
                Entry::Swapped(block) => {
                    let page = self
                        .bring(&mut held, block, Use::Anonymous, &mut read)
                        .await;
                    match page {
                        Some(page) => self.swap_in(cpu, &fault, block, page).await,
                        None => false,
                    }
                }
                Entry::Nothing => match region.block(virt) {
                    None => self.first_touch(cpu, &fault).await,
                    Some(block) => {
                        let page = self.bring(&mut held, block, Use::File, &mut read).await;
                        match page {
                            Some(page) => self.map_file(cpu, &fault, page).await,
                            None => false,
                        }
                    }
                },
            };
            if is_over {
                break Ok(());
            }
        };
        self.state.borrow_mut().unpin(&mut read);
        Ok(done?)
    }

    async fn first_touch(&self, cpu: &Cpu, fault: &Fault) -> bool {
        if fault.store {
            let page = self.zeroed(cpu).await;
            self.map(cpu, fault, page, true).await;
        } else {
            let zero = self.state.borrow().zero;
            self.set_pte(cpu, fault.at, Pte::page(zero, false)).await;
        }
        true
    }

    async fn map_file(&self, cpu: &Cpu, fault: &Fault, page: Gfn) -> bool {
        let is_shared = matches!(fault.region.backing, Backing::Shared(_));
        if fault.store && !is_shared {
            let copy = self.copy(cpu, page).await;
            self.map(cpu, fault, copy, true).await;
        } else {
            self.map(cpu, fault, page, is_shared).await;
        }
        true
    }

    async fn swap_in(&self, cpu: &Cpu, fault: &Fault, block: Block, page: Gfn) -> bool {
        let is_own = {
            let mut state = self.state.borrow_mut();
            state.swap.unname(block);
            state.swap.names(block) == 0 && state.frames.get(page).mapped.is_empty()
        };
        self.map(cpu, fault, page, is_own).await;
        true
    }

    /// The page that stands for a block, if it is in memory. If it is not, it is read, and
    /// everything else may be different afterwards. The page itself is pinned, so that two tasks
    /// that are short of memory do not take from each other for ever the pages that they have just
    /// read.
    async fn bring(
        &self,
        held: &mut Held,
        block: Block,
        used: Use,
        read: &mut Option<Gfn>,
    ) -> Option<Gfn> {
        let cached = self.state.borrow().frames.cached(block);
        let Some(page) = cached else {
            let page = {
                let mut state = self.state.borrow_mut();
                state.unpin(read);
                let page = state.frames.alloc(used).expect("memory was reserved");
                state.frames.set_home(page, block);
                state.frames.get_mut(page).pinned = true;
                page
            };
            *read = Some(page);
            self.transfer(held, page, block, Way::Read).await;
            return None;
        };
        let is_busy = || {
            let state = self.state.borrow();
            let cached = state.frames.cached(block);
            cached.is_some_and(|page| state.frames.get(page).busy.is_some())
        };
        if is_busy() {
            held.sleep_until(&self.transfers, || (!is_busy()).then_some(()))
                .await;
            return None;
        }
        Some(page)
    }

    /// A store to a page that is present and must not be written.
    async fn write_shared(&self, cpu: &Cpu, fault: &Fault, page: Gfn) -> bool {
        let (is_zero, is_own) = {
            let state = self.state.borrow();
            (page == state.zero, state.is_own(page))
        };
        let to = if is_own {
            page
        } else if is_zero {
            self.zeroed(cpu).await
        } else {
            self.copy(cpu, page).await
        };
        let before = self.set_pte(cpu, fault.at, Pte::page(to, true)).await;
        if !is_own {
            self.flush(cpu, fault.space).await;
        }
        let mut state = self.state.borrow_mut();
        if is_own {
            state.frames.get_mut(page).dirty |= before.is_dirty();
        } else {
            let by = (fault.space, fault.virt);
            state.frames.get_mut(to).mapped.push(by);
            state.unmap(fault.space, fault.virt, before.entry());
        }
        true
    }

    async fn map(&self, cpu: &Cpu, fault: &Fault, page: Gfn, writable: bool) {
        let by = (fault.space, fault.virt);
        self.state.borrow_mut().frames.get_mut(page).mapped.push(by);
        self.set_pte(cpu, fault.at, Pte::page(page, writable)).await;
    }

    /// A page of zeros. There is memory for it.
    async fn zeroed(&self, cpu: &Cpu) -> Gfn {
        let page = self.state.borrow_mut().frames.alloc(Use::Anonymous);
        let page = page.expect("memory was reserved");
        cpu.edit(page, Edit::Write(Page::ZERO)).await;
        self.state.borrow_mut().figures.zeroed += 1;
        page
    }

    /// A copy of a page. There is memory for it.
    async fn copy(&self, cpu: &Cpu, from: Gfn) -> Gfn {
        let to = self.state.borrow_mut().frames.alloc(Use::Anonymous);
        let to = to.expect("memory was reserved");
        let contents = cpu.edit(from, Edit::Read).await;
        cpu.edit(to, Edit::Write(contents)).await;
        self.state.borrow_mut().figures.copied += 1;
        to
    }
}

impl super::State {
    /// The fault that had read this page is over.
    fn unpin(&mut self, read: &mut Option<Gfn>) {
        if let Some(page) = read.take() {
            self.frames.get_mut(page).pinned = false;
            self.free_if_unused(page);
        }
    }

    /// Whether a page is one process's own, so that nobody else may see its present contents.
    fn is_own(&self, page: Gfn) -> bool {
        let frame = self.frames.get(page);
        let named = frame
            .home
            .is_some_and(|home| home.is_swap() && self.swap.names(home) > 0);
        frame.used == Use::Anonymous && frame.mapped.len() == 1 && !named
    }
}
