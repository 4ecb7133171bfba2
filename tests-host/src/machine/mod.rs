// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine: frames, a p2m that is walked bit by bit, CPUs that remember translations, and vcpus
//! that are paused and unpaused. It has no clock and decides nothing; [`simulate`](crate::simulate)
//! runs it.
//!
//! It implements the crate's platform. Where a lock of the platform is released, the machine calls
//! [`Surroundings`], so that anything that may happen there on another CPU can happen. It panics
//! where a rule of the platform is broken: a frame freed before its flush, a flush owed when the
//! lock is released, the p2m lock and the ring lock held together, an unpause without its pause.

mod format;
mod frames;
mod locked;
mod page;
mod tables;
mod tlb;
mod uses;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Weak;

use p2m_paging::p2m::{Access, P2mType};
use p2m_paging::platform::{Entry, InvariantViolation, Platform};
use p2m_paging::{Gfn, Mfn, VcpuId};

pub use format::Format;
pub use frames::{FrameRecord, Frames, Place};
pub use locked::Locked;
pub use page::{Page, SECTORS};
pub use tables::{Fault, Tables, Translation};

use crate::plain::{Failures, RingLock, assert_none_held};
use tables::ABSENT;
use tlb::Tlb;

/// Where the contents for a page-in are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffer {
    /// In a readable page.
    Page(Page),
    /// In a page that faults when it is read.
    Faulting,
}

/// Everything around the machine.
pub trait Surroundings {
    /// No lock is held here: other CPUs may run.
    fn others(&self);

    /// A vcpu is paused; the p2m lock may be held.
    fn stopped(&self, vcpu: VcpuId);

    /// The last pause of a vcpu was undone.
    fn let_go(&self, vcpu: VcpuId);

    /// The hypervisor sent the pager its event.
    fn pager_notified(&self);
    /// The crate has left responses on the ring, and asks to be called again.
    fn event_deferred(&self);
}

/// What the p2m lock protects.
#[derive(Debug)]
pub struct Core {
    /// The p2m.
    pub tables: Tables,
    /// All frames.
    pub frames: Frames,
    /// The domain logs its writes.
    pub log_dirty: bool,
    /// Gfns counted out.
    pub paged_pages: i64,
    /// Failures to come.
    pub failures: Failures,
    tlbs: Vec<Tlb>,
    flushes: u64,
    owed: bool,
}

/// The machine.
pub struct Machine<'d> {
    core: RefCell<Core>,
    /// Pauses minus unpauses, by vcpu: 0 or 1.
    stopped: Vec<Cell<i32>>,
    surroundings: OnceCell<Weak<dyn Surroundings + 'd>>,
}

impl Core {
    /// The p2m type that ordinary memory has now.
    pub fn home(&self) -> P2mType {
        if self.log_dirty {
            P2mType::RamLogDirty
        } else {
            P2mType::RamRw
        }
    }

    /// The guest gets a page where it has none; `false` without memory.
    pub fn give(&mut self, gfn: Gfn, contents: Page) -> bool {
        assert_eq!(self.tables.get(gfn), ABSENT);
        let Some(mfn) = self.frames.alloc(Place::Mapped(gfn)) else {
            return false;
        };
        let frame = self.frames.get_mut(mfn);
        (frame.contents, frame.m2p) = (contents, Some(gfn));
        let (p2mt, mfn) = (self.home(), Some(mfn));
        self.tables.set(gfn, Entry { p2mt, mfn });
        true
    }

    /// The guest gives up an ordinary page; a dead guest any page. It is flushed, and freed unless
    /// it is used.
    pub fn remove(&mut self, gfn: Gfn) {
        let entry = self.tables.get(gfn);
        self.tables.set(gfn, ABSENT);
        self.flush_all();
        if let Some(mfn) = entry.mfn {
            self.frames.give_up(mfn);
        }
    }

