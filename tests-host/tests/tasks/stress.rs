// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tasks that do everything at random on several CPUs, which run in random order. Each time that a
//! task goes on, the kernel checks that the CPU is as the task left it.

use std::rc::Rc;

use fastrand::Rng;
use tests_host::scheduler::{CpuId, Policy, RealTime, State};
use tests_host::tasks::{Booted, Exit, Kernel, Mm, WaitQueue};

use super::TICK_NS;

const CPUS: u32 = 3;
const TASKS: u32 = 12;

fn lives(kernel: &Kernel<u64>, seed: u64, queue: &WaitQueue) {
    let mut rng = Rng::with_seed(seed);
    let mut fpu = 0;
    for step in 0..60 {
        let local = rng.u64(..);
        match rng.u32(0..12) {
            0 => kernel.yield_now(),
            1 => {
                let _ = kernel.sleep_ns(rng.u64(0..40) * TICK_NS);
            }
            2 | 3 => {
                kernel.fpu(|registers| {
                    assert_eq!(registers.xmm[5], fpu);
                    fpu = u128::from(local);
                    registers.xmm[5] = fpu;
                });
            }
            4 => {
                kernel.set_tls(rng.usize(0..3), local | 1);
                kernel.trap(step);
                assert_eq!(kernel.tls(), Ok(local | 1));
            }
            5 => {
                let port = rng.u16(0..500);
                kernel.permit_ports(port..port + 1, true);
                kernel.trap(step);
                assert_eq!(kernel.port(port), Ok(()));
                kernel.permit_ports(port..port + 1, false);
                assert!(kernel.port(port).is_err());
            }
            6 => {
                let at = [local; 1];
                kernel.set_breakpoints(&at[..rng.usize(0..2)]);
            }
            7 => {
                // Waits for a signal, or for the one in eight that finds it done.
                let _ = queue.wait_until(kernel, State::Interruptible, || rng.u32(0..8) == 0);
            }
            8 => queue.wake_all(kernel),
            _ => kernel.trap(step),
        }
    }
}

/// The events, in order.
fn run(seed: u64) -> Vec<(u32, u32, u64)> {
    let kernel: Booted<u64> = Kernel::boot(CPUS as usize, TICK_NS);
    let mut rng = Rng::with_seed(seed);
    let queue = Rc::new(WaitQueue::default());
    for task in 0..TASKS {
        let policy = match task % 6 {
            5 => Policy::RoundRobin(RealTime::try_new(10).expect("a priority")),
            _ => Policy::NORMAL,
        };
        let mm = (task % 4 != 3).then(|| Mm::new(u64::from(task + 1) << 12, u64::from(task % 2)));
        let (seed, queue) = (rng.u64(..), queue.clone());
        kernel.spawn(policy, mm, CpuId(task % CPUS), move |kernel| {
            lives(kernel, seed, &queue)
        });
    }
    let mut happened = Vec::new();
    let mut now_ns = 0;
    let all_ended = |kernel: &Kernel<u64>| {
        let state = |task| {
            kernel
                .scheduler()
                .state(tests_host::scheduler::TaskId(task))
        };
        (0..TASKS).all(|task| state(task) == State::Dead)
    };
    while !all_ended(&kernel) {
        now_ns += rng.u64(0..2 * TICK_NS);
        kernel.advance(now_ns);
        let cpu = CpuId(rng.u32(0..CPUS));
        kernel.tick(cpu);
        match kernel.run(cpu) {
            Exit::Trap(task, what) => happened.push((cpu.0, task.0, what)),
            Exit::Halt => queue.wake_all(&kernel),
        }
        kernel.scheduler().check();
        assert!(happened.len() < 1_000_000, "seed {seed}: it never ends");
    }
    happened
}

#[test]
fn d3_whatever_tasks_do_each_finds_its_cpu_as_it_left_it() {
    for seed in 0..40 {
        let ran = std::panic::catch_unwind(|| run(seed));
        assert!(ran.is_ok(), "seed {seed}");
    }
}

#[test]
fn d7_the_same_seed_is_the_same_run() {
    let elsewhere = std::thread::spawn(|| run(7)).join().expect("no panic");
    assert_eq!(run(7), elsewhere);
    assert_ne!(run(7), run(8));
}
