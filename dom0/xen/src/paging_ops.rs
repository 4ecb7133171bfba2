// SPDX-License-Identifier: MIT OR Apache-2.0
//! Paging operations of one thread, on one page or on many.

use p2m_paging::ring::Epoch;
use p2m_paging::ring::abi::MemPagingOp;
use p2m_paging::{Errno, Gfn};
use pager_core::policy::PART_PAGES;
use pager_core::{Page, PageError};
use pager_shell::{BufferPlace, PagingStates};
use pager_store::PageBuf;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::abi::{MEMORY_OP, PAGING_OP};
use super::attachment::{Attachment, Lost};
use super::error::{XenError, call};
use super::memory::locked_pages;
use super::privcmd::Privcmd;

// One call covers one part.
const _: () = assert!(PART_PAGES as u64 == MemPagingOp::ACCESS_BITS_GFNS);
// One call fills one page.
const _: () = assert!(MemPagingOp::PAGING_STATES_GFNS / 64 * 16 == p2m_paging::PAGE_SIZE as u64);

/// The paging operations of one thread.
#[derive(Debug)]
pub(super) struct PagingOps {
    pub(super) xen: Privcmd,
    pub(super) domain: u16,
    /// The epoch of this pager, if Xen knows epochs. Stated in each call: Xen refuses a pager that was
    /// replaced while it was stopped.
    pub(super) epoch: Option<Epoch>,
    /// Lost once Xen has refused a call because the caller is not the domain's pager.
    attachment: Attachment,
    /// The address of the first buffer.
    buffers: u64,
    /// The memory for the pages of a call, if Xen takes many pages in one call.
    items: Option<&'static mut [Item]>,
    /// Whether Xen has an operation that makes nominated pages resident.
    pub(super) restores: bool,
    /// A page for the accessed bits that Xen returns, once they have been requested.
    uses: Option<&'static mut [u64]>,
}

/// [`PagingItem`](p2m_paging::ring::abi::PagingItem): the page, then the buffer or the result.
type Item = [u64; 2];

/// The second word of an item without a buffer before the call. It is neither a buffer nor a
/// result.
const NOT_DONE: u64 = 1;

/// [`MemPagingOp`] as words.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(transparent)]
struct Argument([u64; 3]);

/// The operations that this Xen has in addition to Xen's C. Each is tested by itself, since not
/// every glue has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Knows {
    /// Takes many pages in one call.
    many: bool,
    /// Restores nominated pages.
    restore: bool,
}

impl Knows {
    /// Finds out by calls with no pages. An operation that Xen does not know returns ENOSYS.
    fn ask(mut call: impl FnMut(u8) -> Result<(), Errno>) -> Self {
        let many = call(MemPagingOp::MANY).is_ok();
        let restore = many && call(MemPagingOp::MANY + MemPagingOp::OP_RESTORE).is_ok();
        Self { many, restore }
    }
}

impl PagingOps {
    /// Operations on a domain for which paging is enabled.
    pub(super) fn new(
        xen: Privcmd,
        domain: u16,
        epoch: Option<Epoch>,
        attachment: Attachment,
        buffers: u64,
    ) -> Result<Self, XenError> {
        let mut ops = Self {
            xen,
            domain,
            epoch,
            attachment,
            buffers,
            items: None,
            restores: false,
            uses: None,
        };
        let knows = Knows::ask(|op| ops.call(op, 0, 0));
        if knows.many {
            let page = locked_pages(1)?.as_mut_bytes();
            ops.items = <[Item]>::mut_from_bytes(page).ok();
        }
        ops.restores = knows.restore && ops.items.is_some();
        Ok(ops)
    }

    fn call(&mut self, op: u8, gfn: u64, buffer: u64) -> Result<(), Errno> {
        let (states, epoch) = match self.epoch {
            Some(epoch) => (MemPagingOp::STATES_EPOCH, epoch.as_raw()),
            None => (0, 0),
        };
        let first = u64::from(op | states) | u64::from(self.domain) << 16 | u64::from(epoch) << 32;
        let mut argument = Argument([first, buffer, gfn]);
        let done = self.xen.call(MEMORY_OP, Some(PAGING_OP), &mut argument);
        let done = done.map(drop).map_err(xens);
        self.note_error(done.err());
        done
    }

