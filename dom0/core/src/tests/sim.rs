// SPDX-License-Identifier: MIT OR Apache-2.0
//! A hypervisor, a guest, a ring and a store, small and strict: what the core does wrong panics here.
//!
//! A page's contents are one number, 0 for zeros. Batches are executed a page at a time, so that guests and other
//! batches get in between, and are handed back in any order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use p2m_paging::ring::abi::{EntryFlags, PagingFlags, Request, Response};
use p2m_paging::{Errno, Gfn};

use super::judge::Judge;
use super::kill::Life;
use crate::store::{CompareWith, Saved, Slot, SlotRange, StoreError};
use crate::{
    Action, Actions, Batch, Config, DrainError, Event, Location, Loss, Page, PageError, Pager,
    Report, Step, Summary,
};

/// What the hypervisor knows of a gfn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Ram(u64),
    PagingOut(u64),
    Paged,
    /// Asked for; with its contents if it was only nominated.
    InStart(Option<u64>),
    Gone,
}

/// What goes wrong next time something of the kind is done; each is used up by one page.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) nominate: u32,
    pub(super) evict: u32,
    pub(super) restore: u32,
    pub(super) unmapped: u32,
    pub(super) write: u32,
    pub(super) read: u32,
    pub(super) no_memory: u32,
    pub(super) not_done: u32,
}

pub(super) struct Sim {
    pub(super) config: Config,
    pub(super) mru_pages: usize,
    pub(super) life: Life,
    /// Where the shell has noted that pages lie.
    pub(super) index: BTreeMap<usize, Location>,
    pub(super) pager: Pager,
    pub(super) actions: Actions,
    pub(super) entries: Vec<Entry>,
    /// What the guest last wrote: the truth. `None`: not its memory now.
    pub(super) truth: Vec<Option<u64>>,
    /// Which page each vcpu waits for.
    pub(super) waits: Vec<Option<Gfn>>,
    /// Requests that wait for a ring slot, in order.
    pub(super) line: VecDeque<Request>,
    /// Requests on the ring.
    pub(super) ring: VecDeque<Request>,
    /// Requests sent and not answered.
    pub(super) unanswered: Vec<Request>,
    /// Batches given out, and how many of their pages have been done.
    pub(super) running: Vec<(Batch, usize)>,
    pub(super) buffers: BTreeMap<(usize, usize), u64>,
    pub(super) store: BTreeMap<Slot, u64>,
    /// Pages of the guest are alike, and the store looks for those that are. What it finds is often wrong.
    pub(super) alike: bool,
    pub(super) seems: BTreeMap<u64, Slot>,
    pub(super) store_pages: usize,
    /// The store is a file with holes: it has room where it has been written once, whatever is freed.
    pub(super) file: Option<BTreeSet<Slot>>,
    /// Writes tried.
    pub(super) writes: usize,
    pub(super) bad_slots: Vec<Slot>,
    /// Those hold something else. Otherwise they do not read.
    pub(super) bad_is_gone: bool,
    /// An area that takes no writes.
    pub(super) bad_area: Option<SlotRange>,
    pub(super) faults: Faults,
    /// Whether restoring asks through the ring, as Xen does.
    pub(super) restore_asks: bool,
    /// The answer to a request makes a page with contents resident only if a vcpu was paused for it, as
    /// on Xen's C.
    pub(super) answers_need_vcpu: bool,
    pub(super) reports: Vec<Report>,
    /// Why the guest is to be stopped.
    pub(super) losses: Vec<Loss>,
    /// Areas that are to go.
    pub(super) draining: Vec<SlotRange>,
    pub(super) drained: Vec<(SlotRange, Result<(), DrainError>)>,
    pub(super) finished: Option<Summary>,
    pub(super) guest_gone: bool,
    next_value: u64,
}

fn take(fault: &mut u32) -> bool {
    let hit = *fault > 0;
    *fault = fault.saturating_sub(1);
    hit
}

fn pairs<'a>(a: &'a Batch, b: &'a Batch) -> impl Iterator<Item = (&'a Page, &'a Page)> {
    let with = |page| b.pages().iter().map(move |other| (page, other));
    a.pages().iter().flat_map(with)
}

