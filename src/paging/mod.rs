//! One paged domain: the operations of rows A1 to A10 over a [`Platform`].
//!
//! Every pager-side operation takes a batch of [`Job`]s and notes each one's result. A batch is
//! worked off [`CHUNK`] gfns at a time, each chunk under one hold of the p2m lock with one flush, so
//! that the lock is never held for long.
//!
//! Locks: the p2m lock and the ring lock are never held together.
//!
//! **Waiting and waking.** A vcpu is noted as waiting for a gfn and paused under the p2m lock, while
//! the gfn is on its way in; whoever brings the gfn home (or removes it) does so under the same lock
//! and then wakes all who wait for it. So nobody waits for a page that is home. The response of the
//! pager frees its ring slot; it is not what the wake-up hangs on, so a response that comes late,
//! twice or never for a page that is home changes nothing.

mod counters;
mod drop_page;
mod enable;
mod evict;
mod line;
mod nominate;
mod populate;
mod prep;
mod reserved;
mod respond;
mod restore;
mod uses;

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use lock_api::Mutex;

pub use counters::{Count, Counters};
pub use drop_page::DropError;
pub use enable::{DisableError, DomainFacts, EnableError};
pub use evict::EvictError;
pub use nominate::NominateError;
pub use populate::{Caller, PopulateError, Populated};
pub use prep::{PrepError, PrepJob};
pub use respond::{EVENT_RESPONSES, Handled, Ignored, RingState};
pub use restore::RestoreError;
pub use uses::{USES_CHUNK, UsesError};

use crate::frame::{Gfn, VcpuId};
use crate::pause::{Switch, VcpuCell, VcpuPaused, Vcpus};
use crate::platform::Platform;
use crate::ring::Notify;
use line::Line;

/// Gfns worked off under one hold of the p2m lock.
pub const CHUNK: usize = 64;

/// One gfn of a batch, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job<E> {
    /// The page.
    pub gfn: Gfn,
    /// The outcome; `None` until the batch has been worked off.
    pub done: Option<Result<(), E>>,
}

impl<E> Job<E> {
    /// A page to be worked on.
    pub const fn new(gfn: Gfn) -> Self {
        Self { gfn, done: None }
    }
}

/// A paged domain.
#[derive(Debug)]
pub struct Paging<'d, P: Platform> {
    platform: P,
    cells: &'d [VcpuCell],
    waiting: AtomicU32,
    /// Pages that a response sends home: allocated empty, for the pager to fill. Nearly always none, and
    /// then a response is no reason to look at the p2m. Counted up before anybody can answer for the
    /// page. If another part of the hypervisor removes the page, the count stays too high; the only cost
    /// is one extra look-up for each response.
    to_resume: AtomicU32,
    /// Whether there is a ring: the quick look, without the lock.
    enabled: AtomicBool,
    line: Mutex<P::RingLock, Line>,
    counters: Counters,
}

impl<'d, P: Platform> Paging<'d, P> {
    /// A domain whose paging is not enabled yet. `cells` has one cell for each vcpu.
    pub fn new(platform: P, cells: &'d [VcpuCell]) -> Self {
        Self {
            platform,
            cells,
            waiting: AtomicU32::new(0),
            to_resume: AtomicU32::new(0),
            enabled: AtomicBool::new(false),
            line: Mutex::new(Line::new()),
            counters: Counters::default(),
        }
    }

    /// The platform.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// What has happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The domain's vcpus: who is paused, who waits for what.
    pub fn vcpus(&self) -> Vcpus<'_, 'd> {
        Vcpus::new(self.cells, &self.waiting)
    }

    /// Whether a pager is attached.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Slots of the ring that are claimed, or whose request has not been answered. A guest's vcpu
    /// stands in line only while all of them are held, or [`GUEST_SLOTS`](crate::ring::GUEST_SLOTS)
    /// of them are the guest's.
    pub fn slots_held(&self) -> u32 {
        self.line.lock().front().map_or(0, |front| front.held())
    }

    /// Pauses a vcpu for a reason of the caller's own, besides any that paging has (row A8).
    /// `None`: the domain has no such vcpu.
    pub fn pause(&self, vcpu: VcpuId) -> Option<VcpuPaused<'d>> {
        let (paused, switch) = self.vcpus().pause(vcpu)?;
        if switch == Switch::Change {
            self.platform.pause_vcpu(vcpu);
        }
        Some(paused)
    }

    /// Undoes one pause. No locks held.
    pub fn unpause(&self, paused: VcpuPaused<'d>) {
        let vcpu = paused.vcpu();
        match self.vcpus().unpause(paused) {
            Ok(Switch::Change) => self.platform.unpause_vcpu(vcpu),
            Ok(Switch::Stay) => {}
            Err(broken) => self.platform.broken(broken),
        }
    }

    /// Wakes all who wait for a page that is home or gone. No locks held.
    #[inline]
    fn wake(&self, gfn: Gfn) {
        if self.vcpus().anyone_waits() {
            self.wake_waiting(gfn);
        }
    }

    fn wake_waiting(&self, gfn: Gfn) {
        for paused in self.vcpus().woken(gfn) {
            self.counters.add(Count::Woken, 1);
            self.platform.wait_is_over(paused.vcpu(), gfn);
            self.unpause(paused);
        }
    }

    fn notify(&self, notify: Notify) {
        if notify == Notify::Owed {
            self.counters.add(Count::Notified, 1);
            self.platform.notify_pager();
        }
    }
}