    /// Notes whether an error says that this pager has lost its domain, and returns it.
    pub(super) fn note_error(&self, error: Option<Errno>) -> Option<Lost> {
        let lost = says_lost(self.epoch, error);
        if let Some(how) = lost {
            self.attachment.lose(how);
        }
        lost
    }

    /// Makes an operation on each page, with the address of its buffer if it has one.
    pub(super) fn each(
        &mut self,
        op: u8,
        pages: &mut [Page],
        buffer: impl Fn(&Page) -> Option<u64>,
    ) {
        let at_once = self.items.as_ref().map_or(0, |items| items.len());
        if at_once == 0 || pages.len() == 1 {
            for page in pages {
                let done = self.call(op, page.gfn().get(), buffer(page).unwrap_or(0));
                page.outcome = done.map_err(PageError::Refused);
            }
            return;
        }
        let word = |page: &Page| buffer(page).unwrap_or(NOT_DONE);
        for pages in pages.chunks_mut(at_once) {
            let items = pages.iter().map(|page| [page.gfn().get(), word(page)]);
            let (all, items) = self.many(op, items);
            for (page, item) in pages.iter_mut().zip(items) {
                let done = outcome(all, word(page), item[1]);
                page.outcome = done.map_err(PageError::Refused);
            }
            self.note_outcomes(pages);
        }
    }

    fn note_outcomes(&self, pages: &[Page]) {
        let replaced = Err(PageError::Refused(Errno::ENOTCONN));
        if pages.iter().any(|page| page.outcome == replaced) {
            self.note_error(Some(Errno::ENOTCONN));
        }
    }

    /// Makes an operation on as many pages as one call takes. Returns the result of the call and
    /// the items.
    fn many(&mut self, op: u8, of: impl Iterator<Item = Item>) -> (Result<(), Errno>, &[Item]) {
        let Some(items) = self.items.take() else {
            return (Err(Errno::ENOSYS), &[]);
        };
        let mut count = 0;
        for (item, of) in items.iter_mut().zip(of) {
            *item = of;
            count += 1;
        }
        let all = self.call(MemPagingOp::MANY + op, count, items.as_ptr() as u64);
        (all, self.items.insert(items))
    }

    /// Makes nominated pages resident. `None`: this Xen has no such operation.
    pub(super) fn restore(&mut self, pages: &mut [Page]) -> Option<()> {
        if !self.restores {
            return None;
        }
        let at_once = self.items.as_ref()?.len();
        for pages in pages.chunks_mut(at_once) {
            let gfns = pages.iter().map(|page| [page.gfn().get(), NOT_DONE]);
            let (all, items) = self.many(MemPagingOp::OP_RESTORE, gfns);
            for (page, item) in pages.iter_mut().zip(items) {
                page.outcome = outcome(all, NOT_DONE, item[1]).map_err(PageError::Refused);
            }
            self.note_outcomes(pages);
        }
        Some(())
    }

    /// Copies nominated pages. Entry n of each list belongs to page n. `None`: this Xen has no such
    /// operation.
    pub(super) fn read(
        &mut self,
        pages: &[Page],
        into: &mut [PageBuf],
        unread: &mut [Option<Errno>],
    ) -> Option<()> {
        let at_once = self.items.as_ref()?.len();
        let (into, unread) = (into.chunks_mut(at_once), unread.chunks_mut(at_once));
        for ((pages, into), unread) in pages.chunks(at_once).zip(into).zip(unread) {
            let address = |buffer: &mut PageBuf| buffer.0.as_mut_ptr() as u64;
            let gfns = pages.iter().map(|page| page.gfn().get());
            let items = gfns.zip(into.iter_mut().map(address));
            let items = items.map(|(gfn, address)| [gfn, address]);
            let (all, items) = self.many(MemPagingOp::OP_READ, items);
            if all == Err(Errno::ENOSYS) {
                return None;
            }
            for ((unread, buffer), item) in unread.iter_mut().zip(into).zip(items) {
                *unread = outcome(all, address(buffer), item[1]).err();
            }
        }
        Some(())
    }

