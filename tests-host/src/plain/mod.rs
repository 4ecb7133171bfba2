// SPDX-License-Identifier: MIT OR Apache-2.0
//! A plain machine in memory: the smallest platform that [`Paging`](p2m_paging::Paging) runs on.
//!
//! It has frames with contents, owners and users; a p2m; an m2p; and vcpus that are paused and
//! unpaused. With `CHECKED` it also checks that the crate keeps the platform's rules, and panics on
//! the first breach: frames are freed only after a flush, no flush is owed when the p2m lock is
//! released, the p2m lock and the ring lock are never held together, no vcpu is unpaused and no
//! pager notified under a lock, and there is no unpause without its pause. Without `CHECKED`
//! (benches) only the work itself remains.
//!
//! A page's contents are one word: the state machine only moves contents and never reads them.

mod core;
mod lock;
mod ring_page;

use ::core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use p2m_paging::p2m::P2mType;
use p2m_paging::paging::DomainProperties;
use p2m_paging::platform::{AllocError, InvariantViolation, Platform};
use p2m_paging::{Errno, Gfn, Mfn, SpinLock, VcpuId};

pub use self::core::{Core, Frame, PlainP2m, SCRUBBED};
pub use lock::RingLock;
pub(crate) use lock::{assert_none_held, p2m_locking, p2m_unlocked};
pub use ring_page::RingPage;

/// A domain that can be paged.
pub const PAGEABLE_DOMAIN: DomainProperties = DomainProperties::PAGEABLE;

/// Where the contents for a page-in are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffer {
    /// A readable page with these contents.
    Page(u64),
    /// Not aligned, or out of the caller's reach.
    Invalid,
    /// It faults when it is read.
    Faulting,
}

/// What the next call of each kind does instead of its work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// [`P2m::set_type`](p2m_paging::P2m::set_type) fails.
    pub set_type: Option<Errno>,
    /// [`P2m::take`](p2m_paging::P2m::take) fails.
    pub take: Option<Errno>,
    /// [`P2m::install`](p2m_paging::P2m::install) fails.
    pub install: Option<Errno>,
    /// [`P2m::alloc`](p2m_paging::P2m::alloc) fails.
    pub alloc: Option<AllocError>,
}

/// The calls of the platform for one vcpu.
#[derive(Debug, Default)]
struct VcpuRecord {
    /// Pauses minus unpauses.
    level: AtomicI32,
    pauses: AtomicU64,
}

/// The machine.
pub struct PlainMachine<const CHECKED: bool = true> {
    core: lock_api::Mutex<SpinLock, Core>,
    vcpus: Vec<VcpuRecord>,
    notifications: AtomicU64,
    deferred: AtomicU64,
    /// With `CHECKED` only.
    on_pause: std::sync::Mutex<Option<Meanwhile>>,
    on_lock: std::sync::Mutex<Option<Meanwhile>>,
    on_notify: std::sync::Mutex<Option<Answer>>,
    homes: std::sync::Mutex<Vec<(VcpuId, Gfn)>>,
}

/// What somebody else does at a certain moment.
type Meanwhile = Box<dyn FnOnce() + Send>;

/// What a pager does when its event has come.
type Answer = Box<dyn FnMut() + Send>;

impl<const CHECKED: bool> std::fmt::Debug for PlainMachine<CHECKED> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlainMachine")
            .field("core", &self.core)
            .field("vcpus", &self.vcpus)
            .finish_non_exhaustive()
    }
}

impl<const CHECKED: bool> PlainMachine<CHECKED> {
    /// `gfns` frames of RAM, where gfn n contains n, and `spare` free frames beside them.
    pub fn new(gfns: usize, spare: usize, vcpus: usize) -> Self {
        Self {
            core: lock_api::Mutex::new(Core::new(gfns, spare)),
            vcpus: (0..vcpus).map(|_| VcpuRecord::default()).collect(),
            notifications: AtomicU64::new(0),
            deferred: AtomicU64::new(0),
            on_pause: std::sync::Mutex::new(None),
            on_lock: std::sync::Mutex::new(None),
            on_notify: std::sync::Mutex::new(None),
            homes: std::sync::Mutex::default(),
        }
    }

    /// While the next vcpu is being paused, with the p2m locked, another CPU does this.
    pub fn on_next_pause(&self, meanwhile: impl FnOnce() + Send + 'static) {
        *self.on_pause.lock().expect("not poisoned") = Some(Box::new(meanwhile));
    }

    /// Before the p2m is next locked, another CPU does this.
    pub fn on_next_p2m_lock(&self, meanwhile: impl FnOnce() + Send + 'static) {
        *self.on_lock.lock().expect("not poisoned") = Some(Box::new(meanwhile));
    }

