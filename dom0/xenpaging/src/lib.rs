//! `xenpaging`: the pager of a Xen guest, and an embedded host to run it on without Xen.
#[path = "../../accesses/src/lib.rs"]
pub mod accesses;
#[path = "../../core/src/balance/mod.rs"]
pub mod balance;
pub mod cli;
#[path = "../../core/src/lib.rs"]
pub mod core;
#[path = "../../uffd/src/embedded/mod.rs"]
pub mod embedded;
#[path = "../../uffd/src/host/mod.rs"]
pub mod host;
pub mod job;
#[path = "../../uffd/src/link/mod.rs"]
pub mod link;
pub mod pager_main;
mod pagers;
#[path = "../../shell/src/lib.rs"]
pub mod shell;
pub mod status;
#[path = "../../store/src/lib.rs"]
pub mod store;
mod swaps;
#[path = "../../trace/src/lib.rs"]
pub mod trace;
#[path = "../../xen/src/lib.rs"]
pub mod xen;
