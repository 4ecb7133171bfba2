// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hypercall worker's calls to the embedded host, and the store worker's view of its guest.

use p2m_paging::{Errno, Gfn};
use pager_core::{Page, PageError, Scan};
use pager_shell::{BufferPlace, Calls, Frames, MachineError, OnLoss, PagingStates};
use pager_store::PageBuf;
use zerocopy::IntoBytes as _;

use super::hypercalls::{CallError, Hypercalls};
use crate::host::frame_run::runs;
use crate::host::guest_memory::{FrameError, GuestFile};
use crate::link::Op;

/// The hypercall worker's calls, sent through the socket.
pub(super) struct SocketCalls(pub(super) Hypercalls);

impl SocketCalls {
    fn call<'a>(
        &mut self,
        op: Op,
        pages: impl IntoIterator<Item = &'a mut Page>,
    ) -> Result<(), MachineError> {
        let mut pages: Vec<_> = pages.into_iter().collect();
        let gfns: Vec<_> = pages.iter().map(|page| page.gfn()).collect();
        let mut results = pages.iter_mut();
        self.0.batch(op, gfns, |result| {
            if let Some(page) = results.next() {
                page.outcome = result.map_err(PageError::Refused);
            }
        })?;
        Ok(())
    }
}

impl Calls for SocketCalls {
    fn nominate(&mut self, pages: &mut [Page]) -> Result<(), MachineError> {
        self.call(Op::Nominate, pages)
    }

    fn evict(&mut self, pages: &mut [Page]) -> Result<(), MachineError> {
        self.call(Op::Evict, pages)
    }

    fn restore(&mut self, pages: &mut [Page]) -> Result<(), MachineError> {
        self.call(Op::Restore, pages)
    }

    fn restores_at_once(&self) -> bool {
        true
    }

    fn prep(&mut self, pages: &mut [Page], buffers: BufferPlace) -> Result<(), MachineError> {
        let claims = |page: &Page| (page.gfn(), buffers.offset_bytes(page.buffer()));
        let preps: Vec<_> = pages.iter().map(claims).collect();
        let mut pages = pages.iter_mut();
        self.0.prep(preps, |result| {
            if let Some(page) = pages.next() {
                page.outcome = result.map_err(PageError::Refused);
            }
        })?;
        Ok(())
    }

    fn scan(&mut self, scan: &mut Scan) -> Result<(), MachineError> {
        scan.outcome = self.0.uses(scan.first(), &mut *scan.accessed)?;
        Ok(())
    }

    fn paging_states(
        &mut self,
        first: Gfn,
        states: &mut [PagingStates],
    ) -> Result<(), MachineError> {
        Ok(self.0.states(first, states)?)
    }

    fn stop_guest(&mut self, how: OnLoss) -> Result<(), MachineError> {
        Ok(self.0.stop_guest(how)?)
    }

    fn disable(&mut self) -> Result<bool, MachineError> {
        match self.0.call(Op::Disable) {
            Ok(()) => Ok(true),
            Err(CallError::Refused {
                errno: Errno::EBUSY,
                ..
            }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// The guest's memory. Frames are read with `pread`. Nothing is mapped, so no mapping is left when
/// the evict checks who uses the frame.
pub(super) struct MemoryFrames(pub(super) GuestFile);

impl Frames for MemoryFrames {
    fn read(&mut self, pages: &[Page], into: &mut [PageBuf], unread: &mut [Option<Errno>]) {
        let mut at = 0;
        for run in runs(pages.iter().map(Page::gfn)) {
            let end = at + run.frames().count();
            if let Err(error) = self.0.read(run, into[at..end].as_mut_bytes()) {
                unread[at..end].fill(Some(match error {
                    FrameError::OutOfGuest { .. } | FrameError::BufferSize { .. } => Errno::EINVAL,
                    FrameError::System { .. } => Errno::EIO,
                }));
            }
            at = end;
        }
    }
}
