// SPDX-License-Identifier: MIT OR Apache-2.0
//! The expected behaviour of a paged domain, in its simplest form.
//!
//! One thread, no locks, no ring page: states, which vcpu waits for what, which requests the pager
//! has been sent. It is written from the description of rows A1 to A10, not from the crate.

#![allow(missing_docs)] // The names are enough.

use std::collections::VecDeque;

use p2m_paging::Errno;
use p2m_paging::paging::{DisableError, DropError, PopulateError, Populated};
use p2m_paging::platform::AllocError;

use crate::plain::Failures;

/// The most requests that may be pending: of all, of the guest, of others.
const SLOTS: usize = 8;
const GUEST: usize = p2m_paging::ring::GUEST_SLOTS as usize;
const FOREIGN: usize = p2m_paging::ring::FOREIGN_SLOTS as usize;

/// The state of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// Resident; `dirty`: its writes are logged.
    Home { dirty: bool },
    /// Nominated.
    Out,
    /// Paged out.
    Paged,
    /// Requested.
    Start,
    /// Has an empty frame.
    In,
    /// Given back.
    Gone,
}

/// A message to the pager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub gfn: usize,
    /// The guest's vcpu that makes the request; `None`: somebody else does.
    pub vcpu: Option<usize>,
    pub paused: bool,
    pub drop: bool,
    pub evict_fail: bool,
}

/// The whole domain.
#[derive(Clone, Debug)]
pub struct Model {
    pub pages: Vec<Is>,
    pub waits: Vec<Option<usize>>,
    /// Pauses for other reasons.
    pub pauses: Vec<u32>,
    line: VecDeque<(usize, Ask)>,
    ring: Ring,
    /// Sent, and not taken by the pager yet.
    pub sent: VecDeque<Ask>,
    pub failures: Failures,
    pub log_dirty: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Ring {
    None,
    /// The pager is gone, and another one will take over.
    Detached,
    /// Pending requests in their order, and whether they are the guest's.
    Open(Vec<(usize, bool)>),
}

impl Ring {
    fn pending(&self) -> &[(usize, bool)] {
        match self {
            Self::Open(pending) => pending,
            Self::None | Self::Detached => &[],
        }
    }
}

impl Model {
    pub fn new(pages: usize, vcpus: usize) -> Self {
        Self {
            pages: vec![Is::Home { dirty: false }; pages],
            waits: vec![None; vcpus],
            pauses: vec![0; vcpus],
            line: VecDeque::new(),
            ring: Ring::None,
            sent: VecDeque::new(),
            failures: Failures::default(),
            log_dirty: false,
        }
    }

    pub fn enable(&mut self) -> bool {
        let fresh = self.ring == Ring::None;
        if fresh {
            self.ring = Ring::Open(Vec::new());
        }
        fresh
    }

    /// The pager is gone. What was requested comes first in the wait queue, and nobody waits any more to
    /// say that a page is gone.
    pub fn detach(&mut self) -> bool {
        if !self.enabled() {
            return false;
        }
        let ring = std::mem::replace(&mut self.ring, Ring::Detached);
        let mut line = VecDeque::new();
        for (gfn, _) in ring.pending() {
            let in_line = |v| self.line.iter().chain(&line).any(|(w, _)| *w == v);
            let waits = |v: &usize| self.waits[*v] == Some(*gfn) && !in_line(*v);
            if let Some(vcpu) = (0..self.waits.len()).find(waits) {
                let ask = Ask {
                    gfn: *gfn,
                    vcpu: Some(vcpu),
                    paused: true,
                    drop: false,
                    evict_fail: false,
                };
                line.push_back((vcpu, ask));
            }
        }
        line.extend(self.line.iter().filter(|(_, ask)| !ask.drop));
        self.line = line;
        self.sent.clear();
        true
    }

    pub fn take_over(&mut self) -> bool {
        let gone = self.detach();
        if gone {
            self.ring = Ring::Open(Vec::new());
            self.serve();
        }
        gone
    }

    pub fn disable(&mut self) -> Result<(), DisableError> {
        if self.attached() && !self.line.is_empty() {
            return Err(DisableError::VcpusQueued);
        }
        self.shut_down();
        Ok(())
    }

    pub fn shut_down(&mut self) {
        self.ring = Ring::None;
        self.line.clear();
        self.sent.clear();
        self.waits.fill(None);
    }

    pub fn enabled(&self) -> bool {
        self.ring != Ring::None
    }

    pub fn attached(&self) -> bool {
        matches!(self.ring, Ring::Open(_))
    }

    fn must_be_attached(&self) -> Result<(), Errno> {
        self.attached().then_some(()).ok_or(Errno::ENOTCONN)
    }

    pub fn held(&self) -> usize {
        self.ring.pending().len()
    }

    /// Whether the vcpu is in the wait queue only to say that a page is gone.
    pub fn dropping(&self, vcpu: usize) -> bool {
        self.line.iter().any(|(v, ask)| *v == vcpu && ask.drop)
    }

