// SPDX-License-Identifier: GPL-2.0-only
//! The `p2m-paging` crate inside Xen.
//!
//! - [`platform`] and [`p2m`] implement the crate's platform over C [`shim`]s, [`lock`] its ring
//!   lock.
//! - [`state`] is what a domain has: the crate's `Paging`, the ring page and the event channel.
//! - [`exports`] are the functions that Xen's C calls.
//! - [`console`] is all output for people, the panic handler included.
//!
//! Everything here runs in the hypervisor, on Xen's stacks, with the locks that each function
//! names.

#![no_std]

mod console;
mod exports;
mod p2m;
mod platform;
mod ring_lock;
mod shim;
mod state;
