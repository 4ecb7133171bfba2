//! Memory paging of a virtual machine, from underneath it.
//!
//! A guest frame goes out and comes back through five states:
//!
//! ```text
//! ram_rw → paging_out → paged → paging_in_start → ram_rw
//!                               paging_in_start → paging_in → ram_rw
//! ```
//!
//! The page goes home from `paging_in_start` in one step if the pager supplies its contents. If the pager
//! fills a frame through a mapping, the page is `paging_in` until the pager answers. A page that somebody
//! needs while it is only nominated (`paging_out`) goes back to `ram_rw` at once.
//!
//! The crate holds what a hypervisor needs for that, and nothing of the hypervisor itself:
//!
//! - [`p2m`]: the types of a p2m entry, the typed transitions between them, the table of all moves;
//! - [`paging`]: the operations of one paged domain, [`Paging`], in batches;
//! - [`fault`]: what a nested page fault says, and what is to be done about it;
//! - [`pause`]: counted vcpu pauses, and who waits for which page;
//! - [`ring`]: the page shared with the pager, both halves, laid out as Xen's;
//! - [`platform`]: the seam. Whoever owns the p2m, the frames and the vcpus implements it.
//!
//! It allocates nothing, reads no clock and performs no I/O. Outside data (ring indices, responses,
//! frame numbers) is a claim until it has been checked; nothing that a guest or a pager can send
//! makes it panic.
//!
//! `A1` to `A10` in the documentation are the rows of the system's description: what the paging
//! state machine has to do, one row for each operation.

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

pub use errno::Errno;
pub use frame::{Gfn, Mfn, PAGE_SIZE, VcpuId};
pub use lock_api;
pub use p2m::P2mType;
pub use paging::Paging;
pub use platform::{P2m, Platform, SpinLock};
