// SPDX-License-Identifier: MIT OR Apache-2.0
//! A host with one guest, whose memory is real and paged through userfaultfd.
//!
//! | module | what |
//! |---|---|
//! | [`host`] | the machine: the guest's memory and vcpus, and the hypervisor half of paging |
//! | [`pager_side`] | the pager's end: that machine as the shell's [`Machine`](pager_shell::Machine)
//! |
//! | [`link`] | what both ends share |

pub mod host;
pub mod link;
pub mod pager_side;
