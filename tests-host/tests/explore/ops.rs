// SPDX-License-Identifier: MIT OR Apache-2.0
//! Operations that take locks: each runs on its actor's stack, and others run in between.

use p2m_paging::fault::{MapDecision, Mapper, decide_map};
use p2m_paging::p2m::{Access, P2mType};
use p2m_paging::paging::{Caller, DropError, Job, PagingStates, PopulateError, Populated};
use p2m_paging::platform::Platform;
use p2m_paging::ring::{Back, EntryFlags, Epoch, Notify, PagingFlags, Response};
use p2m_paging::{Errno, Gfn, VcpuId};
use tests_host::plain::PAGEABLE_DOMAIN;

use crate::config::Defect;
use crate::fiber::pause;
use crate::machine::{IDLE_GFNS, MOST_GFNS};
use crate::outside::{Known, Mapping, Todo};
use crate::world::World;

/// The vcpu of the other domain.
const STRANGER: Caller = Caller::Foreign(VcpuId(9));
/// `rsp_prod` in the ring page, as a word.
const RSP_PROD: usize = 2;

/// Responses that a hostile pager claims beyond those that it has given.
pub(crate) const TOO_MANY: u32 = 9;

pub(crate) fn gfn(n: usize) -> Gfn {
    Gfn::new_truncate(n as u64)
}

fn vcpu_id(v: usize) -> VcpuId {
    VcpuId(u32::try_from(v).expect("few vcpus"))
}

/// The pager that does something.
#[derive(Clone, Copy)]
pub(crate) struct Pager {
    pub(crate) epoch: Epoch,
    /// How many pagers were killed before it.
    pub(crate) life: u8,
    /// It fills empty frames through a mapping.
    pub(crate) fills: bool,
}

impl World {
    /// A vcpu's access was not allowed.
    pub(crate) fn fault(&self, v: usize, page: usize, write: bool) {
        let access = if write {
            Access::READ | Access::WRITE
        } else {
            Access::READ
        };
        match self.paging.fault(vcpu_id(v), gfn(page), access) {
            Ok(Populated::Paused | Populated::Present | Populated::InFlight) => {}
            Ok(Populated::NotPaging) => {
                if self.machine().core.borrow().entries[page].0 == P2mType::Invalid {
                    // It is gone: there is no access.
                    self.outside.borrow_mut().pending[v] = None;
                }
            }
            Err(PopulateError::NoRing) => {
                self.refused_without_pager(page);
                self.machine().require(
                    self.config.dies == 0 || self.outside.borrow().given_up,
                    "a fault finds no ring",
                );
                self.outside.borrow_mut().stalled[v] = true;
            }
            Err(PopulateError::RingFull) => {}
            Err(_) => self.machine().breach("a fault fails"),
        }
    }

    /// Without a pager, a page that has its contents is refused to nobody: in Xen a refusal ends
    /// the domain.
    fn refused_without_pager(&self, page: usize) {
        let in_place = matches!(
            self.machine().core.borrow().entries[page].0,
            P2mType::RamRw | P2mType::RamPagingOut
        );
        self.machine().require(
            !in_place,
            "refused for want of a pager, with the page in place",
        );
    }

    /// A vcpu gives a page back.
    pub(crate) fn give_away(&self, v: usize, page: usize) {
        let mut dropped = self.paging.drop_page(gfn(page), Caller::Guest(vcpu_id(v)));
        if dropped == Err(DropError::NoRing) {
            dropped = self.paging.discard(gfn(page)).map(drop);
        }
        match dropped {
            // It was paused for another page until now, or until the pager is told of this one: it
            // comes again.
            Ok(()) | Err(DropError::RingFull) => {}
            Err(DropError::NotPaging(_)) => self.platform().lock_p2m().remove_ram(page),
            Err(_) => self.machine().breach("the guest cannot give a page back"),
        }
    }

    /// A point where a pager may be killed, and nothing else happens that matters.
    fn may_be_killed(&self) {
        if self.config.dies > 0 {
            pause();
        }
    }

    /// Whether the pager that does this has been killed: it does nothing more.
    fn is_dead(&self, by: Pager) -> bool {
        self.outside.borrow().died != by.life
    }