    pub fn nominate(&mut self, gfn: usize, users: bool) -> Result<(), Errno> {
        self.must_be_attached()?;
        if !matches!(self.pages[gfn], Is::Home { .. }) || users {
            return Err(Errno::EBUSY);
        }
        self.set_type(gfn, Is::Out)
    }

    pub fn evict(&mut self, gfn: usize, users: bool) -> Result<(), Errno> {
        self.must_be_attached()?;
        if self.pages[gfn] != Is::Out || users {
            return Err(Errno::EBUSY);
        }
        self.failures.take.take().map_or(Ok(()), Err)?;
        self.pages[gfn] = Is::Paged;
        Ok(())
    }

    pub fn restore(&mut self, gfn: usize) -> Result<(), Errno> {
        self.must_be_attached()?;
        if self.pages[gfn] != Is::Out {
            return Err(Errno::ENOENT);
        }
        let home = self.home();
        self.set_type(gfn, home)
    }

    /// `vcpu`: the guest's, or `None` for any other caller.
    pub fn populate(
        &mut self,
        gfn: usize,
        vcpu: Option<usize>,
        write: bool,
    ) -> Result<Populated, PopulateError> {
        let waits = vcpu.is_some_and(|v| self.waits[v].is_none() && !self.dropping(v));
        let claims = !waits && self.enabled() && self.has_slot(vcpu.is_some(), true);
        let held = self.held();
        let got = self.populate_with_slot(gfn, vcpu, write);
        if claims && self.held() == held {
            // A slot that was claimed for nothing is offered to the wait queue.
            self.serve();
        }
        got
    }

    fn populate_with_slot(
        &mut self,
        gfn: usize,
        vcpu: Option<usize>,
        write: bool,
    ) -> Result<Populated, PopulateError> {
        let was = self.pages[gfn];
        let waiter = vcpu.filter(|v| self.waits[*v].is_none() && !self.dropping(*v));
        match was {
            Is::Home { .. } | Is::Gone => return Ok(Populated::NotPaging),
            Is::Out if !write => return Ok(Populated::Present),
            Is::Out => {
                let home = self.home();
                return match self.set_type(gfn, home) {
                    Ok(()) => Ok(Populated::Present),
                    Err(errno) => Err(PopulateError::Platform(errno)),
                };
            }
            _ if !self.enabled() => return Err(PopulateError::NoRing),
            _ => {}
        }
        if waiter.is_none() && !self.has_slot(vcpu.is_some(), true) {
            return Err(PopulateError::RingFull);
        }
        let leaves = was == Is::Paged;
        let ask = Ask {
            gfn,
            vcpu,
            paused: false,
            drop: false,
            evict_fail: false,
        };
        if leaves {
            self.set_type(gfn, Is::Start)
                .map_err(PopulateError::Platform)?;
        }
        let Some(waiter) = waiter else {
            // Only a page that has not been requested yet needs a request.
            if !self.asked(gfn) {
                self.push(ask);
            }
            return Ok(Populated::InFlight);
        };
        let stands = self.line.iter().any(|(v, _)| *v == waiter);
        let asked = self.asked(gfn);
        self.waits[waiter] = Some(gfn);
        if leaves || stands || !asked {
            self.send(
                waiter,
                Ask {
                    paused: true,
                    ..ask
                },
            );
        }
        Ok(Populated::Paused)
    }

    /// `buffer`: the buffer with the contents; `memory`: whether there is a free frame.
    pub fn prep(
        &mut self,
        gfn: usize,
        buffer: Option<Result<(), AllocError>>,
        mut memory: bool,
    ) -> Result<(), Errno> {
        self.must_be_attached()?;
        if self.pages[gfn] == Is::In && buffer.is_some() {
            // Its frame, which may not be filled, is replaced.
            self.failures.take.take().map_or(Ok(()), Err)?;
            self.pages[gfn] = Is::Start;
            memory = true;
        }
        if !matches!(self.pages[gfn], Is::Paged | Is::Start) {
            return Err(Errno::ENOENT);
        }
        let to = buffer.map_or(Is::In, |_| self.home());
        let no_memory = (!memory).then_some(AllocError::NoMemory);
        let bad = self.failures.alloc.take();
        let bad = bad.or(buffer.and_then(Result::err)).or(no_memory);
        if let Some(bad) = bad {
            return Err(match bad {
                AllocError::NoMemory => Errno::ENOMEM,
                AllocError::InvalidBuffer => Errno::EINVAL,
                AllocError::BufferFault => Errno::EFAULT,
            });
        }
        self.failures.install.take().map_or(Ok(()), Err)?;
        self.pages[gfn] = to;
        if buffer.is_some() {
            self.wake(gfn);
        }
        Ok(())
    }

