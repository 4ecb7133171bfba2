// SPDX-License-Identifier: MIT OR Apache-2.0
//! The CPUs on which threads run.

/// Makes the calling thread run on one CPU only. A failure is logged and otherwise ignored.
pub fn pin_to(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    if let Err(errno) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(cpu, %errno, "faults are not handled on the CPU that was chosen");
    }
}
