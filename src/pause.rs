// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counted vcpu pauses, and which vcpu waits for which page (row A8).
//!
//! A vcpu may be paused for several reasons at once. Each pause is a [`VcpuPaused`] that must be undone
//! exactly once. The first pause stops the vcpu on the platform; undoing the last one lets it run. A
//! pause for a page is stored in the vcpu's [`VcpuCell`] until the page is resident or gone.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::frame::{Gfn, VcpuId};
use crate::platform::InvariantViolation;

/// What paging knows of one vcpu. The embedder provides one for each vcpu of the domain. A new one is
/// neither paused nor waiting.
#[derive(Debug, Default)]
pub struct VcpuCell {
    /// Pauses that have not been undone.
    pauses: AtomicU32,
    /// The page it waits for, plus one; 0: none.
    waits_for: AtomicU64,
    /// In the wait queue: the request that it wants to push. Used under the ring lock only.
    pub(crate) queued_request: AtomicU64,
    /// The next vcpu in the wait queue, plus one; 0: none. Used under the ring lock only.
    pub(crate) next_queued: AtomicU32,
    /// Leaked pauses, which nobody can undo.
    leaked_pauses: AtomicU32,
}

/// A pause that must be undone with [`Paging::unpause`](crate::Paging::unpause).
///
/// Only [`Paging::pause`](crate::Paging::pause) creates one. If it is dropped instead, the vcpu stays
/// paused for ever, and [`Vcpus::leaked_pauses`] counts it.
#[must_use = "the vcpu stays paused until this is given to `unpause`"]
#[derive(Debug)]
pub struct VcpuPaused<'d> {
    cell: &'d VcpuCell,
    vcpu: VcpuId,
}

/// What the caller must do on the platform after a change of the count.
#[must_use = "the count alone does not stop a vcpu"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PauseEdge {
    /// Nothing: there are other pauses.
    Unchanged,
    /// The count left 0: stop the vcpu. Or it reached 0: let the vcpu run.
    Changed,
}

/// The vcpus of a domain.
#[derive(Clone, Copy, Debug)]
pub struct Vcpus<'s, 'd> {
    cells: &'d [VcpuCell],
    /// How many wait for a page. It is nearly always 0, and then no cell is searched.
    waiting: &'s AtomicU32,
}

impl VcpuCell {
    /// Not paused, waiting for nothing.
    pub const fn new() -> Self {
        Self {
            pauses: AtomicU32::new(0),
            waits_for: AtomicU64::new(0),
            queued_request: AtomicU64::new(0),
            next_queued: AtomicU32::new(0),
            leaked_pauses: AtomicU32::new(0),
        }
    }
}

impl<'s, 'd> Vcpus<'s, 'd> {
    /// The vcpus with these cells; vcpu n has cell n.
    pub(crate) fn new(cells: &'d [VcpuCell], waiting: &'s AtomicU32) -> Self {
        Self { cells, waiting }
    }

    /// Whether the domain has this vcpu.
    pub fn contains(&self, vcpu: VcpuId) -> bool {
        vcpu.index() < self.cells.len()
    }

