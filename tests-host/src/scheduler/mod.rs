// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which task runs on which CPU, and for how long: real-time tasks first, then normal ones. Each
//! CPU has a queue of its own, and everything takes constant time. This is the scheduler that Linux
//! had from 2.6.0 to 2.6.22 ("O(1)"), as the second source document describes it (rows D4 to D8).
//!
//! It knows tasks and CPUs by number only, reads no clock and switches nothing. Its user tells it
//! the time, calls [`schedule`](Scheduler::schedule) where the kernel would, and makes the switch.
//! It has two uses: for a guest's [tasks](crate::tasks) on its vcpus, and for vcpus on physical
//! CPUs, where a pause is a [`suspend`](Scheduler::suspend) and an unpause a
//! [`wake`](Scheduler::wake).
//!
//! Not included: forking (a slice shared with the child), CPU affinity, domains of CPUs that share
//! a cache, and the load average.

mod array;
mod balance;
mod check;
mod priority;
mod queue;
mod task;

pub use priority::{Nice, Policy, RealTime};

use array::{Link, PriorityArray};
use priority::{LONGEST_SLICE, MOST_BONUS, MOST_SLEEP, STARVATION};
use queue::Queue;
use task::{Sleep, Task};

/// A task, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u32);

/// A CPU, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub u32);

/// The state of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs, or would if it had a CPU.
    Running,
    /// It sleeps; a signal wakes it.
    Interruptible,
    /// It sleeps, and only the event that it waits for wakes it.
    Uninterruptible,
    /// It has ended.
    Dead,
}

/// Why [`Scheduler::schedule`] is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// By the task itself, because of the state that it has declared.
    Direct,
    /// Because [`Scheduler::needs_resched`] says so, wherever the task is: it can run on, even if
    /// it was about to sleep.
    Delayed,
}

/// The source of a wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waker {
    /// An interrupt: the task waited for a device or for a user's input.
    Interrupt,
    /// Another task.
    Task,
}

/// The two tasks of a switch. `None` is the CPU's idle task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The task that ran.
    pub prev: Option<TaskId>,
    /// The task that runs now.
    pub next: Option<TaskId>,
}

/// All tasks and CPUs.
#[derive(Clone, Debug)]
pub struct Scheduler {
    tick_ns: u64,
    tasks: Vec<Task>,
    links: Vec<Link>,
    queues: Vec<Queue>,
}

impl Scheduler {
    /// This many CPUs, all idle. Ticks come every `tick_ns` (Linux: a millisecond) while a CPU
    /// runs.
    pub fn new(cpus: usize, tick_ns: u64) -> Self {
        Self {
            tick_ns: tick_ns.max(1),
            tasks: Vec::new(),
            links: Vec::new(),
            queues: vec![Queue::new(); cpus],
        }
    }

    /// A new task, which can run on this CPU.
    pub fn add(&mut self, policy: Policy, cpu: CpuId, now_ns: u64) -> TaskId {
        let task = TaskId(u32::try_from(self.tasks.len()).expect("fewer than 2^32 tasks"));
        self.tasks.push(Task {
            policy,
            priority: policy.priority(MOST_BONUS / 2),
            state: State::Running,
            has_signal: false,
            cpu,
            array: None,
            slice: policy.slice(),
            sleep_ns: u64::from(MOST_SLEEP / 2) * self.tick_ns,
            sleep: Sleep::Normal,
            since_ns: now_ns,
            waits_since: 0,
        });
        self.links.push(Link::default());
        self.enqueue_active(task);
        self.preempt_for(task);
        task
    }

    /// The running task declares its next state. It takes effect at the task's next direct
    /// [`schedule`](Self::schedule), unless somebody wakes it before.
    pub fn set_state(&mut self, task: TaskId, state: State) {
        debug_assert_eq!(self.queue(self.task(task).cpu).current, Some(task));
        self.task_mut(task).state = state;
    }

    /// Somebody else puts a task to sleep until it is woken. A task that waits for a CPU sleeps at
    /// once. If it runs, its CPU, which is returned, must [`schedule`](Self::schedule) directly.
    pub fn suspend(&mut self, task: TaskId, now_ns: u64) -> Option<CpuId> {
        let Task { cpu, array, .. } = *self.task(task);
        self.task_mut(task).state = State::Uninterruptible;
        if self.queue(cpu).current == Some(task) {
            self.queue_mut(cpu).needs_resched = true;
            return Some(cpu);
        }
        if array.is_some() {
            self.dequeue(task);
            self.task_mut(task).since_ns = now_ns;
        }
        None
    }

    /// The event that a task waits for has come. Yields the CPU that must give way to it, if any.
    pub fn wake(&mut self, task: TaskId, by: Waker, now_ns: u64) -> Option<CpuId> {
        let was = self.task(task).state;
        if matches!(was, State::Running | State::Dead) {
            return None;
        }
        self.task_mut(task).state = State::Running;
        if self.task(task).array.is_some() {
            // It was not asleep yet.
            return None;
        }
        let cpu = self.cpu_to_wake_on(task);
        let tick_ns = self.tick_ns;
        let woken = self.task_mut(task);
        woken.cpu = cpu;
        if was == State::Uninterruptible {
            woken.sleep = Sleep::NonInteractive;
        }
        woken.gain(now_ns, tick_ns);
        if woken.sleep == Sleep::Normal {
            woken.sleep = match by {
                Waker::Interrupt => Sleep::Interrupted,
                Waker::Task => Sleep::Interactive,
            };
        }
        woken.since_ns = now_ns;
        self.enqueue_active(task);
        self.preempt_for(task).then_some(cpu)
    }

