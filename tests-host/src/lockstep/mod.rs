// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Paging`] on the plain machine beside a [`Model`] of it. Every operation is made on both. After
//! each, their results and their states are compared.
//!
//! The pager here keeps a copy of each page that it nominates, and believes what requests say about
//! its copies. It responds honestly, late, twice, wrongly or never, as it is told.

mod check;
mod model;
mod op;

use std::collections::{BTreeMap, BTreeSet};

use p2m_paging::paging::{Caller, Job, Paging, PagingStates, RingState, TakeOverError};
use p2m_paging::pause::{VcpuCell, VcpuPaused};
use p2m_paging::platform::AllocError;
use p2m_paging::ring::{Back, EntryFlags, PagingFlags, Request, Response};
use p2m_paging::{Errno, Gfn, Mfn, P2mType, VcpuId};

pub use model::{Ask, Is, Model};
pub use op::{Failure, Manner, Op};

use crate::plain::{Buffer, PAGEABLE_DOMAIN, PlainMachine, RingPage};

/// The contents of a page of which the pager has no copy: an honest guest never sees them.
const NO_COPY: u64 = 0xdead;

/// The crate, its model and a pager.
#[derive(Debug)]
pub struct Lockstep<'c> {
    /// The subject.
    pub paging: Paging<'c, PlainMachine>,
    /// The model of the subject.
    pub model: Model,
    /// The ring page, for hostile writes.
    pub page: RingPage,
    back: Option<Back>,
    /// Requests that the pager has taken and not answered.
    taken: Vec<Request>,
    /// Responses that the hypervisor has not taken.
    answers: Vec<Response>,
    /// What the guest must find in each page; `None`: unknown, because the pager cheated.
    truth: Vec<Option<u64>>,
    copies: BTreeMap<usize, u64>,
    /// What the pager believes to be out.
    out: BTreeSet<usize>,
    references: Vec<(usize, Mfn)>,
    paused: Vec<(usize, VcpuPaused<'c>)>,
    writes: u64,
}

/// Cells for `vcpus` vcpus.
pub fn cells(vcpus: usize) -> Vec<VcpuCell> {
    (0..vcpus).map(|_| VcpuCell::new()).collect()
}

impl<'c> Lockstep<'c> {
    /// A domain of `gfns` pages and `spare` free frames, with a pager attached.
    pub fn new(cells: &'c [VcpuCell], gfns: usize, spare: usize) -> Self {
        let machine = PlainMachine::new(gfns, spare, cells.len());
        let mut lockstep = Self {
            paging: Paging::new(machine, cells),
            model: Model::new(gfns, cells.len()),
            page: RingPage::new(),
            back: None,
            taken: Vec::new(),
            answers: Vec::new(),
            truth: (0..gfns as u64).map(Some).collect(),
            copies: BTreeMap::new(),
            out: BTreeSet::new(),
            references: Vec::new(),
            paused: Vec::new(),
            writes: 0x1_0000,
        };
        lockstep.enable();
        lockstep
    }

    fn machine(&self) -> &PlainMachine {
        self.paging.platform()
    }

    fn fault(&mut self, vcpu: usize, gfn: usize, write: bool) {
        let access = if write {
            p2m_paging::p2m::Access::WRITE
        } else {
            p2m_paging::p2m::Access::READ
        };
        let got = self.paging.fault(vcpu_id(vcpu), number(gfn), access);
        let expected = self.model.populate(gfn, Some(vcpu), write);
        assert_eq!(got, expected, "v{vcpu} faults on {gfn}, write {write}");
    }

    fn read(&mut self, vcpu: usize, gfn: usize) {
        match self.model.pages[gfn] {
            Is::Home { .. } | Is::Out => {
                let found = self.machine().contents(number(gfn));
                if let Some(truth) = self.truth[gfn] {
                    assert_eq!(found, Some(truth), "page {gfn} has other contents");
                }
            }
            _ => {}
        }
        self.fault(vcpu, gfn, false);
    }

    fn write(&mut self, vcpu: usize, gfn: usize) {
        if let Is::Home { .. } = self.model.pages[gfn] {
            self.writes += 1;
            let value = self.writes;
            self.put_contents(gfn, value);
            self.truth[gfn] = Some(value);
        }
        self.fault(vcpu, gfn, true);
    }

