// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pager's process: the unchanged core, the pager half of the ring, and a shell that is slow,
//! dies, or answers with garbage.

use std::collections::VecDeque;
use std::rc::Rc;

use p2m_paging::p2m::table::{Event as TableEvent, State};
use p2m_paging::paging::RingState;
use p2m_paging::ring::abi::{RawEntry, RingHeader};
use p2m_paging::ring::{Back, EntryFlags, Notify, PagingFlags, Request, Response, SLOTS};
use p2m_paging::{Gfn, Mfn, VcpuId};
use pager_core::policy::{PolicyName, SweepOptions};
use pager_core::{Action, Actions, Batch, Config, Event, LossCause, Pager, Scan, Summary};
use pager_store::{SlotRange, StoreError};

use super::areas::{Stands, drained};
use super::event_queue::{SimEvent, WORKERS};
use super::scenario::Knob;
use super::world::{Before, TICK_NS, World};
use crate::machine::Page;
use crate::plain::{PAGEABLE_DOMAIN, RingPage};

/// Where the header's indices are, in 32-bit words.
const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 1;
const RSP_PROD: usize = 2;
/// Where the version of the first entry is, and the distance to the next one's.
const FIRST_VERSION: usize = size_of::<RingHeader>() / 4;
const ENTRY_WORDS: usize = size_of::<RawEntry>() / 4;

/// A pager.
pub(super) struct Process {
    /// Counts up from one pager to the next.
    pub(super) id: u32,
    pub(super) core: Pager,
    actions: Actions,
    back: Back,
    page: Rc<RingPage>,
    /// Batches that the worker has, by index.
    pub(super) running: Vec<Option<Running>>,
    /// The pages that were loaded, by batch and buffer.
    pub(super) buffers: Vec<Vec<Page>>,
    /// A scan that the worker does, or has done.
    pub(super) scan: Option<Scan>,
    news: Vec<News>,
    /// Valid responses that are written, and that the hypervisor has not taken.
    answers: VecDeque<Option<(Gfn, bool)>>,
    /// The hypervisor's counter when this pager was attached.
    responses_before: u64,
    /// Pages of the requests that have been seen and not answered.
    unanswered: Vec<Gfn>,
    /// Responses written so far.
    answered: usize,
    /// Of these, the ones that the hypervisor can see.
    published: usize,
    /// It has been killed, and does nothing more.
    is_killed: bool,
    pub(super) finished: Option<Summary>,
    /// The states of the store's areas.
    pub(super) areas: [Stands; 2],
}

/// A batch that the worker does.
pub(super) struct Running {
    pub(super) batch: Batch,
    /// How many of its pages have been done.
    pub(super) done: usize,
    /// Frames that are mapped to be saved.
    pub(super) mapped: Vec<Mfn>,
    pub(super) tries: u32,
}

/// What the pager is told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Target(i64),
    Resident(u64),
    /// One of the store's areas is to be drained, or is added again.
    Area(usize),
    Stop,
    Gone,
}

