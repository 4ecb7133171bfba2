// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest's kernel. Its tasks are ordinary Rust code on stacks of their own. They are switched on
//! its CPUs as the second source document describes it for Linux 2.6 (rows D1 to D3), and scheduled
//! by [`scheduler`](crate::scheduler).
//!
//! Stacks and registers are real: a switch is x86-64 assembly (`context.rs`). The parts that a
//! program in user space cannot have (page table, task-state segment, ports, CR0.TS, debug
//! registers) are a model, [`Cpu`]. Each time that a task goes on, the model is compared with what
//! that task may expect.
//!
//! The host runs a CPU with [`Kernel::run`], until a task asks for something that the kernel does
//! not have ([`Kernel::trap`]) or no task can run. All of it lives on one thread of the host and
//! depends only on what the host does.

mod bare;
mod calls;
mod context;
mod cpu;
mod kernel;
mod mm;
mod overflow;
mod task;
mod thread;
mod turn;
mod wait;

pub use bare::{come_and_go, hand_over};
pub use cpu::{BITMAP_ABSENT, BITMAP_LAZY, BITMAP_OFFSET, Cpu, Fault, FpuRegisters, TaskState};
pub use kernel::{Booted, Exit, Kernel};
pub use mm::Mm;
pub use thread::Thread;
pub use wait::{Interrupted, WaitQueue};
