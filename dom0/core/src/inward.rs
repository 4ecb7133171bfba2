// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way in: load and prep, for those who wait (row B8) and ahead of need (row B4).

use p2m_paging::{Errno, Gfn};

use super::event::{Action, Actions, Batch, Lane, Page, PageError, Report, Step};
use super::flight::{Fate, Way};
use super::pager::Pager;

impl Pager {
    /// Starts a batch of all pages that somebody waits for and that can be loaded now, and what is to
    /// come in beside them.
    pub(super) fn start_demand(&mut self, actions: &mut Actions) {
        let mut nth = 0;
        let mut filling: Option<Batch> = None;
        while let Some((found, gfn)) = self.asks.ready(nth) {
            nth = found + 1;
            if self.flights.contains(gfn) {
                continue;
            }
            let Some(home) = self.homes.out(gfn) else {
                continue;
            };
            let Some(mut batch) = filling.take().or_else(|| self.unpark(Lane::Demand)) else {
                break;
            };
            self.flights.start(gfn, Way::In);
            batch.add(gfn, home);
            if batch.pages.len() < self.config.requests {
                filling = Some(batch);
            } else {
                batch.run(Step::Load, actions);
            }
        }
        if let Some(mut batch) = filling {
            self.bring_beside(&mut batch);
            batch.run(Step::Load, actions);
        }
        self.beside.clear();
    }

    /// Adds pages that nobody has asked for yet, as far as there is room and each is still out.
    fn bring_beside(&mut self, batch: &mut Batch) {
        for nth in 0..self.beside.len() {
            let wanted = self.beside[nth];
            let mut brought = 0;
            for (gfn, place) in wanted.pages().zip(0..) {
                if batch.pages.len() == self.config.requests {
                    break;
                }
                let Some(gfn) = Gfn::try_new(gfn) else { break };
                let is_free = !self.flights.contains(gfn) && !self.unreadable.contains(gfn.get());
                if is_free && let Some(home) = self.homes.out(gfn) {
                    self.flights.start(gfn, Way::In);
                    batch.add(gfn, home);
                    brought |= 1 << place;
                }
            }
            self.read_ahead.brings(wanted, brought);
        }
    }

    /// Starts a batch of pages that the target no longer wants out.
    pub(super) fn start_ahead(&mut self, actions: &mut Actions) {
        let surplus = self.homes.out_pages().saturating_sub(self.wanted_out());
        if surplus == 0 || self.ahead.waits || self.is_stopped() {
            return;
        }
        let Some(mut batch) = self.unpark(Lane::Ahead) else {
            return;
        };
        let want = usize::try_from(surplus)
            .unwrap_or(usize::MAX)
            .min(self.config.ahead_batch);
        let mut rounds = 0;
        while batch.pages.len() < want {
            let Some((gfn, home)) = self.homes.next_out(self.ahead.cursor) else {
                // Once around is enough: what is left is under way already.
                rounds += 1;
                if !self.next_round() || rounds > 1 {
                    break;
                }
                continue;
            };
            self.ahead.cursor = gfn.get() + 1;
            if !self.flights.contains(gfn) {
                self.flights.start(gfn, Way::In);
                batch.add(gfn, home);
            }
        }
        if batch.pages.is_empty() {
            self.park(batch)
        } else {
            batch.run(Step::Load, actions)
        }
    }

    /// A step is done: the next one for the pages that go on.
    pub(super) fn advance_in(&mut self, mut batch: Batch, actions: &mut Actions) {
        let lane = batch.lane;
        let mut pages = std::mem::take(&mut batch.pages);
        if batch.step == Step::Load {
            pages.retain(|page| self.loaded(page, actions));
        } else {
            pages
                .drain(..)
                .for_each(|page| self.prepped(&page, lane, actions));
        }
        batch.pages = pages;
        if batch.pages.is_empty() {
            self.park(batch)
        } else {
            batch.run(Step::Prep, actions)
        }
    }

