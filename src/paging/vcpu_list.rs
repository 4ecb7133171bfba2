// SPDX-License-Identifier: MIT OR Apache-2.0
//! A list of vcpus, linked through their cells.

use core::sync::atomic::Ordering;

use crate::frame::VcpuId;
use crate::pause::Vcpus;

/// Vcpus in the order in which they came. The links are in the cells of the vcpus, so a vcpu is in one list
/// at a time. Under the ring lock.
#[derive(Debug)]
pub(super) struct VcpuList {
    first: Option<VcpuId>,
    last: Option<VcpuId>,
}

impl VcpuList {
    pub(super) const fn new() -> Self {
        Self {
            first: None,
            last: None,
        }
    }

    pub(super) fn first(&self) -> Option<VcpuId> {
        self.first
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Puts a vcpu that is in no list behind the last one. A vcpu that does not exist is not put in.
    pub(super) fn push(&mut self, vcpus: Vcpus<'_, '_>, vcpu: VcpuId) {
        let Some(cell) = vcpus.cell(vcpu) else {
            return;
        };
        cell.next_queued.store(0, Ordering::Relaxed);
        match self.last.and_then(|last| vcpus.cell(last)) {
            Some(last) => last
                .next_queued
                .store(vcpu.0.wrapping_add(1), Ordering::Relaxed),
            None => self.first = Some(vcpu),
        }
        self.last = Some(vcpu);
    }

    /// Takes the first vcpu out.
    pub(super) fn pop(&mut self, vcpus: Vcpus<'_, '_>) -> Option<VcpuId> {
        let first = self.first?;
        self.first = vcpus
            .cell(first)
            .and_then(|cell| cell.next_queued.swap(0, Ordering::Relaxed).checked_sub(1))
            .map(VcpuId);
        if self.first.is_none() {
            self.last = None;
        }
        Some(first)
    }
}
