// SPDX-License-Identifier: MIT OR Apache-2.0
//! `xenpaging`: the pager of a Xen guest, and an embedded host to run it on without Xen.
mod ask;
mod attached_pager;
pub mod cli;
mod console;
pub mod exit;
mod gone_guests;
mod guest_files;
pub mod job;
mod not_started;
pub mod pager_main;
mod pagers;
pub mod status;
mod swaps;