/// Which slot a step writes for a page, and which ones it has to do with.
fn slots(step: Step, page: &Page) -> (Option<Slot>, [Option<Slot>; 2]) {
    let home = page.location().slot();
    match (step, page.compare_with()) {
        (Step::Save, CompareWith::Slot(other)) => (home, [home, Some(other)]),
        (Step::Save | Step::Move, _) => (home, [home, None]),
        (Step::Load, _) => (None, [home, None]),
        _ => (None, [None, None]),
    }
}

impl Sim {
    pub(super) fn new(pages: usize, vcpus: usize, config: Config, mru_pages: usize) -> Self {
        let judge = Judge::new(pages as u64, mru_pages);
        let pager = Pager::new(config.clone(), Box::new(judge));
        Self {
            config,
            mru_pages,
            life: Life::default(),
            index: BTreeMap::new(),
            actions: pager.actions(),
            pager,
            entries: (1..=pages as u64).map(Entry::Ram).collect(),
            truth: (1..=pages as u64).map(Some).collect(),
            waits: vec![None; vcpus],
            line: VecDeque::new(),
            ring: VecDeque::new(),
            unanswered: Vec::new(),
            running: Vec::new(),
            buffers: BTreeMap::new(),
            store: BTreeMap::new(),
            alike: false,
            seems: BTreeMap::new(),
            store_pages: usize::MAX,
            file: None,
            writes: 0,
            bad_slots: Vec::new(),
            bad_is_gone: false,
            bad_area: None,
            faults: Faults::default(),
            restore_asks: true,
            answers_need_vcpu: false,
            reports: Vec::new(),
            losses: Vec::new(),
            draining: Vec::new(),
            drained: Vec::new(),
            finished: None,
            guest_gone: false,
            next_value: 1 << 32,
        }
    }

    /// The same, with pages that are alike.
    pub(super) fn with_alike_pages(mut self) -> Self {
        self.alike = true;
        for (n, (entry, truth)) in self.entries.iter_mut().zip(&mut self.truth).enumerate() {
            let value = 1 + n as u64 % 3;
            (*entry, *truth) = (Entry::Ram(value), Some(value));
        }
        self
    }

    /// What the guest writes next.
    pub(super) fn next_value(&mut self) -> u64 {
        self.next_value += 1;
        match self.next_value {
            // Some pages are cleared.
            n if n.is_multiple_of(5) => 0,
            n if self.alike => 1 + n % 4,
            n => n,
        }
    }

    /// Feeds one event, does what is to be done at once, and checks everything.
    pub(super) fn event(&mut self, event: Event<'_>) {
        if self.life.is_over() {
            return;
        }
        self.pager.handle(event, &mut self.actions);
        let mut actions = std::mem::replace(&mut self.actions, Actions::with_capacity(0));
        for action in actions.drain() {
            if !self.life.goes_on() {
                continue;
            }
            match action {
                Action::Run(batch) => self.accept(batch),
                Action::Scan(scan) => panic!("the judge has no use for {scan:?}"),
                Action::Respond(response) => self.respond(&response),
                Action::Moved(gfn, location) => self.note_moved(gfn, location),
                Action::Free(slot) => self.free(slot),
                Action::Drained(area, outcome) => self.drained(area, outcome),
                Action::Report(report) => self.reports.push(report),
                Action::StopGuest(loss) => self.losses.push(loss),
                Action::Finished(summary) => {
                    assert!(self.running.is_empty(), "finished with batches in flight");
                    self.finished = Some(summary);
                }
            }
        }
        self.actions = actions;
        self.check();
    }

    /// The pager looks at the ring.
    pub(super) fn drain_ring(&mut self) {
        if self.life.is_over() {
            return;
        }
        let take = self.ring.len().min(self.pager.room());
        let requests: Vec<_> = self.ring.drain(..take).collect();
        self.event(Event::Requests(&requests));
    }

