// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the pager is to achieve: how much of the guest is to be resident, until a stop or the end of
//! the guest.

use crate::config::clamp_num_pages;

/// The target, the guest's size, and the phase.
#[derive(Debug)]
pub(super) struct Goal {
    phase: Phase,
    target_pages: Option<u64>,
    max_pages: u64,
    /// All pages that the guest has, resident and out.
    size_pages: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    Stopping,
    /// Everything that can be paged in is; requests are still answered.
    Stopped,
    /// The guest is gone.
    Gone,
    /// The guest is gone, and the shell knows that the pager has finished.
    GoneReported,
}

impl Goal {
    /// Nothing is wanted out before the first target.
    pub(super) fn new(max_pages: u64) -> Self {
        Self {
            phase: Phase::Running,
            target_pages: None,
            max_pages,
            size_pages: max_pages,
        }
    }

    pub(super) fn set_target(&mut self, pages: i64) {
        self.target_pages = Some(clamp_num_pages(pages, self.max_pages));
    }

    /// The hypervisor counts so many resident pages while so many are out. Pages in flight may be
    /// counted on either side, so a difference that they explain is ignored.
    pub(super) fn set_resident(&mut self, pages: u64, out_pages: u64, in_flight: u64) {
        let size = pages.saturating_add(out_pages).min(self.max_pages);
        if size.abs_diff(self.size_pages) > in_flight {
            self.size_pages = size;
        }
    }

    /// The guest gave a page back.
    pub(super) fn page_dropped(&mut self) {
        self.size_pages = self.size_pages.saturating_sub(1);
    }

    pub(super) fn size_pages(&self) -> u64 {
        self.size_pages
    }

    /// How many pages are resident where so many are out.
    pub(super) fn resident_pages(&self, out_pages: u64) -> u64 {
        self.size_pages.saturating_sub(out_pages)
    }

    /// How many pages the target wants out.
    pub(super) fn wanted_out(&self) -> u64 {
        match (self.phase, self.target_pages) {
            (Phase::Running, Some(target)) => self.size_pages.saturating_sub(target),
            _ => 0,
        }
    }

    /// Everything is to be paged in. Returns whether that is news.
    pub(super) fn stop(&mut self) -> bool {
        let is_news = matches!(self.phase, Phase::Running | Phase::Stopped);
        if is_news {
            self.phase = Phase::Stopping;
        }
        is_news
    }

    /// What was to be paged in is.
    pub(super) fn stopped(&mut self) {
        self.phase = Phase::Stopped;
    }

    /// The guest is gone. Returns whether that is news.
    pub(super) fn guest_gone(&mut self) -> bool {
        let is_news = self.is_alive();
        if is_news {
            self.phase = Phase::Gone;
        }
        is_news
    }

    /// The shell is told that the guest is gone.
    pub(super) fn gone_reported(&mut self) {
        self.phase = Phase::GoneReported;
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn is_alive(&self) -> bool {
        !matches!(self.phase, Phase::Gone | Phase::GoneReported)
    }

    /// Whether pages are paged out at all: then a copy may save a write.
    pub(super) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_wanted_out_before_a_target_and_after_a_stop() {
        let mut goal = Goal::new(100);
        assert_eq!(goal.wanted_out(), 0);
        goal.set_target(40);
        assert_eq!(goal.wanted_out(), 60);
        assert!(goal.stop());
        assert_eq!(goal.wanted_out(), 0);
        assert!(!goal.stop(), "not again while it is stopping");
        goal.stopped();
        assert!(goal.stop(), "a target may have come in between");
        assert!(goal.guest_gone() && !goal.guest_gone() && !goal.is_alive());
        assert!(!goal.stop());
    }

    #[test]
    fn pages_in_flight_do_not_change_the_size() {
        let mut goal = Goal::new(100);
        goal.set_resident(85, 10, 5);
        assert_eq!(goal.size_pages(), 100, "in flight");
        goal.set_resident(85, 10, 4);
        assert_eq!((goal.size_pages(), goal.resident_pages(10)), (95, 85));
        goal.set_resident(200, 10, 0);
        assert_eq!(goal.size_pages(), 100, "no more than its maximum");
        goal.page_dropped();
        assert_eq!(goal.size_pages(), 99);
    }
}
