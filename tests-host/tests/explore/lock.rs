// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ring lock of the model.

#![allow(unsafe_code)]

use std::cell::Cell;

use lock_api::{GuardSend, RawMutex};

use crate::fiber::pause;

/// The ring lock: it is never held when others run, so nobody ever waits for it.
#[derive(Debug)]
pub(crate) struct RingLock(Cell<bool>);

thread_local! {
    /// As [`Config::fine`], for the lock, which cannot store it.
    pub(crate) static FINE: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: one thread has it, and it is a real lock only while no other operation runs.
unsafe impl RawMutex for RingLock {
    #[allow(clippy::declare_interior_mutable_const)] // The trait requires it.
    const INIT: Self = Self(Cell::new(false));
    type GuardMarker = GuardSend;

    fn lock(&self) {
        pause();
        assert!(!self.0.replace(true), "the ring lock is held");
    }

    fn try_lock(&self) -> bool {
        !self.0.replace(true)
    }

    unsafe fn unlock(&self) {
        self.0.set(false);
        if FINE.get() {
            pause();
        }
    }
}
