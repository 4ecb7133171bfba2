// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tasks and the context switch: rows D1 to D3, and D7 where a task blocks.

mod address_spaces;
mod ends;
mod hardware;
mod stress;
mod switch;
mod waiting;

use std::cell::RefCell;
use std::rc::Rc;

use tests_host::scheduler::{CpuId, Policy, TaskId};
use tests_host::tasks::{Booted, Exit, Kernel};

const CPU: CpuId = CpuId(0);
const OTHER: CpuId = CpuId(1);
const TICK_NS: u64 = 1_000_000;

/// Tasks that say what they do.
type Said = Rc<RefCell<Vec<&'static str>>>;

fn boot(cpus: usize) -> Booted<&'static str> {
    Kernel::boot(cpus, TICK_NS)
}

/// Runs the first CPU until it halts. Yields the values with which its tasks have trapped.
fn run_all(kernel: &Kernel<&'static str>) -> Vec<(TaskId, &'static str)> {
    let mut traps = Vec::new();
    while let Exit::Trap(task, what) = kernel.run(CPU) {
        traps.push((task, what));
        assert!(traps.len() < 100_000, "it never halts");
    }
    traps
}

fn spawn(
    kernel: &Kernel<&'static str>,
    main: impl FnOnce(&Kernel<&'static str>) + 'static,
) -> TaskId {
    kernel.spawn(Policy::NORMAL, None, CPU, main)
}
