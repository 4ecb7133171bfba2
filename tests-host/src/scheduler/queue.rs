// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queues: which queue gets a task, which task a tick is charged to, which task is next.

use super::array::PriorityArray;
use super::priority::{Policy, STARVATION, granularity};
use super::task::{Sleep, Task};
use super::{CpuId, Scheduler, TaskId};

/// A CPU's.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    pub(super) current: Option<TaskId>,
    pub(super) arrays: [PriorityArray; 2],
    pub(super) active: usize,
    pub(super) needs_resched: bool,
    pub(super) ticks: u64,
    /// Ticks in which no real-time task ran.
    pub(super) normal_ticks: u64,
    /// The tick at which the first task of this round expired.
    pub(super) expired_since: Option<u64>,
    /// The most urgent own priority among the expired tasks.
    pub(super) best_expired: u8,
    pub(super) switches: u64,
    /// The most tasks that could run at once so far.
    pub(super) most_running: usize,
}

impl Queue {
    /// An idle CPU's.
    pub(super) fn new() -> Self {
        Self {
            current: None,
            arrays: [const { PriorityArray::new() }; 2],
            active: 0,
            needs_resched: false,
            ticks: 0,
            normal_ticks: 0,
            expired_since: None,
            best_expired: u8::MAX,
            switches: 0,
            most_running: 0,
        }
    }
}

impl Scheduler {
    pub(super) fn enqueue_active(&mut self, task: TaskId) {
        let active = self.queue(self.task(task).cpu).active;
        self.enqueue(task, active);
    }

    pub(super) fn enqueue(&mut self, task: TaskId, array: usize) {
        let entry = &mut self.tasks[task.index()];
        let queue = &mut self.queues[entry.cpu.index()];
        debug_assert_eq!(entry.array, None, "{task:?} is queued twice");
        entry.array = Some(array);
        entry.waits_since = queue.normal_ticks;
        queue.arrays[array].push(&mut self.links, task, entry.priority);
        let running = queue.arrays.iter().map(PriorityArray::len).sum();
        queue.most_running = queue.most_running.max(running);
    }

    pub(super) fn dequeue(&mut self, task: TaskId) {
        let entry = &mut self.tasks[task.index()];
        let queue = &mut self.queues[entry.cpu.index()];
        let array = entry.array.take().expect("queued");
        queue.arrays[array].remove(&mut self.links, task, entry.priority);
    }

    /// Its CPU must give way if the task is more urgent than the one that runs there.
    pub(super) fn preempt_for(&mut self, task: TaskId) -> bool {
        let Task { cpu, priority, .. } = *self.task(task);
        let running = self
            .queue(cpu)
            .current
            .map(|running| self.task(running).priority);
        let preempts = running.is_none_or(|running| priority < running);
        self.queue_mut(cpu).needs_resched |= preempts;
        preempts
    }

    pub(super) fn charge_tick(&mut self, cpu: CpuId, task: TaskId) {
        let (tick_ns, cpus) = (self.tick_ns, self.queues.len());
        let Queue {
            active,
            normal_ticks,
            ticks,
            ..
        } = *self.queue(cpu);
        let entry = self.task_mut(task);
        entry.waits_since = normal_ticks;
        if entry.array != Some(active) {
            // It yielded, or is about to sleep.
            self.queue_mut(cpu).needs_resched = true;
            return;
        }
        if let Policy::Fifo(_) = entry.policy {
            return;
        }
        entry.slice -= 1;
        let whole = entry.policy.slice();
        let is_interactive = entry.policy.is_interactive(entry.priority);
        if entry.slice > 0 {
            let granularity = granularity(entry.bonus(tick_ns), cpus);
            let has_had_its_turn = !entry.policy.is_real_time()
                && is_interactive
                && (whole - entry.slice).is_multiple_of(granularity)
                && entry.slice >= granularity;
            if has_had_its_turn {
                self.requeue(task, active);
            }
            return;
        }
        entry.slice = whole;
        if entry.policy.is_real_time() {
            return self.requeue(task, active);
        }
        let (own, bonus) = (entry.policy.own_priority(), entry.bonus(tick_ns));
        let is_starving = self.is_starving(cpu, own);
        self.dequeue(task);
        self.task_mut(task).priority = self.task(task).policy.priority(bonus);
        let is_interactive = self
            .task(task)
            .policy
            .is_interactive(self.task(task).priority);
        let queue = self.queue_mut(cpu);
        queue.expired_since.get_or_insert(ticks);
        queue.needs_resched = true;
        if is_interactive && !is_starving {
            self.enqueue(task, active);
        } else {
            queue.best_expired = queue.best_expired.min(own);
            self.enqueue(task, 1 - active);
        }
    }

    fn requeue(&mut self, task: TaskId, array: usize) {
        let cpu = self.task(task).cpu;
        self.dequeue(task);
        self.enqueue(task, array);
        self.queue_mut(cpu).needs_resched = true;
    }

    /// Whether expired tasks wait too long, so that one of this own priority must expire, too.
    fn is_starving(&self, cpu: CpuId, own: u8) -> bool {
        let queue = self.queue(cpu);
        let most = u64::from(STARVATION) * self.running(cpu) as u64;
        own > queue.best_expired
            || queue
                .expired_since
                .is_some_and(|since| queue.ticks - since > most)
    }

    pub(super) fn choose(&mut self, cpu: CpuId, now_ns: u64) -> Option<TaskId> {
        if self.running(cpu) == 0 {
            self.pull_when_idle(cpu, now_ns);
        }
        let queue = self.queue_mut(cpu);
        if queue.arrays[queue.active].is_empty() {
            queue.active = 1 - queue.active;
            (queue.expired_since, queue.best_expired) = (None, u8::MAX);
        }
        let active = queue.active;
        let next = queue.arrays[active].first()?;
        let tick_ns = self.tick_ns;
        let mut entry = *self.task(next);
        let was = entry.priority;
        if !entry.policy.is_real_time()
            && matches!(entry.sleep, Sleep::Interactive | Sleep::Interrupted)
        {
            entry.gain_in_line(now_ns, tick_ns);
        }
        entry.sleep = Sleep::Normal;
        if entry.priority != was {
            self.dequeue(next);
            *self.task_mut(next) = Task {
                array: None,
                ..entry
            };
            self.enqueue(next, active);
        } else {
            *self.task_mut(next) = entry;
        }
        Some(next)
    }
}
