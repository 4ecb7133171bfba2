// SPDX-License-Identifier: MIT OR Apache-2.0
//! The p2m side of paging: what a gfn is, and how it moves from one state to the next.

mod debts;
mod slot;
pub mod table;
mod types;
mod uses;

pub use debts::{Debts, FlushOwed};
pub(crate) use slot::classify;
pub use slot::{
    Found, FurnishError, InFlight, Moved, MovedOwing, Paged, PagingIn, PagingOut, Permit, Ram,
    Slot, lookup,
};
pub use types::{Access, EptPermissions, P2mType};
pub use uses::{Cleared, GfnSet, Take, USES_GFNS, Uses, take_uses};
