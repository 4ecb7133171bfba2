// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ring lock, and the locks that each thread holds.

#![allow(unsafe_code)]

use std::cell::Cell;

use lock_api::{GuardSend, RawMutex};
use p2m_paging::SpinLock;

#[derive(Clone, Copy, Default)]
struct Held {
    p2m: bool,
    ring: bool,
}

thread_local! {
    static HELD: Cell<Held> = const { Cell::new(Held { p2m: false, ring: false }) };
}

/// The crate's [`SpinLock`]. With `CHECKED` it records who holds what.
#[derive(Debug)]
pub struct RingLock<const CHECKED: bool>(SpinLock);

// SAFETY: locking and unlocking are those of [`SpinLock`]; the records beside them decide nothing.
unsafe impl<const CHECKED: bool> RawMutex for RingLock<CHECKED> {
    #[allow(clippy::declare_interior_mutable_const)] // The trait requires it.
    const INIT: Self = Self(<SpinLock as RawMutex>::INIT);
    type GuardMarker = GuardSend;

    fn lock(&self) {
        if CHECKED {
            assert_none_held::<CHECKED>("locking the ring");
        }
        RawMutex::lock(&self.0);
        note::<CHECKED>(|held| held.ring = true);
    }

    fn try_lock(&self) -> bool {
        let locked = RawMutex::try_lock(&self.0);
        if locked {
            note::<CHECKED>(|held| held.ring = true);
        }
        locked
    }

    unsafe fn unlock(&self) {
        note::<CHECKED>(|held| held.ring = false);
        // SAFETY: the caller holds this lock.
        unsafe { RawMutex::unlock(&self.0) }
    }
}

pub(crate) fn p2m_locking<const CHECKED: bool>() {
    assert_none_held::<CHECKED>("locking the p2m");
    note::<CHECKED>(|held| held.p2m = true);
}

pub(crate) fn p2m_unlocked<const CHECKED: bool>() {
    note::<CHECKED>(|held| held.p2m = false);
}

/// Panics if this thread holds a lock.
pub(crate) fn assert_none_held<const CHECKED: bool>(doing: &str) {
    if CHECKED {
        let held = HELD.get();
        assert!(!held.p2m, "{doing} with the p2m locked");
        assert!(!held.ring, "{doing} with the ring locked");
    }
}

fn note<const CHECKED: bool>(change: impl FnOnce(&mut Held)) {
    if CHECKED {
        let mut held = HELD.get();
        change(&mut held);
        HELD.set(held);
    }
}