impl World<'_> {
    /// A new pager is attached, which knows nothing yet.
    pub(super) fn start_pager(&self) {
        let page = Rc::new(RingPage::new());
        self.paging
            .enable(&PAGEABLE_DOMAIN, || Some(page.map()))
            .expect("nothing speaks against it");
        self.begin_process(self.new_core(), page);
    }

    /// The core of a pager.
    pub(super) fn new_core(&self) -> Pager {
        let (low, all) = (self.low_pages(), self.pages() as u64);
        let mut memory = vec![0..=low - 1];
        if all > low {
            let first = self.first_high_gfn();
            memory.push(first..=first + (all - low) - 1);
        }
        let options = SweepOptions {
            mru_pages: self.scenario.get(Knob::Mru) as usize,
            ..SweepOptions::default()
        };
        let policy = PolicyName::ALL[self.scenario.get(Knob::Policy) as usize % 3];
        let policy = policy.policy(&memory, &options);
        let batch = self.scenario.get(Knob::Batch) as usize;
        let is_out = |page| matches!(self.state(page), State::Paged | State::PagingInStart);
        let config = Config {
            takes_over: (0..self.pages()).any(is_out),
            memory,
            out_batch: batch,
            prefetch_batch: batch.div_ceil(2),
            out_threshold: 1 + batch as u64 / 2,
            read_attempts: 3,
            areas: match self.scenario.get(Knob::Areas) {
                0 => vec![SlotRange::EVERYTHING],
                _ => self.areas_there(),
            },
            ..Config::new(all)
        };
        Pager::new(config, policy)
    }

    /// A pager's process begins, attached to this ring.
    pub(super) fn begin_process(&self, core: Pager, page: Rc<RingPage>) {
        let id = self.pager_id() + 1;
        let all = self.pages() as u64;
        let buffers = (0..core.batches()).map(|n| vec![Page::ZERO; core.buffers(n)]);
        let process = Process {
            id,
            actions: core.actions(),
            back: Back::new(page.map()),
            page: Rc::clone(&page),
            running: (0..core.batches()).map(|_| None).collect(),
            buffers: buffers.collect(),
            scan: None,
            news: Vec::new(),
            answers: VecDeque::new(),
            responses_before: self.responses(),
            unanswered: Vec::new(),
            answered: 0,
            published: 0,
            finished: None,
            is_killed: false,
            areas: self.areas_after_death(),
            core,
        };
        *self.pager.borrow_mut() = Some(process);
        // The ring outlives its pager until it is torn down. That has happened if this is another
        // pager.
        self.foreign.borrow_mut().ring = Some(page);
        self.note("pager starts", [id.into(), 0]);
        let target = all * u64::from(self.scenario.get(Knob::Target)) / 100;
        self.tell_pager(News::Target(target as i64));
    }

    fn responses(&self) -> u64 {
        self.paging
            .counters()
            .get(p2m_paging::paging::Count::Responses)
    }

    /// The number of this pager, or of the last one.
    pub(super) fn pager_id(&self) -> u32 {
        let pager = self.pager.borrow();
        let last = self.foreign.borrow().last_pager;
        pager.as_ref().map_or(last, |process| process.id)
    }

    /// Requests on the ring of this pager, and how many of them have been answered and taken.
    pub(super) fn ring_counts(&self) -> Option<(u32, u64)> {
        let pager = self.pager.borrow();
        let process = pager.as_ref()?;
        let pushed = process.page.peek(REQ_PROD);
        Some((pushed, self.responses() - process.responses_before))
    }

    pub(super) fn tell_pager(&self, news: News) {
        if let Some(process) = &mut *self.pager.borrow_mut() {
            process.news.push(news);
        }
        self.soon(5_000, SimEvent::PagerEvent);
    }

    /// The time that the pager needs for something.
    fn takes(&self, about_ns: u64) -> u64 {
        let slow = u64::from(self.scenario.get(Knob::Slow));
        let times = if slow > 0 && !self.quiesced.get() {
            1 + self.rng.borrow_mut().u64(0..=slow)
        } else {
            1
        };
        about_ns * times
    }

    pub(super) fn pager_ticks(&self) {
        self.with_pager(|world, process| process.handle(world, Event::Tick));
        self.add(TICK_NS, SimEvent::Tick);
        if self.scenario.get(Knob::Lost) > 0 {
            // Repeats what a lost event would have said.
            self.soon(1_000, SimEvent::HypervisorEvent);
        }
    }

    pub(super) fn pager_wakes(&self) {
        self.with_pager(|_, _| ());
    }

    pub(super) fn work_is_done(&self, index: usize, pager: u32) {
        self.with_pager(|world, process| {
            if process.id == pager
                && let Some(running) = process.running[index].take()
            {
                process.handle(world, Event::Done(running.batch));
            }
        });
    }

    pub(super) fn scan_is_done(&self, pager: u32) {
        self.with_pager(|world, process| {
            if process.id == pager
                && let Some(scan) = process.scan.take()
            {
                process.handle(world, Event::Scanned(scan));
            }
        });
    }

    /// The main thread does something, then handles all news.
    fn with_pager(&self, first: impl FnOnce(&Self, &mut Process)) {
        let (notify, is_killed) = {
            let mut pager = self.pager.borrow_mut();
            let Some(process) = &mut *pager else { return };
            first(self, process);
            process.look_around(self);
            (process.publish(self), process.is_killed)
        };
        if is_killed {
            self.pager_dies();
        } else if notify {
            self.send(SimEvent::HypervisorEvent);
        }
    }

    /// The worker of this pager goes on with a batch.
    pub(super) fn begin(&self, index: usize, pager: u32) {
        let in_ns = self.takes(6_000);
        let index = u8::try_from(index).expect("few batches");
        self.soon(in_ns, SimEvent::Work(index, pager));
    }

    pub(super) fn hypervisor_wakes(&self) {
        self.inject_fault();
        loop {
            let before: Vec<_> = {
                let pager = self.pager.borrow();
                let answers = pager.as_ref().map(|process| &process.answers);
                let next = answers.into_iter().flatten().take(SLOTS as usize);
                next.map(|answer| {
                    let (gfn, dropped) = (*answer)?;
                    let event = if dropped {
                        TableEvent::RespondDropped
                    } else {
                        TableEvent::Respond
                    };
                    Some(self.before(self.page(gfn)?, event))
                })
                .collect()
            };
            // This may happen in the middle of another operation that has been made to fail.
            let armed = self.machine().with(|core| core.failures);
            let ignored = self.ignored();
            let handled = self.paging.on_event();
            self.note("responses", [handled.responses.into(), 0]);
            let taken = handled.responses as usize;
            let all_taken = self.responses();
            if let Some(process) = &mut *self.pager.borrow_mut() {
                // Not for the responses of this round: its pager may have been replaced during it.
                let taken = all_taken - process.responses_before;
                let left = process.answered - usize::try_from(taken).expect("few answers");
                let gone = process.answers.len() - left;
                process.answers.drain(..gone);
            }
            if !self.has_failed(armed) {
                let is_ignored = self.ignored() > ignored;
                self.hold_answers_against_table(&before[..taken.min(before.len())], is_ignored);
            }
            if handled.state != RingState::More {
                return;
            }
        }
    }

    fn ignored(&self) -> u64 {
        let counters = self.paging.counters();
        counters.get(p2m_paging::paging::Count::Ignored)
    }

    /// A response for a page that is paging in is ignored if the page was requested again.
    fn hold_answers_against_table(&self, answered: &[Option<Before>], is_ignored: bool) {
        for before in answered.iter().flatten() {
            let same = |other: &&Before| other.page == before.page;
            let is_one = answered.iter().flatten().filter(same).count() == 1;
            let may_stay = is_ignored && before.state == State::PagingIn;
            if is_one && !(may_stay && self.state(before.page) == State::PagingIn) {
                self.hold_against_table(*before, true, None);
            }
        }
    }

    /// A hostile pager writes an impossible index, or changes the indices at which events are sent.
    fn inject_fault(&self) {
        if !self.strikes(Knob::Hostile) {
            return;
        }
        let honest = {
            let pager = self.pager.borrow();
            let Some(process) = pager.as_ref() else {
                return;
            };
            process.page.poke(REQ_EVENT, self.rng.borrow_mut().u32(..));
            let honest = process.page.peek(RSP_PROD);
            let beyond = self.rng.borrow_mut().u32(SLOTS + 1..u32::MAX - 2 * SLOTS);
            process.page.poke(RSP_PROD, honest.wrapping_add(beyond));
            (process.id, honest)
        };
        let handled = self.paging.on_event();
        assert_eq!(handled.responses, 0, "an impossible index was believed");
        if let Some(process) = &*self.pager.borrow()
            && process.id == honest.0
        {
            process.page.poke(RSP_PROD, honest.1);
        }
    }

    pub(super) fn kill_pager(&self) {
        if self.quiesced.get() || self.guest.borrow().is_dead {
            return;
        }
        if self.end_process() {
            self.soon(TICK_NS, SimEvent::Restart);
        }
    }

    /// The pager's process ends, with its mappings. Whether there was one.
    pub(super) fn end_process(&self) -> bool {
        let Some(process) = self.pager.borrow_mut().take() else {
            return false;
        };
        self.note("kill", [process.id.into(), 0]);
        self.machine().with(|core| {
            for running in process.running.iter().flatten() {
                for mfn in &running.mapped {
                    core.frames.put_reference(*mfn);
                }
            }
        });
        self.foreign.borrow_mut().last_pager = process.id;
        *self.areas_left.borrow_mut() = process.areas;
        true
    }

    /// The toolstack clears up after a pager and starts another. The pages that were out are lost.
    pub(super) fn restart_pager(&self) {
        if self.are_busy(WORKERS) {
            return self.soon(5_000, SimEvent::Restart);
        }
        if self.guest.borrow().is_dead {
            return;
        }
        for page in 0..self.pages() {
            if matches!(self.state(page), State::Paged | State::PagingInStart) {
                self.guest.borrow_mut().pages[page].is_lost = true;
            }
        }
        if self.paging.disable().is_err() {
            // Vcpus are in the wait queue for slots that nobody will ever free.
            let _ = self.paging.shut_down();
        }
        if self.guest.borrow().is_dead || self.pager.borrow().is_some() {
            return;
        }
        self.start_pager();
    }
}

