// SPDX-License-Identifier: MIT OR Apache-2.0
//! Row A3: populate, and row A7: the nested page fault.

use core::fmt;

use super::wait_queue::{ClaimError, QueuedRequest, RequestKind, Sent, WaitQueue};
use super::{Count, Paging};
use crate::errno::Errno;
use crate::fault::{Decision, NestedFault, decide};
use crate::frame::{Gfn, VcpuId};
use crate::p2m::{Access, Found, classify};
use crate::pause::VcpuPaused;
use crate::platform::{Entry, P2m, Platform};
use crate::ring::Requester;

/// Who needs the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A vcpu of the guest. It is paused until the page is resident.
    Guest(VcpuId),
    /// Another domain, or the hypervisor on its behalf, with the number of that domain's vcpu. It is told
    /// to retry, and never paused.
    Foreign(VcpuId),
}

impl Caller {
    pub(super) fn vcpu(self) -> VcpuId {
        match self {
            Self::Guest(vcpu) | Self::Foreign(vcpu) => vcpu,
        }
    }

    pub(super) fn requester(self) -> Requester {
        match self {
            Self::Guest(_) => Requester::Guest,
            Self::Foreign(_) => Requester::Foreign,
        }
    }
}

/// The outcome of a populate.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Populated {
    /// The gfn has no paging type: nothing was done.
    NotPaging,
    /// The entry allows the access: retry at once. The page is nominated and was only read, or it has
    /// just become resident.
    Present,
    /// The vcpu is paused. It is woken when the page is resident, and then retries.
    Paused,
    /// The page has been requested, and the caller is not paused: retry later.
    InFlight,
}

/// Why the page was not requested. Nothing has changed.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PopulateError {
    /// Paging is not enabled, so nobody can bring the page. For a vcpu of the guest this is fatal.
    NoRing,
    /// No ring slot for this caller now, or the pager is gone and another one will take over: retry later.
    /// A vcpu of the guest enters the wait queue instead.
    RingFull,
    /// The entry contradicts itself ([`Entry::is_inconsistent`]): the page cannot be brought back.
    InconsistentEntry(Entry),
    /// The entry could not be changed.
    Platform(Errno),
}

impl PopulateError {
    /// As `vm_event_claim_slot` and `p2m_set_entry` report it in Xen.
    pub const fn errno(self) -> Errno {
        match self {
            Self::NoRing => Errno::EOPNOTSUPP,
            Self::RingFull => Errno::EBUSY,
            Self::InconsistentEntry(_) => Errno::EIO,
            Self::Platform(errno) => errno,
        }
    }
}

impl fmt::Display for PopulateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRing => f.write_str("no pager is attached"),
            Self::RingFull => f.write_str("the ring is full"),
            Self::InconsistentEntry(entry) => {
                let with = if entry.mfn.is_some() {
                    "with"
                } else {
                    "without"
                };
                write!(f, "inconsistent p2m entry: {:?} {with} a frame", entry.p2mt)
            }
            Self::Platform(errno) => write!(f, "the p2m entry could not be changed: {errno}"),
        }
    }
}

impl core::error::Error for PopulateError {}

/// What an access found, under the p2m lock.
enum Looked {
    /// The page is present, or the access fails.
    Settled(Result<Populated, PopulateError>),
    /// The page has no frame. `leaves`: it has not been requested yet.
    Missing { entry: Entry, leaves: bool },
}

impl<'d, P: Platform> Paging<'d, P> {
    /// A vcpu of the guest accessed a page whose entry does not allow the access (row A7).
    ///
    /// [`Populated::Paused`]: the vcpu has been paused. [`Populated::Present`] and
    /// [`Populated::InFlight`]: let it run the instruction again. No locks held.
    pub fn fault(
        &self,
        vcpu: VcpuId,
        gfn: Gfn,
        access: Access,
    ) -> Result<Populated, PopulateError> {
        self.populate_for(gfn, Caller::Guest(vcpu), access)
    }

