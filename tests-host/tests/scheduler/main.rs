// SPDX-License-Identifier: MIT OR Apache-2.0
//! The scheduler, by rows D4 to D8; compared with a plain reference; and in small single cases.

mod reference;
mod rows;
mod workload;

use proptest::prelude::*;
use reference::{Reference, TICK_NS};
use tests_host::scheduler::{Call, CpuId, Nice, Policy, RealTime, Scheduler, State, TaskId, Waker};

/// The operations on a scheduler. Tasks and CPUs are taken modulo their number.
#[derive(Clone, Copy, Debug)]
enum Op {
    Add(Policy, u32),
    /// The clock advances.
    Pass(u64),
    Ticks(u32, u32),
    Schedule(u32, Call),
    /// A CPU's running task is about to do something.
    Become(u32, State),
    Suspend(u32),
    Wake(u32, Waker),
    Signal(u32),
    TakeSignal(u32),
    Yield(u32),
    SetPolicy(u32, Policy),
}

/// Both at once.
struct Pair {
    real: Scheduler,
    reference: Reference,
    tasks: u32,
    cpus: u32,
}

impl Pair {
    fn new(cpus: u32) -> Self {
        Self {
            real: Scheduler::new(cpus as usize, TICK_NS),
            reference: Reference::new(cpus as usize),
            tasks: 0,
            cpus,
        }
    }

    fn run(&mut self, op: Op) {
        let cpu = |cpu| CpuId(cpu % self.cpus);
        let task = |task| TaskId(task % self.tasks);
        let now_ns = self.reference.now_ns;
        match op {
            Op::Add(policy, to) => {
                self.real.add(policy, cpu(to), now_ns);
                self.reference.add(policy, cpu(to));
                self.tasks += 1;
            }
            Op::Pass(ns) => self.reference.now_ns += ns,
            Op::Ticks(at, count) => {
                for _ in 0..count {
                    self.reference.now_ns += TICK_NS;
                    self.real.tick(cpu(at), self.reference.now_ns);
                    self.reference.tick(cpu(at));
                }
            }
            Op::Schedule(at, call) => {
                let switch = self.real.schedule(cpu(at), now_ns, call);
                let number = |task: TaskId| task.0 as usize;
                let switch = (switch.prev.map(number), switch.next.map(number));
                assert_eq!(switch, self.reference.schedule(cpu(at), call));
            }
            Op::Become(at, state) => {
                if let Some(task) = self.real.current(cpu(at)) {
                    self.real.set_state(task, state);
                    self.reference.set_state(task, state);
                }
            }
            _ if self.tasks == 0 => {}
            Op::Suspend(n) => {
                if self.real.state(task(n)) != State::Dead {
                    self.real.suspend(task(n), now_ns);
                    self.reference.suspend(task(n));
                }
            }
            Op::Wake(n, by) => {
                self.real.wake(task(n), by, now_ns);
                self.reference.wake(task(n), by);
            }
            Op::Signal(n) => {
                self.real.signal(task(n), now_ns);
                self.reference.signal(task(n));
            }
            Op::TakeSignal(n) => {
                assert_eq!(
                    self.real.take_signal(task(n)),
                    self.reference.take_signal(task(n))
                );
            }
            Op::Yield(at) => {
                self.real.yield_now(cpu(at));
                self.reference.yield_now(cpu(at));
            }
            Op::SetPolicy(n, policy) => {
                self.real.set_policy(task(n), policy);
                self.reference.set_policy(task(n), policy);
            }
        }
    }

    fn compare(&self) {
        for (n, plain) in (0..).zip(&self.reference.cpus) {
            let cpu = CpuId(n);
            let number = |task: &TaskId| task.0 as usize;
            assert_eq!(
                self.real.current(cpu).as_ref().map(number),
                plain.current,
                "{cpu:?} runs"
            );
            let queued = self
                .real
                .queued(cpu)
                .map(|list| list.iter().map(number).collect::<Vec<_>>());
            assert_eq!(queued, plain.lists, "queued on {cpu:?}");
            assert_eq!(
                self.real.needs_resched(cpu),
                plain.needs_resched,
                "{cpu:?} is to reschedule"
            );
        }
        for (n, plain) in (0..).zip(&self.reference.tasks) {
            let task = TaskId(n);
            assert_eq!(self.real.state(task), plain.state, "{task:?}");
            assert_eq!(
                i64::from(self.real.priority(task)),
                plain.priority,
                "{task:?}"
            );
        }
    }
}