impl Process {
    /// Whether it goes on after what it has just done.
    fn lives_on(&mut self, world: &World<'_>) -> bool {
        self.is_killed = self.is_killed || self.finished.is_none() && world.is_killed_here();
        !self.is_killed
    }

    pub(super) fn handle(&mut self, world: &World<'_>, event: Event<'_>) {
        if self.is_killed {
            return;
        }
        self.core.handle(event, &mut self.actions);
        self.follow(world);
        self.execute(world);
    }

    /// A page that shares its slot may have been moved without having been read.
    fn follow(&self, world: &World<'_>) {
        for (page, truth) in world.guest.borrow_mut().pages.iter_mut().enumerate() {
            if let (Some(copy), Some(home)) =
                (&mut truth.copy, self.core.location_of(world.gfn(page)))
            {
                *copy = home;
            }
        }
    }

    /// A round of the shell: news, then the ring, until nothing is left.
    fn look_around(&mut self, world: &World<'_>) {
        loop {
            for news in std::mem::take(&mut self.news) {
                world.note("news", [news.code(), 0]);
                self.handle(
                    world,
                    match news {
                        News::Target(pages) => Event::Target(pages),
                        News::Resident(pages) => Event::Resident(pages),
                        News::Area(which) => {
                            self.change_area(world, which);
                            continue;
                        }
                        News::Stop => Event::Stop,
                        News::Gone => Event::DomainGone,
                    },
                );
            }
            let mut requests: Vec<Request> = Vec::new();
            while requests.len() < self.core.room() {
                let taken = self.back.take().expect("the hypervisor's index is right");
                let Some(request) = taken else { break };
                let request = request.expect("the hypervisor's entries make sense");
                world.note(
                    "request",
                    [request.gfn.get(), u64::from(request.paging.bits())],
                );
                let has_vcpu = request.flags.contains(EntryFlags::VCPU_PAUSED);
                self.unanswered.push(request.gfn);
                world.has_its_turn(&self.unanswered, has_vcpu.then_some(request.vcpu));
                requests.push(request);
            }
            if requests.is_empty() || !self.lives_on(world) {
                return;
            }
            self.handle(world, Event::Requests(&requests));
        }
    }

