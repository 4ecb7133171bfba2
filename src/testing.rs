// SPDX-License-Identifier: MIT OR Apache-2.0
//! A platform for the tests of this crate: it has no memory, and notes what it is told.

use std::sync::{Mutex, MutexGuard};
use std::vec::Vec;

use crate::errno::Errno;
use crate::frame::{Gfn, Mfn, VcpuId};
use crate::p2m::{AccessBits, ClearBits, Cleared, P2mType, Permit};
use crate::platform::{
    AllocError, Contents, Entry, FrameUsers, InvariantViolation, Leak, P2m, Platform, SpinLock,
    TakeCondition, TakeError,
};

/// The platform.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    table: Mutex<Table>,
    broken: Mutex<Vec<InvariantViolation>>,
}

/// What is behind the p2m lock.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Each time uses were taken: the first gfn, how many words, and which bits were cleared.
    pub(crate) taken: Vec<(u64, usize, ClearBits)>,
    /// The bits of each word that are set.
    pub(crate) accessed: u64,
    pub(crate) dirty: u64,
    /// No bit has to be cleared.
    pub(crate) is_clear: bool,
    /// AccessBits are refused from this call on.
    pub(crate) refuse_from: Option<usize>,
    pub(crate) flushes: usize,
}

/// The p2m, locked.
pub(crate) struct Locked<'a>(MutexGuard<'a, Table>);

/// This machine has none.
pub(crate) enum NoFrame {}

impl Leak for NoFrame {}

impl Machine {
    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap()
    }

    /// What was said to be broken since the last call.
    pub(crate) fn take_broken(&self) -> Vec<InvariantViolation> {
        core::mem::take(&mut self.broken.lock().unwrap())
    }
}

impl Platform for Machine {
    type P2m<'a> = Locked<'a>;
    type Buffer = ();
    type RingLock = SpinLock;

    fn lock_p2m(&self) -> Locked<'_> {
        Locked(self.table())
    }

    fn pause_vcpu(&self, _vcpu: VcpuId) {}

    fn unpause_vcpu(&self, _vcpu: VcpuId) {}

    fn notify_pager(&self) {}

    fn defer_event(&self) {}

    fn invariant_violated(&self, what: InvariantViolation) {
        self.broken.lock().unwrap().push(what);
    }
}

impl P2m for Locked<'_> {
    type Frame = NoFrame;
    type Buffer = ();

    fn get(&self, _gfn: Gfn) -> Entry {
        Entry {
            p2mt: P2mType::Invalid,
            mfn: None,
        }
    }

    fn users(&self, mfn: Mfn) -> FrameUsers {
        unreachable!("{mfn:?} of a machine without memory")
    }

    fn set_type(&mut self, _permit: Permit, _gfn: Gfn, _to: P2mType) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn take(
        &mut self,
        _permit: Permit,
        _gfn: Gfn,
        _mfn: Mfn,
        _to: P2mType,
        _condition: TakeCondition,
    ) -> Result<NoFrame, TakeError> {
        Err(TakeError::Platform(Errno::EINVAL))
    }

    fn alloc(&mut self, _contents: Contents<'_, ()>) -> Result<NoFrame, AllocError> {
        Err(AllocError::NoMemory)
    }

    fn install(
        &mut self,
        _permit: Permit,
        _gfn: Gfn,
        frame: NoFrame,
        _to: P2mType,
    ) -> Result<Mfn, Errno> {
        match frame {}
    }

    fn restore_m2p(&mut self, _mfn: Mfn, _gfn: Gfn) {}

    fn resident_type(&self) -> P2mType {
        P2mType::RamRw
    }

    fn flush(&mut self) {
        self.0.flushes += 1;
    }

    fn free(&mut self, _frames: impl Iterator<Item = NoFrame>) {}

    fn read_clear_access_bits(
        &mut self,
        first: Gfn,
        uses: &mut [AccessBits],
        take: ClearBits,
    ) -> Result<Cleared, Errno> {
        if self
            .0
            .refuse_from
            .is_some_and(|from| self.0.taken.len() >= from)
        {
            return Err(Errno::ENOMEM);
        }
        self.0.taken.push((first.get(), uses.len(), take));
        for word in uses {
            assert_eq!(*word, AccessBits::default(), "they come as zeros");
            word.accessed.data = [self.0.accessed];
            word.dirty.data = [self.0.dirty];
        }
        Ok(if self.0.is_clear {
            Cleared::Nothing
        } else {
            Cleared::Something
        })
    }

    fn count_out(&mut self) {}

    fn count_in(&mut self) {}
}
