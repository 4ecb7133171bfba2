// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the guest does: vcpus read and write pages and know what each must contain.
//!
//! Before the machine starts, its memory is [filled](fill) from files, and the checksum of every
//! page is noted in the [expected contents](expected_contents), outside the guest. Each [vcpu] then
//! visits pages in a [pattern](pager_accesses::pattern). A visit touches the page, which faults if
//! it is out, then checks its checksum, and often changes it.

pub mod expected_contents;
pub mod fill;
pub mod vcpu;

pub use expected_contents::ExpectedContents;
pub use vcpu::{Vcpu, VcpuFigures, Workload};