    /// Whether Xen reports accessed bits. This is tried with the last gfns that one call can cover.
    pub(super) fn has_access_bits(&mut self) -> Result<bool, XenError> {
        let page = locked_pages(1)?.as_mut_bytes();
        self.uses = <[u64]>::mut_from_bytes(page).ok();
        let last = Gfn::new_truncate(MemPagingOp::ACCESS_BITS_GFNS - 64);
        Ok(self.uses(last, &mut [0]).is_ok())
    }

    /// Reads the accessed bits of 64 gfns a word, from `first` to the next multiple of
    /// [`MemPagingOp::ACCESS_BITS_GFNS`].
    pub(super) fn uses(&mut self, first: Gfn, into: &mut [u64]) -> Result<(), Errno> {
        let words = self.uses.take().ok_or(Errno::EOPNOTSUPP)?;
        let done = self.call(
            MemPagingOp::OP_ACCESS_BITS,
            first.get(),
            words.as_mut_ptr() as u64,
        );
        for (into, word) in into.iter_mut().zip(&*words) {
            *into = *word;
        }
        self.uses = Some(words);
        done
    }

    /// Lists which of 64 gfns are out, and which are nominated, for each element from `first` on, a
    /// multiple of 64.
    pub(super) fn states(&mut self, first: Gfn, into: &mut [PagingStates]) -> Result<(), XenError> {
        let words = locked_pages(1)?.as_mut_bytes();
        let words = <[[u64; 2]]>::mut_from_bytes(words).map_err(|_| XenError::NoCallMemory)?;
        let (mut at, mut into) = (first.get(), into);
        while !into.is_empty() {
            let pairs =
                (MemPagingOp::PAGING_STATES_GFNS - at % MemPagingOp::PAGING_STATES_GFNS) / 64;
            let pairs = into.len().min(pairs as usize);
            let op = MemPagingOp::OP_PAGING_STATES;
            let done = self.call(op, at, words.as_mut_ptr() as u64);
            done.map_err(|errno| {
                let errno = rustix::io::Errno::from_raw_os_error(errno as i32);
                call("the states of the domain's pages")(errno)
            })?;
            let (now, later) = into.split_at_mut(pairs);
            for (states, &[out, nominated]) in now.iter_mut().zip(&*words) {
                *states = PagingStates { out, nominated };
            }
            at += 64 * pairs as u64;
            into = later;
        }
        Ok(())
    }

    pub(super) fn prep(&mut self, pages: &mut [Page], place: BufferPlace) {
        let buffers = self.buffers;
        self.each(MemPagingOp::OP_PREP, pages, |page| {
            Some(buffers + place.offset_bytes(page.buffer()))
        });
    }

    /// Makes Xen's C request a nominated page. `Ok(true)`: the page is resident. ENOENT: it is out, or
    /// the guest gave it back.
    ///
    /// In 4.17's C the response to such a request does not make the page resident, because no vcpu
    /// was paused for it. A prep without contents does, because the page still has its frame.
    pub(super) fn restore_via_map(&mut self, gfn: Gfn) -> Result<bool, Errno> {
        match self.xen.set_ram(self.domain, gfn.get()) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::AGAIN) => {
                after_empty_prep(self.call(MemPagingOp::OP_PREP, gfn.get(), 0))
            }
            // There is no memory at this frame: the guest gave it back.
            Err(rustix::io::Errno::INVAL) => Err(Errno::ENOENT),
            Err(errno) => Err(xens(errno)),
        }
    }
}

/// What a prep without contents says of a page that has been requested. It is refused if the request
/// has not been made (the ring is full), or if the page is resident already: the next round shows
/// which. EINVAL means that the page has no frame.
fn after_empty_prep(prepped: Result<(), Errno>) -> Result<bool, Errno> {
    match prepped {
        Err(Errno::EINVAL) => Err(Errno::ENOENT),
        Ok(()) | Err(_) => Ok(false),
    }
}

/// Whether an error says that the caller is not the domain's pager. A call that states no epoch is never
/// refused because the domain has another pager.
fn says_lost(epoch: Option<Epoch>, error: Option<Errno>) -> Option<Lost> {
    match error {
        Some(Errno::ENOTCONN) if epoch.is_some() => Some(Lost::Replaced),
        Some(Errno::ENODEV) => Some(Lost::Disabled),
        _ => None,
    }
}