    fn execute(&mut self, world: &World<'_>) {
        let mut actions = std::mem::replace(&mut self.actions, Actions::with_capacity(0));
        for action in actions.drain() {
            self.execute_one(world, action);
            if !self.lives_on(world) {
                break;
            }
        }
        self.actions = actions;
    }

    fn execute_one(&mut self, world: &World<'_>, action: Action) {
        match action {
            Action::Run(batch) => {
                let index = batch.index();
                world.note("batch", [index as u64, batch.pages().len() as u64]);
                assert!(
                    self.running[index].is_none(),
                    "a batch is run twice at a time"
                );
                self.running[index] = Some(Running {
                    batch,
                    done: 0,
                    mapped: Vec::new(),
                    tries: 0,
                });
                world.begin(index, self.id);
            }
            Action::Scan(scan) => {
                assert!(self.scan.is_none(), "two scans at a time");
                self.scan = Some(scan);
                world.soon(6_000, SimEvent::Scan(self.id));
            }
            Action::Respond(response) => {
                let asked = self.unanswered.iter().position(|gfn| *gfn == response.gfn);
                asked.map(|asked| self.unanswered.swap_remove(asked));
                let (response, spoil) = hostile(world, response);
                if self.back.respond(&response).is_err() {
                    // After it was killed and replaced: a response to another pager's request.
                    return;
                }
                let dropped = response.paging.contains(PagingFlags::DROP_PAGE);
                let nobody = response.flags.contains(EntryFlags::VCPU_PAUSED)
                    && response.vcpu.index() >= world.vcpus();
                if spoil {
                    let slot = self.answered % SLOTS as usize;
                    self.page.poke(FIRST_VERSION + slot * ENTRY_WORDS, 0);
                }
                self.answered += 1;
                let sense = !spoil && !nobody;
                self.answers
                    .push_back(sense.then_some((response.gfn, dropped)));
            }
            Action::Free(slot) => world.disk.borrow_mut().free(slot),
            Action::Drained(area, outcome) => {
                let knows_all = self.id == 1 || world.has_index();
                drained(world, &mut self.areas, knows_all, area, outcome);
            }
            // Only a torn page is gone for good. The guest goes on, so that the pager has more to do.
            Action::StopGuest(loss) => {
                let is_torn = match loss.cause {
                    LossCause::Store(StoreError::Corrupt { slot, .. }) => {
                        world.disk.borrow().is_corrupted(slot)
                    }
                    _ => false,
                };
                assert!(is_torn, "{loss}");
            }
            Action::Moved(gfn, location) => {
                if world.has_index() {
                    world.index.borrow_mut().move_to(gfn, location);
                }
            }
            Action::Report(_) => {}
            Action::Finished(summary) => {
                let is_idle = self.running.iter().all(Option::is_none);
                assert!(is_idle, "finished with batches under way");
                self.finished = Some(summary);
            }
        }
    }