    /// As [`Self::fault`], with what hardware reported. No locks held.
    pub fn nested_fault(
        &self,
        vcpu: VcpuId,
        gfn: Gfn,
        fault: NestedFault,
    ) -> Result<Populated, PopulateError> {
        self.fault(vcpu, gfn, fault.access())
    }

    /// Requests a page for somebody who needs it with all rights (row A3). No locks held.
    pub fn populate(&self, gfn: Gfn, caller: Caller) -> Result<Populated, PopulateError> {
        self.populate_for(gfn, caller, Access::WRITE)
    }

    fn populate_for(
        &self,
        gfn: Gfn,
        caller: Caller,
        access: Access,
    ) -> Result<Populated, PopulateError> {
        match caller {
            Caller::Guest(vcpu) if !self.is_being_paused(vcpu) => {
                self.populate_and_pause(gfn, vcpu, access)
            }
            // A foreign caller, or a vcpu that is being paused for something else and goes on until
            // that takes effect: it comes back for this page.
            _ => self.populate_unpaused(gfn, caller, access),
        }
    }

    fn populate_and_pause(
        &self,
        gfn: Gfn,
        vcpu: VcpuId,
        access: Access,
    ) -> Result<Populated, PopulateError> {
        let mut p2m = self.platform.lock_p2m();
        let (entry, leaves) = match self.look(&mut p2m, gfn, access) {
            Looked::Missing { entry, leaves } => (entry, leaves),
            Looked::Settled(outcome) => return outcome,
        };
        if !self.is_enabled() {
            return Err(PopulateError::NoRing);
        }
        if leaves {
            self.start_page_in(&mut p2m, gfn, entry)?;
        }
        let waits = self.wait(vcpu, gfn);
        drop(p2m);
        match waits {
            Ok(()) => self.send_page_in_request(vcpu, page_in_request(gfn, entry), leaves),
            Err(paused) => {
                // No such vcpu, or one that faults twice at a time: the caller breaks the rules, and
                // nobody waits.
                paused.into_iter().for_each(|paused| self.unpause(paused));
                Ok(Populated::InFlight)
            }
        }
    }

    /// For callers that are not paused. It claims the ring slot first, so that a full ring changes nothing.
    fn populate_unpaused(
        &self,
        gfn: Gfn,
        caller: Caller,
        access: Access,
    ) -> Result<Populated, PopulateError> {
        let reserved = self.reserve(caller.requester());
        let entry = {
            let mut p2m = self.platform.lock_p2m();
            let (entry, leaves) = match self.look(&mut p2m, gfn, access) {
                Looked::Missing { entry, leaves } => (entry, leaves),
                Looked::Settled(outcome) => return outcome,
            };
            if leaves && reserved.is_ok() {
                self.start_page_in(&mut p2m, gfn, entry)?;
            }
            entry
        };
        match reserved {
            Ok(reserved) => {
                // If the ring has gone meanwhile, the caller looks again, and finds out.
                let _ = reserved.push(page_in_request(gfn, entry), caller);
                Ok(Populated::InFlight)
            }
            Err(ClaimError::RingFull(_) | ClaimError::Detached(_)) => {
                self.counters.add(Count::RingFull, 1);
                Err(PopulateError::RingFull)
            }
            Err(ClaimError::NoRing) if self.is_enabled() => Ok(Populated::InFlight),
            Err(ClaimError::NoRing) => Err(PopulateError::NoRing),
        }
    }

    /// With the p2m locked: decides on this access. A nominated page becomes resident if needed.
    #[inline]
    fn look(&self, p2m: &mut P::P2m<'_>, gfn: Gfn, access: Access) -> Looked {
        let entry = p2m.get(gfn);
        Looked::Settled(match decide(entry.p2mt, access) {
            Decision::NotPaging => Ok(Populated::NotPaging),
            Decision::Retry => Ok(Populated::Present),
            _ if entry.is_inconsistent() => Err(PopulateError::InconsistentEntry(entry)),
            Decision::Restore => self.restore_on_access(p2m, gfn, entry),
            leaves @ (Decision::Pause | Decision::PopulateAndPause) => {
                let leaves = leaves == Decision::PopulateAndPause;
                return Looked::Missing { entry, leaves };
            }
        })
    }

