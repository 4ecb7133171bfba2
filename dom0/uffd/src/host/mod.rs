// SPDX-License-Identifier: MIT OR Apache-2.0
//! The embedded host: a machine whose guest memory is real and paged through userfaultfd.

mod fault;
pub mod frame_run;
pub mod guest_memory;
pub mod machine;
pub mod p2m;
mod prep;
mod serve_pager;
pub mod uffd;
pub mod workload;

pub use machine::{Machine, MachineOptions, PagerExit, UffdMachineError};
