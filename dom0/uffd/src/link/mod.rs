// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the machine process and the pager process share: an event channel each way, a page with the
//! ring, a page with preps, the pager's buffers, and a socket for everything else.
//!
//! A fault crosses twice and waits for no message: the request stands in the ring page, the prep and
//! the answer in the shared pages too, and each side is woken through an eventfd. Batches (nominate,
//! evict, prep ahead of need) and what happens once (attach, enable, detach) are packets on the
//! socket; the machine notices on it that its pager is gone.

pub mod mailbox;
pub mod packet;
pub mod shared_area;

pub use mailbox::{Mailbox, PostedPrep};
pub use packet::{Op, PROTOCOL};
pub use shared_area::{SharedArea, SharedAreaError};