fn nice(nice: i8) -> Policy {
    Policy::Normal(Nice::try_new(nice).expect("a nice value"))
}

fn fifo(priority: u8) -> Policy {
    Policy::Fifo(RealTime::try_new(priority).expect("a priority"))
}

fn round_robin(priority: u8) -> Policy {
    Policy::RoundRobin(RealTime::try_new(priority).expect("a priority"))
}

fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![
        6 => (-20i8..20).prop_map(nice),
        1 => (1u8..100).prop_map(fifo),
        1 => (50u8..52).prop_map(round_robin),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let calls = prop_oneof![3 => Just(Call::Direct), 1 => Just(Call::Delayed)];
    let states = prop_oneof![
        Just(State::Interruptible),
        Just(State::Uninterruptible),
        Just(State::Running)
    ];
    let wakers = prop_oneof![Just(Waker::Task), Just(Waker::Interrupt)];
    let n = 0u32..64;
    prop_oneof![
        2 => (policies(), n.clone()).prop_map(|(policy, cpu)| Op::Add(policy, cpu)),
        3 => (0..2_000 * TICK_NS).prop_map(Op::Pass),
        6 => (n.clone(), 1u32..300).prop_map(|(cpu, count)| Op::Ticks(cpu, count)),
        9 => (n.clone(), calls).prop_map(|(cpu, call)| Op::Schedule(cpu, call)),
        4 => (n.clone(), states).prop_map(|(cpu, state)| Op::Become(cpu, state)),
        1 => n.clone().prop_map(|cpu| Op::Become(cpu, State::Dead)),
        2 => n.clone().prop_map(Op::Suspend),
        6 => (n.clone(), wakers).prop_map(|(task, by)| Op::Wake(task, by)),
        2 => n.clone().prop_map(Op::Signal),
        1 => n.clone().prop_map(Op::TakeSignal),
        1 => n.clone().prop_map(Op::Yield),
        1 => (n, policies()).prop_map(|(task, policy)| Op::SetPolicy(task, policy)),
    ]
}

proptest! {
    #[test]
    fn d5_the_scheduler_does_what_sorted_lists_do(
        cpus in 1u32..5,
        ops in prop::collection::vec(ops(), 1..400),
    ) {
        let mut pair = Pair::new(cpus);
        for op in ops {
            pair.run(op);
            pair.compare();
        }
    }
}

/// Every sequence of this many steps from a start with two or three tasks on two CPUs.
#[test]
fn d5_every_short_sequence_does_what_sorted_lists_do() {
    const STEPS: u32 = 4;
    let alphabet = [
        Op::Ticks(0, 100),
        Op::Ticks(1, 1),
        Op::Schedule(0, Call::Direct),
        Op::Schedule(0, Call::Delayed),
        Op::Schedule(1, Call::Direct),
        Op::Become(0, State::Interruptible),
        Op::Suspend(0),
        Op::Wake(0, Waker::Interrupt),
        Op::Wake(1, Waker::Task),
        Op::Signal(0),
        Op::Yield(0),
        Op::SetPolicy(0, round_robin(1)),
    ];
    let starts = [
        [nice(0), nice(0), nice(5)],
        [round_robin(1), nice(0), round_robin(1)],
    ];
    let mut checked = 0u32;
    for start in starts {
        for number in 0..alphabet.len().pow(STEPS) {
            let mut pair = Pair::new(2);
            start
                .iter()
                .for_each(|policy| pair.run(Op::Add(*policy, 0)));
            let mut rest = number;
            for _ in 0..STEPS {
                pair.run(alphabet[rest % alphabet.len()]);
                rest /= alphabet.len();
            }
            pair.compare();
            pair.real.check();
            checked += 1;
        }
    }
    assert_eq!(checked, 2 * 12u32.pow(STEPS));
}
