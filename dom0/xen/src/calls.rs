// SPDX-License-Identifier: MIT OR Apache-2.0
//! The calls of the hypercall worker, the reads of the store worker, and the preps of pages that
//! somebody waits for.

use std::time::Duration;

use p2m_paging::ring::abi::MemPagingOp;
use p2m_paging::{Errno, Gfn};
use pager_core::{Batch, Page, PageError, Scan};
use pager_shell::{BufferPlace, Calls, Frames, MachineError, OnLoss, PagingStates, Preps};
use pager_store::PageBuf;
use rustix::mm::ProtFlags;

use super::attachment::Lost;
use super::device_model::DeviceModel;
use super::domctl::{DomctlVersion, crash};
use super::error::{XenError, call};
use super::paging_ops::{PagingOps, xens};

/// How often Xen is made to request a page before the restore counts as failed. A fixed pause
/// separates the attempts; the main thread answers meanwhile.
const RESTORE_ATTEMPTS: usize = 1000;
const RESTORE_PAUSE: Duration = Duration::from_micros(500);

/// How often an error of the call that disables paging is taken for one that passes. The shell
/// pauses for 10 ms and answers requests between two calls.
const DISABLE_ERRORS: u32 = 300;

/// Used by the main thread.
impl Preps for PagingOps {
    fn prep(&mut self, mut batch: Batch, place: BufferPlace) -> Option<Batch> {
        Self::prep(self, batch.pages_mut(), place);
        Some(batch)
    }

    fn collect_done(&mut self, _done: &mut dyn FnMut(Batch)) {}

    fn abandon(&mut self, _done: &mut dyn FnMut(Batch)) {}
}

/// The calls of the hypercall worker.
pub(super) struct DomainCalls {
    pub(super) ops: PagingOps,
    pub(super) domctl: DomctlVersion,
    pub(super) disabling: Disabling,
    pub(super) device_model: DeviceModel,
}

impl Calls for DomainCalls {
    fn nominate(&mut self, pages: &mut [Page]) -> Result<(), MachineError> {
        self.ops.each(MemPagingOp::OP_NOMINATE, pages, |_| None);
        self.device_model.flush_if_in_use(pages);
        Ok(())
    }

    fn evict(&mut self, pages: &mut [Page]) -> Result<(), MachineError> {
        self.ops.each(MemPagingOp::OP_EVICT, pages, |_| None);
        self.device_model.flush_if_in_use(pages);
        Ok(())
    }

    /// Xen's C has no such operation. There a page becomes resident when a foreign caller requests
    /// it.
    fn restore(&mut self, pages: &mut [Page]) -> Result<(), MachineError> {
        if self.ops.restore(pages).is_some() {
            return Ok(());
        }
        for attempt in 0..RESTORE_ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(RESTORE_PAUSE);
            }
            let mut all_home = true;
            let waits = Err(PageError::Refused(Errno::EAGAIN));
            for page in pages.iter_mut() {
                if attempt == 0 || page.outcome == waits {
                    page.outcome = match self.ops.restore_via_map(page.gfn()) {
                        Ok(true) => Ok(()),
                        Ok(false) => waits,
                        Err(errno) => Err(PageError::Refused(errno)),
                    };
                    all_home &= page.outcome != waits;
                }
            }
            if all_home {
                break;
            }
        }
        Ok(())
    }

    /// `false` where a page would have to be requested: the request would make memory of any type
    /// ordinary memory.
    fn restores_at_once(&self) -> bool {
        self.ops.restores
    }

    fn prep(&mut self, pages: &mut [Page], place: BufferPlace) -> Result<(), MachineError> {
        self.ops.prep(pages, place);
        Ok(())
    }

    fn scan(&mut self, scan: &mut Scan) -> Result<(), MachineError> {
        scan.outcome = self.ops.uses(scan.first(), &mut *scan.accessed);
        Ok(())
    }

    fn paging_states(
        &mut self,
        first: Gfn,
        states: &mut [PagingStates],
    ) -> Result<(), MachineError> {
        Ok(self.ops.states(first, states)?)
    }

    fn stop_guest(&mut self, how: OnLoss) -> Result<(), MachineError> {
        let PagingOps { xen, domain, .. } = &mut self.ops;
        let (stopped, what) = match how {
            OnLoss::Pause => (self.domctl.pause(xen, *domain), "pausing the domain"),
            OnLoss::Crash => (crash(xen, *domain), "crashing the domain"),
        };
        stopped.map_err(|errno| call(what)(errno).into())
    }

    fn disable(&mut self) -> Result<bool, MachineError> {
        let PagingOps {
            xen, domain, epoch, ..
        } = &mut self.ops;
        let called = self.domctl.disable_paging(xen, *domain, *epoch);
        if self.ops.note_error(called.err().map(xens)) == Some(Lost::Replaced) {
            return Err(XenError::Replaced.into());
        }
        let disabled = self.disabling.is_done(called);
        disabled.map_err(|errno| call("disabling paging")(errno).into())
    }
}

