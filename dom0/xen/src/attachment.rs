// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether this pager is still the pager of its domain, by Xen's answers to its calls. ENOTCONN: the
//! domain has another pager now. ENODEV: the domain has no pager, because somebody has disabled paging.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How a pager lost its domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Lost {
    /// Paging was disabled. If the domain is being destroyed, that is the reason.
    Disabled = 1,
    /// The domain has another pager.
    Replaced = 2,
}

/// Lost once and for ever. All threads of a pager share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Attachment(Arc<AtomicU8>);

impl Attachment {
    /// The pager has lost its domain. A pager that was replaced stays replaced.
    pub(super) fn lose(&self, how: Lost) {
        self.0.fetch_max(how as u8, Ordering::Relaxed);
    }

    /// How the pager lost its domain, if it did.
    pub(super) fn lost(&self) -> Option<Lost> {
        let how = self.0.load(Ordering::Relaxed);
        let is = |lost: &Lost| *lost as u8 == how;
        [Lost::Disabled, Lost::Replaced].into_iter().find(is)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pager_that_was_replaced_stays_replaced() {
        let attachment = Attachment::default();
        assert_eq!(attachment.lost(), None);
        for (how, then) in [
            (Lost::Disabled, Lost::Disabled),
            (Lost::Replaced, Lost::Replaced),
            (Lost::Disabled, Lost::Replaced),
        ] {
            attachment.clone().lose(how);
            assert_eq!(attachment.lost(), Some(then));
        }
    }
}
