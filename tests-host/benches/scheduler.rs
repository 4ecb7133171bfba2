// SPDX-License-Identifier: MIT OR Apache-2.0
//! The scheduler and the context switch: nanoseconds by number of tasks, fairness and latency in
//! virtual time, and a switch beside a library's.
//!
//! `cargo bench -p tests-host --bench scheduler`

#[path = "../tests/scheduler/workload.rs"]
mod workload;

use std::hint::black_box;
use std::time::Instant;

use corosensei::Coroutine;
use tests_host::scheduler::{Call, CpuId, Nice, Policy, RealTime, Scheduler, State, TaskId, Waker};
use tests_host::tasks::{Booted, Exit, Kernel, Mm, come_and_go, hand_over};
use workload::{Life, live};

const CPU: CpuId = CpuId(0);
const TICK_NS: u64 = 1_000_000;
/// Each figure is the best of this many measurements. Each is shorter than the time that the
/// machine's own scheduler gives a program at once.
const REPEATS: usize = 50;
const ROUNDS: u32 = 2_000;
/// A minute and a half of virtual time: by then the priorities of all tasks are stable.
const WARM_UP: u64 = 90_000;

fn main() {
    // The test runner runs benches, too, to check that they build.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    constant_time();
    fairness();
    latency();
    switches();
}

fn nice(value: i8) -> Policy {
    Policy::Normal(Nice::try_new(value).expect("a nice value"))
}

/// Nanoseconds for one of `count` rounds.
fn ns_each(count: u32, mut work: impl FnMut()) -> f64 {
    let measure = |_| {
        let start = Instant::now();
        (0..count).for_each(|_| work());
        start.elapsed().as_secs_f64() * 1e9 / f64::from(count)
    };
    (0..REPEATS).map(measure).fold(f64::INFINITY, f64::min)
}

fn constant_time() {
    println!("nanoseconds, by tasks that can run:");
    println!(
        "{:>8} {:>16} {:>16} {:>22}",
        "tasks", "tick", "yield+schedule", "block+wake+schedule"
    );
    for count in [10, 100, 1000, 10_000] {
        let mut scheduler = Scheduler::new(1, TICK_NS);
        for n in 0..count {
            scheduler.add(nice(i8::try_from(n % 40).expect("small") - 20), CPU, 0);
        }
        let mut now_ns = 0;
        scheduler.schedule(CPU, now_ns, Call::Direct);
        let tick = ns_each(20_000, || {
            now_ns += TICK_NS;
            scheduler.tick(CPU, now_ns);
            if scheduler.needs_resched(CPU) {
                black_box(scheduler.schedule(CPU, now_ns, Call::Delayed));
            }
        });
        let yielding = ns_each(20_000, || {
            now_ns += 1000;
            scheduler.yield_now(CPU);
            black_box(scheduler.schedule(CPU, now_ns, Call::Direct));
        });
        let blocking = ns_each(20_000, || {
            now_ns += 1000;
            let current = scheduler.current(CPU).expect("somebody");
            scheduler.set_state(current, State::Interruptible);
            scheduler.schedule(CPU, now_ns, Call::Direct);
            now_ns += 1000;
            if scheduler.wake(current, Waker::Interrupt, now_ns).is_some() {
                black_box(scheduler.schedule(CPU, now_ns, Call::Delayed));
            }
        });
        println!("{count:>8} {tick:>16.1} {yielding:>16.1} {blocking:>22.1}");
    }
}

fn hog(policy: Policy) -> Life {
    Life {
        policy,
        runs: 0,
        sleeps: 0,
    }
}