    fn put_contents(&self, gfn: usize, value: u64) {
        self.machine().with(|core| {
            let mfn = core.entry(number(gfn)).mfn.expect("a frame to write to");
            core.frame_mut(mfn).contents = value;
        });
    }

    fn in_use(&self, gfn: usize) -> bool {
        let mfn = self.machine().with(|core| core.entry(number(gfn)).mfn);
        self.references.iter().any(|(_, held)| Some(*held) == mfn)
    }

    fn nominate(&mut self, gfn: usize) {
        if self.out.contains(&gfn) {
            // The pager's copy is the page.
            return;
        }
        let mut batch = [Job::new(number(gfn))];
        self.paging.nominate(self.paging.epoch(), &mut batch);
        let got = batch[0].outcome.expect("worked off").map_err(|e| e.errno());
        let users = self.in_use(gfn);
        assert_eq!(got, self.model.nominate(gfn, users), "nominate {gfn}");
        if got.is_ok()
            && let Some(contents) = self.machine().contents(number(gfn))
        {
            self.copies.insert(gfn, contents);
        }
    }

    fn evict(&mut self, gfn: usize) {
        if self.model.pages[gfn] == Is::Out && !self.copies.contains_key(&gfn) {
            // The pager has been told to drop its copy, perhaps in an earlier life of the page.
            return;
        }
        let users = self.in_use(gfn);
        let mut batch = [Job::new(number(gfn))];
        self.paging.evict(self.paging.epoch(), &mut batch);
        let got = batch[0].outcome.expect("worked off").map_err(|e| e.errno());
        assert_eq!(got, self.model.evict(gfn, users), "evict {gfn}");
        if got.is_ok() {
            self.out.insert(gfn);
        }
    }

    fn restore(&mut self, gfn: usize) {
        let mut batch = [Job::new(number(gfn))];
        self.paging.restore(self.paging.epoch(), &mut batch);
        let got = batch[0].outcome.expect("worked off").map_err(|e| e.errno());
        assert_eq!(got, self.model.restore(gfn), "restore {gfn}");
    }

    fn prep(&mut self, gfn: usize, buffer: Option<Buffer>) -> Result<(), Errno> {
        let memory = self.machine().with(|core| core.free_frames() > 0);
        let mut batch = [Job {
            gfn: number(gfn),
            buffer,
            outcome: None,
        }];
        self.paging.prep(self.paging.epoch(), &mut batch);
        let got = batch[0].outcome.expect("worked off").map_err(|e| e.errno());
        let from = buffer.map(|b| match b {
            Buffer::Page(_) => Ok(()),
            Buffer::Invalid => Err(AllocError::InvalidBuffer),
            Buffer::Faulting => Err(AllocError::BufferFault),
        });
        let expected = self.model.prep(gfn, from, memory);
        assert_eq!(got, expected, "prep {gfn} with {buffer:?}");
        if got.is_ok() {
            self.out.remove(&gfn);
            self.filled(gfn, buffer);
        }
        got
    }

    /// A page has a frame again, with the pager's contents, or with those that the pager now writes
    /// there itself.
    fn filled(&mut self, gfn: usize, buffer: Option<Buffer>) {
        let contents = match buffer {
            Some(Buffer::Page(contents)) => contents,
            _ => {
                let zeroed = self.machine().contents(number(gfn));
                assert_eq!(zeroed, Some(0), "an empty page is zeroed");
                let contents = self.copy_of(gfn);
                self.put_contents(gfn, contents);
                contents
            }
        };
        assert_eq!(self.machine().contents(number(gfn)), Some(contents));
        if let Some(truth) = self.truth[gfn] {
            assert_eq!(contents, truth, "the pager lost page {gfn}");
        }
    }

    fn copy_of(&self, gfn: usize) -> u64 {
        self.copies.get(&gfn).copied().unwrap_or(NO_COPY)
    }