    pub(crate) fn cell(&self, vcpu: VcpuId) -> Option<&'d VcpuCell> {
        self.cells.get(vcpu.index())
    }

    /// Pauses of this vcpu that have not been undone.
    pub fn pauses(&self, vcpu: VcpuId) -> u32 {
        self.cell(vcpu)
            .map_or(0, |c| c.pauses.load(Ordering::Relaxed))
    }

    /// Pauses that were dropped instead of undone. Each one is a bug of the embedder.
    pub fn leaked_pauses(&self) -> u32 {
        let leaked = |cell: &VcpuCell| cell.leaked_pauses.load(Ordering::Relaxed);
        self.cells.iter().map(leaked).fold(0, u32::saturating_add)
    }

    /// The page this vcpu waits for.
    pub fn waits_for(&self, vcpu: VcpuId) -> Option<Gfn> {
        let raw = self.cell(vcpu)?.waits_for.load(Ordering::Acquire);
        raw.checked_sub(1).map(Gfn::new_truncate)
    }

    /// Whether any of them waits for a page.
    pub(crate) fn anyone_waits(&self) -> bool {
        self.waiting.load(Ordering::Acquire) != 0
    }

    /// All vcpus that wait for a page, and for which.
    pub fn waiting(&self) -> impl Iterator<Item = (VcpuId, Gfn)> + use<'s, 'd> {
        let vcpus = *self;
        let ids = vcpus.ids().map(VcpuId);
        ids.filter_map(move |vcpu| Some((vcpu, vcpus.waits_for(vcpu)?)))
    }

    /// Counts a pause. `None`: the domain has no such vcpu.
    pub(crate) fn pause(&self, vcpu: VcpuId) -> Option<(VcpuPaused<'d>, PauseEdge)> {
        let cell = self.cell(vcpu)?;
        let before = cell.pauses.fetch_add(1, Ordering::AcqRel);
        let edge = if before == 0 {
            PauseEdge::Changed
        } else {
            PauseEdge::Unchanged
        };
        Some((VcpuPaused { cell, vcpu }, edge))
    }

    /// Undoes a pause. A pause of another domain's vcpu is leaked, and nothing changes here.
    pub(crate) fn unpause(&self, paused: VcpuPaused<'d>) -> Result<PauseEdge, InvariantViolation> {
        let VcpuPaused { cell, vcpu } = paused;
        if !self.cell(vcpu).is_some_and(|own| core::ptr::eq(own, cell)) {
            return Ok(PauseEdge::Unchanged);
        }
        core::mem::forget(paused);
        let count = |pauses: u32| pauses.checked_sub(1);
        match cell
            .pauses
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, count)
        {
            Ok(1) => Ok(PauseEdge::Changed),
            Ok(_) => Ok(PauseEdge::Unchanged),
            Err(_) => Err(InvariantViolation::Pauses(vcpu)),
        }
    }

    /// Notes that the vcpu waits for `gfn`. Its cell stores the pause until the wait ends. A vcpu waits for
    /// one page at a time: if it waits already, the pause is returned.
    pub(crate) fn wait(&self, paused: VcpuPaused<'d>, gfn: Gfn) -> Result<(), VcpuPaused<'d>> {
        // Counted before the wait can be seen: whoever ends the wait decrements the count, possibly at
        // once, so it must never be below the number of vcpus that wait.
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let noted = paused.cell.waits_for.compare_exchange(
            0,
            awaited(gfn),
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if noted.is_err() {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            return Err(paused);
        }
        core::mem::forget(paused);
        Ok(())
    }

    /// Ends the wait of one vcpu for `gfn`, if it waits for it, and takes the pause out of its cell.
    pub(crate) fn end_wait(&self, vcpu: VcpuId, gfn: Gfn) -> Option<VcpuPaused<'d>> {
        let cell = self.cell(vcpu)?;
        // Most vcpus wait for nothing: a load leaves the cache lines of their cells shared.
        if cell.waits_for.load(Ordering::Acquire) != awaited(gfn) {
            return None;
        }
        cell.waits_for
            .compare_exchange(awaited(gfn), 0, Ordering::AcqRel, Ordering::Acquire)
            .ok()?;
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        Some(VcpuPaused { cell, vcpu })
    }

    /// The wait queue stores the pause from here on. Under the ring lock.
    pub(crate) fn store_queued_pause(&self, paused: VcpuPaused<'d>) {
        core::mem::forget(paused);
    }

    /// Takes the pause out of the wait queue: once, when the vcpu leaves it. Under the ring lock.
    pub(crate) fn take_queued_pause(&self, vcpu: VcpuId) -> Option<VcpuPaused<'d>> {
        let cell = self.cell(vcpu)?;
        Some(VcpuPaused { cell, vcpu })
    }

    /// Ends the wait of all vcpus that wait for `gfn`, and of them only.
    pub(crate) fn take_waiters(
        &self,
        gfn: Gfn,
    ) -> impl Iterator<Item = VcpuPaused<'d>> + use<'s, 'd> {
        let vcpus = *self;
        let ids = vcpus.ids();
        ids.filter_map(move |vcpu| vcpus.end_wait(VcpuId(vcpu), gfn))
    }

    /// Ends every wait.
    pub(crate) fn take_all_waiters(&self) -> impl Iterator<Item = VcpuPaused<'d>> + use<'s, 'd> {
        let vcpus = *self;
        vcpus.ids().filter_map(move |vcpu| {
            let vcpu = VcpuId(vcpu);
            vcpus.end_wait(vcpu, vcpus.waits_for(vcpu)?)
        })
    }

    fn ids(&self) -> core::ops::Range<u32> {
        0..u32::try_from(self.cells.len()).unwrap_or(u32::MAX)
    }
}

impl VcpuPaused<'_> {
    /// The paused vcpu.
    pub fn vcpu(&self) -> VcpuId {
        self.vcpu
    }
}

impl Drop for VcpuPaused<'_> {
    fn drop(&mut self) {
        self.cell.leaked_pauses.fetch_add(1, Ordering::Relaxed);
    }
}