fn fairness() {
    let shares = |cpus: u32, lives: &[Life], ticks: u64| -> Vec<u64> {
        live(cpus, lives, 0, ticks)
            .iter()
            .map(|outcome| outcome.ran)
            .collect()
    };
    let spread = |ran: &[u64]| {
        let (least, most) = (
            ran.iter().min().expect("some"),
            ran.iter().max().expect("some"),
        );
        *most as f64 / *least as f64
    };
    println!("\nfairness, 600 s of virtual time, ticks of 1 ms:");
    for (cpus, tasks) in [(1, 10), (4, 40), (2, 3)] {
        let ran = shares(cpus, &vec![hog(nice(0)); tasks], 600_000);
        println!(
            "{tasks} equal tasks on {cpus} CPUs: the most over the least {:.3}",
            spread(&ran)
        );
    }
    let ran = shares(1, &[-10, 0, 10, 19].map(|value| hog(nice(value))), 600_000);
    let shares: Vec<_> = ran.iter().map(|ran| *ran as f64 / 600_000.0).collect();
    println!(
        "nice -10, 0, 10, 19: {shares:.3?} (slices of 600, 100, 50, 5: 0.795, 0.132, 0.066, 0.007)"
    );
}

fn latency() {
    println!(
        "\nlongest time from wake-up to running beside 50 tasks that never sleep, in ticks of 1 ms,\n90 s to 600 s of virtual time:"
    );
    let real_time = RealTime::try_new(50).expect("a priority");
    for (what, life) in [
        (
            "FIFO, 1 in 38 ms",
            Life {
                policy: Policy::Fifo(real_time),
                runs: 1,
                sleeps: 37,
            },
        ),
        (
            "nice 0, 2 in 42 ms",
            Life {
                policy: nice(0),
                runs: 2,
                sleeps: 40,
            },
        ),
        (
            "nice 0, 20 in 40 ms",
            Life {
                policy: nice(0),
                runs: 20,
                sleeps: 20,
            },
        ),
        (
            "nice 10, 2 in 42 ms",
            Life {
                policy: nice(10),
                runs: 2,
                sleeps: 40,
            },
        ),
    ] {
        let mut lives = vec![hog(nice(0)); 50];
        lives.push(life);
        let last = live(1, &lives, WARM_UP, 600_000)[50];
        println!("{what:>20}: {}", last.longest_latency);
    }
}

/// Nanoseconds for one round of tasks that count rounds, without the beginning and end of the
/// tasks.
fn ns_of_a_round(rounds: impl Fn(u32)) -> f64 {
    let [few, many] = [ROUNDS, 2 * ROUNDS].map(|count| ns_each(1, || rounds(count)));
    (many - few) / f64::from(ROUNDS)
}

/// A task that hands the CPU to the other and back, and the other measurements of the same run.
fn switches() {
    println!("\nnanoseconds there and back:");
    let kernel: Booted<()> = Kernel::boot(1, TICK_NS);
    kernel.spawn(Policy::NORMAL, None, CPU, |kernel| {
        loop {
            kernel.trap(());
        }
    });
    let entry = ns_each(ROUNDS, || {
        black_box(kernel.run(CPU));
    });
    println!("{entry:>8.1}  host to task (a trap) with the kernel's checks");

    for (what, spaces) in [("one address space", 1), ("two address spaces", 2)] {
        let kernel: Booted<f64> = Kernel::boot(1, TICK_NS);
        let mms: Vec<_> = (0..spaces).map(|n| Mm::new((n + 1) << 12, 0)).collect();
        let (first, second) = (mms[0].clone(), mms[mms.len() - 1].clone());
        kernel.spawn(Policy::NORMAL, Some(first), CPU, |kernel| {
            kernel.trap(ns_each(ROUNDS, || kernel.yield_now()));
        });
        kernel.spawn(Policy::NORMAL, Some(second), CPU, |kernel| {
            loop {
                kernel.yield_now();
            }
        });
        if let Exit::Trap(TaskId(0), ns) = kernel.run(CPU) {
            println!("{ns:>8.1}  two tasks, two times schedule() and switch_to, {what}");
        }
    }
    let switch = ns_of_a_round(hand_over);
    println!("{switch:>8.1}  two switch_to alone, with the hardware context");

    let swap = ns_of_a_round(come_and_go);
    println!("{swap:>8.1}  host to task and back: stacks and registers alone");

    let mut coroutine: Coroutine<(), (), ()> = Coroutine::new(|yielder, ()| {
        loop {
            yielder.suspend(());
        }
    });
    let library = ns_each(ROUNDS, || {
        black_box(coroutine.resume(()).as_yield());
    });
    println!("{library:>8.1}  corosensei: resume and suspend");
}
