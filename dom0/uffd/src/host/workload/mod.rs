// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the guest does: vcpus that read and write pages and know what each must contain.
//!
//! Before the machine starts, its memory is [filled](fill) from files and every page's checksum is
//! noted in the [expected contents](expected_contents), outside the guest. Each [vcpu] then visits pages after a [pattern](pager_accesses::pattern): it
//! touches the page (which faults if it is out), checks its checksum, and often changes it.

pub mod expected_contents;
pub mod fill;
pub mod vcpu;

pub use expected_contents::ExpectedContents;
pub use vcpu::{Vcpu, VcpuFigures, Workload};
