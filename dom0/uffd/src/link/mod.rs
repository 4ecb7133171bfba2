// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the machine process and the pager process share: an event channel each way, a page with the
//! ring, a page with preps, the pager's buffers, and a socket for everything else.
//!
//! A fault crosses twice and waits for no message: the request, the prep and the response are all
//! in shared pages, and an eventfd wakes each side. Batches (nominate, evict, prep ahead of need)
//! and single calls (attach, enable, detach) are packets on the socket. When the socket closes, the
//! machine knows that its pager is gone.

pub mod mailbox;
pub mod packet;
pub mod shared_area;

pub use mailbox::{Mailbox, PostedPrep};
pub use packet::{Op, PROTOCOL};
pub use shared_area::{SharedArea, SharedAreaError};
