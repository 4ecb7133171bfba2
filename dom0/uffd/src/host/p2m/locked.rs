// SPDX-License-Identifier: MIT OR Apache-2.0
//! The locked p2m: what the state machine reads and changes.

use p2m_paging::p2m::{ACCESS_BITS_GFNS, AccessBits, ClearBits, Cleared, Permit};
use p2m_paging::platform::{
    AllocError, Contents, Entry, FrameUsers, Leak, P2m, TakeCondition, TakeError,
};
use p2m_paging::{Errno, Gfn, Mfn, P2mType, PAGE_SIZE};
use parking_lot::MutexGuard;

use super::table::{HostEntry, Table};
use super::{BufferIndex, HostPlatform, KERNEL_RETRIES};
use crate::host::frame_run::{FrameRun, runs};
use crate::host::guest_memory::PAGE_WORDS;
use crate::host::uffd::{CopyError, RangeError, Wake};
use crate::link::SharedArea;

/// The locked table.
#[derive(Debug)]
pub struct LockedP2m<'a> {
    pub(super) platform: &'a HostPlatform,
    pub(super) table: MutexGuard<'a, Table>,
}

/// A frame that belongs to no entry.
#[derive(Debug)]
pub enum HostFrame {
    /// Taken from its entry and still in the memfd.
    Taken(Gfn),
    /// To be filled from the pager's buffers, beginning at this word.
    Filled {
        /// The index of the first word.
        first_word: usize,
    },
}

impl HostFrame {
    fn into_taken(self) -> Option<Gfn> {
        match self {
            Self::Taken(gfn) => Some(gfn),
            Self::Filled { .. } => None,
        }
    }
}

/// A frame that is leaked stays in the memfd.
impl Leak for HostFrame {}

