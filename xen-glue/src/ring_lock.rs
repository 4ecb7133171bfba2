// SPDX-License-Identifier: GPL-2.0-only
//! Xen's spinlock as a [`RawMutex`].

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, Ordering};

use lock_api::{GuardNoSend, RawMutex};

use crate::shim;

/// A `spinlock_t`.
///
/// The value of an unlocked spinlock depends on Xen's configuration, so it cannot be a constant in
/// Rust. The first [`lock`](RawMutex::lock) initialises it. This must happen before the lock is
/// shared.
pub struct XenLock {
    ready: AtomicBool,
    lock: UnsafeCell<[u64; shim::LOCK_BYTES / 8]>,
}

// SAFETY: the cell is only passed to Xen's spinlock functions, which are made for sharing.
unsafe impl Sync for XenLock {}
// SAFETY: a spinlock that nobody holds can be moved; one that is held is borrowed.
unsafe impl Send for XenLock {}

impl XenLock {
    fn raw(&self) -> *mut c_void {
        let lock = self.lock.get().cast();
        if !self.ready.load(Ordering::Relaxed) {
            // SAFETY: large enough (the shim asserts it), aligned, and not shared yet.
            unsafe { shim::xen_shim_lock_init(lock) };
            self.ready.store(true, Ordering::Relaxed);
        }
        lock
    }
}

// SAFETY: Xen's spinlock provides the exclusion.
unsafe impl RawMutex for XenLock {
    type GuardMarker = GuardNoSend;

    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self {
        ready: AtomicBool::new(false),
        lock: UnsafeCell::new([0; shim::LOCK_BYTES / 8]),
    };

    fn lock(&self) {
        // SAFETY: a spinlock, initialised.
        unsafe { shim::xen_shim_lock(self.raw()) }
    }

    fn try_lock(&self) -> bool {
        // SAFETY: a spinlock, initialised.
        unsafe { shim::xen_shim_trylock(self.raw()) }
    }

    unsafe fn unlock(&self) {
        // SAFETY: a spinlock that the caller holds.
        unsafe { shim::xen_shim_unlock(self.raw()) }
    }
}
