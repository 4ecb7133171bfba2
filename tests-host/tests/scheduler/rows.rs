// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows D4 to D8.

use tests_host::scheduler::{Call, CpuId, Policy, Scheduler, State, Switch, TaskId, Waker};

use super::reference::TICK_NS;
use super::workload::{Life, live};
use super::{fifo, nice, round_robin};

const CPU: CpuId = CpuId(0);
const OTHER: CpuId = CpuId(1);

/// One or more CPUs, tasks on the first, and the time.
struct Machine {
    scheduler: Scheduler,
    now_ns: u64,
}

impl Machine {
    fn new(cpus: usize, policies: &[Policy]) -> Self {
        let mut scheduler = Scheduler::new(cpus, TICK_NS);
        for policy in policies {
            scheduler.add(*policy, CPU, 0);
        }
        Self {
            scheduler,
            now_ns: 0,
        }
    }

    fn schedule(&mut self, cpu: CpuId) -> Option<u32> {
        self.call(cpu, Call::Direct)
    }

    fn call(&mut self, cpu: CpuId, call: Call) -> Option<u32> {
        let before = self.scheduler.current(cpu);
        let Switch { prev, next } = self.scheduler.schedule(cpu, self.now_ns, call);
        assert_eq!((prev, next), (before, self.scheduler.current(cpu)));
        self.scheduler.check();
        next.map(|task| task.0)
    }

    /// Ticks; a task that must give way does. Yields which task ran, tick by tick.
    fn run(&mut self, cpu: CpuId, ticks: u64) -> Vec<Option<u32>> {
        let mut ran = Vec::new();
        for _ in 0..ticks {
            if self.scheduler.needs_resched(cpu) {
                self.call(cpu, Call::Delayed);
            }
            ran.push(self.scheduler.current(cpu).map(|task| task.0));
            self.now_ns += TICK_NS;
            self.scheduler.tick(cpu, self.now_ns);
        }
        ran
    }

    fn sleep(&mut self, cpu: CpuId, state: State) -> Option<u32> {
        let current = self.scheduler.current(cpu).expect("somebody runs");
        self.scheduler.set_state(current, state);
        self.schedule(cpu)
    }

    fn wake(&mut self, task: u32) -> Option<CpuId> {
        self.scheduler
            .wake(TaskId(task), Waker::Interrupt, self.now_ns)
    }
}

/// The tasks that ran, one entry for each period.
fn stretches(ran: &[Option<u32>]) -> Vec<(u32, usize)> {
    ran.chunk_by(PartialEq::eq)
        .map(|stretch| (stretch[0].expect("not idle"), stretch.len()))
        .collect()
}

#[test]
fn d4_fifo_runs_until_it_blocks() {
    let mut m = Machine::new(1, &[fifo(10), fifo(10), nice(-20)]);
    assert_eq!(stretches(&m.run(CPU, 5000)), [(0, 5000)]);
    assert_eq!(m.sleep(CPU, State::Uninterruptible), Some(1));
    assert_eq!(stretches(&m.run(CPU, 5000)), [(1, 5000)]);
    assert_eq!(m.sleep(CPU, State::Uninterruptible), Some(2));
}

#[test]
fn d4_fifo_makes_way_for_a_higher_priority_and_keeps_its_place() {
    let mut m = Machine::new(1, &[fifo(20), fifo(10), fifo(10)]);
    assert_eq!(m.schedule(CPU), Some(0));
    assert_eq!(m.sleep(CPU, State::Interruptible), Some(1));
    assert_eq!(m.wake(0), Some(CPU));
    assert_eq!(m.call(CPU, Call::Delayed), Some(0));
    assert_eq!(
        m.sleep(CPU, State::Interruptible),
        Some(1),
        "who was preempted is still first"
    );
}

#[test]
fn d4_round_robin_takes_turns_of_a_slice() {
    let mut m = Machine::new(1, &[round_robin(10), round_robin(10), nice(-20)]);
    assert_eq!(
        stretches(&m.run(CPU, 350)),
        [(0, 100), (1, 100), (0, 100), (1, 50)]
    );
}

#[test]
fn d4_yield_lets_those_of_the_same_priority_go_first() {
    let mut m = Machine::new(1, &[fifo(10), fifo(10)]);
    assert_eq!(m.schedule(CPU), Some(0));
    m.scheduler.yield_now(CPU);
    assert_eq!(m.schedule(CPU), Some(1));
    // A normal task lets all of its round go first, the less urgent, too.
    let mut m = Machine::new(1, &[nice(0), nice(10)]);
    assert_eq!(m.schedule(CPU), Some(0));
    m.scheduler.yield_now(CPU);
    assert_eq!(m.schedule(CPU), Some(1));
}

#[test]
fn d5_who_used_up_its_slice_waits_until_all_have() {
    let mut m = Machine::new(1, &[nice(0), nice(0), nice(0)]);
    let ran = stretches(&m.run(CPU, 600));
    assert_eq!(
        ran,
        [(0, 100), (1, 100), (2, 100), (0, 100), (1, 100), (2, 100)]
    );
    assert_eq!(m.scheduler.queued(CPU).map(|list| list.len()), [0, 3]);
}