    /// Whether a page can be given to the guest.
    fn loaded(&mut self, page: &Page, actions: &mut Actions) -> bool {
        match page.outcome {
            Ok(()) if self.flights.fate(page.gfn).goes_in() => return true,
            _ if self.flights.end(page.gfn) == Fate::Dropped => self.forget(page.gfn, actions),
            Err(error @ PageError::Store(_)) => self.unread(page.gfn, error, actions),
            Err(error) => self.delayed(page.gfn, error, actions),
            Ok(()) => {}
        }
        self.read_ahead.wasted(page.gfn);
        false
    }

    fn prepped(&mut self, page: &Page, lane: Lane, actions: &mut Actions) {
        let gfn = page.gfn;
        let fate = self.flights.end(gfn);
        if page.outcome.is_err() {
            self.read_ahead.wasted(gfn);
        }
        match page.outcome {
            Ok(()) => self.home(gfn, lane, actions),
            Err(_) if fate == Fate::Dropped => self.forget(gfn, actions),
            Err(PageError::Refused(Errno::ENOENT))
                if fate == Fate::MaybeDropped || self.asks.has_drop(gfn) =>
            {
                self.asks.answer(gfn, actions);
                self.forget(gfn, actions);
            }
            Err(PageError::Refused(Errno::ENOENT)) => self.vanished(gfn, actions),
            Err(error) => self.delayed(gfn, error, actions),
        }
    }

    fn home(&mut self, gfn: Gfn, lane: Lane, actions: &mut Actions) {
        let asked = self.asks.answer(gfn, actions) > 0;
        if self.is_running() {
            self.homes.comes_in(gfn);
        } else {
            self.free_home(gfn, actions);
        }
        self.unreadable.remove(gfn.get());
        self.policy.paged_in(gfn, asked);
        self.scanner.paged_in();
        self.progress.paged_in += 1;
        match lane {
            Lane::Demand => self.progress.read_ahead += u64::from(!asked),
            Lane::Ahead | Lane::Move | Lane::Out => self.progress.prefetched += u64::from(!asked),
        }
        self.ahead.fruitful = true;
        self.dry = false;
    }

    /// The hypervisor knows nothing of a page that is out: the guest gave it back, and the request
    /// that says so is still on its way. Until it comes the page is no victim: it may be memory again
    /// by now, and the late drop would be taken for one of the new contents.
    fn vanished(&mut self, gfn: Gfn, actions: &mut Actions) {
        self.asks.answer(gfn, actions);
        self.free_home(gfn, actions);
        self.count_dropped(gfn);
        self.gone.insert(gfn.get(), ());
    }

    /// The page did not read back: the guest is not given what the store does not vouch for. After
    /// some attempts its requests are answered all the same: the hypervisor sees that the page is not
    /// home, whoever waits asks again, and the ring slot serves others meanwhile.
    pub(super) fn unread(&mut self, gfn: Gfn, error: PageError, actions: &mut Actions) {
        if self.unreadable.insert(gfn.get(), ()).is_none() {
            actions.push(Action::Report(Report::Unreadable { gfn, error }));
        }
        let was_said = self.asks.has_drop(gfn);
        self.asks
            .read_failed(gfn, self.config.read_attempts, actions);
        if was_said && !self.asks.has_drop(gfn) {
            // Whether it is gone cannot be learned, and nobody gets it as it is.
            self.asks.answer(gfn, actions);
            self.forget(gfn, actions);
        }
        self.ahead.failed = true;
    }

    /// The page could not be given to the guest now: most likely there is no memory. Those who wait go
    /// before those who do not.
    fn delayed(&mut self, gfn: Gfn, error: PageError, actions: &mut Actions) {
        self.asks.wait_for_memory(gfn);
        self.ahead.failed = true;
        self.ahead.waits = true;
        if !std::mem::replace(&mut self.delay_reported, true) {
            actions.push(Action::Report(Report::Delayed { gfn, error }));
        }
    }

    /// Page-in ahead of need has come to the end of the pages that are out; whether it may go on from
    /// the start. After a round with failures it waits for a tick.
    fn next_round(&mut self) -> bool {
        let ahead = &mut self.ahead;
        ahead.cursor = 0;
        if ahead.failed {
            ahead.vain_rounds = if ahead.fruitful {
                0
            } else {
                ahead.vain_rounds + 1
            };
            ahead.waits = true;
        }
        (ahead.failed, ahead.fruitful) = (false, false);
        !ahead.waits
    }
}