impl P2m for LockedP2m<'_> {
    type Frame = HostFrame;
    type Buffer = BufferIndex;

    fn get(&self, gfn: Gfn) -> Entry {
        let entry = self.table.entry(gfn);
        Entry {
            p2mt: entry.p2mt(),
            mfn: entry.has_frame().then(|| Mfn::try_new(gfn.get())).flatten(),
        }
    }

    fn users(&self, mfn: Mfn) -> FrameUsers {
        FrameUsers {
            mmio: false,
            references: self.table.references(mfn.get()),
            typed: 0,
        }
    }

    fn set_type(&mut self, _permit: Permit, gfn: Gfn, to: P2mType) -> Result<(), Errno> {
        let index = self.table.index(gfn).ok_or(Errno::EINVAL)?;
        let frame = self.table.entries[index].has_frame();
        match to {
            P2mType::RamPagingOut => self.table.unprotected.push(gfn),
            P2mType::RamRw => {
                self.unprotect(gfn).map_err(|error| {
                    tracing::error!(%gfn, %error, "a page cannot be made writable");
                    Errno::EIO
                })?;
            }
            P2mType::Invalid => self.table.given_back += 1,
            _ => {}
        }
        self.table.entries[index] = HostEntry::new(to, frame);
        Ok(())
    }

    fn take(
        &mut self,
        _permit: Permit,
        gfn: Gfn,
        mfn: Mfn,
        to: P2mType,
        _condition: TakeCondition,
    ) -> Result<HostFrame, TakeError> {
        let index = self.table.index(gfn);
        let index = index.ok_or(TakeError::Platform(Errno::EINVAL))?;
        // This holds for every condition: memory that a foreign user still reads is not discarded.
        let references = self.table.references(mfn.get());
        if references > 1 {
            return Err(TakeError::InUse {
                references,
                typed: 0,
            });
        }
        if to == P2mType::Invalid {
            self.table.given_back += 1;
        }
        self.table.entries[index] = HostEntry::new(to, false);
        Ok(HostFrame::Taken(gfn))
    }

    fn alloc(&mut self, contents: Contents<'_, BufferIndex>) -> Result<HostFrame, AllocError> {
        let Contents::From(&BufferIndex(byte)) = contents else {
            // A page is visible as soon as it is put in: this host has no frame that only the pager
            // can fill.
            return Err(AllocError::InvalidBuffer);
        };
        let size_pages = self
            .table
            .buffers
            .as_ref()
            .map_or(0, SharedArea::size_pages);
        let page =
            usize::try_from(byte / PAGE_SIZE as u64).map_err(|_| AllocError::InvalidBuffer)?;
        if !byte.is_multiple_of(PAGE_SIZE as u64) || page >= size_pages {
            return Err(AllocError::InvalidBuffer);
        }
        let first_word = page * PAGE_WORDS;
        Ok(HostFrame::Filled { first_word })
    }

    fn install(
        &mut self,
        _permit: Permit,
        gfn: Gfn,
        frame: HostFrame,
        to: P2mType,
    ) -> Result<Mfn, Errno> {
        let index = self.table.index(gfn).ok_or(Errno::EINVAL)?;
        let mfn = Mfn::try_new(gfn.get()).ok_or(Errno::EINVAL)?;
        let HostFrame::Filled { first_word } = frame else {
            return Err(Errno::EINVAL);
        };
        let buffers = self.table.buffers.as_ref().ok_or(Errno::EFAULT)?;
        let words = buffers.words().get(first_word..first_word + PAGE_WORDS);
        match self.platform.fill(gfn, words.ok_or(Errno::EFAULT)?) {
            Ok(()) => {
                self.table.entries[index] = HostEntry::new(to, true);
                Ok(mfn)
            }
            Err(CopyError::OutOfMemory) => Err(Errno::ENOMEM),
            Err(error) => {
                tracing::error!(%gfn, %error, "a page cannot be put in");
                Err(Errno::EFAULT)
            }
        }
    }

    /// Nothing to do: mfn and gfn are the same number.
    fn restore_m2p(&mut self, _mfn: Mfn, _gfn: Gfn) {}

    fn resident_type(&self) -> P2mType {
        P2mType::RamRw
    }

    fn flush(&mut self) {
        let mut gfns = std::mem::take(&mut self.table.unprotected);
        gfns.sort_unstable();
        for run in runs(gfns.drain(..)) {
            let (uffd, memory) = (&self.platform.uffd, &self.platform.memory);
            if let Err(error) = retried(|| uffd.protect(memory, run)) {
                tracing::error!(first = %run.first(), pages = run.size_pages(), %error,
                    "nominated pages cannot be protected: they become resident");
                self.send_home(run);
            }
        }
        self.table.unprotected = gfns;
    }

    fn free(&mut self, frames: impl Iterator<Item = HostFrame>) {
        let mut gfns = std::mem::take(&mut self.table.discarding);
        gfns.extend(frames.filter_map(HostFrame::into_taken));
        gfns.sort_unstable();
        self.platform.discard(gfns.drain(..));
        self.table.discarding = gfns;
    }

    /// The kernel has told all CPUs when it returns, so no flush is owed.
    fn read_clear_access_bits(
        &mut self,
        first: Gfn,
        uses: &mut [AccessBits],
        _clear: ClearBits,
    ) -> Result<Cleared, Errno> {
        let (memory, pagemap) = (&self.platform.memory, &self.platform.pagemap);
        let pagemap = pagemap.as_ref().ok_or(Errno::EOPNOTSUPP)?;
        let left = memory.size_pages().saturating_sub(first.get());
        let pages = (uses.len() as u64 * ACCESS_BITS_GFNS).min(left);
        if let Some(run) = FrameRun::new(first, pages) {
            pagemap.take(memory, run, uses)?;
        }
        Ok(Cleared::Nothing)
    }

    fn count_out(&mut self) {
        self.table.paged += 1;
    }

    fn count_in(&mut self) {
        self.table.paged -= 1;
    }
}

impl LockedP2m<'_> {
    /// Makes the nominated pages of a run resident, because they could not be protected: the guest
    /// can still write them, so they must not be evicted. The kernel may have protected some of
    /// them before it failed.
    fn send_home(&mut self, run: FrameRun) {
        for gfn in run.frames() {
            let Some(index) = self.table.index(gfn) else {
                continue;
            };
            if self.table.entries[index].p2mt() != P2mType::RamPagingOut {
                continue;
            }
            if let Err(error) = self.unprotect(gfn) {
                // If protection is left, a write traps and lifts it: `lift_protection`.
                tracing::warn!(%gfn, %error, "a page that becomes resident may be protected");
            }
            self.table.entries[index] = HostEntry::new(P2mType::RamRw, true);
        }
    }

    pub(super) fn unprotect(&self, gfn: Gfn) -> Result<(), RangeError> {
        let (uffd, memory) = (&self.platform.uffd, &self.platform.memory);
        retried(|| uffd.unprotect(memory, FrameRun::one(gfn), Wake::Later))
    }
}

fn retried(mut call: impl FnMut() -> Result<(), RangeError>) -> Result<(), RangeError> {
    for _ in 0..KERNEL_RETRIES {
        match call() {
            Err(RangeError::System {
                errno: rustix::io::Errno::AGAIN,
                ..
            }) => std::thread::yield_now(),
            other => return other,
        }
    }
    call()
}