#[test]
fn d5_a_less_urgent_task_has_its_turn_in_each_round() {
    let mut m = Machine::new(1, &[nice(0), nice(19)]);
    assert_eq!(
        stretches(&m.run(CPU, 210)),
        [(0, 100), (1, 5), (0, 100), (1, 5)]
    );
}

#[test]
fn d6_a_task_that_sleeps_rises_and_one_that_runs_sinks() {
    let mut m = Machine::new(1, &[nice(0), nice(0)]);
    assert_eq!(m.schedule(CPU), Some(0));
    assert_eq!(m.sleep(CPU, State::Interruptible), Some(1));
    m.run(CPU, 700);
    assert!(m.scheduler.priority(TaskId(1)) > 120, "it ran all the time");
    m.wake(0);
    let [sleeper, hog] = [0, 1].map(|task| m.scheduler.priority(TaskId(task)));
    assert!(sleeper < hog, "{sleeper} {hog}");
    assert_eq!(m.call(CPU, Call::Delayed), Some(0), "and preempts it");
}

#[test]
fn d6_a_wake_up_preempts_only_a_lower_priority() {
    for (policy, preempts) in [(fifo(11), true), (fifo(10), false), (nice(-20), false)] {
        let mut m = Machine::new(1, &[policy, fifo(10)]);
        m.schedule(CPU);
        if m.scheduler.current(CPU) == Some(TaskId(1)) {
            m.scheduler.suspend(TaskId(0), m.now_ns);
        } else {
            m.sleep(CPU, State::Interruptible);
        }
        m.run(CPU, 1);
        assert_eq!(m.wake(0).is_some(), preempts, "{policy:?}");
        assert_eq!(m.scheduler.needs_resched(CPU), preempts, "{policy:?}");
    }
}

#[test]
fn d6_an_interactive_task_runs_again_in_its_round() {
    let mut m = Machine::new(1, &[nice(0), nice(0)]);
    m.schedule(CPU);
    // Many short sleeps: each is worth its length.
    for _ in 0..100 {
        m.sleep(CPU, State::Interruptible);
        m.run(CPU, 20);
        m.wake(0);
        while m.scheduler.current(CPU) != Some(TaskId(0)) {
            m.run(CPU, 1);
        }
    }
    assert_eq!(m.scheduler.priority(TaskId(0)), 115);
    let ran = m.run(CPU, 250);
    let own = ran.iter().filter(|task| **task == Some(0)).count();
    assert!(
        own > 200,
        "{own} of 250 ticks, more than two slices, while the other waits"
    );
}

#[test]
fn d6_one_long_sleep_is_worth_less_than_being_interactive_for_long() {
    let mut m = Machine::new(1, &[nice(0), nice(0)]);
    m.schedule(CPU);
    m.sleep(CPU, State::Interruptible);
    m.run(CPU, 100_000);
    m.wake(0);
    assert_eq!(m.scheduler.priority(TaskId(0)), 118, "a bonus of 7 of 10");
}

#[test]
fn d6_who_waits_for_a_disk_is_not_interactive() {
    let mut m = Machine::new(1, &[nice(0), nice(0)]);
    m.schedule(CPU);
    for _ in 0..100 {
        m.sleep(CPU, State::Uninterruptible);
        m.run(CPU, 20);
        m.wake(0);
        while m.scheduler.current(CPU) != Some(TaskId(0)) {
            m.run(CPU, 1);
        }
    }
    assert_eq!(m.scheduler.priority(TaskId(0)), 118);
}

#[test]
fn d7_a_task_that_blocks_leaves_the_queue_unless_a_signal_is_pending() {
    for (state, signalled, sleeps) in [
        (State::Interruptible, false, true),
        (State::Interruptible, true, false),
        (State::Uninterruptible, true, true),
    ] {
        let mut m = Machine::new(1, &[nice(0)]);
        m.schedule(CPU);
        if signalled {
            m.scheduler.signal(TaskId(0), m.now_ns);
        }
        let next = m.sleep(CPU, state);
        assert_eq!(next.is_none(), sleeps, "{state:?}, signal: {signalled}");
        assert_eq!(m.scheduler.running(CPU), usize::from(!sleeps));
    }
}

#[test]
fn d7_a_signal_wakes_an_interruptible_sleeper_only() {
    for (state, wakes) in [
        (State::Interruptible, true),
        (State::Uninterruptible, false),
    ] {
        let mut m = Machine::new(1, &[nice(0)]);
        m.schedule(CPU);
        m.sleep(CPU, state);
        m.scheduler.signal(TaskId(0), m.now_ns);
        assert_eq!(m.scheduler.state(TaskId(0)) == State::Running, wakes);
        m.schedule(CPU);
        assert!(m.scheduler.take_signal(TaskId(0)));
    }
}