    fn take(&mut self) {
        let Some(back) = &mut self.back else { return };
        let got = back.take().expect("the hypervisor's index is right");
        let got = got.map(|request| request.expect("the hypervisor's entries make sense"));
        let expected = self.model.sent.pop_front();
        assert_eq!(got.map(seen), expected, "the next request");
        let Some(request) = got else { return };
        let gfn = index(request.gfn);
        let drop = request.paging.contains(PagingFlags::DROP_PAGE);
        let in_place = request.paging.contains(PagingFlags::EVICT_FAIL);
        // A record that the contents are in place is out of date if the page has been evicted
        // since.
        let out_of_date = in_place && self.out.contains(&gfn);
        if (drop || in_place) && !out_of_date {
            self.copies.remove(&gfn);
            self.out.remove(&gfn);
        }
        self.taken.push(request);
    }

    fn answer(&mut self, nth: usize, manner: Manner) {
        let Some(back) = &mut self.back else { return };
        if self.taken.is_empty() {
            return;
        }
        let nth = nth % self.taken.len();
        let request = self.taken[nth];
        let mut response = Response::to(&request);
        match manner {
            Manner::Honest | Manner::Twice => {}
            Manner::WrongGfn => response.gfn = Gfn::new_truncate(response.gfn.get() + 1),
            Manner::WrongVcpu => {
                response.flags |= EntryFlags::VCPU_PAUSED;
                response.vcpu = VcpuId(u32::MAX);
            }
            Manner::Dropped => response.paging |= PagingFlags::DROP_PAGE,
        }
        if back.respond(&response).is_ok() {
            let _ = back.publish();
            self.answers.push(response);
        }
        if manner != Manner::Twice {
            self.taken.remove(nth);
        }
    }

    fn event(&mut self) {
        let handled = self.paging.on_event();
        let expected = self.answers_are_taken();
        assert_eq!(handled.responses as usize, expected, "responses taken");
        let expected = if self.model.attached() {
            RingState::Empty
        } else {
            RingState::NoRing
        };
        assert_eq!(handled.state, expected);
    }

    /// The same in the model; yields how many.
    fn answers_are_taken(&mut self) -> usize {
        let taken = self.answers.len();
        for response in self.answers.drain(..) {
            let nonsense = response.flags.contains(EntryFlags::VCPU_PAUSED)
                && response.vcpu.index() >= self.model.waits.len();
            let dropped = response.paging.contains(PagingFlags::DROP_PAGE);
            let gfn = index(response.gfn);
            self.model.answered(gfn, nonsense, dropped);
        }
        taken
    }

    fn drop_page(&mut self, gfn: usize, vcpu: Option<usize>) {
        let caller = vcpu.map_or(Caller::Foreign(VcpuId(77)), |v| Caller::Guest(vcpu_id(v)));
        let got = self.paging.drop_page(number(gfn), caller);
        let expected = self.model.drop_page(gfn, vcpu);
        assert_eq!(
            got.map_err(|e| e.errno()),
            expected.map_err(|e| e.errno()),
            "{caller:?} drops {gfn}"
        );
        if expected.is_ok() {
            self.truth[gfn] = None;
        }
    }

    fn give(&mut self, gfn: usize) {
        // The pager does not believe that it has a guest's new page.
        if self.model.pages[gfn] != Is::Gone || self.copies.contains_key(&gfn) {
            return;
        }
        self.writes += 1;
        let value = self.writes;
        if self.machine().with(|core| core.give(number(gfn), value)) {
            self.model.pages[gfn] = Is::Home {
                dirty: self.model.log_dirty,
            };
            self.truth[gfn] = Some(value);
        }
    }

    fn enable(&mut self) {
        let page = &self.page;
        let got = self.paging.enable(&PAGEABLE_DOMAIN, || Some(page.map()));
        assert_eq!(got.is_ok(), self.model.enable());
        if got.is_ok() {
            self.back = Some(Back::new(self.page.map()));
        }
    }

    /// The pager is killed, and the hypervisor knows it. Its responses count.
    fn detach(&mut self) {
        let page = self.paging.detach();
        assert_eq!(page.is_some(), self.model.attached());
        self.answers_are_taken();
        self.model.detach();
        self.pager_is_gone();
    }

    fn pager_is_gone(&mut self) {
        self.back = None;
        self.taken.clear();
        self.answers.clear();
    }