    /// Changes the type of an ordinary page without the crate, for log-dirty.
    pub fn retype(&mut self, gfn: Gfn, p2mt: P2mType) {
        let entry = self.tables.get(gfn);
        self.tables.set(gfn, Entry { p2mt, ..entry });
    }

    /// All CPUs forget what they remember.
    pub fn flush_all(&mut self) {
        self.flushes += 1;
        self.owed = false;
        self.tlbs.iter_mut().for_each(Tlb::flush);
    }

    /// A vcpu's access, through a remembered translation or else a walk. Yields the frame on
    /// success.
    pub fn touch(&mut self, vcpu: VcpuId, gfn: Gfn, access: Access) -> Result<Mfn, Fault> {
        let tlb = &mut self.tlbs[vcpu.index()];
        let mfn = match tlb.get(gfn, access) {
            Some(translation) => translation.mfn,
            None => {
                let translation = self.tables.walk(gfn, access)?;
                tlb.fill(gfn, translation);
                translation.mfn
            }
        };
        self.tables.note_use(gfn, access);
        Ok(mfn)
    }
}

impl<'d> Machine<'d> {
    /// A machine with this many frames. Its guest has vcpus only.
    pub fn new(format: Format, frames: usize, vcpus: usize) -> Self {
        Self {
            core: RefCell::new(Core {
                tables: Tables::new(format),
                frames: Frames::new(frames),
                log_dirty: false,
                paged_pages: 0,
                failures: Failures::default(),
                tlbs: vec![Tlb::default(); vcpus],
                flushes: 0,
                owed: false,
            }),
            stopped: (0..vcpus).map(|_| Cell::new(0)).collect(),
            surroundings: OnceCell::new(),
        }
    }

    /// Sets its surroundings, once.
    pub fn surround(&self, surroundings: Weak<dyn Surroundings + 'd>) {
        assert!(
            self.surroundings.set(surroundings).is_ok(),
            "surrounded twice"
        );
    }

    /// Reads or changes the machine, under the p2m lock.
    pub fn with<R>(&self, look: impl FnOnce(&mut Core) -> R) -> R {
        look(&mut self.core.borrow_mut())
    }

    /// Whether the vcpu is paused.
    pub fn is_stopped(&self, vcpu: VcpuId) -> bool {
        self.stopped[vcpu.index()].get() != 0
    }

    fn others(&self) {
        self.around(|around| around.others());
    }

    fn around(&self, what: impl FnOnce(&dyn Surroundings)) {
        if let Some(around) = self.surroundings.get().and_then(Weak::upgrade) {
            what(&*around);
        }
    }
}

impl<'d> Platform for Machine<'d> {
    type P2m<'a>
        = Locked<'a, 'd>
    where
        Self: 'a;
    type Buffer = Buffer;
    type RingLock = RingLock<true>;

    fn lock_p2m(&self) -> Locked<'_, 'd> {
        assert_none_held::<true>("locking the p2m");
        self.others();
        Locked::new(self, self.core.borrow_mut())
    }

    fn pause_vcpu(&self, vcpu: VcpuId) {
        let stopped = &self.stopped[vcpu.index()];
        stopped.set(stopped.get() + 1);
        assert_eq!(stopped.get(), 1, "{vcpu:?} stopped twice");
        self.around(|around| around.stopped(vcpu));
    }

    fn unpause_vcpu(&self, vcpu: VcpuId) {
        assert_none_held::<true>("unpause_vcpu");
        let stopped = &self.stopped[vcpu.index()];
        stopped.set(stopped.get() - 1);
        assert_eq!(
            stopped.get(),
            0,
            "{vcpu:?} let go without having been stopped"
        );
        self.around(|around| around.let_go(vcpu));
        self.others();
    }

    fn notify_pager(&self) {
        assert_none_held::<true>("notify_pager");
        self.around(|around| around.pager_notified());
        self.others();
    }

    fn defer_event(&self) {
        assert_none_held::<true>("defer_event");
        self.around(|around| around.event_deferred());
    }

    fn invariant_violated(&self, what: InvariantViolation) {
        panic!("{what}");
    }
}