    /// The pager's response has been taken off the ring.
    pub fn answered(&mut self, gfn: usize, nonsense: bool, dropped: bool) {
        let Ring::Open(ring) = &mut self.ring else {
            return;
        };
        let exact = ring.iter().position(|(asked, _)| *asked == gfn);
        let at = exact.or((!ring.is_empty()).then_some(0));
        let over = at.map(|at| ring.remove(at));
        // A response to an earlier request does not make a page resident that may not be filled
        // yet.
        let is_early =
            self.pages.get(gfn) == Some(&Is::In) && ring.iter().any(|(asked, _)| *asked == gfn);
        self.serve();
        self.comes_home(gfn, nonsense || is_early, dropped);
        if let Some((asked, _)) = over {
            // Resident or not, there will be no further response.
            self.wake(asked);
        }
    }

    fn comes_home(&mut self, gfn: usize, nonsense: bool, dropped: bool) {
        if nonsense || dropped || gfn >= self.pages.len() {
            return;
        }
        match self.pages[gfn] {
            Is::In => {
                let home = self.home();
                if self.set_type(gfn, home).is_ok() {
                    self.wake(gfn);
                }
            }
            Is::Home { .. } => self.wake(gfn),
            _ => {}
        }
    }

    pub fn drop_page(&mut self, gfn: usize, vcpu: Option<usize>) -> Result<(), DropError> {
        if !self.enabled() {
            return Err(DropError::NoRing);
        }
        let slot = self.has_slot(vcpu.is_some(), true);
        let told = self.attached();
        let may_stand = vcpu.is_some_and(|v| self.waits[v].is_none() && !self.dropping(v));
        if told && !slot && !may_stand {
            return Err(DropError::RingFull);
        }
        let is = self.pages[gfn];
        let failure = match is {
            Is::Home { .. } | Is::Gone => Some(DropError::NotPaging(p2m_paging::P2mType::Invalid)),
            Is::Paged | Is::Start => self.failures.set_type.take().map(DropError::Platform),
            Is::Out | Is::In => self.failures.take.take().map(DropError::Platform),
        };
        if let Some(failure) = failure {
            if slot {
                // A slot that was claimed for nothing is offered to the wait queue.
                self.serve();
            }
            return Err(failure);
        }
        self.pages[gfn] = Is::Gone;
        self.wake(gfn);
        let ask = Ask {
            gfn,
            vcpu,
            paused: false,
            drop: true,
            evict_fail: matches!(is, Is::Out | Is::In),
        };
        match vcpu {
            // The next pager sees that the page is gone.
            _ if !told => {}
            Some(vcpu) if !slot => self.send(vcpu, ask),
            _ => self.push(ask),
        }
        Ok(())
    }

    fn home(&self) -> Is {
        Is::Home {
            dirty: self.log_dirty,
        }
    }

    fn set_type(&mut self, gfn: usize, to: Is) -> Result<(), Errno> {
        self.failures.set_type.take().map_or(Ok(()), Err)?;
        self.pages[gfn] = to;
        Ok(())
    }

    fn wake(&mut self, gfn: usize) {
        let waiters = self.waits.iter_mut().filter(|w| **w == Some(gfn));
        waiters.for_each(|w| *w = None);
    }

    fn has_slot(&self, guest: bool, in_turn: bool) -> bool {
        if guest && in_turn && !self.line.is_empty() {
            return false;
        }
        let mine = self.ring.pending().iter();
        let mine = mine.filter(|(_, g)| *g == guest).count();
        self.attached() && self.held() < SLOTS && mine < if guest { GUEST } else { FOREIGN }
    }

    /// Whether a request for this page is pending.
    fn asked(&self, gfn: usize) -> bool {
        self.ring.pending().iter().any(|(g, _)| *g == gfn)
    }

    /// Whether the response to a request will wake this vcpu, or it will make a request in its
    /// turn.
    pub fn will_be_woken(&self, vcpu: usize) -> bool {
        let asks = |gfn| {
            let entry = self.line.iter().find(|(v, _)| *v == vcpu);
            entry.is_some_and(|(_, ask)| ask.gfn == gfn && !ask.drop)
        };
        self.waits[vcpu].is_none_or(|gfn| self.asked(gfn) || asks(gfn))
    }

    fn push(&mut self, ask: Ask) {
        if let Ring::Open(ring) = &mut self.ring {
            ring.push((ask.gfn, ask.vcpu.is_some()));
            self.sent.push_back(ask);
        }
    }

    /// Now, or when it is this vcpu's turn. A vcpu in the wait queue keeps its place.
    fn send(&mut self, vcpu: usize, ask: Ask) {
        if let Some((_, stale)) = self.line.iter_mut().find(|(v, _)| *v == vcpu) {
            *stale = ask;
        } else if self.has_slot(true, true) {
            self.push(ask);
        } else {
            self.line.push_back((vcpu, ask));
        }
    }

    fn serve(&mut self) {
        while let Some((vcpu, ask)) = self.line.front().copied() {
            if ask.drop || (self.waits[vcpu] == Some(ask.gfn) && !self.asked(ask.gfn)) {
                if !self.has_slot(true, false) {
                    break;
                }
                self.push(ask);
            }
            self.line.pop_front();
        }
    }
}