    fn respond(&mut self, response: &Response) {
        let asked = self
            .unanswered
            .iter()
            .position(|r| Response::to(r) == *response);
        let request = self.unanswered.remove(asked.expect("an answer to nothing"));
        assert!(!self.line.contains(&request) || self.unanswered.contains(&request));
        let page = usize::try_from(request.gfn.get()).unwrap();
        if !request.paging.contains(PagingFlags::DROP_PAGE) && page < self.entries.len() {
            match self.entries[page] {
                Entry::InStart(Some(value)) => {
                    if !self.answers_need_vcpu || request.flags.contains(EntryFlags::VCPU_PAUSED) {
                        self.entries[page] = Entry::Ram(value);
                    }
                }
                Entry::Paged | Entry::InStart(None) => {
                    let mut unreadable = self.pager.unreadable().chain(self.pager.lost());
                    let unreadable = unreadable.any(|gfn| gfn == request.gfn);
                    assert!(unreadable, "{request:?} answered too early");
                }
                Entry::Ram(_) | Entry::PagingOut(_) | Entry::Gone => {}
            }
        }
        if request.flags.contains(EntryFlags::VCPU_PAUSED) {
            let waited = self.waits[request.vcpu.index()].take();
            assert_eq!(waited, Some(request.gfn), "woken without a pause");
        }
        self.serve_line();
    }

    fn free(&mut self, slot: Slot) {
        for (batch, done) in &self.running {
            let uses = matches!(batch.step(), Step::Save | Step::Load | Step::Move);
            let names = |page: &Page| {
                page.location() == Location::Slot(slot)
                    || page.compare_with() == CompareWith::Slot(slot)
            };
            assert!(!uses || !batch.pages()[*done..].iter().any(names));
        }
        self.store.remove(&slot);
        self.check_index();
    }

    /// An area that is gone is not in use by anybody.
    fn drained(&mut self, area: SlotRange, outcome: Result<(), DrainError>) {
        if outcome.is_ok() {
            assert!(self.store.keys().all(|slot| !area.contains(*slot)));
            let uses = [Step::Save, Step::Evict, Step::Load, Step::Move];
            let batches = self.running.iter().map(|(batch, _)| batch);
            let batches = batches.filter(|batch| uses.contains(&batch.step()));
            let mut slots = batches
                .flat_map(Batch::pages)
                .filter_map(|page| page.location().slot());
            assert!(slots.all(|slot| !area.contains(slot)));
        }
        self.draining.retain(|other| *other != area);
        self.drained.push((area, outcome));
    }

    fn accept(&mut self, batch: Batch) {
        assert!(!batch.pages().is_empty(), "an empty batch");
        assert!(batch.index() < self.pager.batches());
        assert!(
            self.running
                .iter()
                .all(|(other, _)| other.index() != batch.index())
        );
        self.check_alone(&batch);
        for page in batch.pages() {
            assert_eq!(page.outcome, Err(PageError::NotDone));
            if matches!(batch.step(), Step::Load | Step::Prep | Step::Move) {
                assert!(page.buffer() < self.pager.buffers(batch.index()));
            }
        }
        self.running.push((batch, 0));
    }

    /// No page is in two batches, and no slot is written while another batch writes, reads or compares it: so a slot is
    /// read once for all who ask for its page, and nobody sees half of a page.
    fn check_alone(&self, batch: &Batch) {
        for (other, _) in &self.running {
            for (page, other_page) in pairs(batch, other) {
                assert_ne!(page.gfn(), other_page.gfn(), "in two batches: {other:?}");
                let (written, named) = slots(batch.step(), page);
                let (other_written, other_named) = slots(other.step(), other_page);
                let meets = |written: Option<Slot>, named: [Option<Slot>; 2]| {
                    written.is_some() && named.contains(&written)
                };
                assert!(
                    !meets(written, other_named) && !meets(other_written, named),
                    "a slot is written that is in use: {batch:?} and {other:?}"
                );
            }
        }
    }

    /// Does the next pages of a batch that is under way; hands it back once all are done.
    pub(super) fn execute(&mut self, which: usize, pages: usize) {
        if self.running.is_empty() || self.life.is_over() {
            return;
        }
        let which = which % self.running.len();
        let (mut batch, mut done) = self.running.swap_remove(which);
        if done == batch.pages().len() {
            return self.event(Event::Done(batch));
        }
        for _ in 0..pages.max(1) {
            let (index, step) = (batch.index(), batch.step());
            let Some(page) = batch.pages_mut().get_mut(done) else {
                break;
            };
            if !take(&mut self.faults.not_done) && self.life.goes_on() && self.note(step, page) {
                page.outcome = match step {
                    Step::Save => self.save(page).map(|saved| page.saved = saved),
                    _ => self.execute_page(index, step, page),
                };
                self.note_done(step, page);
            }
            done += 1;
        }
        self.running.push((batch, done));
    }

