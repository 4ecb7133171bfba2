// SPDX-License-Identifier: MIT OR Apache-2.0
//! The expected contents of each page of the guest, kept outside the guest.

use std::time::Duration;

use p2m_paging::{Gfn, PAGE_SIZE};
use parking_lot::{Mutex, MutexGuard};

use crate::host::frame_run::FrameRun;
use crate::host::guest_memory::GuestMemory;

/// The longest time that a vcpu may spend on one page before it counts as stuck.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// What is known of one page. While it is locked, no other thread of this machine reads or writes
/// the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedPage {
    /// The CRC-32C of its contents.
    pub checksum: u32,
    /// How often it was changed.
    pub version: u32,
    /// Whether the guest has the page. If not, it has given the page back.
    pub owned: bool,
}

/// One entry for each page.
#[derive(Debug)]
pub struct ExpectedContents(Box<[Mutex<ExpectedPage>]>);

/// The result of a check of all pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyResult {
    /// Pages with the expected contents.
    pub good: u64,
    /// Pages with other contents.
    pub bad: u64,
    /// Pages that the guest has given back.
    pub given_back: u64,
}

impl ExpectedContents {
    /// Records the present contents of the guest's memory.
    pub fn record(memory: &GuestMemory) -> Self {
        let mut page = [0; PAGE_SIZE];
        let entries = (0..memory.size_pages()).map(|gfn| {
            // Every gfn of the memory is one of its frames, so this cannot fail.
            let _ = memory.load(Gfn::new_truncate(gfn), &mut page);
            Mutex::new(ExpectedPage {
                checksum: crc32c::crc32c(&page),
                version: 0,
                owned: true,
            })
        });
        Self(entries.collect())
    }

    /// Locks a page's entry; `None` if there is no such page.
    pub fn lock(&self, gfn: Gfn) -> Option<MutexGuard<'_, ExpectedPage>> {
        let index = usize::try_from(gfn.get()).ok()?;
        Some(self.0.get(index)?.lock())
    }

    /// Reads all pages that the guest owns. `is_there` tells for which pages the machine has the
    /// contents. A page without contents is bad. So is a page that a vcpu keeps locked: the vcpu
    /// waits for it for ever.
    pub fn verify(&self, memory: &GuestMemory, is_there: impl Fn(Gfn) -> bool) -> VerifyResult {
        let mut verified = VerifyResult::default();
        let mut page = [0; PAGE_SIZE];
        for (gfn, entry) in (0..).map(Gfn::new_truncate).zip(&self.0) {
            let Some(expected) = entry.try_lock_for(LOCK_TIMEOUT).map(|entry| *entry) else {
                verified.bad += 1;
                tracing::error!(%gfn, "a vcpu waits for this page and cannot continue");
                continue;
            };
            if !expected.owned {
                verified.given_back += 1;
                continue;
            }
            // This does not use the mapping: the reader is not a vcpu, and the page may go out
            // meanwhile.
            let read = is_there(gfn) && memory.read(FrameRun::one(gfn), &mut page).is_ok();
            if read && crc32c::crc32c(&page) == expected.checksum {
                verified.good += 1;
            } else {
                verified.bad += 1;
                tracing::error!(%gfn, version = expected.version, there = read, "bad page");
            }
        }
        verified
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_never_unlocked_is_bad_and_the_audit_ends() {
        let memory = GuestMemory::create(2).unwrap();
        let expected = ExpectedContents::record(&memory);
        let _locked = expected.lock(Gfn::new_truncate(0));
        let verified = expected.verify(&memory, |_| true);
        assert_eq!((verified.good, verified.bad), (1, 1));
    }

    #[test]
    fn a_changed_a_missing_and_a_given_back_page_are_told_apart() {
        let memory = GuestMemory::create(4).unwrap();
        let gfn = Gfn::new_truncate;
        for page in 0..4 {
            let byte = u8::try_from(page).unwrap();
            memory.store(gfn(page), &[byte; PAGE_SIZE]).unwrap();
        }
        let expected = ExpectedContents::record(&memory);
        memory.store(gfn(1), &[9; PAGE_SIZE]).unwrap();
        expected.lock(gfn(3)).unwrap().owned = false;
        assert!(expected.lock(gfn(4)).is_none());
        let verified = expected.verify(&memory, |gfn| gfn.get() != 2);
        let expected = VerifyResult {
            good: 1,
            bad: 2,
            given_back: 1,
        };
        assert_eq!(verified, expected);
    }
}