    pub(crate) fn nominate(&self, by: Pager, page: usize) {
        let mut batch = [Job::new(gfn(page))];
        self.paging.nominate(by.epoch, &mut batch);
        if self.is_dead(by) {
            return;
        }
        if batch[0].outcome.expect("worked off").is_err() {
            // An earlier pager may have left it nominated.
            self.restore(by, page);
            return;
        }
        // Others run before it copies.
        pause();
        if self.is_dead(by) {
            return;
        }
        let core = self.machine().core.borrow();
        self.outside.borrow_mut().known[page] = match core.entries[page].1 {
            Some(frame) => Known::Copied(core.frames[usize::from(frame)].contents),
            None => Known::Nothing,
        };
    }

    pub(crate) fn evict(&self, by: Pager, page: usize, copy: u8) {
        // An operation stops before its first lock, but not if nothing happens before that.
        pause();
        let in_time = self.config.defect != Some(Defect::IndexLate);
        if in_time {
            self.outside.borrow_mut().index[page] = Some(copy);
        }
        let mut batch = [Job::new(gfn(page))];
        self.paging.evict(by.epoch, &mut batch);
        if self.is_dead(by) {
            return;
        }
        if batch[0].outcome.expect("worked off").is_ok() {
            let mut outside = self.outside.borrow_mut();
            outside.known[page] = Known::Out(copy);
            outside.index[page] = Some(copy);
        } else {
            self.forget(page);
            self.restore(by, page);
        }
    }

    /// The pager's copy is worth nothing any more.
    fn forget(&self, page: usize) {
        let mut outside = self.outside.borrow_mut();
        outside.known[page] = Known::Nothing;
        outside.index[page] = None;
    }

    fn is_out(&self, by: Pager, page: usize) -> bool {
        let mut states = [PagingStates::default()];
        let listed = self.paging.paging_states(by.epoch, gfn(0), &mut states);
        listed.is_err() || states[0].out[page]
    }

    /// A nominated page is restored. Any other page keeps its state.
    fn restore(&self, by: Pager, page: usize) {
        let mut batch = [Job::new(gfn(page))];
        self.paging.restore(by.epoch, &mut batch);
        let done = batch[0].outcome.expect("worked off").map_err(|e| e.errno());
        // ENOTCONN: the pager has been detached meanwhile.
        let right = matches!(done, Ok(()) | Err(Errno::ENOENT | Errno::ENOTCONN));
        self.machine().require(right, "a restore fails");
    }

    /// The pager brings a page in with its contents. Yields whether it need not try again.
    pub(crate) fn bring(&self, by: Pager, page: usize, copy: u8) -> bool {
        if self.config.defect == Some(Defect::IndexEarly) {
            self.outside.borrow_mut().index[page] = None;
            self.may_be_killed();
        }
        let mut batch = [Job::filled(gfn(page), copy)];
        self.paging.prep(by.epoch, &mut batch);
        self.may_be_killed();
        match batch[0].outcome.expect("worked off").map_err(|e| e.errno()) {
            _ if self.is_dead(by) => false,
            Ok(()) => {
                self.forget(page);
                true
            }
            // The guest has given it back, and the pager has not been told yet.
            Err(Errno::ENOENT) => true,
            Err(_) => false,
        }
    }

    /// As [`Self::bring`], through a frame that the pager fills itself.
    fn bring_through_mapping(&self, by: Pager, page: usize, copy: u8) -> bool {
        let mut batch = [Job::empty(gfn(page))];
        self.paging.prep(by.epoch, &mut batch);
        let done = batch[0].outcome.expect("worked off").map_err(|e| e.errno());
        if !matches!(done, Ok(()) | Err(Errno::ENOENT)) {
            return false;
        }
        pause();
        if self.is_dead(by) {
            return false;
        }
        let mut core = self.machine().core.borrow_mut();
        if let (P2mType::RamPagingIn, Some(frame)) = core.entries[page] {
            core.frames[usize::from(frame)].contents = copy;
            // The index keeps its entry: until the response has been taken, a page that is filled is as
            // good as one that is not.
            self.outside.borrow_mut().known[page] = Known::Nothing;
        }
        true
    }

