// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the guest does: vcpus that read and write pages and know what each must contain.
//!
//! Before the machine starts, its memory is [filled](fill) from files and every page's checksum is
//! noted in the [ledger], outside the guest. Each [vcpu] then visits pages after a [pattern](pager_accesses::pattern): it
//! touches the page (which faults if it is out), checks its checksum, and often changes it.

pub mod fill;
pub mod ledger;
pub mod vcpu;

pub use ledger::Ledger;
pub use vcpu::{Course, Vcpu, VcpuFigures};
