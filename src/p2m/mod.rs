// SPDX-License-Identifier: MIT OR Apache-2.0
//! The p2m side of paging: what a gfn is, and how it moves from one state to the next.

mod access_bits;
mod owed_flush;
mod slot;
pub mod table;
mod types;

pub use access_bits::{
    ACCESS_BITS_GFNS, AccessBits, ClearBits, Cleared, GfnSet, read_clear_access_bits,
};
pub use owed_flush::{FlushOwed, OwedFlushes};
pub(crate) use slot::classify;
pub use slot::{
    AttachFrameError, Found, Moved, MovedOwing, Paged, PagingIn, PagingInStart, PagingOut, Permit,
    Ram, Slot, lookup,
};
pub use types::{Access, EptPermissions, P2mType};