    /// The pager does what a request asks for, and responds.
    pub(crate) fn serve(&self, by: Pager, nth: usize, todo: Todo) {
        let page = usize::try_from(todo.gfn).expect("a small number");
        let paging = PagingFlags::from_bits_retain(todo.paging);
        let known = self.outside.borrow().known[page];
        let in_place = paging.contains(PagingFlags::EVICT_FAIL);
        let forget = paging.contains(PagingFlags::DROP_PAGE);
        let served = match known {
            // Older than the eviction: its contents are not true any more.
            Known::Out(_) if forget && in_place => true,
            // It may have been pushed before this pager listed the states, and be about an earlier page.
            Known::Out(_)
                if forget
                    && by.life > 0
                    && self.config.defect != Some(Defect::DropBelieved)
                    && self.is_out(by, page) =>
            {
                true
            }
            _ if forget => {
                self.forget(page);
                true
            }
            Known::Out(copy) if by.fills => self.bring_through_mapping(by, page, copy),
            Known::Out(copy) => self.bring(by, page, copy),
            Known::Copied(_) | Known::Nothing => {
                if in_place {
                    self.outside.borrow_mut().known[page] = Known::Nothing;
                }
                true
            }
        };
        if !served {
            // No memory now: later.
            return;
        }
        pause();
        if self.is_dead(by) {
            return;
        }
        let mut back = self.back.borrow_mut();
        let Some(ring) = back.as_mut() else { return };
        self.outside.borrow_mut().todo[nth] = None;
        let response = Response {
            gfn: Gfn::new_truncate(todo.gfn),
            vcpu: VcpuId(todo.vcpu),
            flags: EntryFlags::from_bits_retain(todo.flags),
            paging,
        };
        let answered = ring.respond(&response).is_ok();
        self.machine()
            .require(answered, "more answers than questions");
        let notify = ring.publish();
        drop(back);
        self.may_be_killed();
        if self.is_dead(by) {
            return;
        }
        if notify == Notify::Owed && self.config.elsewhere {
            self.machine().core.borrow_mut().deferred = true;
        } else if notify == Notify::Owed {
            self.event();
        }
    }

    /// The hypervisor takes the pager's event.
    pub(crate) fn event(&self) {
        let _ = self.paging.on_event();
    }

    /// A pager publishes an impossible index, and says so.
    pub(crate) fn poke(&self) {
        self.outside.borrow_mut().poked = true;
        let published = self.page.peek(RSP_PROD);
        self.page.poke(RSP_PROD, published.wrapping_add(TOO_MANY));
        self.event();
    }

    /// A pager that has published an impossible index takes it back, and says so.
    pub(crate) fn mend(&self) {
        self.outside.borrow_mut().poked = false;
        let published = self.page.peek(RSP_PROD);
        self.page.poke(RSP_PROD, published.wrapping_sub(TOO_MANY));
        self.event();
    }

    /// The other domain needs a page.
    pub(crate) fn map(&self, page: usize, writer: bool) {
        let p2m = self.platform().lock_p2m();
        let (p2mt, frame) = p2m.entry(page);
        let mapper = if writer {
            Mapper::Writer
        } else {
            Mapper::Reader
        };
        let decision = decide_map(p2mt, frame.is_some(), mapper);
        if matches!(decision, MapDecision::Map | MapDecision::NotPaging)
            && let Some(frame) = frame
        {
            self.machine().core.borrow_mut().frames[usize::from(frame)].references += 1;
            self.outside.borrow_mut().mapping = Some(Mapping {
                gfn: u8::try_from(page).expect("few pages"),
                frame,
                writer,
            });
            return;
        }
        drop(p2m);
        if decision != MapDecision::NotPaging {
            match self.paging.populate(gfn(page), STRANGER) {
                Err(PopulateError::NoRing) => self.refused_without_pager(page),
                Ok(_) | Err(PopulateError::RingFull) => {}
                Err(_) => self.machine().breach("a populate fails"),
            }
        }
    }

    pub(crate) fn detach(&self) {
        // Faults may be refused from some moment of this on.
        let was = std::mem::replace(&mut self.outside.borrow_mut().given_up, true);
        if self.paging.disable().is_err() {
            self.outside.borrow_mut().given_up = was;
            return;
        }
        self.pager_is_gone();
    }

    fn pager_is_gone(&self) {
        *self.back.borrow_mut() = None;
        let mut outside = self.outside.borrow_mut();
        outside.attached = false;
        outside.todo.fill(None);
        outside.poked = false;
        self.machine().core.borrow_mut().notified = false;
    }

