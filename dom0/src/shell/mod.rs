//! The pager's hands on the embedded host: threads, descriptors and memory around the
//! [core](crate::core).
//!
//! | thread | blocks in | does |
//! |---|---|---|
//! | main | read of the machine's event | the core; pages that somebody waits for, read and posted here |
//! | worker | its queue | page-out, and page-in ahead of need, over the hypercall socket |
//! | watch | the notice socket | target, balloon, guest gone, machine gone |
//! | ticker, signals | a clock, signals | what their names say |
//!
//! The others hand what they have to the main thread through the inbox and kick its event, so
//! that it waits in one place only, with one blocking read: a fault then costs the main thread two
//! system calls, that read and the doorbell. Nothing is allocated for it, and the memory it uses is
//! locked.

mod buffers;
mod demand;
mod hypercalls;
mod inbox;
mod pages;
mod serve;
mod start;
mod worker;

pub use buffers::BufferError;
pub use hypercalls::{Attached, CallError, GuestInfo, Hypercalls};
pub use serve::{Ended, Shell};
pub use start::{Options, ShellError};