    /// From here on the pager does this whenever its event comes, before `notify_pager` returns.
    pub fn on_notify(&self, answer: impl FnMut() + Send + 'static) {
        *self.on_notify.lock().expect("not poisoned") = Some(Box::new(answer));
    }

    /// How often the crate has asked to be called again for responses that it left.
    pub fn deferred(&self) -> u64 {
        self.deferred.load(Ordering::SeqCst)
    }

    /// Reads or changes the machine without the crate.
    pub fn with<R>(&self, look: impl FnOnce(&mut Core) -> R) -> R {
        look(&mut self.core.lock())
    }

    /// The type of a gfn.
    pub fn p2mt(&self, gfn: Gfn) -> P2mType {
        self.with(|core| core.entry(gfn).p2mt)
    }

    /// The contents behind a gfn, if it has a frame.
    pub fn contents(&self, gfn: Gfn) -> Option<u64> {
        self.with(|core| core.entry(gfn).mfn.map(|mfn| core.frame(mfn).contents))
    }

    /// Whether the vcpu is paused.
    pub fn is_stopped(&self, vcpu: VcpuId) -> bool {
        self.vcpus[vcpu.index()].level.load(Ordering::SeqCst) != 0
    }

    /// How often the vcpu has been paused.
    pub fn stops(&self, vcpu: VcpuId) -> u64 {
        self.vcpus[vcpu.index()].pauses.load(Ordering::SeqCst)
    }

    /// The vcpus that were told that their page is resident, in order. With `CHECKED` only.
    pub fn told(&self) -> Vec<(VcpuId, Gfn)> {
        self.homes.lock().expect("not poisoned").clone()
    }

    /// Events sent to the pager.
    pub fn notifications(&self) -> u64 {
        self.notifications.load(Ordering::SeqCst)
    }

    /// Somebody else takes a reference to the frame behind a gfn.
    pub fn get_frame(&self, gfn: Gfn) -> Option<Mfn> {
        self.with(|core| {
            let mfn = core.entry(gfn).mfn?;
            core.frame_mut(mfn).references += 1;
            Some(mfn)
        })
    }

    /// They release it. The last user of a frame that the domain has given up frees it.
    pub fn put_frame(&self, mfn: Mfn) {
        self.with(|core| core.put(mfn));
    }

    /// Panics unless every frame is accounted for, every mapped frame has its m2p entry and
    /// `paged_pages` is the number of gfns that are out.
    pub fn check(&self) {
        self.with(Core::check);
    }
}

impl<const CHECKED: bool> Platform for PlainMachine<CHECKED> {
    type P2m<'a> = PlainP2m<'a, CHECKED>;
    type Buffer = Buffer;
    type RingLock = RingLock<CHECKED>;

    fn lock_p2m(&self) -> PlainP2m<'_, CHECKED> {
        if CHECKED {
            let meanwhile = self.on_lock.lock().expect("not poisoned").take();
            if let Some(meanwhile) = meanwhile {
                meanwhile();
            }
        }
        PlainP2m::lock(&self.core)
    }

    fn pause_vcpu(&self, vcpu: VcpuId) {
        let record = &self.vcpus[vcpu.index()];
        record.level.fetch_add(1, Ordering::SeqCst);
        record.pauses.fetch_add(1, Ordering::SeqCst);
        if CHECKED {
            let meanwhile = self.on_pause.lock().expect("not poisoned").take();
            if let Some(meanwhile) = meanwhile {
                let done = std::thread::spawn(meanwhile).join();
                done.expect("the other CPU got through");
            }
        }
    }

    fn vcpu_resumes(&self, vcpu: VcpuId, gfn: Gfn) {
        lock::assert_none_held::<CHECKED>("vcpu_resumes");
        if CHECKED {
            assert!(self.is_stopped(vcpu), "{vcpu:?} runs before it is told");
            let mut homes = self.homes.lock().expect("not poisoned");
            homes.push((vcpu, gfn));
        }
    }

    fn unpause_vcpu(&self, vcpu: VcpuId) {
        lock::assert_none_held::<CHECKED>("unpause_vcpu");
        let before = self.vcpus[vcpu.index()]
            .level
            .fetch_sub(1, Ordering::SeqCst);
        assert!(before > 0, "{vcpu:?} unpaused without a pause");
    }

    fn notify_pager(&self) {
        lock::assert_none_held::<CHECKED>("notify_pager");
        self.notifications.fetch_add(1, Ordering::SeqCst);
        if CHECKED && let Some(answer) = &mut *self.on_notify.lock().expect("not poisoned") {
            answer();
        }
    }

    fn defer_event(&self) {
        lock::assert_none_held::<CHECKED>("defer_event");
        self.deferred.fetch_add(1, Ordering::SeqCst);
    }

    fn invariant_violated(&self, what: InvariantViolation) {
        panic!("{what}");
    }
}
