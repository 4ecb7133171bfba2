//! Counted vcpu pauses, and which vcpu waits for what (row A8).
//!
//! A vcpu may be paused for several reasons at once. Each pause is a [`VcpuPaused`] that must be
//! undone, and can be only once. The first one stops the vcpu on the platform, the last one undone
//! lets it go. A pause for a page is kept in the vcpu's [`VcpuCell`] until the page is home.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::frame::{Gfn, VcpuId};

/// What paging knows of one vcpu. The embedder lends one for each vcpu of the domain; a new one is
/// neither paused nor waiting.
#[derive(Debug, Default)]
pub struct VcpuCell {
    /// Pauses not undone yet.
    pauses: AtomicU32,
    /// The page it waits for, plus one; 0: none.
    waits_for: AtomicU64,
    /// In line for a ring slot: what it wants one for. Used under the ring lock only.
    pub(crate) in_line: AtomicU64,
    /// The next vcpu in line, plus one; 0: none. Used under the ring lock only.
    pub(crate) next: AtomicU32,
}

/// A pause that has to be undone with [`Vcpus::unpause`].
#[must_use = "the vcpu stays paused until this is given to `unpause`"]
#[derive(Debug, PartialEq, Eq)]
pub struct VcpuPaused(VcpuId);

/// What the caller has to do on the platform after a pause was counted.
#[must_use = "the count alone does not stop a vcpu"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Nothing: other pauses exist.
    Stay,
    /// The count left 0: stop the vcpu. Or reached it: let it run.
    Change,
}

/// The vcpus of a domain.
#[derive(Clone, Copy, Debug)]
pub struct Vcpus<'d> {
    cells: &'d [VcpuCell],
    /// How many wait for a page: nearly always none, and then nothing is searched.
    waiting: &'d AtomicU32,
}

impl VcpuCell {
    /// Not paused, waiting for nothing.
    pub const fn new() -> Self {
        Self {
            pauses: AtomicU32::new(0),
            waits_for: AtomicU64::new(0),
            in_line: AtomicU64::new(0),
            next: AtomicU32::new(0),
        }
    }
}

impl<'d> Vcpus<'d> {
    /// The vcpus with these cells; vcpu n has cell n.
    pub fn new(cells: &'d [VcpuCell], waiting: &'d AtomicU32) -> Self {
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
    pub fn waiting(&self) -> impl Iterator<Item = (VcpuId, Gfn)> + use<'d> {
        let vcpus = *self;
        let ids = vcpus.ids().map(VcpuId);
        ids.filter_map(move |vcpu| Some((vcpu, vcpus.waits_for(vcpu)?)))
    }

    /// Counts a pause. `None`: the domain has no such vcpu.
    pub fn pause(&self, vcpu: VcpuId) -> Option<(VcpuPaused, Switch)> {
        let before = self.cell(vcpu)?.pauses.fetch_add(1, Ordering::AcqRel);
        Some((
            VcpuPaused(vcpu),
            if before == 0 {
                Switch::Change
            } else {
                Switch::Stay
            },
        ))
    }

    /// Undoes a pause.
    pub fn unpause(&self, paused: VcpuPaused) -> Switch {
        // A pause of another domain's, which has more vcpus than this one: nothing to undo here.
        let Some(cell) = self.cell(paused.0) else {
            return Switch::Stay;
        };
        let before = cell.pauses.fetch_sub(1, Ordering::AcqRel);
        if before == 1 {
            Switch::Change
        } else {
            Switch::Stay
        }
    }

    /// Notes that the vcpu waits for `gfn`, and keeps the pause until it is [`Self::woken`]. Given
    /// back if it waits for a page already: one at a time, the other it will ask for again.
    pub(crate) fn wait(&self, paused: VcpuPaused, gfn: Gfn) -> Result<(), VcpuPaused> {
        let Some(cell) = self.cell(paused.0) else {
            return Err(paused);
        };
        // Counted before it can be seen, so that the count is never below the number that wait:
        // whoever ends the wait counts down, perhaps at once.
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let noted =
            cell.waits_for
                .compare_exchange(0, gfn.get() + 1, Ordering::AcqRel, Ordering::Acquire);
        if noted.is_err() {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            return Err(paused);
        }
        Ok(())
    }

    /// Ends the wait of one vcpu for `gfn`, if it does wait for it.
    pub(crate) fn end_wait(&self, vcpu: VcpuId, gfn: Gfn) -> Option<VcpuPaused> {
        let cell = self.cell(vcpu)?;
        cell.waits_for
            .compare_exchange(gfn.get() + 1, 0, Ordering::AcqRel, Ordering::Acquire)
            .ok()?;
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        Some(VcpuPaused(vcpu))
    }

    /// Ends the wait of all vcpus that wait for `gfn`, and of them only.
    pub(crate) fn woken(&self, gfn: Gfn) -> impl Iterator<Item = VcpuPaused> + use<'d> {
        let vcpus = *self;
        let ids = vcpus.ids();
        ids.filter_map(move |vcpu| vcpus.end_wait(VcpuId(vcpu), gfn))
    }

    /// Ends every wait.
    pub(crate) fn all_woken(&self) -> impl Iterator<Item = VcpuPaused> + use<'d> {
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

impl VcpuPaused {
    /// The pause of a vcpu that leaves the line: standing in it is what kept the pause.
    pub(crate) fn of_line(vcpu: VcpuId) -> Self {
        Self(vcpu)
    }

    /// Who.
    pub fn vcpu(&self) -> VcpuId {
        self.0
    }
}
