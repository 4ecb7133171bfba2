// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the guest's own kernel gets memory when none is free (rows C2 to C4, in small). Pages not
//! used lately are taken first. Clean pages of files and of swapped memory are dropped. Others are
//! written to the disk before.

use p2m_paging::Gfn;

use super::Kernel;
use super::cpu::Cpu;
use super::disk::{Block, Way};
use super::frames::Use;
use super::lock::Held;
use super::tables::Pte;

/// Nothing is left that reclaim could take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of memory")]
pub struct OutOfMemory;

/// How often the list is searched for pages that were not used lately before any page is taken.
const ROUNDS: usize = 2;

impl Kernel {
    /// Makes sure that this many pages are free. It may sleep. They stay free until the lock is
    /// next released.
    pub(super) async fn reserve(
        &self,
        cpu: &Cpu,
        held: &mut Held,
        pages: usize,
    ) -> Result<(), OutOfMemory> {
        while self.state.borrow().frames.free_count() < pages {
            self.reclaim(cpu, held).await?;
        }
        Ok(())
    }

    /// Frees a page, or waits for a task that may be about to free one.
    pub(super) async fn reclaim(&self, cpu: &Cpu, held: &mut Held) -> Result<(), OutOfMemory> {
        let mut patience = ROUNDS * self.state.borrow().frames.listed();
        loop {
            let candidate = self.state.borrow_mut().frames.candidate();
            let Some(gfn) = candidate else {
                let is_any_busy = self.state.borrow().frames.is_any_busy();
                if !is_any_busy {
                    return Err(OutOfMemory);
                }
                held.relax().await;
                return Ok(());
            };
            if patience > 0 && self.was_used(cpu, gfn).await {
                patience -= 1;
                self.state.borrow_mut().frames.activate(gfn);
                continue;
            }
            self.page_out(cpu, held, gfn).await;
            return Ok(());
        }
    }

    /// Whether any process used the page since the last call.
    async fn was_used(&self, cpu: &Cpu, gfn: Gfn) -> bool {
        let mapped = self.state.borrow().frames.get(gfn).mapped.clone();
        let mut used = false;
        for (space, virt) in mapped {
            let at = self.find(cpu, space, virt).await;
            let at = at.expect("a page is mapped through tables");
            if self.pte(cpu, at).await.is_accessed() {
                self.mask_pte(cpu, at, Pte::NOT_ACCESSED).await;
                used = true;
            }
        }
        used
    }

    /// Takes a page from all that map it, writes it to the disk if it is not there, and frees it.
    async fn page_out(&self, cpu: &Cpu, held: &mut Held, gfn: Gfn) {
        let home = self.state.borrow_mut().home_for(gfn);
        let mapped = self.state.borrow().frames.get(gfn).mapped.clone();
        for (space, virt) in mapped {
            let at = self.find(cpu, space, virt).await;
            let at = at.expect("a page is mapped through tables");
            let left = if home.is_swap() {
                self.state.borrow_mut().swap.name(home);
                Pte::swapped(home)
            } else {
                Pte::NOTHING
            };
            let was_dirty = self.set_pte(cpu, at, left).await.is_dirty();
            self.flush(cpu, space).await;
            self.state.borrow_mut().frames.get_mut(gfn).dirty |= was_dirty;
        }
        let is_dirty = {
            let mut state = self.state.borrow_mut();
            let frame = state.frames.get_mut(gfn);
            frame.mapped.clear();
            std::mem::take(&mut frame.dirty)
        };
        if is_dirty {
            self.transfer(held, gfn, home, Way::Write).await;
        }
        let mut state = self.state.borrow_mut();
        state.figures.reclaimed += 1;
        state.frames.free(gfn);
        if home.is_swap() && state.swap.names(home) == 0 {
            state.swap.give_back(home);
        }
    }

    /// Has the disk read into a page, or write it, and sleeps meanwhile.
    pub(super) async fn transfer(&self, held: &mut Held, gfn: Gfn, block: Block, way: Way) {
        let id = {
            let mut state = self.state.borrow_mut();
            state.frames.get_mut(gfn).busy = Some(way);
            state.figures.count(block, way);
            state.disk.order(gfn, block, way)
        };
        let is_done = || self.state.borrow_mut().disk.take_done(id).then_some(());
        held.sleep_until(&self.transfers, is_done).await;
        self.state.borrow_mut().frames.get_mut(gfn).busy = None;
        self.transfers.wake_all();
    }

    /// Keeps some memory free, so that a fault seldom has to wait for it.
    pub(super) async fn reclaim_in_background(&self, cpu: &Cpu) {
        let mut held = self.lock.take().await;
        while self.state.borrow().frames.free_count() < self.high_free {
            if self.reclaim(cpu, &mut held).await.is_err() {
                return;
            }
        }
    }

    /// Whether memory is so short that this is due.
    pub(super) fn is_low(&self) -> bool {
        self.state.borrow().frames.is_low()
    }
}

impl super::State {
    /// The block that a page stands for, or is to stand for.
    fn home_for(&mut self, gfn: Gfn) -> Block {
        let frame = self.frames.get(gfn);
        if let Some(home) = frame.home {
            return home;
        }
        assert_eq!(frame.used, Use::Anonymous, "{gfn} has no home");
        let home = self.swap.take();
        self.frames.set_home(gfn, home);
        self.frames.get_mut(gfn).dirty = true;
        home
    }
}