/// How a cell stores that its vcpu waits for this page.
const fn awaited(gfn: Gfn) -> u64 {
    gfn.get().wrapping_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GFN: Gfn = Gfn::new_truncate(5);

    #[test]
    fn a_pause_that_is_dropped_is_counted_as_lost_and_stays() {
        let (cells, waiting) = ([VcpuCell::new()], AtomicU32::new(0));
        let vcpus = Vcpus::new(&cells, &waiting);
        let (paused, _) = vcpus.pause(VcpuId(0)).unwrap();
        assert_eq!(vcpus.unpause(paused), Ok(PauseEdge::Changed));
        assert_eq!(vcpus.leaked_pauses(), 0);
        drop(vcpus.pause(VcpuId(0)).unwrap());
        assert_eq!((vcpus.leaked_pauses(), vcpus.pauses(VcpuId(0))), (1, 1));
    }

    #[test]
    fn a_pause_that_waits_comes_out_of_its_cell_once() {
        let (cells, waiting) = ([VcpuCell::new()], AtomicU32::new(0));
        let vcpus = Vcpus::new(&cells, &waiting);
        let (paused, _) = vcpus.pause(VcpuId(0)).unwrap();
        vcpus.wait(paused, GFN).unwrap();
        let mut woken = vcpus.take_waiters(GFN);
        assert_eq!(vcpus.unpause(woken.next().unwrap()), Ok(PauseEdge::Changed));
        assert!(woken.next().is_none());
        assert_eq!((vcpus.leaked_pauses(), vcpus.pauses(VcpuId(0))), (0, 0));
    }

    #[test]
    fn an_unpause_too_many_is_an_error_and_counts_nothing() {
        let (cells, waiting) = ([VcpuCell::new()], AtomicU32::new(0));
        let vcpus = Vcpus::new(&cells, &waiting);
        let again = vcpus.take_queued_pause(VcpuId(0)).unwrap();
        assert_eq!(
            vcpus.unpause(again),
            Err(InvariantViolation::Pauses(VcpuId(0)))
        );
        assert_eq!(vcpus.pauses(VcpuId(0)), 0);
    }

    #[test]
    fn a_pause_of_another_domain_undoes_nothing() {
        let (cells, waiting) = ([VcpuCell::new()], AtomicU32::new(0));
        let (others, others_waiting) = ([VcpuCell::new()], AtomicU32::new(0));
        let (vcpus, other) = (
            Vcpus::new(&cells, &waiting),
            Vcpus::new(&others, &others_waiting),
        );
        let (paused, _) = vcpus.pause(VcpuId(0)).unwrap();
        assert_eq!(other.unpause(paused), Ok(PauseEdge::Unchanged));
        assert_eq!((vcpus.leaked_pauses(), vcpus.pauses(VcpuId(0))), (1, 1));
        assert_eq!((other.leaked_pauses(), other.pauses(VcpuId(0))), (0, 0));
    }

    #[test]
    fn who_waits_is_listed_with_the_page_until_its_wait_ends() {
        let (cells, waiting) = ([const { VcpuCell::new() }; 3], AtomicU32::new(0));
        let vcpus = Vcpus::new(&cells, &waiting);
        for (vcpu, gfn) in [(VcpuId(2), GFN), (VcpuId(0), Gfn::MAX)] {
            let (paused, _) = vcpus.pause(vcpu).unwrap();
            vcpus.wait(paused, gfn).unwrap();
        }
        assert!(
            vcpus
                .waiting()
                .eq([(VcpuId(0), Gfn::MAX), (VcpuId(2), GFN)])
        );
        assert!(vcpus.anyone_waits());
        assert!(vcpus.contains(VcpuId(2)) && !vcpus.contains(VcpuId(3)));
        let ended = vcpus.end_wait(VcpuId(0), Gfn::MAX).unwrap();
        assert_eq!(ended.vcpu(), VcpuId(0));
        assert!(vcpus.waiting().eq([(VcpuId(2), GFN)]));
        let woken: std::vec::Vec<_> = vcpus.take_all_waiters().collect();
        assert_eq!(woken.len(), 1);
        assert!(!vcpus.anyone_waits());
        assert_eq!(vcpus.waiting().next(), None);
    }

    /// And what it was given for the second page is not kept: the count of those who wait stays right.
    #[test]
    fn a_vcpu_waits_for_one_page_at_a_time() {
        let (cells, waiting) = ([VcpuCell::new()], AtomicU32::new(0));
        let vcpus = Vcpus::new(&cells, &waiting);
        let pause = || vcpus.pause(VcpuId(0)).unwrap().0;
        vcpus.wait(pause(), GFN).unwrap();
        let back = vcpus.wait(pause(), Gfn::MAX).unwrap_err();
        assert_eq!(vcpus.unpause(back), Ok(PauseEdge::Unchanged));
        assert_eq!(vcpus.waits_for(VcpuId(0)), Some(GFN));
        assert!(vcpus.end_wait(VcpuId(0), Gfn::MAX).is_none());
        let kept = vcpus.end_wait(VcpuId(0), GFN).unwrap();
        assert!(!vcpus.anyone_waits());
        assert_eq!(vcpus.unpause(kept), Ok(PauseEdge::Changed));
    }
}
