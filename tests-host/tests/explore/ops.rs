// SPDX-License-Identifier: MIT OR Apache-2.0
//! Operations that take locks: each runs on its actor's stack, and others run in between.

use p2m_paging::fault::{MapDecision, Mapper, decide_map};
use p2m_paging::p2m::{Access, P2mType};
use p2m_paging::paging::{Caller, DropError, Job, PopulateError, Populated};
use p2m_paging::platform::Platform;
use p2m_paging::ring::{Back, EntryFlags, Epoch, Notify, PagingFlags, Response};
use p2m_paging::{Errno, Gfn, VcpuId};
use tests_host::plain::PAGEABLE_DOMAIN;

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

    pub(crate) fn nominate(&self, page: usize) {
        let mut batch = [Job::new(gfn(page))];
        self.paging.nominate(self.paging.epoch(), &mut batch);
        if batch[0].outcome.expect("worked off").is_err() {
            // An earlier pager may have left it nominated.
            self.restore(page);
            return;
        }
        // Others run before it copies.
        pause();
        let core = self.machine().core.borrow();
        self.outside.borrow_mut().known[page] = match core.entries[page].1 {
            Some(frame) => Known::Copied(core.frames[usize::from(frame)].contents),
            None => Known::Nothing,
        };
    }

    pub(crate) fn evict(&self, page: usize, copy: u8) {
        let mut batch = [Job::new(gfn(page))];
        self.paging.evict(self.paging.epoch(), &mut batch);
        let gone = batch[0].outcome.expect("worked off").is_ok();
        self.outside.borrow_mut().known[page] = if gone {
            Known::Out(copy)
        } else {
            Known::Nothing
        };
        if !gone {
            self.restore(page);
        }
    }

    /// A nominated page is restored. Any other page keeps its state.
    fn restore(&self, page: usize) {
        let mut batch = [Job::new(gfn(page))];
        self.paging.restore(self.paging.epoch(), &mut batch);
        let done = batch[0].outcome.expect("worked off").map_err(|e| e.errno());
        // ENOTCONN: the pager has been detached meanwhile.
        let right = matches!(done, Ok(()) | Err(Errno::ENOENT | Errno::ENOTCONN));
        self.machine().require(right, "a restore fails");
    }

    /// The pager brings a page in with its contents. Yields whether it need not try again.
    pub(crate) fn bring(&self, page: usize, copy: u8) -> bool {
        let mut batch = [Job::filled(gfn(page), copy)];
        self.paging.prep(self.paging.epoch(), &mut batch);
        match batch[0].outcome.expect("worked off").map_err(|e| e.errno()) {
            Ok(()) => {
                self.outside.borrow_mut().known[page] = Known::Nothing;
                true
            }
            // The guest has given it back, and the pager has not been told yet.
            Err(Errno::ENOENT) => true,
            Err(_) => false,
        }
    }

    /// As [`Self::bring`], through a frame that the pager fills itself.
    fn bring_through_mapping(&self, page: usize, copy: u8) -> bool {
        let mut batch = [Job::empty(gfn(page))];
        self.paging.prep(self.paging.epoch(), &mut batch);
        let done = batch[0].outcome.expect("worked off").map_err(|e| e.errno());
        if !matches!(done, Ok(()) | Err(Errno::ENOENT)) {
            return false;
        }
        pause();
        let mut core = self.machine().core.borrow_mut();
        if let (P2mType::RamPagingIn, Some(frame)) = core.entries[page] {
            core.frames[usize::from(frame)].contents = copy;
            self.outside.borrow_mut().known[page] = Known::Nothing;
        }
        true
    }

    /// The pager does what a request asks for, and responds.
    pub(crate) fn serve(&self, nth: usize, todo: Todo) {
        let page = usize::try_from(todo.gfn).expect("a small number");
        let paging = PagingFlags::from_bits_retain(todo.paging);
        let known = self.outside.borrow().known[page];
        let in_place = paging.contains(PagingFlags::EVICT_FAIL);
        let forget = paging.contains(PagingFlags::DROP_PAGE);
        let served = match known {
            // Older than the eviction: its contents are not true any more.
            Known::Out(_) if forget && in_place => true,
            _ if forget => {
                self.outside.borrow_mut().known[page] = Known::Nothing;
                true
            }
            Known::Out(copy) if self.config.empty => self.bring_through_mapping(page, copy),
            Known::Out(copy) => self.bring(page, copy),
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
        if self.paging.disable().is_err() {
            return;
        }
        *self.back.borrow_mut() = None;
        let mut outside = self.outside.borrow_mut();
        outside.attached = false;
        outside.todo.fill(None);
        outside.poked = false;
        self.machine().core.borrow_mut().notified = false;
    }

    pub(crate) fn attach(&self) {
        let page = self.page;
        let last = self.paging.epoch().as_raw();
        let attached = self.paging.enable(&PAGEABLE_DOMAIN, || Some(page.map()));
        if attached.is_err() {
            self.machine().breach("a new pager cannot attach");
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
            let asked = self.paging.populate(gfn(MOST_GFNS + n), STRANGER);
            assert_eq!(asked, Ok(Populated::InFlight));
        }
        let mut back = self.back.borrow_mut();
        let ring = back.as_mut().expect("attached");
        while ring.take().expect("an honest ring").is_some() {}
        self.machine().core.borrow_mut().notified = false;
    }
}
