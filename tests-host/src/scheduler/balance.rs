// SPDX-License-Identifier: MIT OR Apache-2.0
//! Moving tasks from one CPU to another.

use super::{CpuId, Scheduler, Task, TaskId};

/// How often a busy CPU looks for tasks that it could take over, in its ticks. An idle one does at
/// every tick.
const BALANCE_TICKS: u64 = 100;
/// A task that ran less than this many ticks ago still has its data in its CPU's cache: only an
/// idle CPU takes it.
const HOT_TICKS: u64 = 5;
/// The most tasks that are checked: moving, too, takes the same time however many there are.
const MOST_LOOKED_AT: usize = 32;

impl Scheduler {
    /// A CPU has run out of work.
    pub(super) fn pull_when_idle(&mut self, cpu: CpuId, now_ns: u64) {
        if let Some((busiest, moved)) = self.busiest(cpu) {
            self.pull(cpu, busiest, moved, true, now_ns);
        }
    }

    /// At a tick.
    pub(super) fn balance(&mut self, cpu: CpuId, now_ns: u64) {
        let queue = self.queue(cpu);
        let is_idle = queue.current.is_none() && self.running(cpu) == 0;
        // CPUs take turns.
        if !is_idle && !(queue.ticks + u64::from(cpu.0)).is_multiple_of(BALANCE_TICKS) {
            return;
        }
        let Some((busiest, moved)) = self.busiest(cpu) else {
            return;
        };
        // A busy CPU takes nothing over for a difference of less than a quarter.
        if is_idle || moved * 4 >= self.running(busiest) {
            self.pull(cpu, busiest, moved, is_idle, now_ns);
        }
    }

    /// Where a woken task is to run: where it last ran, unless only another CPU is idle.
    pub(super) fn cpu_to_wake_on(&self, task: TaskId) -> CpuId {
        let last = self.task(task).cpu;
        let is_idle = |cpu: &CpuId| self.queue(*cpu).current.is_none() && self.running(*cpu) == 0;
        if is_idle(&last) {
            return last;
        }
        self.cpus().find(is_idle).unwrap_or(last)
    }

    /// The CPU with the most tasks, and how many of them would make both CPUs even.
    fn busiest(&self, cpu: CpuId) -> Option<(CpuId, usize)> {
        let others = self.cpus().filter(|other| *other != cpu);
        let busiest =
            others.max_by_key(|other| (self.running(*other), std::cmp::Reverse(*other)))?;
        let moved = self.running(busiest).saturating_sub(self.running(cpu)) / 2;
        (moved > 0).then_some((busiest, moved))
    }

    /// Takes this many tasks over; those that would wait longest come first.
    fn pull(&mut self, to: CpuId, from: CpuId, count: usize, is_idle: bool, now_ns: u64) {
        let queue = self.queue(from);
        let hot_ns = HOT_TICKS * self.tick_ns;
        let can_go = |(_, task): &(u8, TaskId)| {
            let is_hot = now_ns.saturating_sub(self.task(*task).since_ns) < hot_ns;
            queue.current != Some(*task) && (is_idle || !is_hot)
        };
        let [active, expired] = [queue.active, 1 - queue.active].map(|array| &queue.arrays[array]);
        let in_order = expired.iter(&self.links).chain(active.iter(&self.links));
        let chosen: Vec<_> = in_order
            .take(MOST_LOOKED_AT)
            .filter(can_go)
            .take(count)
            .map(|(_, task)| task)
            .collect();
        for task in chosen {
            self.dequeue(task);
            let Task { cpu, .. } = self.task_mut(task);
            *cpu = to;
            self.enqueue_active(task);
            self.preempt_for(task);
        }
    }
}