#[test]
fn d7_who_is_preempted_on_its_way_to_sleep_still_can_run() {
    let mut m = Machine::new(1, &[nice(0), nice(0)]);
    m.schedule(CPU);
    m.scheduler.set_state(TaskId(0), State::Uninterruptible);
    m.scheduler.yield_now(CPU);
    assert_eq!(m.call(CPU, Call::Delayed), Some(1));
    assert_eq!(m.scheduler.running(CPU), 2);
    // It reaches the point where it blocks in its own time, unless it has been woken before.
    assert_eq!(m.sleep(CPU, State::Uninterruptible), Some(0));
    assert_eq!(m.schedule(CPU), None);
}

#[test]
fn d7_a_wake_up_between_the_state_and_the_call_is_not_lost() {
    let mut m = Machine::new(1, &[nice(0)]);
    m.schedule(CPU);
    m.scheduler.set_state(TaskId(0), State::Uninterruptible);
    m.wake(0);
    assert_eq!(m.schedule(CPU), Some(0));
}

#[test]
fn d8_an_idle_cpu_pulls_work() {
    let mut m = Machine::new(2, &[nice(0), nice(0), nice(0), nice(0)]);
    assert_eq!(m.schedule(CPU), Some(0));
    assert!(m.schedule(OTHER).is_some());
    assert_eq!([CPU, OTHER].map(|cpu| m.scheduler.running(cpu)), [2, 2]);
    // It also finds some at its tick when it was idle already.
    let mut m = Machine::new(2, &[nice(0)]);
    m.schedule(CPU);
    assert_eq!(m.schedule(OTHER), None, "the one that runs stays");
    m.scheduler.add(nice(0), CPU, m.now_ns);
    assert_eq!(m.run(OTHER, 2), [None, Some(1)]);
}

#[test]
fn d8_busy_cpus_become_even() {
    let mut m = Machine::new(2, &[nice(0); 9]);
    m.schedule(CPU);
    m.schedule(OTHER);
    let spread = |m: &Machine| [CPU, OTHER].map(|cpu| m.scheduler.running(cpu));
    assert_eq!(spread(&m), [5, 4]);
    for task in 0..9 {
        if m.scheduler.cpu_of(TaskId(task)) == OTHER
            && m.scheduler.current(OTHER) != Some(TaskId(task))
        {
            m.scheduler.suspend(TaskId(task), m.now_ns);
        }
    }
    assert_eq!(spread(&m), [5, 1]);
    m.run(OTHER, 150);
    assert_eq!(spread(&m), [3, 3]);
    m.scheduler.check();
}

#[test]
fn d8_a_woken_task_goes_where_a_cpu_is_idle() {
    let mut m = Machine::new(2, &[nice(0), nice(0)]);
    m.schedule(CPU);
    m.sleep(CPU, State::Interruptible);
    assert_eq!(m.scheduler.current(CPU), Some(TaskId(1)));
    assert_eq!(m.wake(0), Some(OTHER));
    assert_eq!(m.schedule(OTHER), Some(0));
}

/// Halves A and D together: a paused vcpu is a descheduled task, an unpaused one a wake-up.
#[test]
fn d7_a_paused_vcpu_is_descheduled_and_an_unpaused_one_woken() {
    let mut m = Machine::new(1, &[nice(0), nice(0)]);
    m.schedule(CPU);
    // It runs: its CPU switches to another task as soon as it can.
    assert_eq!(m.scheduler.suspend(TaskId(0), m.now_ns), Some(CPU));
    assert!(m.scheduler.needs_resched(CPU));
    assert_eq!(m.schedule(CPU), Some(1));
    // It waits: it is taken out of the queue.
    m.wake(0);
    assert_eq!(m.scheduler.suspend(TaskId(0), m.now_ns), None);
    assert_eq!(m.scheduler.running(CPU), 1);
    // Paused and unpaused before its CPU handled it: nothing has happened.
    assert_eq!(m.scheduler.suspend(TaskId(1), m.now_ns), Some(CPU));
    m.wake(1);
    assert_eq!(m.schedule(CPU), Some(1));
    m.scheduler.check();
}

fn hog(policy: Policy) -> Life {
    Life {
        policy,
        runs: 0,
        sleeps: 0,
    }
}

#[test]
fn d6_equal_tasks_get_equal_shares() {
    let outcomes = live(1, &[hog(nice(0)); 7], 0, 70_000);
    let ran: Vec<_> = outcomes.iter().map(|outcome| outcome.ran).collect();
    let (least, most) = (ran.iter().min().unwrap(), ran.iter().max().unwrap());
    assert!(
        most - least <= 100,
        "they differ by a slice at most: {ran:?}"
    );
}

#[test]
fn d6_a_real_time_task_is_served_at_once_and_an_interactive_one_soon() {
    let mut lives = vec![hog(nice(0)); 20];
    lives.push(Life {
        policy: fifo(50),
        runs: 1,
        sleeps: 37,
    });
    lives.push(Life {
        policy: nice(0),
        runs: 2,
        sleeps: 40,
    });
    let outcomes = live(1, &lives, 20_000, 200_000);
    assert_eq!(outcomes[20].longest_latency, 0);
    assert!(
        outcomes[21].longest_latency <= 2,
        "{} ticks",
        outcomes[21].longest_latency
    );
    assert!(
        outcomes[..20].iter().all(|hog| hog.ran > 8_000),
        "and the others share the rest"
    );
}
