// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pager's hands: threads, descriptors and memory around the [core](pager_core), on whichever
//! [machine](Machine).
//!
//! | thread | blocks in | does |
//! |---|---|---|
//! | main | read of the machine's event | the core; pages that somebody waits for, read and prepped here |
//! | hypercalls | its queue | page-out, and page-in ahead of need: calls to the machine |
//! | store | its queue | the same: frames and slots |
//! | watch | the machine's notices | target, balloon, guest gone, machine gone |
//! | reporter | a clock | metrics, to whoever wants them |
//! | control | a socket | what an operator asks for |
//! | ticker, signals | a clock, signals | what their names say |
//!
//! Beside the pagers of all guests of a process:
//!
//! | thread | blocks in | does |
//! |---|---|---|
//! | metrics | a socket | metrics, for Prometheus |
//! | balancer | a clock | what each guest may have while the host is short of memory |
//!
//! The others hand what they have to the main thread through the inbox and kick its event, so
//! that it waits in one place only: on the embedded host a fault costs the main thread two system calls,
//! one blocking read and the doorbell. Nothing is allocated for it, and the memory it uses is
//! locked.

mod buffers;
pub mod console;
pub mod control;
mod control_request;
mod cpu;
mod demand;
mod error;
mod event_channel;
pub mod harden;
mod inbox;
mod machine;
mod metrics;
pub mod metrics_server;
mod page_in_progress;
mod pages;
pub mod pressure;
mod reporter;
mod serve;
mod service;
pub mod socket;
mod start;
mod worker;

pub use buffers::BufferPlace;
pub use cpu::pin_to;
pub use demand::REQUESTS;
pub use error::ShellError;
pub use event_channel::EventChannel;
pub use machine::{
    Attached, Calls, EventPort, Frames, FreeMemory, GuestInfo, Machine, MachineError, MachineEvent,
    Preps, Publish, Watch,
};
pub use metrics::{Kind, Metrics};
pub use serve::{Ended, Shell};
pub use service::SystemdService;
pub use start::{Options, Ready};