/// What follows from the results of the call that disables paging.
#[derive(Debug, Default)]
pub(super) struct Disabling {
    errors: u32,
}

impl Disabling {
    /// Whether paging is disabled. `Ok(false)`: the call is to be repeated.
    fn is_done(
        &mut self,
        called: Result<(), rustix::io::Errno>,
    ) -> Result<bool, rustix::io::Errno> {
        match called {
            // The domain is gone, and the paging of it too.
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(true),
            // Vcpus are in the wait queue.
            Err(rustix::io::Errno::BUSY) => {
                self.errors = 0;
                Ok(false)
            }
            Err(errno) if self.errors < DISABLE_ERRORS => {
                if self.errors == 0 {
                    tracing::warn!(%errno, "paging cannot be disabled now: it is tried again");
                }
                self.errors += 1;
                Ok(false)
            }
            Err(errno) => Err(errno),
        }
    }
}

/// The store worker's view of the domain.
pub(super) struct DomainFrames {
    pub(super) ops: PagingOps,
    pub(super) gfns: Vec<u64>,
    pub(super) errors: Vec<i32>,
}

impl Frames for DomainFrames {
    /// Makes Xen copy the frames. If Xen has no such operation, maps, copies and unmaps them. A
    /// frame that cannot be mapped fails alone and is not tried again: it was nominated, so it has
    /// been requested and does not go out.
    fn read(&mut self, pages: &[Page], into: &mut [PageBuf], unread: &mut [Option<Errno>]) {
        if self.ops.read(pages, into, unread).is_some() {
            return;
        }
        self.gfns.clear();
        self.gfns.extend(pages.iter().map(|page| page.gfn().get()));
        self.errors.resize(pages.len(), 0);
        let errors = &mut self.errors[..pages.len()];
        let PagingOps { xen, domain, .. } = &self.ops;
        let frames = match xen.map(*domain, &self.gfns, errors, ProtFlags::READ) {
            Ok(frames) => frames,
            Err(errno) => return unread.fill(Some(xens(errno))),
        };
        for (n, (error, buffer)) in errors.iter().zip(into).enumerate() {
            match Errno::from_return(*error) {
                // SAFETY: the kernel reports that the frame is mapped.
                None => unsafe { frames.copy(n, buffer) },
                errno => unread[n] = errno,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_may_pass_does_not_end_the_attempts_to_disable_paging() {
        use rustix::io::Errno;
        let mut disabling = Disabling::default();
        for passing in [Errno::NOMEM, Errno::BUSY, Errno::ACCESS, Errno::AGAIN] {
            assert_eq!(disabling.is_done(Err(passing)), Ok(false), "{passing}");
        }
        assert_eq!(disabling.is_done(Ok(())), Ok(true));
        assert_eq!(disabling.is_done(Err(Errno::SRCH)), Ok(true), "it is gone");
        let ends = (0..=DISABLE_ERRORS).find_map(|_| disabling.is_done(Err(Errno::PERM)).err());
        assert_eq!(ends, Some(Errno::PERM));
    }
}
