// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads, descriptors and I/O around the [core](pager_core), for any kind of [machine](Machine).
//!
//! | thread | blocks in | does |
//! |---|---|---|
//! | main | read of the machine's event | the core; preps pages that somebody waits for, and reads those that are cached |
//! | four readers | their queue | read pages that somebody waits for from the store's device |
//! | hypercalls | its queue | page-out, and page-in ahead of need: calls to the machine |
//! | store | its queue | page-out, and page-in ahead of need: frames and slots |
//! | watch | the machine's notices | target, balloon, end of the guest, end of the machine |
//! | reporter | a clock | metrics, for all who read them |
//! | control | a socket | requests of an operator |
//! | ticker, signals | a clock, signals | ticks, signals |
//!
//! A process has three more threads for the pagers of all its guests:
//!
//! | thread | blocks in | does |
//! |---|---|---|
//! | metrics | a socket | metrics, for Prometheus |
//! | balancer | a clock | how much memory each guest may have while the host is short of it |
//! | output | standard error | writes the log and the progress |
//!
//! The other threads leave their messages in the inbox and kick the main thread's event, so the
//! main thread waits in one place only. On the embedded host a fault costs the main thread two
//! system calls, one blocking read and the doorbell. The main thread allocates nothing for a fault,
//! and the memory that it uses is locked.

mod buffers;
pub mod console;
pub mod control;
mod control_request;
mod cpu;
mod demand;
mod end;
mod error;
mod event_channel;
mod inbox;
mod indexed;
mod machine;
mod metrics;
pub mod metrics_server;
mod page_in_progress;
mod pages;
pub mod pressure;
mod read_wait;
mod readers;
mod repeated;
mod reporter;
pub mod sandbox;
mod serve;
mod service;
mod signals;
pub mod socket;
mod start;
mod stop_wait;
mod take_over;
mod worker;

pub use buffers::BufferPlace;
pub use cpu::pin_to;
pub use demand::REQUESTS;
pub use end::Ended;
pub use error::ShellError;
pub use event_channel::EventChannel;
pub use machine::{
    AttachMode, Attached, Calls, EventPort, Frames, FreeMemory, GuestInfo, Machine, MachineError,
    MachineEvent, NoPagingStates, OnLoss, PagingStates, Preps, Publish, Watch,
};
pub use metrics::{Kind, Metrics};
pub use repeated::Repeated;
pub use serve::Shell;
pub use service::SystemdService;
pub use start::{Options, Ready};