    fn publish(&mut self, world: &World<'_>) -> bool {
        if self.is_killed {
            return false;
        }
        let is_new = std::mem::replace(&mut self.published, self.answered) != self.answered;
        let notify = self.back.publish() == Notify::Owed;
        if is_new && !self.lives_on(world) {
            return false;
        }
        if notify {
            world.note("notify hypervisor", [0, 0]);
        }
        notify
    }
}

impl News {
    fn code(self) -> u64 {
        match self {
            Self::Target(pages) => pages.cast_unsigned(),
            Self::Resident(pages) => pages,
            Self::Area(which) => which as u64,
            Self::Stop | Self::Gone => u64::MAX,
        }
    }
}

/// What a hostile pager answers in place of this response, and whether it also spoils the entry.
fn hostile(world: &World<'_>, honest: Response) -> (Response, bool) {
    let mut response = honest;
    if !world.strikes(Knob::Hostile) {
        return (honest, false);
    }
    match world.below(5) {
        0 => response.gfn = world.gfn(world.below(world.pages())),
        1 => {
            response.flags |= EntryFlags::VCPU_PAUSED;
            response.vcpu = VcpuId(u32::MAX);
        }
        2 => response.paging |= PagingFlags::DROP_PAGE,
        3 => response.gfn = Gfn::MAX,
        _ => return (response, true),
    }
    (response, false)
}