/// The result of an item that was sent with the word `sent`. A call that failed has done exactly
/// the items whose word it has changed.
fn outcome(all: Result<(), Errno>, sent: u64, word: u64) -> Result<(), Errno> {
    match all {
        Err(errno) if word == sent => Err(errno),
        _ => result(word),
    }
}

/// Reads the result that Xen has written to an item.
fn result(word: u64) -> Result<(), Errno> {
    match i32::try_from(word.cast_signed()) {
        Ok(0) => Ok(()),
        Ok(value) => Err(Errno::from_return(value).unwrap_or(Errno::EIO)),
        Err(_) => Err(Errno::EIO),
    }
}

pub(super) fn xens(errno: rustix::io::Errno) -> Errno {
    Errno::from_return(-errno.raw_os_error()).unwrap_or(Errno::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_items_result_is_zero_or_a_negative_errno_and_anything_else_an_error() {
        assert_eq!(result(0), Ok(()));
        assert_eq!(result((-16_i64).cast_unsigned()), Err(Errno::EBUSY));
        // One of these is a buffer address that was not overwritten.
        for garbage in [
            1,
            0x7f00_0000_0000,
            u64::MAX << 40,
            (-4096_i64).cast_unsigned(),
        ] {
            assert_eq!(result(garbage), Err(Errno::EIO), "{garbage:#x}");
        }
    }

    #[test]
    fn only_a_call_that_states_an_epoch_can_find_that_the_pager_was_replaced() {
        let epoch = Some(Epoch::from_raw(1));
        let replaced = Some(Lost::Replaced);
        assert_eq!(says_lost(epoch, Some(Errno::ENOTCONN)), replaced);
        assert_eq!(says_lost(None, Some(Errno::ENOTCONN)), None);
        for epoch in [epoch, None] {
            for other in [None, Some(Errno::ESRCH), Some(Errno::EBUSY)] {
                assert_eq!(says_lost(epoch, other), None, "{other:?}");
            }
            let disabled = Some(Lost::Disabled);
            assert_eq!(says_lost(epoch, Some(Errno::ENODEV)), disabled);
        }
    }

    /// A page that is out stays out, and the restore has to say so: it may have been evicted by a call
    /// that has panicked.
    #[test]
    fn a_prep_without_contents_shows_that_a_page_is_out() {
        assert_eq!(after_empty_prep(Err(Errno::EINVAL)), Err(Errno::ENOENT));
        for other in [Ok(()), Err(Errno::ENOENT), Err(Errno::ENOMEM)] {
            assert_eq!(after_empty_prep(other), Ok(false), "{other:?}");
        }
    }

    /// A refused nominate is followed by a restore only if Xen has that operation. A page that is
    /// requested in place of a restore loses its type.
    #[test]
    fn a_xen_that_takes_many_pages_may_not_know_how_to_restore() {
        let of =
            |known: &[u8]| Knows::ask(|op| known.contains(&op).then_some(()).ok_or(Errno::ENOSYS));
        let many = MemPagingOp::MANY;
        let restore = many + MemPagingOp::OP_RESTORE;
        let knows = |many, restore| Knows { many, restore };
        assert_eq!(of(&[]), knows(false, false));
        let older = [many, many + MemPagingOp::OP_READ];
        assert_eq!(of(&older), knows(true, false));
        assert_eq!(of(&[many, restore]), knows(true, true));
        assert_eq!(of(&[restore]), knows(false, false), "no room for pages");
    }

    #[test]
    fn a_call_that_fails_half_way_has_done_what_it_has_written_to() {
        let busy = (-16_i64).cast_unsigned();
        for sent in [NOT_DONE, 0x7f00_0000_0000] {
            let fault = Err(Errno::EFAULT);
            assert_eq!(outcome(fault, sent, 0), Ok(()));
            assert_eq!(outcome(fault, sent, busy), Err(Errno::EBUSY));
            assert_eq!(outcome(fault, sent, sent), fault);
            // The call reports success and has not written the item.
            assert_eq!(outcome(Ok(()), sent, sent), Err(Errno::EIO));
            assert_eq!(outcome(Ok(()), sent, busy), Err(Errno::EBUSY));
        }
    }
}