    /// The pager is killed. What it knew is lost; the index stays.
    pub(crate) fn die(&self) {
        self.pager_is_gone();
        let mut outside = self.outside.borrow_mut();
        outside.died += 1;
        let epoch = self.paging.epoch().as_raw();
        outside.late = self.config.stopped.then_some((epoch, outside.known));
        outside.known.fill(Known::Nothing);
    }

    pub(crate) fn notice_death(&self) {
        let _ = self.paging.detach();
    }

    pub(crate) fn take_over(&self) {
        let page = self.page;
        if self.paging.take_over(|| Some(page.map())).is_err() {
            self.machine().breach("a new pager cannot take over");
            return;
        }
        self.begin();
    }

    /// A pager that has only the index begins.
    fn begin(&self) {
        *self.back.borrow_mut() = Some(Back::new(self.page.map()));
        let mut outside = self.outside.borrow_mut();
        outside.attached = true;
        outside.listed = false;
        outside.given_up = false;
        outside.known.fill(Known::Nothing);
    }

    pub(crate) fn list(&self, by: Pager) {
        let mut states = [PagingStates::default()];
        let listed = self.paging.paging_states(by.epoch, gfn(0), &mut states);
        if self.is_dead(by) || listed.is_err() {
            return;
        }
        for page in 0..self.config.gfns {
            if states[0].out[page] {
                let entry = self.outside.borrow().index[page];
                self.machine()
                    .require(entry.is_some(), "a page that is out has no entry");
                self.outside.borrow_mut().known[page] = entry.map_or(Known::Nothing, Known::Out);
            } else {
                self.forget(page);
            }
        }
        for page in (0..self.config.gfns).filter(|page| states[0].nominated[*page]) {
            self.restore(by, page);
            if self.is_dead(by) {
                return;
            }
        }
        self.outside.borrow_mut().listed = true;
    }

    pub(crate) fn attach(&self) {
        let page = self.page;
        let last = self.paging.epoch().as_raw();
        let attached = self.paging.enable(&PAGEABLE_DOMAIN, || Some(page.map()));
        if attached.is_err() {
            self.machine().breach("a new pager cannot attach");
            return;
        }
        if self.config.dies > 0 {
            self.begin();
            self.outside.borrow_mut().replaced += 1;
            return;
        }
        *self.back.borrow_mut() = Some(Back::new(page.map()));
        let mut outside = self.outside.borrow_mut();
        outside.attached = true;
        outside.replaced += 1;
        outside.late = self.config.stopped.then_some((last, outside.known));
        // It checks which of the pages that it has copies of are out.
        let core = self.machine().core.borrow();
        for (known, entry) in outside.known.iter_mut().zip(&core.entries) {
            let out = matches!(entry.0, P2mType::RamPaged | P2mType::RamPagingInStart)
                && entry.1.is_none()
                || entry.0 == P2mType::RamPagingIn;
            if !matches!(known, Known::Out(_)) || !out {
                *known = Known::Nothing;
            }
        }
    }

    /// A replaced pager evicts a page that it has copied. Whatever it is told, nobody serves that copy.
    pub(crate) fn late_evict(&self, epoch: Epoch, page: usize) {
        self.paging.evict(epoch, &mut [Job::new(gfn(page))]);
    }

    /// A replaced pager brings in the copy that it has.
    pub(crate) fn late_prep(&self, epoch: Epoch, page: usize, copy: u8) {
        let mut batch = [Job::filled(gfn(page), copy)];
        self.paging.prep(epoch, &mut batch);
    }

    /// Requests for pages that nobody brings, so that fewer slots are left. Outside of any
    /// operation.
    pub(crate) fn occupy(&self) {
        for n in 0..IDLE_GFNS - self.config.slots {
            // Requests that were repeated may have taken a slot that is to be left.
            if let Err(refused) = self.paging.populate(gfn(MOST_GFNS + n), STRANGER) {
                assert_eq!(refused, PopulateError::RingFull);
            }
        }
        let mut back = self.back.borrow_mut();
        let ring = back.as_mut().expect("attached");
        let mut outside = self.outside.borrow_mut();
        while let Some(request) = ring.take().expect("an honest ring") {
            let todo = Todo::from(request.expect("an honest ring"));
            if todo.gfn < MOST_GFNS as u64 {
                let room = outside.todo.iter_mut().find(|t| t.is_none());
                *room.expect("a slot's worth of room") = Some(todo);
            }
        }
        self.machine().core.borrow_mut().notified = false;
    }
}
