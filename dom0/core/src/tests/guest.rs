// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the guest and other domains do to the simulated hypervisor.

use p2m_paging::p2m::P2mType;
use p2m_paging::ring::abi::{EntryFlags, PagingFlags, Request, SLOTS};
use p2m_paging::{Gfn, VcpuId};

use super::sim::{Entry, Sim};

impl Sim {
    /// A vcpu reads or writes; nothing happens if it waits already.
    pub(super) fn access(&mut self, vcpu: usize, page: usize, write: bool) {
        if self.waits[vcpu].is_some() {
            return;
        }
        let gfn = Gfn::new_truncate(page as u64);
        let before = self.entries[page];
        match before {
            Entry::Gone => {}
            Entry::Ram(value) | Entry::PagingOut(value) if !write => {
                assert_eq!(Some(value), self.truth[page], "{gfn} read wrong");
            }
            Entry::Ram(_) => {
                let value = self.next_value();
                self.entries[page] = Entry::Ram(value);
                self.truth[page] = Some(value);
            }
            Entry::PagingOut(_) | Entry::Paged | Entry::InStart(_) => {
                self.waits[vcpu] = Some(gfn);
                self.populate(page, vcpu, EntryFlags::VCPU_PAUSED);
            }
        }
    }

    /// Another domain needs the page.
    pub(super) fn foreign(&mut self, page: usize) {
        if matches!(self.entries[page], Entry::PagingOut(_) | Entry::Paged) {
            self.populate(page, 0, EntryFlags::FOREIGN);
        }
    }

    /// The guest gives a page back, or gets it again.
    pub(super) fn balloon(&mut self, page: usize) {
        let mut paging = PagingFlags::DROP_PAGE;
        let mut p2mt = P2mType::RamPaged;
        match self.entries[page] {
            Entry::Gone => {
                let value = self.next_value();
                self.truth[page] = Some(value);
                self.entries[page] = Entry::Ram(value);
                return;
            }
            Entry::Ram(_) => paging = PagingFlags::empty(),
            Entry::PagingOut(_) => p2mt = P2mType::RamPagingOut,
            Entry::InStart(_) => p2mt = P2mType::RamPagingInStart,
            Entry::Paged => {}
        }
        let in_place = matches!(
            self.entries[page],
            Entry::PagingOut(_) | Entry::InStart(Some(_))
        );
        paging.set(PagingFlags::EVICT_FAIL, in_place);
        self.truth[page] = None;
        self.entries[page] = Entry::Gone;
        if !paging.is_empty() {
            self.send(page, 0, EntryFlags::empty(), p2mt, paging);
        }
    }

    fn populate(&mut self, page: usize, vcpu: usize, flags: EntryFlags) {
        let (p2mt, paging, after) = match self.entries[page] {
            Entry::PagingOut(value) => (
                P2mType::RamPagingOut,
                PagingFlags::EVICT_FAIL,
                Entry::InStart(Some(value)),
            ),
            Entry::Paged => (
                P2mType::RamPaged,
                PagingFlags::empty(),
                Entry::InStart(None),
            ),
            other => (P2mType::RamPagingInStart, PagingFlags::empty(), other),
        };
        self.entries[page] = after;
        self.send(page, vcpu, flags, p2mt, paging);
    }

    fn send(
        &mut self,
        page: usize,
        vcpu: usize,
        flags: EntryFlags,
        p2mt: P2mType,
        paging: PagingFlags,
    ) {
        let vcpu = VcpuId(u32::try_from(vcpu).unwrap());
        let request = Request {
            gfn: Gfn::new_truncate(page as u64),
            vcpu,
            flags,
            p2mt,
            paging,
        };
        self.unanswered.push(request);
        self.line.push_back(request);
        self.serve_line();
    }

    /// Two cpus raced for the ring: the last two in line change places.
    pub(super) fn race(&mut self) {
        let n = self.line.len();
        let is_drop = |r: &Request| r.paging.contains(PagingFlags::DROP_PAGE);
        if n >= 2 && !self.line.iter().skip(n - 2).any(is_drop) {
            self.line.swap(n - 1, n - 2);
        }
        let n = self.ring.len();
        if n >= 2 && !self.ring.iter().skip(n - 2).any(is_drop) {
            self.ring.swap(n - 1, n - 2);
        }
    }

    pub(super) fn serve_line(&mut self) {
        while self.unanswered.len() - self.line.len() < SLOTS as usize
            && let Some(request) = self.line.pop_front()
        {
            self.ring.push_back(request);
        }
    }
}
