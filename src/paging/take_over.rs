// SPDX-License-Identifier: MIT OR Apache-2.0
//! Row A10: the pager is gone, and another one attaches in its place.
//!
//! A pager may be killed at any time. The pages that are out are then in its store, and a pager that can
//! read this store takes over. Until it does, whoever needs a page waits. No fault finds the domain without
//! a ring and without a wait queue.
//!
//! A pager that takes over first asks for [`Paging::paging_states`]: the p2m alone says which pages are
//! out. It restores the nominated ones, and serves the requests. For this it needs an index of where the
//! contents of each page are, which survives the death of a pager. A pager writes it before each evict, and
//! clears it after each prep with a buffer. After a prep without a buffer the entry stays until the page is
//! resident.

use core::fmt;

use super::{Attachment, Paging};
use crate::errno::Errno;
use crate::platform::Platform;
use crate::ring::{Front, SharedPage};

/// Why a pager did not take over. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeOverError {
    /// Paging is not enabled, or the domain is dying.
    NotEnabled,
    /// No page is reserved for the ring.
    NoRingPage,
}

impl TakeOverError {
    /// `ENOENT` if paging is not enabled.
    pub const fn errno(self) -> Errno {
        match self {
            Self::NotEnabled => Errno::ENOENT,
            Self::NoRingPage => Errno::EOPNOTSUPP,
        }
    }
}

impl fmt::Display for TakeOverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotEnabled => "paging is not enabled",
            Self::NoRingPage => "no page has been set aside for the ring",
        })
    }
}

impl core::error::Error for TakeOverError {}

impl<P: Platform> Paging<'_, P> {
    /// Attaches a pager in the place of one that is gone, whether [`Self::detach`] was called or the old ring
    /// is still open. Returns the old ring page, if there was one; the caller unmaps it.
    ///
    /// Responses on the old ring are taken first. No operation of the old pager is in progress when this
    /// returns, and none begins. Vcpus that wait stay paused. The pages that they wait for are requested on
    /// the new ring: first those that were requested on the old ring, in the same order, then those of the
    /// wait queue, as slots allow. Drop requests for the old pager are withdrawn, and their vcpus go on.
    ///
    /// `ring` is as in [`enable`](Self::enable), and called without locks. The platform sends its events to
    /// the new pager from this call on. No locks held.
    pub fn take_over(
        &self,
        ring: impl FnOnce() -> Option<SharedPage>,
    ) -> Result<Option<SharedPage>, TakeOverError> {
        if !self.is_enabled() {
            return Err(TakeOverError::NotEnabled);
        }
        let page = ring().ok_or(TakeOverError::NoRingPage)?;
        // What is left on the ring after one call is requested again.
        let _ = self.on_event();
        self.end_epoch();
        let (old, served) = {
            let mut queue = self.wait_queue.lock();
            if queue.attachment() == Attachment::None {
                return Err(TakeOverError::NotEnabled);
            }
            let old = queue.detach(self.vcpus());
            self.open_ring(&mut queue, page);
            (old, queue.serve(self.vcpus()))
        };
        self.after_serving(served);
        self.release_withdrawn();
        Ok(old.map(Front::into_page))
    }

    /// The pager is gone, and another one will take over. Closes the ring and returns its page, which the
    /// caller unmaps. Responses on the ring are taken first. No operation of the old pager is in progress
    /// when this returns, and none begins. Without a ring this changes nothing.
    ///
    /// Vcpus that wait stay paused. Whoever needs a page from now on waits, too: a vcpu is paused and enters
    /// the wait queue, and a foreign caller is told to retry. [`take_over`](Self::take_over) ends this state,
    /// and so does [`disable`](Self::disable) when nobody is expected to take over any more. No locks held.
    pub fn detach(&self) -> Option<SharedPage> {
        let _ = self.on_event();
        self.end_epoch();
        let front = self.wait_queue.lock().detach(self.vcpus());
        self.release_withdrawn();
        front.map(Front::into_page)
    }

    /// The vcpus whose drop requests were withdrawn go on.
    fn release_withdrawn(&self) {
        loop {
            let withdrawn = self.wait_queue.lock().take_withdrawn(self.vcpus());
            match withdrawn {
                Some(paused) => self.unpause(paused),
                None => break,
            }
        }
    }
}
