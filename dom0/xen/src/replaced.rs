// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether the domain has another pager now. Xen then refuses each call of this one with ENOTCONN.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set once and for ever. All threads of a pager share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Replaced(Arc<AtomicBool>);

impl Replaced {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