    /// With the p2m locked: makes a nominated page resident, because somebody needs it.
    fn restore_on_access(
        &self,
        p2m: &mut P::P2m<'_>,
        gfn: Gfn,
        entry: Entry,
    ) -> Result<Populated, PopulateError> {
        let Found::PagingOut(slot) = classify(p2m, gfn, entry) else {
            return Err(PopulateError::InconsistentEntry(entry));
        };
        match slot.restore() {
            Ok(_) => {
                self.counters.add(Count::RestoredOnAccess, 1);
                Ok(Populated::Present)
            }
            Err((_, errno)) => Err(PopulateError::Platform(errno)),
        }
    }

    /// With the p2m locked: starts the page-in (`paged → paging_in_start`).
    fn start_page_in(
        &self,
        p2m: &mut P::P2m<'_>,
        gfn: Gfn,
        entry: Entry,
    ) -> Result<(), PopulateError> {
        let Found::Paged(slot) = classify(p2m, gfn, entry) else {
            return Err(PopulateError::InconsistentEntry(entry));
        };
        match slot.populate() {
            Ok(_) => {
                self.counters.add(Count::Populated, 1);
                Ok(())
            }
            Err((_, errno)) => Err(PopulateError::Platform(errno)),
        }
    }

    /// With the p2m locked: pauses the vcpu and notes that it waits.
    fn wait(&self, vcpu: VcpuId, gfn: Gfn) -> Result<(), Option<VcpuPaused<'d>>> {
        let paused = self.pause(vcpu).ok_or(None)?;
        self.vcpus().wait(paused, gfn).map_err(Some)?;
        self.counters.add(Count::Paused, 1);
        Ok(())
    }

    /// Whether a pause of this crate is about to take effect on the vcpu.
    pub(super) fn is_being_paused(&self, vcpu: VcpuId) -> bool {
        self.vcpus().waits_for(vcpu).is_some() || WaitQueue::is_queued_for_drop(self.vcpus(), vcpu)
    }

    /// Requests the page that the vcpu waits for. If the page-in had started before, somebody has requested
    /// it already, unless that was on a ring that is gone.
    fn send_page_in_request(
        &self,
        vcpu: VcpuId,
        request: QueuedRequest,
        has_just_left: bool,
    ) -> Result<Populated, PopulateError> {
        let sent = {
            let mut queue = self.wait_queue.lock();
            if has_just_left {
                queue.send(self.vcpus(), vcpu, request)
            } else {
                queue.send_unless_pending(self.vcpus(), vcpu, request)
            }
        };
        match sent {
            Sent::Pushed(notify) => {
                self.counters.add(Count::Requests, 1);
                self.notify(notify);
                Ok(Populated::Paused)
            }
            Sent::Queued => {
                self.counters.add(Count::Queued, 1);
                Ok(Populated::Paused)
            }
            Sent::AlreadyPending => Ok(Populated::Paused),
            Sent::Refused => self.cancel_wait(vcpu, request.gfn),
        }
    }

    /// The ring has been torn down since it was checked. Tearing it down wakes all vcpus that wait. A vcpu
    /// that began to wait after that wakes itself, even if there is a new ring by now, because nobody has
    /// requested the page on it. The vcpu retries instead of getting an error: the page may have become
    /// resident before the ring was torn down.
    fn cancel_wait(&self, vcpu: VcpuId, gfn: Gfn) -> Result<Populated, PopulateError> {
        if let Some(paused) = self.vcpus().end_wait(vcpu, gfn) {
            self.unpause(paused);
        }
        Ok(Populated::InFlight)
    }
}

/// The request for a page that had this entry.
fn page_in_request(gfn: Gfn, entry: Entry) -> QueuedRequest {
    QueuedRequest {
        gfn,
        p2mt: entry.p2mt,
        kind: RequestKind::PageIn,
        contents_resident: false,
    }
}
