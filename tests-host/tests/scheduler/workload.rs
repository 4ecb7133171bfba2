// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tasks that run, sleep and are woken, over virtual time: measures fairness and latency.

use tests_host::scheduler::{Call, CpuId, Policy, Scheduler, State, TaskId, Waker};

const TICK_NS: u64 = 1_000_000;

/// How a task behaves: it runs for this many ticks, then sleeps for this many. 0: it never sleeps.
#[derive(Clone, Copy)]
pub(crate) struct Life {
    pub(crate) policy: Policy,
    pub(crate) runs: u64,
    pub(crate) sleeps: u64,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Outcome {
    /// Ticks on a CPU.
    pub(crate) ran: u64,
    /// The longest time from being woken to running, in ticks.
    pub(crate) longest_latency: u64,
}

struct Alive {
    life: Life,
    left: u64,
    wakes_at: Option<u64>,
    woken_at: Option<u64>,
    outcome: Outcome,
}

/// Runs these tasks for this many ticks, and checks every rule from time to time. Latencies count
/// once `warm_up` ticks have passed.
pub(crate) fn live(cpus: u32, lives: &[Life], warm_up: u64, ticks: u64) -> Vec<Outcome> {
    let mut scheduler = Scheduler::new(cpus as usize, TICK_NS);
    let mut tasks = Vec::new();
    for (n, life) in (0..).zip(lives) {
        scheduler.add(life.policy, CpuId(n % cpus), 0);
        tasks.push(Alive {
            life: *life,
            left: life.runs,
            wakes_at: None,
            woken_at: None,
            outcome: Outcome::default(),
        });
    }
    for now in 0..ticks {
        let now_ns = now * TICK_NS;
        for (n, task) in (0..).map(TaskId).zip(&mut tasks) {
            if task.wakes_at.is_some_and(|at| at <= now) {
                (task.wakes_at, task.woken_at) = (None, Some(now));
                scheduler.wake(n, Waker::Interrupt, now_ns);
            }
        }
        for cpu in (0..cpus).map(CpuId) {
            if scheduler.needs_resched(cpu) {
                scheduler.schedule(cpu, now_ns, Call::Delayed);
            }
            if let Some(current) = scheduler.current(cpu) {
                let task = &mut tasks[current.0 as usize];
                task.outcome.ran += 1;
                if let Some(woken) = task.woken_at.take()
                    && now >= warm_up
                {
                    let latency = &mut task.outcome.longest_latency;
                    *latency = (*latency).max(now - woken);
                }
                task.left = task.left.saturating_sub(1);
                if task.life.sleeps > 0 && task.left == 0 {
                    task.left = task.life.runs;
                    task.wakes_at = Some(now + 1 + task.life.sleeps);
                    scheduler.set_state(current, State::Interruptible);
                    scheduler.schedule(cpu, now_ns + TICK_NS, Call::Direct);
                }
            }
            scheduler.tick(cpu, now_ns + TICK_NS);
        }
        if now % 16 == 0 {
            scheduler.check();
        }
    }
    tasks.iter().map(|task| task.outcome).collect()
}
