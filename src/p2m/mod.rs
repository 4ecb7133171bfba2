//! The p2m side of paging: what a gfn is, and how it moves from one state to the next.

mod slot;
pub mod table;
mod types;
mod uses;

pub(crate) use slot::classify;
pub use slot::{
    Debts, FlushOwed, Found, FurnishError, InFlight, Moved, MovedOwing, Paged, PagingIn, PagingOut,
    Ram, Slot, lookup,
};
pub use types::{Access, EptPermissions, P2mType};
pub use uses::{Cleared, Take, USES_GFNS, Uses, take_uses};