    fn execute_page(&mut self, index: usize, step: Step, page: &Page) -> Result<(), PageError> {
        let n = usize::try_from(page.gfn().get()).unwrap();
        let refused = |errno| Err(PageError::Refused(errno));
        let buffer = (index, page.buffer());
        match (step, self.entries[n]) {
            (Step::Nominate, _) if take(&mut self.faults.nominate) => refused(Errno::EBUSY),
            (Step::Nominate | Step::Probe, Entry::Ram(value)) => {
                self.entries[n] = Entry::PagingOut(value);
                Ok(())
            }
            (Step::Evict, _) if take(&mut self.faults.evict) => refused(Errno::EBUSY),
            (Step::Evict, Entry::PagingOut(_)) => {
                self.entries[n] = Entry::Paged;
                Ok(())
            }
            (Step::Nominate | Step::Probe | Step::Evict, _) => refused(Errno::EBUSY),
            (Step::Restore, _) if take(&mut self.faults.restore) => refused(Errno::EAGAIN),
            // Not by a request: by a prep without contents.
            (Step::Restore, Entry::PagingOut(value) | Entry::InStart(Some(value)))
                if self.answers_need_vcpu =>
            {
                self.entries[n] = Entry::Ram(value);
                Ok(())
            }
            (Step::Restore, Entry::PagingOut(_)) if self.restore_asks => {
                self.foreign(n);
                Ok(())
            }
            (Step::Restore, Entry::PagingOut(value)) => {
                self.entries[n] = Entry::Ram(value);
                Ok(())
            }
            (Step::Restore, Entry::Gone) => refused(Errno::ENOENT),
            (Step::Restore, _) => Ok(()),
            (Step::Load, _) if page.location() == Location::Zeros => {
                self.buffers.insert(buffer, 0);
                Ok(())
            }
            (Step::Load, _) => {
                let slot = page.location().slot().unwrap();
                if self.bad_slots.contains(&slot) && self.bad_is_gone {
                    return Err(PageError::Store(StoreError::Empty { slot }));
                }
                if self.bad_slots.contains(&slot) || take(&mut self.faults.read) {
                    return Err(PageError::Store(StoreError::Io { slot, errno: 5 }));
                }
                let value = *self
                    .store
                    .get(&slot)
                    .expect("a slot that holds nothing is read");
                self.buffers.insert(buffer, value);
                Ok(())
            }
            (Step::Prep, Entry::InStart(Some(_))) => panic!("prep over a page that is in place"),
            (Step::Prep, Entry::Paged | Entry::InStart(None)) => {
                if take(&mut self.faults.no_memory) {
                    return refused(Errno::ENOMEM);
                }
                self.entries[n] = Entry::Ram(self.buffers[&buffer]);
                Ok(())
            }
            (Step::Prep, _) => refused(Errno::ENOENT),
            (Step::Move, _) => {
                let slot = page.location().slot().unwrap();
                assert!(
                    !self.store.contains_key(&slot),
                    "a slot that is taken is written"
                );
                self.write(slot, self.buffers[&buffer])
            }
            (Step::Save, _) => unreachable!("saved by itself"),
        }
    }

    /// Whatever the core thinks of a slot's contents, they are looked at.
    fn save(&mut self, page: &Page) -> Result<Saved, PageError> {
        let n = usize::try_from(page.gfn().get()).unwrap();
        let slot = page
            .location()
            .slot()
            .expect("a slot for a page to be saved");
        let (Entry::Ram(v) | Entry::PagingOut(v) | Entry::InStart(Some(v))) = self.entries[n]
        else {
            return Err(PageError::Unmapped(Errno::ENOENT));
        };
        if take(&mut self.faults.unmapped) {
            return Err(PageError::Unmapped(Errno::ENOENT));
        }
        if v == 0 {
            self.store.remove(&slot);
            return Ok(Saved::Zeros);
        }
        let like = page.compare_with();
        let copy = match like {
            CompareWith::Own => Some(slot),
            CompareWith::Slot(other) => Some(other),
            CompareWith::Any | CompareWith::Nothing => None,
        };
        if copy.is_some_and(|copy| self.store.get(&copy) == Some(&v)) {
            return Ok(Saved::Unchanged);
        }
        // Some different pages look the same.
        let looks = if v < 8 { v % 3 } else { v };
        let seems = self.seems.entry(looks).or_insert(slot);
        if self.alike && *seems != slot && matches!(like, CompareWith::Any | CompareWith::Own) {
            return Ok(Saved::DedupCandidate(*seems));
        }
        *seems = slot;
        self.write(slot, v).map(|()| Saved::Written)
    }