    /// Another pager, which has the copies of the last one, takes over. It lists the states.
    pub(super) fn take_over(&mut self) {
        let page = &self.page;
        let got = self.paging.take_over(|| Some(page.map()));
        let was_attached = self.model.attached();
        self.answers_are_taken();
        if !self.model.take_over() {
            assert_eq!(got.map(drop), Err(TakeOverError::NotEnabled));
            return;
        }
        assert_eq!(got.map(|page| page.is_some()), Ok(was_attached));
        self.pager_is_gone();
        self.back = Some(Back::new(self.page.map()));
        let mut states = vec![PagingStates::default(); self.model.pages.len().div_ceil(64)];
        let listed = self
            .paging
            .paging_states(self.paging.epoch(), number(0), &mut states);
        assert_eq!(listed, Ok(()));
        self.out.clear();
        for (gfn, is) in self.model.pages.iter().enumerate() {
            let states = &states[gfn / 64];
            let out = matches!(is, Is::Paged | Is::Start | Is::In);
            assert_eq!(states.out[gfn % 64], out, "page {gfn} is out");
            assert_eq!(states.nominated[gfn % 64], *is == Is::Out, "page {gfn}");
            if out {
                self.out.insert(gfn);
            } else {
                self.copies.remove(&gfn);
            }
        }
    }

    fn disable(&mut self, by_force: bool) {
        if by_force {
            let _ = self.paging.shut_down();
            self.model.shut_down();
        } else {
            let got = self.paging.disable().map(drop);
            self.answers_are_taken();
            let expected = self.model.disable();
            assert_eq!(got, expected);
            if expected.is_err() {
                return;
            }
        }
        self.pager_is_gone();
    }

    /// The pager does all that it can: it takes, serves and answers every request.
    pub fn pager_works_on(&mut self) {
        // A round answers the pending requests. Vcpus in the wait queue make theirs in the next
        // round. At least seven leave the queue in each.
        for _ in 0..=1 + self.model.waits.len() / 7 {
            if self.model.sent.is_empty() && self.taken.is_empty() && self.answers.is_empty() {
                break;
            }
            self.model.failures = crate::plain::Failures::default();
            self.machine()
                .with(|core| core.failures = crate::plain::Failures::default());
            while !self.model.sent.is_empty() {
                self.take();
            }
            while let Some(request) = self.taken.first().copied() {
                let gfn = index(request.gfn);
                let out = match self.model.pages[gfn] {
                    Is::Start | Is::Paged => true,
                    // A pager before this one has asked for the frame.
                    Is::In => self.out.contains(&gfn),
                    Is::Home { .. } | Is::Out | Is::Gone => false,
                };
                if out && !request.paging.contains(PagingFlags::DROP_PAGE) {
                    let _ = self.prep(gfn, Some(Buffer::Page(self.copy_of(gfn))));
                }
                self.answer(0, Manner::Honest);
            }
            while !self.answers.is_empty() {
                self.event();
            }
            self.check();
        }
    }
}

fn seen(request: Request) -> Ask {
    let foreign = request.flags.contains(EntryFlags::FOREIGN);
    Ask {
        gfn: index(request.gfn),
        vcpu: (!foreign).then_some(request.vcpu.index()),
        paused: request.flags.contains(EntryFlags::VCPU_PAUSED),
        drop: request.paging.contains(PagingFlags::DROP_PAGE),
        evict_fail: request.paging.contains(PagingFlags::EVICT_FAIL),
    }
}

fn index(gfn: Gfn) -> usize {
    usize::try_from(gfn.get()).unwrap_or(usize::MAX)
}

fn vcpu_id(vcpu: usize) -> VcpuId {
    VcpuId(u32::try_from(vcpu).expect("a small machine"))
}

fn number(gfn: usize) -> Gfn {
    Gfn::new_truncate(gfn as u64)
}

/// The state of a page, read from its entry.
fn is(p2mt: P2mType) -> Is {
    match p2mt {
        P2mType::RamRw => Is::Home { dirty: false },
        P2mType::RamLogDirty => Is::Home { dirty: true },
        P2mType::RamPagingOut => Is::Out,
        P2mType::RamPaged => Is::Paged,
        P2mType::RamPagingInStart => Is::Start,
        P2mType::RamPagingIn => Is::In,
        P2mType::Invalid => Is::Gone,
        other => panic!("{other:?} is none of paging's types"),
    }
}