    /// A signal comes: a task that sleeps interruptibly wakes, one that is about to does not go to
    /// sleep.
    pub fn signal(&mut self, task: TaskId, now_ns: u64) -> Option<CpuId> {
        self.task_mut(task).has_signal = true;
        if self.task(task).state == State::Interruptible {
            return self.wake(task, Waker::Task, now_ns);
        }
        None
    }

    /// Takes a task's signal; yields whether it had one.
    pub fn take_signal(&mut self, task: TaskId) -> bool {
        std::mem::take(&mut self.task_mut(task).has_signal)
    }

    /// Changes a task's policy.
    pub fn set_policy(&mut self, task: TaskId, policy: Policy) {
        let Task { cpu, array, .. } = *self.task(task);
        if array.is_some() {
            self.dequeue(task);
        }
        let tick_ns = self.tick_ns;
        let changed = self.task_mut(task);
        let before = changed.priority;
        changed.policy = policy;
        changed.priority = policy.priority(changed.bonus(tick_ns));
        changed.slice = policy.slice();
        let is_lowered = changed.priority > before;
        if array.is_some() {
            self.enqueue_active(task);
            if self.queue(cpu).current == Some(task) {
                self.queue_mut(cpu).needs_resched |= is_lowered;
            } else {
                self.preempt_for(task);
            }
        }
    }

    /// The running task lets others go first: a real-time task those of its priority, a normal task
    /// all of the round. [`schedule`](Self::schedule) follows.
    pub fn yield_now(&mut self, cpu: CpuId) {
        let Some(task) = self.queue(cpu).current else {
            return;
        };
        let is_real_time = self.task(task).policy.is_real_time();
        if self.task(task).array.is_some() {
            self.dequeue(task);
            let active = self.queue(cpu).active;
            self.enqueue(task, if is_real_time { active } else { 1 - active });
        }
    }

    /// A tick of a CPU's clock: the running task's slice decreases, and tasks are moved from time
    /// to time.
    pub fn tick(&mut self, cpu: CpuId, now_ns: u64) {
        let current = self.queue(cpu).current;
        let is_real_time = current.is_some_and(|task| self.task(task).policy.is_real_time());
        let queue = self.queue_mut(cpu);
        queue.ticks += 1;
        queue.normal_ticks += u64::from(!is_real_time);
        if let Some(task) = current {
            self.charge_tick(cpu, task);
        }
        self.balance(cpu, now_ns);
    }

    /// Chooses the task that runs on a CPU. The caller switches to it.
    pub fn schedule(&mut self, cpu: CpuId, now_ns: u64, call: Call) -> Switch {
        let prev = self.queue(cpu).current;
        if let Some(prev) = prev {
            let tick_ns = self.tick_ns;
            let task = self.task_mut(prev);
            task.pay(now_ns, tick_ns);
            if task.state == State::Interruptible && task.has_signal && call == Call::Direct {
                task.state = State::Running;
            }
            if task.state != State::Running && call == Call::Direct && task.array.is_some() {
                self.dequeue(prev);
            }
        }
        let next = self.choose(cpu, now_ns);
        let waits_since = self.queue(cpu).normal_ticks;
        for task in [prev, next].into_iter().flatten() {
            let task = self.task_mut(task);
            (task.since_ns, task.waits_since) = (now_ns, waits_since);
        }
        let queue = self.queue_mut(cpu);
        queue.needs_resched = false;
        queue.switches += u64::from(prev != next);
        queue.current = next;
        Switch { prev, next }
    }

    /// Whether a CPU is to [`schedule`](Self::schedule) as soon as it can.
    pub fn needs_resched(&self, cpu: CpuId) -> bool {
        self.queue(cpu).needs_resched
    }

    /// The task that runs on a CPU.
    pub fn current(&self, cpu: CpuId) -> Option<TaskId> {
        self.queue(cpu).current
    }

    /// How many tasks of a CPU can run, the running one included.
    pub fn running(&self, cpu: CpuId) -> usize {
        self.queue(cpu).arrays.iter().map(PriorityArray::len).sum()
    }

    /// How often a CPU has switched.
    pub fn switches(&self, cpu: CpuId) -> u64 {
        self.queue(cpu).switches
    }

    /// The state of a task.
    pub fn state(&self, task: TaskId) -> State {
        self.task(task).state
    }

    /// The CPU that a task is on, or was on when it last could run.
    pub fn cpu_of(&self, task: TaskId) -> CpuId {
        self.task(task).cpu
    }

    /// A task's priority now, from 0, the most urgent, to 139.
    pub fn priority(&self, task: TaskId) -> u8 {
        self.task(task).priority
    }

    /// The tasks that can run on a CPU: those of this round, then the expired, each most urgent
    /// first.
    pub fn queued(&self, cpu: CpuId) -> [Vec<TaskId>; 2] {
        let queue = self.queue(cpu);
        let tasks = |array: usize| {
            queue.arrays[array]
                .iter(&self.links)
                .map(|(_, task)| task)
                .collect()
        };
        [tasks(queue.active), tasks(1 - queue.active)]
    }

    fn task(&self, task: TaskId) -> &Task {
        &self.tasks[task.index()]
    }

    fn task_mut(&mut self, task: TaskId) -> &mut Task {
        &mut self.tasks[task.index()]
    }

    fn queue(&self, cpu: CpuId) -> &Queue {
        &self.queues[cpu.index()]
    }

    fn queue_mut(&mut self, cpu: CpuId) -> &mut Queue {
        &mut self.queues[cpu.index()]
    }

    fn cpus(&self) -> impl Iterator<Item = CpuId> + use<> {
        (0..u32::try_from(self.queues.len()).expect("few CPUs")).map(CpuId)
    }
}

impl TaskId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

impl CpuId {
    fn index(self) -> usize {
        self.0 as usize
    }
}