    fn write(&mut self, slot: Slot, value: u64) -> Result<(), PageError> {
        self.writes += 1;
        let is_bad = self.bad_area.is_some_and(|area| area.contains(slot));
        if is_bad || take(&mut self.faults.write) {
            self.store.remove(&slot);
            return Err(PageError::Store(StoreError::Io { slot, errno: 5 }));
        }
        let (used, has_room) = match &self.file {
            Some(file) => (file.len(), file.contains(&slot)),
            None => (self.store.len(), self.store.contains_key(&slot)),
        };
        if used >= self.store_pages && !has_room {
            return Err(PageError::Store(StoreError::Full));
        }
        if let Some(file) = &mut self.file {
            file.insert(slot);
        }
        self.store.insert(slot, value);
        Ok(())
    }

    /// Every page of the guest is in exactly one trusted place, and has the right contents there.
    fn check(&self) {
        if self.guest_gone {
            return;
        }
        self.check_index();
        if self.life.is_over() {
            return;
        }
        let is_lost = |gfn: Gfn| self.pager.lost().any(|lost| lost == gfn);
        for (n, (&entry, &truth)) in self.entries.iter().zip(&self.truth).enumerate() {
            let gfn = Gfn::new_truncate(n as u64);
            match entry {
                Entry::Ram(value) | Entry::PagingOut(value) | Entry::InStart(Some(value)) => {
                    assert_eq!(Some(value), truth, "{gfn} is wrong in the guest");
                }
                Entry::Paged | Entry::InStart(None) if is_lost(gfn) => {}
                Entry::Paged | Entry::InStart(None) => {
                    let home = self.pager.location_of(gfn).or_else(|| self.evicting(gfn));
                    let value = home.and_then(|home| match home {
                        Location::Slot(slot) => self.store.get(&slot).copied(),
                        Location::Zeros => Some(0),
                    });
                    assert_eq!(value, truth, "{gfn} is wrong in the store");
                }
                Entry::Gone => {}
            }
        }
    }

    /// With nothing under way each slot is owned by the pages that have it, out or in, and taken as long as there are any.
    pub(super) fn check_owners(&self) {
        assert!(self.running.is_empty());
        let mut owners = BTreeMap::<_, u64>::new();
        for slot in self
            .pager
            .placement
            .locations
            .from(0)
            .filter_map(|(_, home)| home.slot())
        {
            *owners.entry(slot).or_default() += 1;
        }
        let taken = self.pager.slots_taken();
        assert_eq!(taken, owners.len() as u64, "leaked: {:?}", self.pager);
        for (slot, owners) in owners {
            assert_eq!(
                self.pager.placement.slots.owners(slot),
                owners,
                "owners of {slot:?}"
            );
        }
    }

    fn evicting(&self, gfn: Gfn) -> Option<Location> {
        let pages = self
            .running
            .iter()
            .filter(|(batch, _)| batch.step() == Step::Evict);
        let mut pages = pages.flat_map(|(batch, _)| batch.pages());
        pages.find(|page| page.gfn() == gfn).map(Page::location)
    }

    /// Lets everything under way end, without ticks.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.ring.is_empty() && self.running.is_empty() {
                return;
            }
            self.drain_ring();
            self.execute(0, usize::MAX);
        }
        panic!("it does not come to rest");
    }

    /// As [`Self::settle`], with ticks, until the pager has finished.
    pub(super) fn finish(&mut self) -> Summary {
        self.event(Event::Stop);
        for _ in 0..1_000 {
            self.settle();
            if let Some(summary) = self.finished {
                return summary;
            }
            self.event(Event::Tick);
        }
        panic!("it never finishes: {:?}", self.pager);
    }
}
