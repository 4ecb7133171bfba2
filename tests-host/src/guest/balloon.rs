// SPDX-License-Identifier: MIT OR Apache-2.0
//! The balloon: the kernel gives memory back to the hypervisor and takes it again. It chooses pages
//! as its reclaim does.

use p2m_paging::Gfn;

use super::Kernel;
use super::cpu::Cpu;
use super::frames::Use;
use super::tables::LEVELS;

impl Kernel {
    /// The target: how many pages the balloon is to have.
    pub fn set_balloon_target(&self, pages: usize) {
        self.balloon_target.set(pages);
        self.idle.wake_all();
    }

    /// Pages that the balloon has.
    pub fn ballooned(&self) -> usize {
        self.state.borrow().frames.used_for(Use::Ballooned).count()
    }

    /// Whether the balloon's size differs from its target.
    pub(super) fn is_balloon_off(&self) -> bool {
        self.ballooned() != self.balloon_target.get()
    }

    /// Brings the balloon a page nearer to its target. Yields whether it could.
    pub(super) async fn adjust_balloon(&self, cpu: &Cpu) -> bool {
        if self.ballooned() < self.balloon_target.get() {
            self.inflate(cpu).await
        } else {
            self.deflate(cpu).await
        }
    }

    async fn inflate(&self, cpu: &Cpu) -> bool {
        let page: Gfn = {
            let mut held = self.lock.take().await;
            // A fault that comes next still finds the memory that it needs.
            let enough = 1 + LEVELS as usize;
            if self.reserve(cpu, &mut held, enough).await.is_err() {
                return false;
            }
            let mut state = self.state.borrow_mut();
            let page = state.frames.alloc(Use::Ballooned);
            page.expect("memory was reserved")
        };
        cpu.give_back(page).await;
        true
    }

    async fn deflate(&self, cpu: &Cpu) -> bool {
        let page = self.state.borrow().frames.used_for(Use::Ballooned).next();
        let Some(page) = page else { return false };
        let is_there = cpu.take(page).await;
        if is_there {
            self.state.borrow_mut().frames.free(page);
        }
        is_there
    }
}
