//! Row A6: the guest gives back a page that is out, or on its way.

use core::fmt;
use core::sync::atomic::Ordering;

use super::line::{Kind, NotSent, Sent, Want};
use super::populate::Caller;
use super::{Count, Paging};
use crate::errno::Errno;
use crate::frame::Gfn;
use crate::p2m::{FlushOwed, Found, P2mType, classify};
use crate::platform::{Entry, P2m, Platform};

/// Why the page was not dropped. Nothing has changed.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropError {
    /// The gfn is of no paging type: it is removed like any other.
    NotPaging(P2mType),
    /// The pager could not be told now: try again later.
    RingFull,
    /// There is no pager to be told.
    NoRing,
    /// The entry could not be changed.
    Platform(Errno),
}

impl DropError {
    /// The number for callers in the hypervisor.
    pub const fn errno(self) -> Errno {
        match self {
            Self::NotPaging(_) => Errno::EINVAL,
            Self::RingFull => Errno::EAGAIN,
            Self::NoRing => Errno::EOPNOTSUPP,
            Self::Platform(errno) => errno,
        }
    }
}

impl fmt::Display for DropError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPaging(t) => write!(f, "not being paged ({t:?})"),
            Self::RingFull => f.write_str("the ring is full"),
            Self::NoRing => f.write_str("no pager is attached"),
            Self::Platform(errno) => write!(f, "the p2m entry could not be changed: {errno}"),
        }
    }
}

impl core::error::Error for DropError {}

impl<P: Platform> Paging<'_, P> {
    /// Removes a gfn of any paging type and tells the pager to forget its copy. Vcpus that wait for
    /// it are woken, and find it gone.
    ///
    /// A vcpu of the guest that finds the ring full is paused until the pager has been told; its
    /// page is gone all the same. No locks held.
    pub fn drop_page(&self, gfn: Gfn, caller: Caller) -> Result<(), DropError> {
        let claim = {
            let mut line = self.line.lock();
            match (line.claim_in_turn(caller.asker()), caller) {
                (Ok(claim), _) => Some(claim),
                (Err(NotSent::NoRing), _) => return Err(DropError::NoRing),
                (Err(NotSent::Full), Caller::Guest(vcpu)) if !self.is_being_paused(vcpu) => None,
                (Err(NotSent::Full), _) => {
                    self.counters.add(Count::RingFull, 1);
                    return Err(DropError::RingFull);
                }
            }
        };
        let entry = match self.discard(gfn) {
            Ok(entry) => entry,
            Err(e) => {
                if let Some(claim) = claim {
                    self.cancel(claim);
                }
                return Err(e);
            }
        };
        let want = Want {
            gfn,
            p2mt: entry.p2mt,
            kind: Kind::Drop,
            // The pager may not know such a page to be out. By the time it hears of this the gfn may
            // be a new page that it has evicted since: not to be forgotten.
            in_place: entry.mfn.is_some(),
        };
        let sent = match (claim, caller) {
            (Some(claim), _) => self.line.lock().push(claim, want, caller),
            (None, Caller::Guest(vcpu)) => {
                // Paused first: whoever serves the line unpauses it, perhaps at once.
                let paused = self.pause(vcpu);
                let sent = self.line.lock().send(self.vcpus(), vcpu, want);
                if !matches!(sent, Sent::InLine) {
                    paused.into_iter().for_each(|paused| self.unpause(paused));
                }
                sent
            }
            (None, Caller::Foreign(_)) => Sent::Not,
        };
        match sent {
            Sent::Pushed(notify) => {
                self.counters.add(Count::Requests, 1);
                self.notify(notify);
            }
            Sent::InLine => self.counters.add(Count::Queued, 1),
            // The ring was torn down meanwhile: nobody is left who has a copy to forget.
            Sent::Already | Sent::Not => {}
        }
        Ok(())
    }

    /// Removes a gfn of any paging type and tells nobody: what a platform does that has no pager now, so
    /// that nobody has a copy to forget. Yields what the entry was. No locks held.
    pub fn discard(&self, gfn: Gfn) -> Result<Entry, DropError> {
        let entry = {
            let mut p2m = self.platform.lock_p2m();
            let (entry, owed) = remove(&mut p2m, gfn)?;
            owed.pay(&mut p2m);
            if entry.mfn.is_some() && entry.p2mt != P2mType::RamPagingOut {
                self.to_resume.fetch_sub(1, Ordering::AcqRel);
            }
            entry
        };
        self.counters.add(Count::Dropped, 1);
        self.wake(gfn);
        Ok(entry)
    }
}

/// Yields what the entry was.
fn remove<M: P2m>(p2m: &mut M, gfn: Gfn) -> Result<(Entry, FlushOwed<M::Frame>), DropError> {
    let entry = p2m.get(gfn);
    let removed = match classify(p2m, gfn, entry) {
        Found::PagingOut(slot) => slot.discard().map_err(|(_, e)| e),
        Found::Paged(slot) => slot.discard().map_err(|(_, e)| e),
        Found::InFlight(slot) => slot.discard().map_err(|(_, e)| e),
        Found::PagingIn(slot) => slot.discard().map_err(|(_, e)| e),
        Found::Ram(_) | Found::Other(_) => return Err(DropError::NotPaging(entry.p2mt)),
    };
    Ok((entry, removed.map_err(DropError::Platform)?))
}
