//! `xenpaging`: the pager of a Xen guest, and an embedded host to run it on without Xen.
pub mod balance;
pub mod cli;
pub mod core;
pub mod embedded;
mod harden;
pub mod host;
pub mod link;
pub mod pager_main;
mod pagers;
pub mod shell;
pub mod status;
pub mod store;
mod swaps;
pub mod trace;
pub mod xen;
