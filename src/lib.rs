// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory paging of a virtual machine, from underneath it.
//!
//! A hypervisor links this crate to page a guest's memory out and back while the guest runs. The crate
//! holds the state machine and the protocol with a *pager*, the program that keeps the pages that are
//! out. It allocates nothing, reads no clock and performs no I/O.
//!
//! # The states of a page
//!
//! A guest frame (gfn) is in one of five states:
//!
//! | state (p2m type) | frame | the guest may |
//! |---|---|---|
//! | resident (`ram_rw`, or log-dirty) | yes | read, write, execute |
//! | nominated (`paging_out`) | yes | read, execute |
//! | paged out (`paged`) | no | nothing: it faults |
//! | requested (`paging_in_start`) | no | nothing: its vcpu is paused |
//! | paging in (`paging_in`) | yes, being filled by the pager | nothing: its vcpu is paused |
//!
//! ```text
//! ram_rw → paging_out → paged → paging_in_start → ram_rw        the pager supplies the contents
//!                               paging_in_start → paging_in → ram_rw    it fills a mapped frame
//! ```
//!
//! Two shortcuts exist. An access to a nominated page that it does not allow makes the page resident
//! at once. The pager may bring back a page that nobody has requested: `paged → ram_rw`.
//! [`p2m::table`] has every transition and every refusal in one table.
//!
//! # One page, out and back
//!
//! ```
#![doc = include_str!("../examples/one_page.rs")]
//! ```
//!
//! # Where things are
//!
//! - [`paging`]: the operations of one paged domain, [`Paging`], in batches;
//! - [`platform`]: what the embedder implements: p2m, frames, vcpus, event to the pager;
//! - [`p2m`]: the types of a p2m entry, and the typed transitions between them;
//! - [`fault`]: what a nested page fault says, and what is to be done about it;
//! - [`pause`]: counted vcpu pauses, and which vcpu waits for which page;
//! - [`ring`]: the page shared with the pager, both halves, laid out as Xen's.
//!
//! # What the embedder owes
//!
//! - *Locks.* The p2m lock and the ring lock are never held together. "No locks held" in a method's
//!   documentation is a requirement.
//! - *Frames.* [`P2m::alloc`] yields a frame, [`P2m::install`] takes it, [`P2m::take`] yields it again,
//!   [`P2m::free`] ends it. The crate never drops a frame silently: one whose flush was lost goes to
//!   [`Leak::leak`](platform::Leak::leak) and stays allocated.
//! - *Events.* After the pager's event, call [`Paging::on_event`], and call it again as long as it
//!   returns [`RingState::More`](paging::RingState::More). A hypervisor does that from a tasklet that
//!   [`Platform::defer_event`] schedules.
//! - *Pauses.* A [`VcpuPaused`](pause::VcpuPaused) goes back to [`Paging::unpause`]. A dropped one
//!   leaves its vcpu paused for ever.
//! - *A dead pager.* If the pager is killed, another one attaches with [`Paging::take_over`]. Until then,
//!   whoever needs a page waits. [`Paging::disable`] ends that.
//! - *Waking.* A [`prep`](Paging::prep) with a buffer wakes the vcpus that wait for the page by itself.
//!   Without a buffer they are woken by the pager's response.
//!
//! # Trust
//!
//! Ring indices, responses and frame numbers from outside are checked before use. Nothing that a guest
//! or a pager sends makes the crate panic.
//!
//! # Versions
//!
//! The minimum supported Rust version is 1.95. The crate is `no_std`, has no Cargo features and builds
//! for `x86_64-unknown-none` without SSE. Types of other crates in the API are re-exported:
//! [`bitflags`], [`bitvec`], [`lock_api`], [`x86_64`].
//!
//! `A1` to `A10` name rows of the project's requirements, one for each operation: `docs/rows.md` in the
//! repository.

#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod errno;
pub mod fault;
pub mod frame;
pub mod p2m;
pub mod paging;
pub mod pause;
pub mod platform;
pub mod ring;
#[cfg(test)]
mod testing;

pub use errno::Errno;
pub use frame::{Gfn, Mfn, PAGE_SIZE, VcpuId};
pub use p2m::P2mType;
pub use paging::Paging;
pub use platform::{P2m, Platform, SpinLock};
pub use {bitflags, bitvec, lock_api, x86_64};
